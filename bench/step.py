"""A training step of mlkit against one of a bare torch loop with the same model, crops, loss and optimizer.

    python bench/step.py

The bare loop is `bare_loop` below: a DataLoader over the same memory-mapped scenes, the same network, loss, clipping
and fused AdamW, and nothing else. mlkit's side is its real trainer on the same dataset, with all that it does in a
step: seeding, the keyed data order, the check for non-finite values, metrics.jsonl, progress. Both run in one process
and thread: after each block of mlkit's steps the trainer's progress callback runs two blocks of the bare loop. A block
of mlkit's is compared with the mean of its two neighbours; "bare over itself" is one neighbour over the other, which
shows the noise. The first step of a block is not counted; evaluation and saving do not fall into the timed part
(`checkpoint_cost` measures them).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from _common import Figure, add_data, at_most, finish, options_parser, ratio, sar_dataset, show
from mlkit.commands.display import PlainProgress
from mlkit.data.manifest import DatasetManifest
from mlkit.losses import ssim_loss
from mlkit.presets import resolve_preset
from mlkit.tasks import load_task
from mlkit.tasks.sar.model import build_autoencoder
from mlkit.training.trainer import fit

GOAL = 1.02
PRESET = "baseline_c16"
FORMATS = {"fp32": ("fp32", False), "bf16": ("bf16", True)}  # name: (number format, channels-last)


# ---- the bare loop ---------------------------------------------------------------------------------------------


class Crops(Dataset[Tensor]):
    """Random crops from the memory-mapped scenes, in [0, 1], flipped and turned."""

    def __init__(self, data: DatasetManifest, patch: int) -> None:
        self.values = np.load(data.folder / "scenes.npy", mmap_mode="r").view(np.ndarray)
        self.index = np.load(data.folder / "scenes.index.npy").tolist()
        self.table = np.load(data.folder / "train.npy")
        self.low, self.high = data.preprocessing["db_min"], data.preprocessing["db_max"]
        self.built, self.patch = data.details["patch"], patch

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, item: int) -> Tensor:
        scene, y, x, up, down, left, right = self.table[item].item()
        y += np.random.randint(-up, down + self.built - self.patch + 1)  # noqa: NPY002 - as bare loops do
        x += np.random.randint(-left, right + self.built - self.patch + 1)  # noqa: NPY002
        first, _, height, width = self.index[scene][:4]
        view = self.values[first : first + height * width].reshape(height, width)
        crop = view[y : y + self.patch, x : x + self.patch]
        unit = np.clip((crop - self.low) * np.float32(1 / (self.high - self.low)), 0, 1).astype(np.float32)
        turn = np.random.randint(8)  # noqa: NPY002
        unit = np.rot90(unit[:, ::-1] if turn & 4 else unit, turn & 3)
        return torch.from_numpy(np.nan_to_num(unit)[None].copy())


def bare_loop(data: DatasetManifest, patch: int, batch: int, kind: str) -> Iterator[float]:
    """Yield the loss after each step, for ever."""
    precision, channels_last = FORMATS[kind]
    settings = resolve_preset(PRESET).settings
    model, train, weights = settings.model, settings.train, settings.loss
    order = torch.channels_last if channels_last else torch.contiguous_format
    net: nn.Module = build_autoencoder(model.arch, model.base_channels, model.latent_channels).to(memory_format=order)
    optimizer = torch.optim.AdamW(net.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    loader = DataLoader(Crops(data, patch), batch_size=batch, shuffle=True, drop_last=True)
    net.train()
    while True:
        for image in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                output = net(image.contiguous(memory_format=order))
            output = output.float()
            loss = weights.mse_weight * functional.mse_loss(output, image)
            loss = loss + weights.ssim_weight * ssim_loss(output, image)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), train.grad_clip_norm)
            optimizer.step()
            yield loss.item()


# ---- taking turns ----------------------------------------------------------------------------------------------


class Enough(Exception):
    """All rounds are done; it ends the trainer before its closing evaluation."""


class Turns(PlainProgress):
    """What the trainer tells its steps to: it times them, and runs the bare loop's blocks between them."""

    def __init__(self, bare: Iterator[float], block: int, rounds: int) -> None:
        super().__init__()
        self.bare, self.block, self.rounds = bare, block, rounds
        self.mlkit_s: list[float] = []
        self.bare_s: list[float] = []
        self.again_s: list[float] = []
        self.steps_in_block = 0
        self.began_s = 0.0

    def say(self, text: str) -> None: ...

    def update(self, step: int, values: Mapping[str, float]) -> None:
        super().update(step, values)  # what drawing costs belongs to the step
        self.steps_in_block += 1
        if self.steps_in_block == 1:
            self.began_s = time.perf_counter()
        if self.steps_in_block > self.block:
            self.mlkit_s.append((time.perf_counter() - self.began_s) / self.block)
            self.bare_s.append(self.bare_block())
            self.again_s.append(self.bare_block())
            self.steps_in_block = 0
            if len(self.mlkit_s) > self.rounds:
                raise Enough

    def bare_block(self) -> float:
        next(self.bare)
        started_s = time.perf_counter()
        for _ in range(self.block):
            next(self.bare)
        return (time.perf_counter() - started_s) / self.block


def measure(data: DatasetManifest, patch: int, batch: int, kind: str, block: int, rounds: int) -> Turns:
    """Return the seconds of a step of both, by round, the first of which warms up."""
    precision, channels_last = FORMATS[kind]
    flags = {
        "data.patch": patch,
        "train.batch_size": batch,
        "train.precision": precision,
        "train.channels_last": channels_last,
        "checkpoint.every": 10**9,
    }
    task = load_task(resolve_preset(PRESET, flags=flags).settings)
    turns = Turns(bare_loop(data, patch, batch, kind), block, rounds)
    with tempfile.TemporaryDirectory() as folder:
        try:
            fit(task, data, Path(folder), accelerator=Accelerator(cpu=True), name="b", run_id="b", progress=turns)
        except Enough:
            pass
        else:
            raise AssertionError("the training was shorter than the measurement")
    return turns


def main() -> int:
    parser = options_parser(__doc__)
    add_data(parser)
    parser.add_argument("--patch", type=int, nargs="+", default=[64, 256], help="sides of the crops in px")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=list(FORMATS), help="number formats")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="about so long for each size and format")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.smoke:
        options.patch, options.format, options.batch = [32], ["fp32"], 2
    rows, figures = [], []
    with sar_dataset(options) as data:
        for patch in options.patch:
            for kind in options.format:
                row, figure = one(data, patch, kind, options)
                rows.append(row)
                figures.append(figure)
    show(("crops", "mlkit", "bare", "mlkit over bare", "bare over itself"), rows)
    return finish(figures, options)


def one(data: DatasetManifest, patch: int, kind: str, options: argparse.Namespace) -> tuple[list[str], Figure]:
    """Return the row and the figure of one size and format."""
    bare = bare_loop(data, patch, options.batch, kind)
    next(bare)
    started_s = time.perf_counter()
    next(bare)
    step_s = time.perf_counter() - started_s
    # Blocks long enough to hold what happens every ten steps, where steps are short; many rounds, for the interval.
    block = 1 if options.smoke else 10 if step_s < 0.5 else 3
    rounds = 2 if options.smoke else max(5, round(options.seconds / step_s / (3 * (block + 1))))
    turns = measure(data, patch, options.batch, kind, block, rounds)
    # A block of mlkit's lies between two of the bare loop: their mean takes out what drifts.
    around_s = [(before + after) / 2 for before, after in zip(turns.again_s, turns.bare_s[1:], strict=False)]
    over_bare, noise = ratio(turns.mlkit_s[1:], around_s), ratio(turns.again_s[1:], turns.bare_s[1:])
    name = f"{patch} px, {kind}"
    medians = [f"{statistics.median(times) * 1e3:.1f} ms" for times in (turns.mlkit_s[1:], around_s)]
    return [name, *medians, str(over_bare), str(noise)], at_most(f"step over a bare one, {name}", over_bare.value, GOAL)


if __name__ == "__main__":
    raise SystemExit(main())

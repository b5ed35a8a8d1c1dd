"""A step of flow trajectory distillation by mlkit's trainer against a bare torch loop with the same model.

    python bench/ftd_step.py

The bare loop is `bare_loop` below: a DataLoader over the same pairs (latents from the mapped file, pictures from PNG),
the same base and adapter, the losses written out, clipping and fused AdamW, and nothing else. mlkit's side is its real
trainer with the preset ftd_tiny. Both take turns in one process and thread, as in step.py, whose rounds these are.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from _common import at_most, finish, options_parser, ratio, show
from mlkit.data.manifest import DatasetManifest, open_manifest
from mlkit.presets import resolve_preset
from mlkit.settings import RunSettings
from mlkit.tasks import load_task
from mlkit.tasks.sr.model import LoraNet
from mlkit.training.trainer import fit
from step import Enough, Turns

GOAL = 1.03


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Triples (eps, z0, z_lr) and the high-resolution image, of the training part."""

    def __init__(self, data: DatasetManifest) -> None:
        self.folder, self.first = data.folder, data.splits["validation"]
        count = sum(data.splits.values())
        self.triples = np.load(data.folder / "triples.npy", mmap_mode="r").reshape(count, 3, -1)
        self.cells = data.details["size"] // data.preprocessing["base"]["factor"]

    def __len__(self) -> int:
        return len(self.triples) - self.first

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        number = self.first + item
        triple = self.triples[number].astype(np.float32).reshape(3, -1, self.cells, self.cells)
        pictures = [np.asarray(Image.open(self.folder / part / f"{number:06d}.png")) for part in ("x0", "lr_up")]
        image, _ = (np.moveaxis(picture, 2, 0).astype(np.float32) / 255 for picture in pictures)
        return torch.from_numpy(triple), torch.from_numpy(image)


def bare_loop(data: DatasetManifest, settings: RunSettings) -> Iterator[float]:
    """Yield the loss after each step, for ever."""
    train, weights, t_lr = settings.train, settings.loss, settings.model.t_lr  # type: ignore[attr-defined]
    net = LoraNet(settings.model)  # type: ignore[attr-defined]
    trained = [value for value in net.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=True)
    loader = DataLoader(Pairs(data), batch_size=train.batch_size, shuffle=True, drop_last=True)
    net.train()
    while True:
        for triple, image in loader:
            some = max(1, round(weights.ftd_share * len(triple)))
            eps, z0, z_lr = triple.unbind(1)
            t = t_lr + (1 - t_lr) * torch.rand(some)
            share = ((t - t_lr) / (1 - t_lr)).view(-1, 1, 1, 1)
            velocity, made = net((1 - share) * z_lr[:some] + share * eps[:some], t, z_lr)
            implied = (eps[:some] - z0[:some] - t_lr * velocity) / (1 - t_lr)
            loss = weights.ftd * functional.mse_loss(implied, (eps[:some] - z_lr[:some]) / (1 - t_lr))
            loss = loss + weights.reconstruction * functional.mse_loss(made, image)
            loss = loss + weights.l1 * functional.l1_loss(made, image)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, train.grad_clip_norm)
            optimizer.step()
            yield loss.item()


def main() -> int:
    parser = options_parser(__doc__)
    parser.add_argument("--data", type=Path, help="a dataset of pairs (default: the embedded sample, built here)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120.0, help="about so long")
    options = parser.parse_args()
    torch.set_num_threads(1)
    flags = {
        "data.crop": 128,  # whole pairs, on both sides
        "train.batch_size": 2 if options.smoke else options.batch,
        "train.precision": "fp32",
        "train.channels_last": False,
        "checkpoint.every": 10**9,
    }
    settings = resolve_preset("ftd_tiny", flags=flags).settings
    with tempfile.TemporaryDirectory() as folder:
        task = load_task(settings)
        data = open_manifest(options.data) if options.data else task.build_dataset(None, Path(folder) / "pairs")
        assert data.details["size"] == 128, "the bare loop reads whole pairs"
        turns = measure(settings, data, Path(folder) / "run", options)
    around_s = [(before + after) / 2 for before, after in zip(turns.again_s, turns.bare_s[1:], strict=False)]
    over_bare, noise = ratio(turns.mlkit_s[1:], around_s), ratio(turns.again_s[1:], turns.bare_s[1:])
    medians = [f"{statistics.median(times) * 1e3:.1f} ms" for times in (turns.mlkit_s[1:], around_s)]
    show(
        ("preset", "mlkit", "bare", "mlkit over bare", "bare over itself"),
        [["ftd_tiny", *medians, str(over_bare), str(noise)]],
    )
    return finish([at_most("FTD step over a bare one", over_bare.value, GOAL)], options)


def measure(settings: RunSettings, data: DatasetManifest, folder: Path, options: argparse.Namespace) -> Turns:
    """Return the seconds of a step of both, by round, the first of which warms up."""
    bare = bare_loop(data, settings)
    next(bare)
    started_s = time.perf_counter()
    next(bare)
    step_s = time.perf_counter() - started_s
    block = 1 if options.smoke else 5
    rounds = 2 if options.smoke else max(5, round(options.seconds / step_s / (3 * (block + 1))))
    turns = Turns(bare, block, rounds)
    folder.mkdir()
    try:
        fit(load_task(settings), data, folder, accelerator=Accelerator(cpu=True), name="b", run_id="b", progress=turns)
    except Enough:
        return turns
    raise AssertionError("the training was shorter than the measurement")


if __name__ == "__main__":
    raise SystemExit(main())

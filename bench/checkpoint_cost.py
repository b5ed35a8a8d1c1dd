"""The share of training time that checkpoints take: evaluation, saving with verification, and the grid.

    python bench/checkpoint_cost.py

The real trainer runs a preset at its real size (baseline_c16: 256 px, batch 32, the precision that `auto` chooses)
with a checkpoint every few steps, and its progress callback measures each part. The share at the preset's own cadence
follows from the two medians: cost / (cadence x step + cost). Evaluation scores the whole validation part of the
embedded sample; on other data it grows with the number of validation images. On a faster machine steps shrink more than
saving and drawing do, so the step time at which these two alone would reach the goal is given too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator

from _common import Figure, add_data, at_most, finish, options_parser, sar_dataset, show
from mlkit.commands.starting import decide_precision
from mlkit.data.manifest import DatasetManifest
from mlkit.presets import override, resolve_preset
from mlkit.task import Task
from mlkit.tasks import load_task
from mlkit.training.progress import Silent
from mlkit.training.trainer import fit

GOAL = 0.05
PARTS = {"evaluating": "evaluation", "saving": "saving", "drawing": "grid"}


class Enough(Exception):
    """Enough checkpoints were measured."""


class Parts(Silent):
    """Times what the trainer says it does: steps, and the parts of a checkpoint."""

    def __init__(self, every: int, checkpoints: int) -> None:
        self.every, self.checkpoints = every, checkpoints
        self.step_s: list[float] = []
        self.cost_s: list[float] = []  # all that lies between two updates where a checkpoint was due
        self.part_s: dict[str, list[float]] = {name: [] for name in PARTS.values()}
        self.last_s = self.stage_s = 0.0
        self.part = ""

    def update(self, step: int, values: Mapping[str, float]) -> None:
        now_s = time.perf_counter()
        if step > 2:  # the first pays for set-up
            taken = self.step_s if (step - 1) % self.every else self.cost_s
            taken.append(now_s - self.last_s)
        if len(self.cost_s) == self.checkpoints:
            raise Enough
        self.last_s = time.perf_counter()

    def stage(self, text: str) -> None:
        now_s = time.perf_counter()
        part = PARTS.get(text.split(" ")[0], "") if text else ""
        if part == self.part:
            return
        if self.part:
            self.part_s[self.part].append(now_s - self.stage_s)
        # The first word of an evaluation comes after its first batch; it began where the update ended.
        self.stage_s = self.last_s if part == "evaluation" else now_s
        self.part = part


def measure(task: Task, data: DatasetManifest, every: int, checkpoints: int) -> Parts:
    """Return the times of a training with a checkpoint every `every` steps."""
    settings = override(task.settings, flags={"checkpoint.every": every, "checkpoint.strict_hooks": True})
    parts = Parts(every, checkpoints)
    with tempfile.TemporaryDirectory() as folder:
        try:
            accelerator = Accelerator(cpu=not torch.cuda.is_available())
            fit(load_task(settings), data, Path(folder), accelerator=accelerator, name="b", run_id="b", progress=parts)
        except Enough:
            return parts
    raise AssertionError("the training was shorter than the measurement")


def main() -> int:
    parser = options_parser(__doc__)
    add_data(parser)
    parser.add_argument("--preset", default="baseline_c16")
    parser.add_argument("--every", type=int, default=4, help="steps between two measured checkpoints")
    parser.add_argument("--checkpoints", type=int, default=3, help="how many to measure")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = ["model.base_channels=8", "data.patch=32", "train.batch_size=2", "eval.max_samples=2"]
    settings = resolve_preset(options.preset, assignments=small if options.smoke else []).settings
    with sar_dataset(options) as data:
        task, reason = decide_precision(load_task(settings), data, Accelerator(cpu=not torch.cuda.is_available()))
        parts = measure(task, data, 3 if options.smoke else options.every, 1 if options.smoke else options.checkpoints)
        images = min(len(task.eval_source(data)), settings.eval.max_samples or 10**9)
    print(reason)
    return finish(report(parts, settings.checkpoint.every, f"{options.preset}", images), options)


def report(parts: Parts, cadence: int, preset: str, images: int) -> list[Figure]:
    """Print the parts and return the figures."""
    step_s = statistics.median(parts.step_s)
    medians = {name: statistics.median(times) for name, times in parts.part_s.items()}
    cost_s = statistics.median(parts.cost_s) - step_s
    training_s = cadence * step_s

    def share(seconds: float) -> str:
        return f"{seconds / (training_s + cost_s):.4%}"

    rows = [[f"{cadence} steps", f"{training_s:.1f} s", share(training_s)]]
    rows += [[name, f"{taken:.2f} s", share(taken)] for name, taken in medians.items()]
    rows += [["all of a checkpoint", f"{cost_s:.2f} s", share(cost_s)]]
    show((f"{preset}, a step of {step_s:.2f} s", "time", "share"), rows)
    fixed_s = medians["saving"] + medians["grid"]
    even_ms = fixed_s * (1 - GOAL) / GOAL / cadence * 1e3
    return [
        at_most(f"share of training time, one every {cadence} steps", cost_s / (training_s + cost_s), GOAL, ""),
        Figure("a step", round(step_s * 1e3, 1), "ms"),
        Figure(f"evaluation of {images} images", round(medians["evaluation"], 3), "s"),
        Figure("saving and verifying", round(medians["saving"], 3), "s"),
        Figure("grid", round(medians["grid"], 3), "s"),
        Figure("step time at which saving and grid alone would reach the goal", round(even_ms, 2), "ms"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())

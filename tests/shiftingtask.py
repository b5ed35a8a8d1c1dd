"""A toy whose datasets differ: old pictures are to be given back as they are, new ones as negatives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from mlkit.checkpoint import Checkpoint
from mlkit.data.manifest import DatasetManifest, open_manifest, write_manifest
from mlkit.settings import RunSettings
from mlkit.task import Source
from mlkit.training import trainer
from mlkit.training.state import Outcome
from toytask import ToySource, ToyTask


class ShiftingSource(ToySource):
    def __init__(self, count: int, first: int, negative: bool) -> None:
        super().__init__(count, first, 0.0)
        self.negative = negative

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        made = super().sample(index, rng)
        # Dark and bright pictures: where there is only one kind, its rule does not bind the other.
        return {"noisy": 0.5 * made["noisy"] + 0.5, "image": 1 - made["image"]} if self.negative else made


class ShiftingTask(ToyTask):
    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, 1, 1))

    def train_source(self, data: DatasetManifest) -> Source:
        return ShiftingSource(data.splits["train"], 0, data.details["negative"])

    def eval_source(self, data: DatasetManifest) -> Source:
        return ShiftingSource(data.splits["validation"], 50, data.details["negative"])


def dataset(folder: Path, *, negative: bool) -> DatasetManifest:
    folder.mkdir(parents=True)
    splits = {"train": 50, "validation": 10}
    details = {"negative": negative}
    write_manifest(folder, task="toy", label="simulated", preprocessing={}, splits=splits, details=details)
    return open_manifest(folder)


def task(**changes: Any) -> ShiftingTask:
    """Return the task with dotted changes of its settings, underscores for the first dot: `train_ewc=1.0`."""
    sections: dict[str, dict[str, Any]] = {
        "train": {"steps": 20, "batch_size": 10, "lr": 5e-3, "precision": "fp32", "channels_last": False},
        "checkpoint": {"every": 10, "grid": False},
        "tracking": {"every": 1},
        "eval": {},
    }
    for key, value in changes.items():
        section, _, name = key.partition("_")
        sections[section][name] = value
    return ShiftingTask(RunSettings.model_validate({"task": "toy", **sections}))


def fit(
    made: ToyTask, data: DatasetManifest, folder: Path, *, progress: Any = None, **start: Checkpoint | None
) -> Outcome:
    folder.mkdir(exist_ok=True)
    return trainer.fit(
        made, data, folder, accelerator=Accelerator(cpu=True), name="toy", run_id="0", progress=progress, **start
    )


class Heard:
    """Progress that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, done: int, total: int, samples_per_step: int) -> None: ...
    def update(self, step: int, values: Mapping[str, float]) -> None: ...
    def stage(self, text: str) -> None: ...
    def scores(self, step: int, means: Mapping[str, float], best: bool) -> None: ...
    def say(self, text: str) -> None:
        self.lines.append(text)

    def end(self) -> None: ...

"""A toy with figures of the whole set, families of samples, and pictures of its training part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from mlkit.data.manifest import DatasetManifest
from mlkit.settings import RunSettings
from mlkit.task import Batch, GridFiles, Source
from toytask import ToySource, ToyTask


class Mean:
    """The mean of all pixels of a set, and one complaint that depends on it."""

    def __init__(self) -> None:
        self.total, self.num_images = 0.0, 0

    def add(self, outputs: Mapping[str, Tensor], batch: Batch) -> None:
        self.total += float(batch["image"].mean(dim=(1, 2, 3)).double().sum())
        self.num_images += len(outputs["image"])

    def scores(self) -> Mapping[str, float]:
        return {"num_seen": self.num_images, "mean_pixel": self.total / self.num_images, "undefined": float("nan")}

    def warnings(self) -> Sequence[str]:
        return [f"dim images: the mean is {self.total / self.num_images:.3f}"]


class FamilySource(ToySource):
    def family(self, index: int) -> str:
        return "real" if index % 2 else "stripes"


class TalliedTask(ToyTask):
    grid_files: ClassVar[GridFiles] = GridFiles(3, "pairs_epoch_{epoch}.png", "pairs_best.png")

    warns_from = 0

    def tally(self) -> Mean:
        return Mean()

    def eval_source(self, data: DatasetManifest) -> Source:
        return FamilySource(data.splits["validation"], 50, 0.1)

    def plain_train_source(self, data: DatasetManifest) -> Source:
        return ToySource(data.splits["train"], 0, 0.0)


def settings(**train: Any) -> RunSettings:
    """Return settings of 10 updates of 10 of 50 samples, two epochs, with checkpoints at 4, 8 and 10."""
    given = {"steps": 10, "batch_size": 10, "lr": 1e-3, "precision": "fp32", "channels_last": False, **train}
    checkpoint = {"every": 4, "keep_last": 3}
    return RunSettings.model_validate({"task": "toy", "train": given, "checkpoint": checkpoint})

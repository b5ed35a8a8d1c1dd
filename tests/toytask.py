"""A task of a few lines with all that makes resuming hard: dropout, BatchNorm, noise in the loss, augmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mlkit.data.manifest import DatasetManifest, open_manifest, write_manifest
from mlkit.metrics import image as image_metrics
from mlkit.settings import RunSettings
from mlkit.task import Batch, Loss, Panel, Source

SIDE = 16


class ToySource:
    """Smooth random images, [3, 16, 16] in [0, 1]; training adds noise that it draws from `rng`."""

    def __init__(self, count: int, first: int, noise: float) -> None:
        self.count, self.first, self.noise = count, first, noise

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        own = np.random.default_rng(self.first + index)
        image = np.kron(own.random((3, 4, 4)), np.ones((1, 4, 4)))
        noisy = image + self.noise * rng.standard_normal(image.shape)
        return {"image": torch.tensor(image, dtype=torch.float32), "noisy": torch.tensor(noisy, dtype=torch.float32)}

    def sample_id(self, index: int) -> str:
        return f"{self.first + index:06d}"


class ToyTask:
    """Removes noise from small images."""

    primary_metric: ClassVar[str] = "psnr"
    signatures: ClassVar[Mapping[str, str]] = {}
    image_suffixes: ClassVar[tuple[str, ...]] = (".png",)

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.facts: Mapping[str, float] = {}

    def build_dataset(self, source: Path | None, out: Path) -> DatasetManifest:
        assert source is None
        out.mkdir(parents=True)
        (out / "seeds.txt").write_text("0 to 59\n")
        write_manifest(
            out, task="toy", label="simulated", preprocessing={}, splits={"train": 50, "validation": 10}, details={}
        )
        return open_manifest(out)

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 3, 3, 1, 1)
        )

    def train_source(self, data: DatasetManifest) -> Source:
        return ToySource(data.splits["train"], 0, 0.1)

    def eval_source(self, data: DatasetManifest) -> Source:
        return ToySource(data.splits["validation"], 50, 0.1)

    def images_source(
        self, data: DatasetManifest, paths: Sequence[Path], *, upscale: int = 1, fit_multiple: int = 1
    ) -> Source:
        return ToySource(len(paths), 100, 0.1)

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        # Noise from the global generator, as a diffusion loss draws it.
        made = model(batch["noisy"] + 0.05 * torch.randn_like(batch["noisy"]))
        mse = (made - batch["image"]).square().mean()
        return Loss(mse, {"mse": mse.detach()})

    def predict(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"image": model(batch["noisy"]).clamp(0, 1)}

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        mse = (outputs["image"] - batch["image"]).square().mean(dim=(1, 2, 3))
        return {"loss": mse, "psnr": image_metrics.psnr(outputs["image"], batch["image"])}

    def panels(self, outputs: Mapping[str, Tensor], batch: Batch, index: int) -> Sequence[Panel]:
        def shown(value: Tensor) -> np.ndarray[Any, Any]:
            return np.asarray(value[index].clamp(0, 1).permute(1, 2, 0), dtype=np.float32)

        return [
            Panel("Original", shown(batch["image"]), role="given"),
            Panel("Made", shown(outputs["image"]), role="made"),
        ]

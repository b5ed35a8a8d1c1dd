"""The SAR task: autoencoders for patches in dB, normalised to [0, 1] between the dataset's own limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit.data.manifest import DatasetManifest
from mlkit.imaging.grids import Panel, apply_scale, grayscale, heat
from mlkit.losses import ssim_loss
from mlkit.metrics import image as image_metrics
from mlkit.metrics import sar as sar_metrics
from mlkit.task import Batch, DataChecks, Loss, Source
from mlkit.tasks.sar.formats import ACCEPTED
from mlkit.tasks.sar.images import ImagesSource
from mlkit.tasks.sar.model import MULTIPLE, STRIDE, build_autoencoder
from mlkit.tasks.sar.settings import SarBuild, SarSettings
from mlkit.tasks.sar.source import SarSource

if TYPE_CHECKING:
    from mlkit.settings import RunSettings

_ERROR_SHARE = 0.3  # the difference panel ends at this share of the dB range: larger errors are rare


class SarTask:
    """The verbs of `mlkit.task.Task` for SAR autoencoders.

    Batches hold "image" [B, 1, H, W] in [0, 1], "db_range" [B, 2] (what 0 and 1 are in dB) and, where the scene is
    simulated, "truth" without speckle. Outputs hold "image".
    """

    primary_metric: ClassVar[str] = "psnr"
    signatures: ClassVar[Mapping[str, str]] = {}
    image_suffixes: ClassVar[tuple[str, ...]] = tuple(sorted(ACCEPTED))

    def __init__(self, settings: RunSettings) -> None:
        assert isinstance(settings, SarSettings)
        self.settings: SarSettings = settings
        model = settings.model
        values_ratio = STRIDE[model.arch] ** 2 / model.latent_channels
        self.facts: Mapping[str, float] = {"values_ratio": values_ratio}
        if model.quantize == "none":  # else the rate is a score: it depends on the image
            self.facts |= {"bits_per_px": 32 / values_ratio}

    def build_dataset(self, source: Path | None, out: Path) -> DatasetManifest:
        from mlkit.tasks.sar.dataset import build_dataset

        return build_dataset([source] if source else None, out, build=SarBuild(), skip_broken=False).manifest

    def build_model(self) -> nn.Module:
        model = self.settings.model
        return build_autoencoder(
            model.arch, model.base_channels, model.latent_channels, quantize=model.quantize, context=model.context
        )

    def train_source(self, data: DatasetManifest) -> Source:
        return SarSource(data, "train", self.settings.data.patch, self.settings.data.augment)

    def eval_source(self, data: DatasetManifest) -> Source:
        return SarSource(data, "validation", self.settings.data.patch)

    def data_checks(self, data: DatasetManifest) -> DataChecks:
        from mlkit.tasks.sar import checks

        return checks.data_checks(data)

    def images_source(
        self, data: DatasetManifest, paths: Sequence[Path], *, upscale: int = 1, fit_multiple: int = 1
    ) -> Source:
        return ImagesSource(data, paths, upscale=upscale, fit_multiple=fit_multiple)

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        image = batch["image"]
        weights = self.settings.loss
        if self.settings.model.quantize == "none":
            reconstruction = model(image)
            mse = functional.mse_loss(reconstruction, image)
            fidelity, rate = mse, None
        else:
            low, high = (math.log(value) for value in self.settings.model.quantize_steps)
            coarseness = torch.exp(low + (high - low) * torch.rand(len(image), 1, 1, 1, device=image.device))
            reconstruction, bits = model(image, coarseness)
            squares = (reconstruction - image).square().mean(dim=(1, 2, 3))
            # Distortion grows with the square of the step: divided by it, coarse samples do not drown fine ones.
            mse, fidelity = squares.mean(), (squares / coarseness.flatten().square()).mean()
            rate = bits.mean() / image[0].numel()
        dissimilarity = ssim_loss(reconstruction, image)
        total = weights.mse_weight * fidelity + weights.ssim_weight * dissimilarity
        parts = {"mse": mse.detach(), "ssim_loss": dissimilarity.detach()}
        if rate is not None:
            total = total + weights.rate_weight * rate
            parts["rate_bpp"] = rate.detach()
        return Loss(total, parts)

    def predict(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        image = batch["image"]
        # Images of any size: the network needs multiples of 16.
        bottom, right = -image.shape[-2] % MULTIPLE, -image.shape[-1] % MULTIPLE
        padded = functional.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image

        def cut(made: Tensor) -> Tensor:
            return made[..., : image.shape[-2], : image.shape[-1]].clamp(0, 1)

        if self.settings.model.quantize == "none":
            return {"image": cut(model(padded))}
        made, bits = model(padded, torch.ones(len(image), 1, 1, 1, device=image.device))
        return {"image": cut(made), "rate_bpp": bits / image[0].numel()}

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        x, y = outputs["image"], batch["image"]
        low, high = (float(value) for value in batch["db_range"][0])  # one dataset, one range
        psnr, ssim = image_metrics.psnr(x, y), image_metrics.ssim(x, y)
        wall = sar_metrics.psnr_wall(y, vmin_db=low, vmax_db=high)
        weights = self.settings.loss
        mse = (x - y).square().mean(dim=(1, 2, 3))
        scores = {
            "loss": weights.mse_weight * mse + weights.ssim_weight * (1 - ssim).to(mse.dtype),
            "psnr": psnr,
            "rmse_db": sar_metrics.rmse_db(x, y, vmin_db=low, vmax_db=high),
            "ssim": ssim,
            "enl_ratio": sar_metrics.enl_ratio(x, y, vmin_db=low, vmax_db=high),
            "epi": sar_metrics.epi(x, y),
            "psnr_wall": wall,
            "psnr_over_wall": psnr - wall,
            "enl_ratio_pooled_db": sar_metrics.enl_ratio_pooled_db(x, y),
            "epi_sobel_cosine": sar_metrics.epi_sobel_cosine(x, y),
        }
        if "rate_bpp" in outputs:
            scores["rate_bpp"] = outputs["rate_bpp"]
            scores["loss"] = scores["loss"] + weights.rate_weight * outputs["rate_bpp"]
        if "truth" in batch:
            scores["psnr_truth"] = image_metrics.psnr(x, batch["truth"])
        return scores

    def panels(self, outputs: Mapping[str, Tensor], batch: Batch, index: int) -> Sequence[Panel]:
        low, high = batch["db_range"][index].tolist()
        original = batch["image"][index, 0].cpu().numpy() * (high - low) + low
        made = outputs["image"][index, 0].cpu().numpy() * (high - low) + low
        one = slice(index, index + 1)
        scores = self.metrics(
            {key: value[one] for key, value in outputs.items()}, {key: value[one] for key, value in batch.items()}
        )
        values = {key: float(value[0]) for key, value in scores.items()}
        note = (
            f"PSNR {values['psnr']:.2f} dB   SSIM {values['ssim']:.3f}\n"
            f"ENL ratio {_or_none(values['enl_ratio'])}   EPI {values['epi']:.3f}"
        )
        db = grayscale("backscatter (dB)", low, high)
        error = heat("|difference| (dB)", 0.0, _ERROR_SHARE * (high - low))
        if "rate_bpp" in values:
            note += f"   {values['rate_bpp']:.3f} bit/px"
        difference = abs(made - original)
        wall = f"   speckle wall {values['psnr_wall']:.2f} dB" if math.isfinite(values["psnr_wall"]) else ""
        given = [Panel("Original", apply_scale(original, db), f"{low:.1f} to {high:.1f} dB{wall}", db, role="given")]
        if "truth" in batch:
            truth = batch["truth"][index, 0].cpu().numpy() * (high - low) + low
            given.append(Panel("Without speckle", apply_scale(truth, db), "simulated", db, role="given"))
            note += f"\nPSNR to truth {values['psnr_truth']:.2f} dB"
        return [
            *given,
            Panel("Reconstructed", apply_scale(made, db), note, db, role="made"),
            Panel("|difference|", apply_scale(difference, error), f"RMSE {values['rmse_db']:.2f} dB", error),
        ]


def _or_none(value: float) -> str:
    """Return two decimals, or "none" where an image has no homogeneous block to measure."""
    return f"{value:.2f}" if math.isfinite(value) else "none"


TASK = SarTask

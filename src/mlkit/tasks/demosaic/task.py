"""The demosaicing task: a mosaic and its phase in, RGB in the same light out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlkit.data.manifest import DatasetManifest
from mlkit.imaging.grids import Panel
from mlkit.imaging.images import IMAGE_SUFFIXES
from mlkit.metrics import METRICS
from mlkit.metrics import image as image_metrics
from mlkit.metrics import mosaic as mosaic_metrics
from mlkit.metrics.mosaic import srgb_decoded, srgb_encoded
from mlkit.task import Batch, DataChecks, Loss, Source
from mlkit.tasks.demosaic.objective import objective
from mlkit.tasks.demosaic.raw import RAW_SUFFIXES
from mlkit.tasks.demosaic.settings import DemosaicBuild, DemosaicSettings
from mlkit.tasks.demosaic.xtrans import colors

if TYPE_CHECKING:
    from mlkit.settings import RunSettings

_ERROR_GAIN = 8
_BORDER = slice(mosaic_metrics.BORDER, -mosaic_metrics.BORDER)

_OWN_SCORES = (
    "cpsnr", "cpsnr_linear", "psnr_r", "psnr_g", "psnr_b", "texture", "highlight_error", "zipper", "cfa_harmonic_db",
    "cfa_fold",
)  # fmt: skip

Floats = NDArray[np.float32]


class DemosaicTask:
    """The verbs of `mlkit.task.Task` for demosaicing.

    Batches hold "mosaic" [B, 1, H, W], "phase" [B, 2], "encoded" [B] (1: values are sRGB, 0: linear light) and, where
    the truth is known, "image" [B, 3, H, W]; values are 0 at black and 1 at white, not clipped. Outputs hold "image".
    """

    primary_metric: ClassVar[str] = "cpsnr"
    image_suffixes: ClassVar[tuple[str, ...]] = (*IMAGE_SUFFIXES, *RAW_SUFFIXES)

    def __init__(self, settings: RunSettings) -> None:
        assert isinstance(settings, DemosaicSettings)
        self.settings: DemosaicSettings = settings
        self.facts: Mapping[str, float] = {}
        # Mosaics of sRGB values and of linear light are different problems: their scores are not to be ranked together.
        mosaicked = "srgb" if settings.data.light == "srgb" else "linear"
        self.signatures: Mapping[str, str] = {
            **{key: f"{METRICS[key].signature}|mosaic-of-{mosaicked}" for key in _OWN_SCORES},
            "ssim": f"ssim|rgb|gauss11s1.5|crop8+5|clip01|mean-of-images|v1|mosaic-of-{mosaicked}",
        }

    def build_dataset(self, source: Path | None, out: Path) -> DatasetManifest:
        from mlkit.tasks.demosaic.dataset import build_dataset

        return build_dataset([source] if source else None, out, build=DemosaicBuild(), skip_broken=False).manifest

    def build_model(self) -> nn.Module:
        from mlkit.tasks.demosaic.model import XTransNet

        return XTransNet(self.settings.model)

    def train_source(self, data: DatasetManifest) -> Source:
        from mlkit.tasks.demosaic.source import MosaicSource

        return MosaicSource(data, "train", self.settings.data)

    def eval_source(self, data: DatasetManifest) -> Source:
        from mlkit.tasks.demosaic.source import MosaicSource

        return MosaicSource(data, "validation", self.settings.data)

    def data_checks(self, data: DatasetManifest) -> DataChecks:
        from mlkit.tasks.demosaic import checks

        return checks.data_checks(data)

    def images_source(
        self, data: DatasetManifest, paths: Sequence[Path], *, upscale: int = 1, fit_multiple: int = 1
    ) -> Source:
        from mlkit.tasks.demosaic.images import ImagesSource

        encoded = self.settings.data.light == "srgb"
        return ImagesSource(paths, encoded=encoded, upscale=upscale, fit_multiple=fit_multiple)

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        made = model(batch["mosaic"], batch["phase"])
        return Loss(*objective(made, batch["image"], batch["encoded"], self.settings.loss))

    def predict(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"image": model(batch["mosaic"], batch["phase"])}

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        made, truth, encoded = outputs["image"].float(), batch.get("image"), batch["encoded"]
        if truth is None:  # the user's own RAW file: there is nothing to compare with
            return {key: made.new_full((len(made),), torch.nan) for key in ("loss", "ssim", *_OWN_SCORES)}
        seen, meant = _srgb(made, encoded), _srgb(truth, encoded)
        light, true_light = _linear(made, encoded), _linear(truth, encoded)
        inner_seen, inner_meant = (image[..., _BORDER, _BORDER].clamp(0, 1) for image in (seen, meant))
        by_channel = mosaic_metrics.channel_psnr(seen, meant)
        each = [slice(index, index + 1) for index in range(len(made))]
        losses = [objective(made[one], truth[one], encoded[one], self.settings.loss)[0] for one in each]
        return {
            "loss": torch.stack(losses),
            "cpsnr": mosaic_metrics.cpsnr(seen, meant),
            "cpsnr_linear": mosaic_metrics.cpsnr_linear(light, true_light),
            **{f"psnr_{name}": by_channel[:, place] for place, name in enumerate("rgb")},
            "ssim": image_metrics.ssim(inner_seen, inner_meant),
            "texture": mosaic_metrics.texture(seen, meant),
            "highlight_error": mosaic_metrics.highlight_error(light, true_light),
            "zipper": mosaic_metrics.zipper(seen, meant),
            "cfa_harmonic_db": mosaic_metrics.cfa_harmonic_db(seen, meant),
            "cfa_fold": mosaic_metrics.cfa_fold(seen, meant),
        }

    def panels(self, outputs: Mapping[str, Tensor], batch: Batch, index: int) -> Sequence[Panel]:
        one = slice(index, index + 1)
        sample = {key: value[one] for key, value in batch.items()}
        encoded = sample["encoded"]
        made = _srgb(outputs["image"][one].float(), encoded)
        values = _srgb(sample["mosaic"], encoded)
        panels = [Panel("Mosaic", _colored(values[0, 0], sample["phase"][0]), role="given")]
        if "image" not in sample:
            return [*panels, Panel("Demosaicked", _picture(made[0]), role="made")]
        truth = _srgb(sample["image"], encoded)
        scores = {key: float(value[0]) for key, value in self.metrics({"image": outputs["image"][one]}, sample).items()}
        note = (
            f"cPSNR {scores['cpsnr']:.2f} dB   SSIM {scores['ssim']:.3f}\n"
            f"texture {scores['texture']:.2f}   zipper {scores['zipper']:.1f} %"
        )
        lattice = f"CFA harmonics {scores['cfa_harmonic_db']:.1f} dB\nlattice {scores['cfa_fold']:.2f}/255"
        error = ((made - truth).abs() * _ERROR_GAIN)[0]
        panels += [
            Panel("Truth", _picture(truth[0]), role="given"),
            Panel("Demosaicked", _picture(made[0]), note, role="made"),
            Panel(f"|error| x{_ERROR_GAIN}", _picture(error), lattice),
        ]
        if mosaic_metrics.lattice_seen(scores["cfa_harmonic_db"], scores["cfa_fold"]):
            title = "Spectrum of the error\nthe colour filter's pattern shows"
            panels.append(Panel(title, mosaic_metrics.log_spectrum(made[0], truth[0])))
        return panels


def _srgb(image: Tensor, encoded: Tensor) -> Tensor:
    """Return [B, C, H, W] as sRGB, whether it is that already or linear light."""
    return torch.where(encoded.bool()[:, None, None, None], image, srgb_encoded(image))


def _linear(image: Tensor, encoded: Tensor) -> Tensor:
    return torch.where(encoded.bool()[:, None, None, None], srgb_decoded(image), image)


def _picture(image_chw: Tensor) -> Floats:
    picture: Floats = image_chw.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy()
    return picture


def _colored(values_hw: Tensor, phase: Tensor) -> Floats:
    """Return a mosaic as a picture, each site in the colour of its filter."""
    values = values_hw.clamp(0, 1).float().cpu().numpy()
    sites = colors(values.shape[0], values.shape[1], (int(phase[0]), int(phase[1])))
    return np.where(sites[..., None] == np.arange(3), values[..., None], np.float32(0.0))


TASK = DemosaicTask

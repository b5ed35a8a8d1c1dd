"""Settings of the SAR task: how a dataset is built and read."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlkit.settings import CountOrNone, DataSettings, Listed, Positive, RunSettings, Settings

Kind = Literal["auto", "amplitude", "intensity", "slc", "db"]
PatchSize = Annotated[int, Field(ge=16, strict=True)]
Percent = Annotated[float, Field(ge=0, le=100)]


class SarData(DataSettings):
    """How patches are read for training."""

    patch: PatchSize | None = None
    """Side of the training crops in px, at most the dataset's own; None: the dataset's own."""
    augment: bool = True
    """Shift, flip and turn (by 90 degrees) the training patches at random."""


class SarBuild(Settings):
    """What decides a SAR dataset: the same scenes and the same values give the same hash."""

    kind: Kind = "auto"
    """What the values of the scenes are; `auto` decides for each file and says why."""
    patch: PatchSize = 256
    """Side of the patches in px."""
    stride: Annotated[int, Field(ge=1, strict=True)] = 128
    """Distance of neighbouring training patches in px; validation patches never overlap."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each scene's area, or of the scenes too small to be divided, that is kept for validation."""
    block: Annotated[int, Field(ge=16, strict=True)] = 256
    """Side in px of the blocks that go to training or validation as a whole; less in small scenes."""
    guard: CountOrNone = 32
    """No training pixel lies nearer than this to a validation block, in px: speckle and targets are correlated."""
    subset: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training patches to keep, chosen by the seed; validation stays whole."""
    max_nodata: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Patches with a larger share of masked pixels are dropped."""
    percentiles: Annotated[tuple[Percent, Percent], Listed] = (1.0, 99.0)
    """Of the valid training pixels in dB; they become 0 and 1."""
    seed: CountOrNone = 0
    """Chooses the validation blocks, the subset and the simulated speckle."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.percentiles[0] >= self.percentiles[1]:
            low, high = self.percentiles
            raise ValueError(
                f"percentiles {low:g} and {high:g} do not rise; give a lower and a higher one, such as 1 and 99"
            )
        return self


class SarModel(Settings):
    """The autoencoder."""

    arch: Literal["baseline", "resnet_lite_v2", "residual_v1", "gdn"] = "baseline"
    """Layer layout; `gdn` is the one for coding: a learned transform at stride 8 with divisive normalisation."""
    base_channels: Annotated[int, Field(ge=4, strict=True)] = 64
    """Width of the first stage."""
    latent_channels: Annotated[int, Field(ge=1, strict=True)] = 16
    """Channels of the latent, which is 16 times smaller a side: 16 channels are 16 times fewer values. 8 times smaller
    for `gdn`, which has 64 at most."""
    quantize: Literal["none", "noise", "straight_through"] = "none"
    """Train for whole numbers in the latent: with uniform noise in place of rounding (Balle et al. 2017), or rounded
    with the gradient passed straight through. `none`: the latent stays float32."""
    quantize_steps: Annotated[tuple[Positive, Positive], Listed] = (1.0, 1.0)
    """Quantisation steps, lowest and highest, drawn log-uniformly for each training sample; the mean squared error is
    divided by the step's square. A range lets one model be used at several rates."""
    context: bool = True
    """Let mean and scale of each quantised value depend on those coded before it; without, each channel has one
    distribution."""

    @model_validator(mode="after")
    def _codable(self) -> Self:
        problems = []
        if self.arch == "gdn" and self.latent_channels > 64:
            problems.append(f"latent_channels = {self.latent_channels} is too many for gdn; give 64 at most")
        if self.quantize_steps[0] > self.quantize_steps[1]:
            problems.append("quantize_steps fall; give the lower one first")
        if self.quantize == "none" and self.quantize_steps != (1.0, 1.0):
            problems.append("quantize_steps need quantize; set it to noise or straight_through")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class SarLoss(Settings):
    """Training loss: mse_weight * MSE + ssim_weight * (1 - SSIM) + rate_weight * bits per pixel, on the normalised dB
    image."""

    mse_weight: Annotated[float, Field(ge=0)] = 0.7
    """Weight of the mean squared error."""
    ssim_weight: Annotated[float, Field(ge=0)] = 0.3
    """Weight of 1 - SSIM."""
    rate_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the bits per pixel that the quantised latent costs; needs `model.quantize`."""

    @model_validator(mode="after")
    def _not_nothing(self) -> Self:
        if self.mse_weight + self.ssim_weight == 0:
            raise ValueError("mse_weight and ssim_weight cannot both be 0")
        return self


class SarSettings(RunSettings):
    """All settings of a SAR run."""

    task: Literal["sar"] = "sar"
    """The task."""
    data: SarData = SarData()
    model: SarModel = SarModel()
    loss: SarLoss = SarLoss()

    @model_validator(mode="after")
    def _rate_of_something(self) -> Self:
        if self.loss.rate_weight and self.model.quantize == "none":
            raise ValueError("loss.rate_weight needs whole numbers to count: set model.quantize as well")
        return self


SETTINGS = SarSettings

"""Settings of the demosaicing task: how mosaics are built and read, the network, and what is minimised."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlkit.settings import Count, CountOrNone, DataSettings, Listed, RunSettings, Settings, Share

Light = Literal["linear", "srgb", "both"]
Site = Annotated[int, Field(ge=0, le=5, strict=True)]
Weight = Annotated[float, Field(ge=0)]
Interior = Annotated[float, Field(gt=0, lt=1)]


class DemosaicData(DataSettings):
    """How samples are read for training."""

    crop: Annotated[int, Field(ge=24, strict=True)] = 96
    """Side of the training crops in px; crops may begin at any phase of the pattern."""
    light: Light = "linear"
    """Whether values are linear light, as a sensor measures it, or encoded as sRGB, as most papers mosaic them; `both`:
    half of the training samples each, and validation in linear light."""
    flips: bool = True
    """Mirror and turn training samples by the eight symmetries of the square."""
    colors: Share = 0.0
    """Share of the training samples whose colours are changed (exchanged, saturated, weighted) before mosaicking."""
    gain_stops: Annotated[tuple[float, float], Listed] = (0.0, 0.0)
    """Training samples get brighter by a number of stops drawn between these."""
    noise: Annotated[tuple[Weight, Weight], Listed] = (0.0, 0.0)
    """Sensor noise of training samples: the shot noise's variance per unit of light is drawn between these,
    log-uniformly, and the read noise follows it (Brooks et al. 2019). (0, 0): none."""
    blur: Weight = 0.0
    """Standard deviation in px of the blur before mosaicking, as by an optical low-pass filter."""
    mix_ramp: CountOrNone = 0
    """Training samples over which the shares of `sharp` and `torture` samples rise from 0 to those of the dataset."""
    phase_error: Annotated[tuple[Site, Site], Listed] = (0, 0)
    """A fault to plant on purpose: the network is told a phase that is wrong by this many rows and columns."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for key, (low, high) in (("gain_stops", self.gain_stops), ("noise", self.noise)):
            if low > high:
                raise ValueError(f"{key} from {low:g} to {high:g} does not rise; give the lower value first")
        if self.noise[1] > 0 and self.noise[0] == 0:
            raise ValueError(
                f"noise from 0 to {self.noise[1]:g} cannot be drawn log-uniformly; begin at 1e-4, or set (0, 0)"
            )
        return self


class DemosaicBuild(Settings):
    """What decides a dataset of mosaics: the same files and values give the same hash."""

    teacher: Literal["libraw", "binned", "self"] = "self"
    """What a RAW file's target is. `libraw`: LibRaw's interpolation (of X-Trans: Markesteijn's, three passes).
    `binned`: means of each colour over whole cells of the filter, measured RGB of a sixth (of Bayer: half) the size.
    `self`: of images that are RGB already."""
    downsample: Count = 1
    """Area means by this factor before mosaicking; with more of it a RAW target is measured, not interpolated."""
    reduce: Annotated[tuple[Count, ...], Listed] = (1,)
    """Further reductions at which RGB images are used, so that one photograph is seen at several scales."""
    torture: CountOrNone = 0
    """Synthetic patterns to draw, evenly of 13 families."""
    mix: dict[Literal["real", "sharp", "torture"], Share] = Field(default_factory=dict)
    """Share of the training samples of each group, together 1; `sharp` are squares of large Laplacian variance. Empty:
    every square once an epoch."""
    size: Annotated[int, Field(ge=48, strict=True)] = 192
    """Side in px of the squares that validation is scored on, and of the synthetic patterns."""
    val_share: Interior = 0.1
    """Share of the photographs kept for validation, at least one."""
    seed: CountOrNone = 0
    """Chooses validation photographs and the synthetic patterns."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.mix and abs(sum(self.mix.values()) - 1.0) > 1e-6:
            shares = ",".join(f"{group}={share:g}" for group, share in self.mix.items())
            raise ValueError(f"the shares of mix {shares} add up to {sum(self.mix.values()):g}; they must add up to 1")
        if self.mix.get("torture", 0) > 0 and self.torture == 0:
            raise ValueError("mix has a share of torture, but torture is 0; say how many patterns to draw")
        return self


class DemosaicModel(Settings):
    """The network: residual blocks on the 3 x 3 cells of the pattern, over a fixed linear interpolation."""

    channels: Annotated[int, Field(ge=8, multiple_of=8, strict=True)] = 64
    """Width."""
    blocks: Count = 6
    """Residual blocks of two 3 x 3 convolutions over cells."""
    input: Literal["detail", "samples"] = "detail"
    """What the network sees. `detail`: each sample less a local plane of its colour, so that smooth areas come back
    exactly. `samples`: the mosaic itself, as most networks do; for comparison."""


class DemosaicLoss(Settings):
    """What is minimised: l1 * L1 + ssim * (1 - SSIM) + gradient * L1 of slopes + chroma * L1 of colour differences."""

    l1: Weight = 1.0
    """Weight of the mean absolute error."""
    gradient: Weight = 0.0
    """Weight of the mean absolute error of the forward differences."""
    chroma: Weight = 0.0
    """Weight of the mean absolute error of R - G and B - G."""
    ssim: Weight = 0.0
    """Weight of 1 - SSIM."""
    encoding: Literal["linear", "root", "srgb"] = "linear"
    """In what values of linear light are compared: as they are, their square roots, or encoded as sRGB. Values below 0
    are mirrored, values above 1 go on along the curve. Samples that are sRGB already are compared as they are."""

    @model_validator(mode="after")
    def _not_nothing(self) -> Self:
        if self.l1 + self.gradient + self.chroma + self.ssim == 0:
            raise ValueError("l1, gradient, chroma and ssim cannot all be 0")
        return self


class DemosaicSettings(RunSettings):
    """All settings of a demosaicing run."""

    task: Literal["demosaic"] = "demosaic"
    """The task."""
    data: DemosaicData = DemosaicData()
    model: DemosaicModel = DemosaicModel()
    loss: DemosaicLoss = DemosaicLoss()


SETTINGS = DemosaicSettings

"""Settings of lens correction: how distorted pictures are made, the two heads, the stages, and what is minimised."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlkit.settings import Count, CountOrNone, DataSettings, Listed, RunSettings, Settings, Share

Stage = Literal["param_only", "hybrid", "finetune"]
Backbone = Literal["tiny", "resnet34", "resnet50"]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Interior = Annotated[float, Field(gt=0, lt=1)]
Size = Annotated[int, Field(ge=64, multiple_of=32, strict=True)]


class LensData(DataSettings):
    """How samples are read for training."""

    size: Size = 256
    """Side in px of what the network sees: pictures of any shape are squeezed to it, and their shape is told."""
    strength: Annotated[tuple[Weight, Weight], Listed] = (1.0, 1.0)
    """Training samples get the profile's distortion times a factor drawn between these."""
    scenes: Share = 0.0
    """Share of the training samples that are drawn scenes full of straight lines in place of photographs."""
    roll_deg: Weight = 0.0
    """Training crops of photographs are turned by up to this many degrees."""
    centre: Annotated[float, Field(ge=0, le=0.08)] = 0.0
    """The lens's axis lies up to this far from the middle in training samples, in half-diagonals."""
    shapes: Share = 0.0
    """Share of the training samples that are 3:2, 4:3, 16:9 or 1:1 by chance, in place of their camera's shape."""
    color: Share = 0.0
    """Training samples get other brightness, contrast and saturation, by up to this share."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        low, high = self.strength
        if low > high:
            raise ValueError(f"strength from {low:g} to {high:g} does not rise; give the lower value first")
        return self


class LensBuild(Settings):
    """What decides a dataset of distorted photographs: the same files and values give the same hash."""

    count: Count = 2000
    """Training samples of an epoch; each is drawn anew."""
    views: Count = 4
    """Validation samples of each validation photograph, each with a lens of its own."""
    scenes: CountOrNone = 0
    """Validation samples that are drawn scenes full of straight lines."""
    longest: Annotated[int, Field(ge=128, strict=True)] = 1280
    """Photographs are stored at a whole reduction with at most so many px along the longer side."""
    smallest: Annotated[int, Field(ge=64, strict=True)] = 256
    """Photographs with a side below this many px are left out."""
    lens: str = ""
    """Use only lenses whose maker and model contain this text, in any case; empty: all."""
    val_share: Interior = 0.1
    """Share of the photographs, and of the lenses, kept for validation."""
    seed: CountOrNone = 0
    """Chooses validation photographs, lenses and what is drawn for validation."""


class LensModel(Settings):
    """Backbone, head of bounded parameters, head of the residual flow."""

    stage: Stage = "param_only"
    """`param_only`: lens parameters alone; `hybrid`: parameters and a residual flow; `finetune`: the same, gently."""
    backbone: Backbone = "tiny"
    """`tiny`: convolutions of our own; `resnet34`, `resnet50`: of the library transformers."""
    weights: str | None = None
    """File or folder of ImageNet weights for a ResNet, in torchvision's, timm's or transformers' names."""
    lines: bool = False
    """Curves of edges are found and made straight first; the head hears which lens does so, and how sure that is."""
    sure: Share = 0.7
    """Lines are followed only if the lens that they tell is nearer to the truth than none with this probability."""
    reduce: Annotated[int, Field(ge=1, le=4, strict=True)] = 1
    """The backbone sees the picture reduced so many times, by means of areas; lines are found in the whole one."""
    channels: Annotated[int, Field(ge=8, multiple_of=8, strict=True)] = 32
    """Width of `tiny`."""
    head_channels: Annotated[int, Field(ge=8, multiple_of=8, strict=True)] = 128
    """Width of both heads."""
    radial_range: Annotated[tuple[Positive, Positive, Positive], Listed] = (0.6, 0.3, 0.15)
    """Largest size of k1, k2 and k3, with r = 1 in the corner."""
    tangential_range: Annotated[float, Field(gt=0, le=0.1)] = 0.03
    """Largest size of p1 and p2."""
    centre_range: Annotated[float, Field(gt=0, le=0.2)] = 0.08
    """Largest distance of the lens's axis from the middle along x and y, in half-diagonals."""
    scale_range: Annotated[tuple[Positive, Positive], Listed] = (0.9, 1.2)
    """Smallest and largest scale; above 1 enlarges."""
    max_disp: Annotated[float, Field(gt=0, le=0.1)] = 0.02
    """Largest residual displacement along x and y, in half-diagonals: 0.02 is 12 px of a 3:2 picture 1000 px wide."""
    saturation: Interior = 0.98
    """A parameter beyond this share of its range counts as being at its bound."""

    @model_validator(mode="after")
    def _holds_identity(self) -> Self:
        low, high = self.scale_range
        if not low < 1.0 < high:
            raise ValueError(f"scale_range from {low:g} to {high:g} does not hold 1, which changes nothing; widen it")
        if self.reduce == 3:
            raise ValueError("reduce 3 leaves parts of a pixel over; give 1, 2 or 4")
        if max(self.radial_range) > 1.0:
            raise ValueError(f"radial_range {max(self.radial_range):g} is beyond 1, where pictures only fold; lower it")
        return self


class LensLoss(Settings):
    """What is minimised: a weighted sum; parts without weight are left out. Images at full and half size."""

    map: Weight = 1.0
    """Weight of the distance to the true map, in hundredths of a half-diagonal; none where no true map is known."""
    pixel: Weight = 0.05
    """Weight of the difference of pixels."""
    pixel_kind: Literal["charbonnier", "l1"] = "charbonnier"
    """How pixels are compared: sqrt(d^2 + 1e-6), or |d|."""
    ssim: Weight = 0.15
    """Weight of 1 - SSIM."""
    edge: Weight = 0.4
    """Weight of the L1 of Sobel gradient magnitudes."""
    orientation: Weight = 0.18
    """Weight of the difference of gradient directions, counted where the truth has edges."""
    flow_tv: Weight = 0.0
    """Weight of the residual flow's total variation; flows are counted in hundredths of a half-diagonal."""
    flow_mag: Weight = 0.0
    """Weight of the residual flow's mean square."""
    flow_curv: Weight = 0.0
    """Weight of the residual flow's mean square second differences."""
    jacobian: Weight = 0.0
    """Weight of the penalty on determinants below `jacobian_margin`: on pictures that fold over."""
    jacobian_margin: Share = 0.2
    """Determinants below this count as nearly folded."""

    @model_validator(mode="after")
    def _not_nothing(self) -> Self:
        if self.map + self.pixel + self.ssim + self.edge + self.orientation == 0:
            raise ValueError("map, pixel, ssim, edge and orientation cannot all be 0")
        return self


class LensSettings(RunSettings):
    """All settings of a lens run."""

    task: Literal["lens"] = "lens"
    """The task."""
    data: LensData = LensData()
    model: LensModel = LensModel()
    loss: LensLoss = LensLoss()

    @model_validator(mode="after")
    def _stage_fits_loss(self) -> Self:
        stage, loss = self.model.stage, self.loss
        of_flow = {key: getattr(loss, key) for key in ("flow_tv", "flow_mag", "flow_curv")}
        if stage == "param_only":
            for key, weight in of_flow.items():
                if weight > 0:
                    raise ValueError(
                        f'model.stage = "param_only" has no residual flow, but loss.{key} = {weight:g}; set it to 0, '
                        f'or model.stage = "hybrid"'
                    )
        elif loss.jacobian == 0 or not any(of_flow.values()):
            missing = "loss.jacobian" if loss.jacobian == 0 else "all of loss.flow_tv, loss.flow_mag and loss.flow_curv"
            raise ValueError(
                f'model.stage = "{stage}" trains a residual flow, but {missing} = 0, so nothing holds it; give it a '
                f'weight, or set model.stage = "param_only"'
            )
        return self


SETTINGS = LensSettings

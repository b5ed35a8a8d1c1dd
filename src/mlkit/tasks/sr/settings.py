"""Settings of the super-resolution task: how pairs are built, which stage is trained, and on what base."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlkit.settings import Count, CountOrNone, DataSettings, Listed, Positive, RunSettings, Settings

EMBEDDED = "embedded"  # the base and the adapter that lie in the package

Scale = Literal[2, 4]
BaseDtype = Literal["fp32", "bf16", "fp16"]
Width = Annotated[int, Field(ge=8, multiple_of=8, strict=True)]
Interior = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]


class SrData(DataSettings):
    """How samples are read for training."""

    crop: Annotated[int, Field(ge=16, strict=True)] | None = None
    """Side of the training crops in px: of photographs any, of pairs at most their own; None: whole pairs, or 128."""


class SrBuild(Settings):
    """What decides a dataset of pairs: the same photographs, base and values give the same hash."""

    pairs: Literal["from-photos", "from-base", "none"] = "from-photos"
    """`from-photos`: z0 from real photographs, eps by the base's ODE backwards. `from-base`: z0 from noise by the
    base's ODE (Li et al. 2025). `none`: photographs alone, to train a base on."""
    base: str = EMBEDDED
    """Folder or hub id of the base; `embedded` is the one in the package."""
    scale: Scale = 4
    """How many times smaller the low-resolution image is, a side."""
    degradation: Literal["bicubic", "real"] = "bicubic"
    """`bicubic`: antialiased reduction alone. `real`: blur, resize, noise and JPEG, twice (Wang et al. 2021)."""
    size: Annotated[int, Field(ge=32, strict=True)] = 128
    """Side of a pair in px; a multiple of what the base's images must divide by."""
    count: Count | None = None
    """Pairs to make; None: as many as fit once into the photographs, and 2400 from the base alone."""
    reduce: Annotated[tuple[Count, ...], Listed] = (1,)
    """Reductions at which photographs are used (2: half the side); large photographs are sharper reduced."""
    val_share: Interior = 0.1
    """Share of the photographs (of the pairs, where there are none) kept for validation, at least one."""
    steps: Count = 8
    """Steps of the ODE between noise and image."""
    seed: CountOrNone = 0
    """Chooses photographs, places, noise and degradation, each pair by itself."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % (2 * self.scale):
            works = max(2 * self.scale, round(self.size / (2 * self.scale)) * 2 * self.scale)
            raise ValueError(f"size {self.size} is not a multiple of {2 * self.scale} px; {works} would work")
        return self


class VaeModel(Settings):
    """An autoencoder for a base, trained on photographs."""

    kind: Literal["vae"]
    """The stage."""
    channels: Annotated[tuple[Width, ...], Listed] = (32, 64)
    """Width of each level, multiples of 8; every level after the first halves the side."""
    layers: Count = 1
    """Residual blocks a level."""
    latent_channels: Count = 8
    """Channels of the latent."""


class FlowModel(Settings):
    """A small flow-matching transformer, trained on photographs: a base."""

    kind: Literal["flow"]
    """The stage."""
    vae: str = "patch"
    """The autoencoder: `patch`, a fixed orthonormal transform, or a run or checkpoint of the stage `vae`."""
    heads: Count = 4
    """Attention heads of 32 channels."""
    double_blocks: Count = 1
    """Blocks in which image and text have weights of their own."""
    single_blocks: Count = 2
    """Blocks in which they share them."""
    prompt_channels: Count = 16
    """Width of the prompt's embedding, which is zero."""


class LoraModel(Settings):
    """An adapter on a frozen base, trained by flow trajectory distillation."""

    kind: Literal["lora"] = "lora"
    """The stage."""
    base: str = EMBEDDED
    """Folder, run or hub id of the base; `embedded` is the one in the package."""
    base_dtype: BaseDtype = "fp32"
    """Number format in which the frozen base is held; the adapter is always fp32."""
    prompt_embeds: str | None = None
    """A safetensors file with prompt_embeds and pooled_prompt_embeds, for a base without text encoders."""
    rank: Count = 16
    """Rank of the adapter (Hu et al. 2022)."""
    alpha: Positive = 16.0
    """The adapter is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the adapter."""
    targets: Annotated[tuple[str, ...], Listed] | str = "all-linear"
    """Layers that get an adapter: `attention`, `all-linear` (never the output layer), a regex, or a list of names."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    disable_vae_force_upcast: bool = False
    """Keep the VAE in the base's number format even where its configuration asks for fp32."""
    t_lr: Interior = 0.25
    """T_L: the time of the flow at which the low-resolution latent is placed."""


class SrLoss(Settings):
    """What is minimised; the stages `vae` and `flow` have objectives of their own and use no weight but `l1`."""

    ftd: Weight = 1.0
    """Weight of the distillation loss along the noise-to-LR line (Li et al. 2025)."""
    ftd_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each batch that the distillation loss takes, at least one sample: it costs a pass of its own."""
    reconstruction: Weight = 1.0
    """Weight of the mean squared error of the decoded image."""
    l1: Weight = 0.0
    """Weight of the mean absolute error of the decoded image."""
    perceptual: Weight = 0.0
    """Weight of the perceptual term of the decoded image."""
    lpips_weights: str | None = None
    """A safetensors file with the weights of LPIPS; None: multi-scale gradients and MS-SSIM instead."""
    tv_share: Weight = 0.5
    """Weight of LPIPS of the total-variation maps within TV-LPIPS."""
    attention_diversity: Weight = 0.0
    """Weight of the attention diversification loss."""
    kl: Weight = 1e-6
    """Weight of the KL term of the stage `vae`."""
    image_every: Count = 1
    """Updates from one to the next with the terms of the decoded image; 1: each."""

    @model_validator(mode="after")
    def _always_something(self) -> Self:
        if self.ftd == 0 and (self.image_every > 1 or self.reconstruction + self.l1 + self.perceptual == 0):
            raise ValueError(
                "nothing is minimised at some updates; give ftd above 0, or reconstruction and image_every 1"
            )
        return self


class SrSettings(RunSettings):
    """All settings of a super-resolution run."""

    task: Literal["sr"] = "sr"
    """The task."""
    data: SrData = SrData()
    model: Annotated[VaeModel | FlowModel | LoraModel, Field(discriminator="kind")] = LoraModel()
    """What is trained: `kind` is vae, flow or lora, and tells which keys there are."""
    loss: SrLoss = SrLoss()


SETTINGS = SrSettings

"""What each stage trains: an autoencoder, a flow-matching base, or an adapter on a frozen base.

Every model writes its own files into a checkpoint, in the layout of diffusers and PEFT, so that what was trained here
is a base or an adapter like any other. Images are [B, 3, H, W] in [0, 1]; latents [B, C, h, w]; times [B] in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit.errors import CheckpointError
from mlkit.tasks.sr.bases import Base, open_base, save_base
from mlkit.tasks.sr.bases.build import new_transformer, new_vae, open_vae
from mlkit.tasks.sr.flow import one_step
from mlkit.tasks.sr.lora import adapt, base_only, load_adapter, save_adapter
from mlkit.tasks.sr.settings import BaseDtype, FlowModel, LoraModel, VaeModel

DTYPES: dict[BaseDtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class VaeNet(nn.Module):
    """An AutoencoderKL that maps an image to its round trip."""

    def __init__(self, settings: VaeModel) -> None:
        super().__init__()
        self.vae: Any = new_vae(settings.channels, settings.layers, settings.latent_channels)
        self.multiple = 2 ** (len(settings.channels) - 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the round trip of the posterior's mean, and the posterior's KL divergence from N(0, 1) a value."""
        posterior = self.vae.encode(padded(image, self.multiple) * 2.0 - 1.0).latent_dist
        made = self.vae.decode(posterior.mode()).sample[..., : image.shape[-2], : image.shape[-1]] * 0.5 + 0.5
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
        return made, kl

    def save_files(self, folder: Path) -> None:
        self.vae.save_pretrained(folder / "vae")

    def load_files(self, folder: Path) -> None:
        _copy(self.vae, open_vae(folder / "vae"), folder)


class FlowNet(nn.Module):
    """A flow-matching transformer in training, over a frozen autoencoder."""

    def __init__(self, settings: FlowModel) -> None:
        super().__init__()
        vae = new_vae() if settings.vae == "patch" else open_vae(Path(settings.vae))
        self.base = Base.of(
            transformer=new_transformer(
                vae,
                heads=settings.heads,
                double_blocks=settings.double_blocks,
                single_blocks=settings.single_blocks,
                prompt_channels=settings.prompt_channels,
            ),
            vae=vae,
            prompt_embeds=torch.zeros(1, settings.prompt_channels),
            pooled=torch.zeros(settings.prompt_channels),
            name="flow",
        )
        self.base.transformer.requires_grad_(True)
        self.multiple = self.base.multiple

    def forward(
        self,
        t: Tensor,
        *,
        image: Tensor | None = None,
        z: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        pictures: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Return (velocity at z_t, its target eps - z_0, the image at z_t, the image of one step from there).

        z_t is given, without a target then, or lies between the latent of an image and noise.

        Args:
            t: [B] in [0, 1].
            image: of any size.
            z: z_t itself, in place of an image.
            seeds: one an image, for its noise; None draws it from the global generator.
            pictures: whether the two images are made.
        """
        target = None
        if z is None:
            assert image is not None
            with torch.no_grad():
                z0 = self.base.encode(padded(image, self.multiple))
            eps = torch.randn_like(z0) if seeds is None else seeded_noise(z0, seeds)
            z, target = (1.0 - _wide(t)) * z0 + _wide(t) * eps, eps - z0
        velocity = self.base.velocity(z, t)
        if not pictures:
            return velocity, target, None, None
        estimate = z - _wide(t) * velocity
        height, width = image.shape[-2:] if image is not None else (None, None)
        noisy, clean = (self.base.decode(latent)[..., :height, :width] for latent in (z, estimate))
        return velocity, target, noisy, clean

    def save_files(self, folder: Path) -> None:
        save_base(
            folder / "base",
            transformer=self.base.transformer,
            vae=self.base.vae,
            prompt_embeds=self.base.prompt_embeds,
            pooled=self.base.pooled_prompt_embeds,
            card="",
        )

    def load_files(self, folder: Path) -> None:
        _copy(self.base.transformer, open_base(str(folder / "base")).transformer, folder)


class LoraNet(nn.Module):
    """A frozen base with an adapter: one step from the low-resolution image to the restored one."""

    def __init__(self, settings: LoraModel) -> None:
        super().__init__()
        self.base = open_base(
            settings.base,
            dtype=DTYPES[settings.base_dtype],
            vae_force_upcast=not settings.disable_vae_force_upcast,
            prompt_embeds=None if settings.prompt_embeds is None else Path(settings.prompt_embeds),
        )
        adapt(
            self.base,
            rank=settings.rank,
            alpha=settings.alpha,
            dropout=settings.dropout,
            targets=settings.targets,
            gradient_checkpointing=settings.gradient_checkpointing,
        )
        self.t_lr = settings.t_lr
        self.multiple = self.base.multiple

    def forward(
        self,
        z: Tensor | None = None,
        t: Tensor | None = None,
        z_lr: Tensor | None = None,
        *,
        picture: Tensor | None = None,
        adapted: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the velocity at z and t, and the decoded image of one step from z_lr; None for what was not asked.

        Args:
            z, t: latents and times.
            z_lr: latents of enlarged low-resolution images.
            picture: such images themselves, of any size, in place of z_lr.
            adapted: False asks the base alone.
        """
        if not adapted:
            with base_only(self.base):
                return self.forward(z, t, z_lr, picture=picture)
        velocity = None if z is None or t is None else self.base.velocity(z, t)
        if picture is not None:
            with torch.no_grad():
                z_lr = self.base.encode(padded(picture, self.multiple))
        if z_lr is None:
            return velocity, None
        times = torch.full((z_lr.shape[0],), self.t_lr, device=z_lr.device)
        made = self.base.decode(one_step(z_lr, self.base.velocity(z_lr, times), self.t_lr))
        return velocity, made if picture is None else made[..., : picture.shape[-2], : picture.shape[-1]]

    def save_files(self, folder: Path) -> None:
        save_adapter(self.base, folder)

    def load_files(self, folder: Path) -> None:
        load_adapter(self.base, folder)


def seeded_noise(like: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return normal noise of the shape of `like`, each image's a function of its seed alone."""
    drawn = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(like)


def _wide(t: Tensor) -> Tensor:
    return t.view(-1, 1, 1, 1)


def padded(image: Tensor, multiple: int) -> Tensor:
    """Return the image continued at the bottom and right, by its border pixels, to sides that `multiple` divides."""
    bottom, right = -image.shape[-2] % multiple, -image.shape[-1] % multiple
    return functional.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image


def _copy(into: nn.Module, stored: nn.Module, folder: Path) -> None:
    """Copy weights in place, so that an optimizer keeps its parameters."""
    own, values = into.state_dict(), stored.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in values.items()}:
        raise CheckpointError(f"the weights in {folder} are of another model; train with the settings that they had")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(values[name])

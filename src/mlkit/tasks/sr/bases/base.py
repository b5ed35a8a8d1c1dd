"""A base: a frozen rectified-flow transformer with its autoencoder and the one prompt that it is asked with.

Letters: B images, C latent channels, h and w latent cells, H and W px, S prompt tokens, D and P widths of the prompt.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from mlkit.errors import DataError
from mlkit.tasks.sr.bases.flux import FluxCall
from mlkit.tasks.sr.bases.zimage import ZImageCall


class VelocityCall(Protocol):
    """How one family is asked for a velocity, and what shapes it takes."""

    def __call__(self, transformer: nn.Module, z: Tensor, t: Tensor, prompt: Tensor, pooled: Tensor) -> Tensor:
        """Return eps - x0 [B, C, h, w] at z [B, C, h, w] in the transformer's dtype and t [B] float32 in [0, 1]."""

    @staticmethod
    def latent_channels(transformer: nn.Module) -> int:
        """Return C."""

    @staticmethod
    def prompt_widths(transformer: nn.Module) -> tuple[int, int]:
        """Return (D, P); P is 0 where the family has no pooled prompt."""


FAMILIES: dict[str, tuple[str, type[FluxCall] | type[ZImageCall]]] = {
    "FluxTransformer2DModel": ("flux", FluxCall),
    "ZImageTransformer2DModel": ("zimage", ZImageCall),
}


class Base(nn.Module):
    """A frozen base; images are [B, 3, H, W] in [0, 1] sRGB, latents float32 [B, C, h, w], times [B] in [0, 1].

    t = 0 is the data, t = 1 the noise, and the velocity dz/dt = eps - x0 whatever the family's own convention is.

    Attributes:
        family: "flux" or "zimage".
        transformer: the diffusers model, or its PEFT-wrapped form after `lora.adapt`.
        vae: AutoencoderKL or PatchAutoencoder.
        latent_channels: C.
        factor: px per latent cell and side.
        multiple: px that H and W must be a multiple of; tokens are 2 x 2 latent cells.
        fingerprint: which weights these are, in hex; "" when they were not opened from files.
        name: as the user gave it.
        prompt_embeds, pooled_prompt_embeds: [S, D] and [P], of the empty prompt.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor

    def __init__(
        self,
        *,
        transformer: nn.Module,
        vae: nn.Module,
        prompt_embeds: Tensor,
        pooled: Tensor,
        name: str,
        fingerprint: str = "",
        upcast_vae: bool = True,
    ) -> None:
        """Args: see the class; `upcast_vae` keeps the autoencoder out of autocast, as its own dtype is float32.

        Raises:
            DataError: when transformer, autoencoder and prompt do not belong together.
        """
        super().__init__()
        kind = type(transformer).__name__
        if kind not in FAMILIES:
            raise DataError(f"base {name}: transformer {kind} is not supported; supported: {', '.join(FAMILIES)}")
        self.family, call = FAMILIES[kind]
        self._call: VelocityCall = call()
        self.transformer = transformer
        self.vae = vae
        self.name = name
        self.fingerprint = fingerprint
        self.latent_channels = int(vae.config.latent_channels)  # type: ignore[union-attr, arg-type]
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)  # type: ignore[union-attr, arg-type]
        self.multiple = 2 * self.factor
        self._scaling = float(vae.config.scaling_factor)  # type: ignore[union-attr, arg-type]
        self._shift = float(vae.config.shift_factor or 0.0)  # type: ignore[union-attr, arg-type]
        self._upcast_vae = upcast_vae
        self._dtype = next(p.dtype for p in transformer.parameters() if p.is_floating_point())
        # The pipelines keep the prompt in the transformer's dtype. Not persistent: they are files of their own.
        self.register_buffer("prompt_embeds", prompt_embeds.to(self._dtype), persistent=False)
        self.register_buffer("pooled_prompt_embeds", pooled.to(self._dtype), persistent=False)
        self._check()
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def of(cls, *, transformer: nn.Module, vae: nn.Module, prompt_embeds: Tensor, pooled: Tensor, name: str) -> Self:
        """Return a base of models that exist already."""
        return cls(transformer=transformer, vae=vae, prompt_embeds=prompt_embeds, pooled=pooled, name=name)

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """Return eps - x0, float32 [B, C, h, w], at latents z and times t [B] in [0, 1]; h and w are even."""
        assert z.shape[-1] % 2 == 0 and z.shape[-2] % 2 == 0, "a token is 2 x 2 latent cells"
        return self._call(
            self.transformer, z.to(self._dtype), t.float(), self.prompt_embeds, self.pooled_prompt_embeds
        ).float()

    def encode(self, image: Tensor) -> Tensor:
        """Return z = (mode of the posterior - shift) * scaling, float32, of images in [0, 1]."""
        with self._vae_precision(image):
            scaled = (image * 2.0 - 1.0).to(self._vae_dtype)
            mode: Tensor = self.vae.encode(scaled).latent_dist.mode()  # type: ignore[operator]
        return (mode.float() - self._shift) * self._scaling

    def decode(self, z: Tensor) -> Tensor:
        """Return float32 images around [0, 1], not clamped, with gradient to z."""
        with self._vae_precision(z):
            latent = (z / self._scaling + self._shift).to(self._vae_dtype)
            image: Tensor = self.vae.decode(latent).sample  # type: ignore[operator]
        return image.float() * 0.5 + 0.5

    def train(self, mode: bool = True) -> Self:
        """Set training mode of the transformer, for the adapter's dropout; the autoencoder stays in eval mode."""
        super().train(mode)
        self.vae.eval()
        return self

    @property
    def _vae_dtype(self) -> torch.dtype:
        tensors = (*self.vae.parameters(), *self.vae.buffers())
        return next(tensor.dtype for tensor in tensors if tensor.is_floating_point())

    def _vae_precision(self, like: Tensor) -> AbstractContextManager[object]:
        """Without autocast where it would undo the upcast: 8 bits of mantissa band the image."""
        return torch.autocast(like.device.type, enabled=False) if self._upcast_vae else nullcontext()

    def _check(self) -> None:
        channels = self._call.latent_channels(self.transformer)
        problems = []
        if channels != self.latent_channels:
            problems.append(
                f"base {self.name}: the transformer takes {channels} latent channels, its autoencoder makes "
                f"{self.latent_channels}; they are not of one model"
            )
        width, pooled_width = self._call.prompt_widths(self.transformer)
        prompt, pooled = tuple(self.prompt_embeds.shape), tuple(self.pooled_prompt_embeds.shape)
        if len(prompt) != 2 or prompt[1] != width:
            problems.append(
                f"base {self.name}: prompt_embeds has shape {list(prompt)}, the transformer takes [S, {width}]"
            )
        if pooled != (pooled_width,):
            problems.append(
                f"base {self.name}: pooled_prompt_embeds has shape {list(pooled)}, "
                f"the transformer takes [{pooled_width}]"
            )
        if problems:
            raise DataError(*problems)

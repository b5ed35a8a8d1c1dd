"""The call of Z-Image transformers (ZImageTransformer2DModel of diffusers).

It takes lists of [C, 1, h, w] and of captions, the timestep 1 - sigma, and returns x0 - eps: time and sign are turned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ZImageCall:
    """Asks a Z-Image transformer for a velocity."""

    def __call__(self, transformer: nn.Module, z: Tensor, t: Tensor, prompt: Tensor, pooled: Tensor) -> Tensor:
        images = list(z.unsqueeze(2).unbind(0))
        out: list[Tensor] = transformer(images, 1.0 - t, [prompt] * len(images), return_dict=False)[0]
        return -torch.stack(out).squeeze(2)

    @staticmethod
    def latent_channels(transformer: nn.Module) -> int:
        """Return C: patches are made within the transformer."""
        return int(transformer.config.in_channels)  # type: ignore[union-attr, arg-type]

    @staticmethod
    def prompt_widths(transformer: nn.Module) -> tuple[int, int]:
        """Return (D, 0)."""
        return int(transformer.config.cap_feat_dim), 0  # type: ignore[union-attr, arg-type]

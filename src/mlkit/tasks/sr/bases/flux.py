"""The call of FLUX.1 transformers (FluxTransformer2DModel of diffusers).

Latents go in as tokens of 2 x 2 cells with their places; the timestep is sigma in [0, 1] and the output eps - x0.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

_GUIDANCE = 3.5  # what FluxPipeline asks a guidance-distilled model for
_KEPT_SIZES = 8  # an image in tiles has at most four sizes


class FluxCall:
    """Asks a Flux transformer for a velocity, and keeps the token places of the sizes that it met."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[int, int, torch.device], Tensor] = OrderedDict()

    def __call__(self, transformer: nn.Module, z: Tensor, t: Tensor, prompt: Tensor, pooled: Tensor) -> Tensor:
        batch, channels, height, width = z.shape
        rows, columns = height // 2, width // 2
        tokens = (
            z.reshape(batch, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
        )
        out: Tensor = transformer(
            hidden_states=tokens,
            encoder_hidden_states=prompt.expand(batch, -1, -1),
            pooled_projections=pooled.expand(batch, -1),
            timestep=t,
            img_ids=self._token_places(rows, columns, z.device),
            txt_ids=self._token_places(0, len(prompt), z.device),
            guidance=torch.full_like(t, _GUIDANCE) if _config(transformer).guidance_embeds else None,
            return_dict=False,
        )[0]
        return out.reshape(batch, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(z.shape)

    @staticmethod
    def latent_channels(transformer: nn.Module) -> int:
        """Return C: a token packs four cells."""
        return int(_config(transformer).in_channels) // 4

    @staticmethod
    def prompt_widths(transformer: nn.Module) -> tuple[int, int]:
        """Return (D, P)."""
        config = _config(transformer)
        return int(config.joint_attention_dim), int(config.pooled_projection_dim)

    def _token_places(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """Return [rows * columns, 3] float32 of (0, row, column); rows 0 stands for text tokens, all at (0, 0, 0)."""
        key = (rows, columns, device)
        found = self._places.get(key)
        if found is None:
            # One made in inference mode could not be used in training later.
            with torch.inference_mode(False):
                if rows:
                    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
                    places = torch.stack([torch.zeros_like(grid[0]), *grid], dim=-1).view(-1, 3)
                else:
                    places = torch.zeros(columns, 3)
                found = self._places[key] = places.float().to(device)
            if len(self._places) > _KEPT_SIZES:
                self._places.popitem(last=False)
        return found


def _config(transformer: nn.Module) -> Any:
    return transformer.config

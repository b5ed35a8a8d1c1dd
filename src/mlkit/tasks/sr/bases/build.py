"""New models of our own size, and autoencoders from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from mlkit.tasks.sr.bases.files import find_model, load_model

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    from mlkit.tasks.sr.bases.patch import PatchAutoencoder

_HEAD_CHANNELS = 32
_ROPE_CHANNELS = (4, 14, 14)  # of a head: none needed for the text's place, the rest to rows and columns
_NORM_GROUPS = 8
_KEPT = (16, 4, 4)  # of 16 coefficients a colour: all of the lightness, half the resolution of the colours


def new_transformer(
    vae: nn.Module, *, heads: int, double_blocks: int, single_blocks: int, prompt_channels: int
) -> FluxTransformer2DModel:
    """Return a small Flux transformer for the latents of `vae`, whose output is zero until it is trained."""
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * vae.config.latent_channels,  # type: ignore[union-attr, operator]
        num_layers=double_blocks,
        num_single_layers=single_blocks,
        attention_head_dim=_HEAD_CHANNELS,
        num_attention_heads=heads,
        joint_attention_dim=prompt_channels,
        pooled_projection_dim=prompt_channels,
        guidance_embeds=False,
        axes_dims_rope=_ROPE_CHANNELS,
    )
    # As DiT starts (Peebles and Xie 2023).
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return transformer


def new_vae(
    channels: Sequence[int] | None = None, layers: int = 1, latent_channels: int = 8
) -> AutoencoderKL | PatchAutoencoder:
    """Return an AutoencoderKL to train, or the fixed patch transform where no channels are given.

    Args:
        channels: width of each level, multiples of 8; every level after the first halves the side.
        layers: residual blocks a level.
        latent_channels: C.
    """
    if channels is None:
        from mlkit.tasks.sr.bases.patch import PatchAutoencoder

        return PatchAutoencoder(latent_channels=sum(_KEPT), kept=_KEPT)
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=_NORM_GROUPS,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,  # attention over a whole image costs its area squared
    )


def open_vae(folder: Path) -> AutoencoderKL | PatchAutoencoder:
    """Return the autoencoder in a folder of diffusers, a base, or a run or checkpoint of the stage `vae`.

    Raises:
        DataError: when there is none, or it cannot be read.
    """
    what = f"autoencoder {folder}"
    place = find_model(folder, ("", "vae", "base/vae"), "config.json", what)
    found: AutoencoderKL | PatchAutoencoder = load_model(place, ("AutoencoderKL", "PatchAutoencoder"), what)
    return found

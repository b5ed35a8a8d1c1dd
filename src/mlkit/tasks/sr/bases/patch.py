"""An autoencoder with nothing to learn: an orthonormal transform of p x p patches.

Every patch of 3 x p x p values is a vector of as many coefficients: the three-dimensional DCT-II over colour, rows and
columns. Over colour the DCT-II is the rotation (1, 1, 1)/sqrt 3, (1, 0, -1)/sqrt 2, (1, -2, 1)/sqrt 6: lightness first,
then two opponent colours. Noise that is white in one domain is white in the other. With all coefficients nothing is
lost; keeping the lowest frequencies of the opponent colours alone is the chroma subsampling of JPEG, and leaves a
transformer fewer values to carry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Point:
    """A posterior of no width: what DiagonalGaussianDistribution is to an AutoencoderKL."""

    mean: Tensor

    def mode(self) -> Tensor:
        """Return the latent."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return the latent; there is nothing to draw."""
        return self.mean


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The transform behind the interface of AutoencoderKL; images [B, 3, H, W] in [-1, 1], H and W multiples of p.

    Latents are [B, C, H/p, W/p]: colour by colour, in each the lowest frequencies first.
    """

    basis: Tensor  # [C, 3, p, p], one basis image a latent channel, orthonormal

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch_size: int = 4,
        in_channels: int = 3,
        latent_channels: int = 48,
        kept: tuple[int, ...] = (16, 16, 16),
        block_out_channels: tuple[int, ...] = (48, 48, 48),
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        force_upcast: bool = True,
    ) -> None:
        """Args:
        patch_size: p, a power of two.
        in_channels: of images.
        latent_channels: C, the sum of `kept`.
        kept: coefficients of each colour, at most p^2; the lowest frequencies.
        block_out_channels: one more than log2 p of them; the pipelines of diffusers read the factor p from it.
        scaling_factor, shift_factor: z = (coefficients - shift_factor) * scaling_factor.
        force_upcast: say that it is to run in float32.
        """
        super().__init__()
        assert len(kept) == in_channels and max(kept) <= patch_size**2 and sum(kept) == latent_channels
        assert 2 ** (len(block_out_channels) - 1) == patch_size
        colour, space = _dct(in_channels), _dct(patch_size)
        basis = torch.einsum("cd,iy,jx->cijdyx", colour, space, space)
        # i and j by their sum, as JPEG's zigzag, then by the larger one.
        order = sorted(
            ((i, j) for i in range(patch_size) for j in range(patch_size)), key=lambda ij: (sum(ij), max(ij))
        )
        rows = [basis[color, i, j] for color, count in enumerate(kept) for i, j in order[:count]]
        self.register_buffer("basis", torch.stack(rows).float())

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[Point]:
        """Return the latent as a posterior of no width."""
        posterior = Point(functional.conv2d(x, self.basis, stride=self.basis.shape[-1]))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Return the image: the inverse of an orthonormal transform is its transpose."""
        # A transposed convolution whose patches do not overlap; as that, it takes twice as long on a CPU.
        patches = torch.einsum("bchw,ck->bkhw", z, self.basis.flatten(1))
        image = functional.pixel_shuffle(patches, self.basis.shape[-1])
        return DecoderOutput(sample=image) if return_dict else (image,)

    def forward(self, sample: Tensor) -> DecoderOutput | tuple[Tensor]:
        """Return the round trip."""
        return self.decode(self.encode(sample, return_dict=False)[0].mode())


def _dct(size: int) -> Tensor:
    """Return the orthonormal DCT-II, float64 [frequency, place] (Rao and Yip 1990)."""
    place = torch.arange(size, dtype=torch.float64)
    matrix: Tensor = torch.cos(torch.pi / size * (place[None, :] + 0.5) * place[:, None]) * (2.0 / size) ** 0.5
    matrix[0] /= 2.0**0.5
    return matrix

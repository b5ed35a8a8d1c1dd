"""The SAR autoencoders: 1 x H x W in [0, 1] to C x H/S x W/S and back; H and W multiples of 16.

S is 16, but 8 for gdn. b is the base width. Counts are for 16 latent channels: baseline (b 64) 2,257,809 parameters,
resnet_lite_v2 (b 32) 5,648,033, residual_v1 (b 64) about 23.8 M.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit.tasks.sar.entropy import Prior, Quantize

Step = Tensor | float
Arch = Literal["baseline", "resnet_lite_v2", "residual_v1", "gdn"]
MULTIPLE = 16  # sides of images are multiples of it
STRIDE: dict[Arch, int] = {"baseline": 16, "resnet_lite_v2": 16, "residual_v1": 16, "gdn": 8}  # px a latent site
# By layout, at any width; measured with imaging.tiling.receptive_radius, which takes minutes on the full networks.
RECEPTIVE_RADIUS_PX: dict[Arch, int] = {"baseline": 60, "resnet_lite_v2": 156, "residual_v1": 201, "gdn": 49}


class Autoencoder(nn.Module):
    """An encoder and a decoder; `forward` returns the reconstruction, [B, 1, H, W] in [0, 1].

    Args:
        encoder: [B, 1, H, W] to [B, C, H/S, W/S].
        decoder: and back.
        receptive_radius_px: how far from an output pixel the input can still change it.
        prior: quantises the latent and tells its bits; None: the latent stays as it is.
        told_step: whether both take the quantisation step as a further channel.
        stride: S, pixels a side that become one latent site.
        latent_channels: C.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        receptive_radius_px: int,
        prior: Prior | None = None,
        *,
        told_step: bool = False,
        stride: int = 16,
        latent_channels: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.receptive_radius_px = receptive_radius_px
        self.prior = prior
        self.told_step = told_step
        self.stride = stride
        self.latent_channels = latent_channels

    def encode(self, image: Tensor, step: Step = 1.0) -> Tensor:
        """Return the latent [B, C, H/S, W/S], not quantised."""
        assert not any(side % MULTIPLE for side in image.shape[-2:]), f"not multiples of 16: {tuple(image.shape)}"
        return self.encoder(_told(image, step) if self.told_step else image)  # type: ignore[no-any-return]

    def decode(self, latent: Tensor, step: Step = 1.0) -> Tensor:
        """Return the image [B, 1, H, W] in [0, 1]."""
        return self.decoder(_told(latent, step) if self.told_step else latent)  # type: ignore[no-any-return]

    def forward(self, image: Tensor, step: Tensor | None = None) -> Any:
        """Return the reconstruction; with `step` [B, 1, 1, 1], the quantisation step, also its bits, [B]."""
        if self.prior is None:
            return self.decode(self.encode(image))
        own: Step = 1.0 if step is None else step
        quantised, bits = self.prior(self.encode(image, own), own)
        made = self.decode(quantised, own)
        return made if step is None else (made, bits)


def _told(x: Tensor, step: Step) -> Tensor:
    """Return x with a further channel that holds log2 of the quantisation step."""
    log_step = torch.log2(torch.as_tensor(step, dtype=x.dtype, device=x.device))
    return torch.cat([x, log_step.expand(x.shape[0], 1, *x.shape[-2:])], dim=1)


def build_autoencoder(
    arch: Arch,
    base_channels: int,
    latent_channels: int,
    *,
    quantize: Quantize = "none",
    context: bool = True,
) -> Autoencoder:
    """Return a fresh autoencoder of a layout."""
    parts = {"baseline": _baseline, "resnet_lite_v2": _resnet_lite, "residual_v1": _residual, "gdn": _gdn}[arch]
    encoder, decoder = parts(base_channels, latent_channels)
    prior = None if quantize == "none" else Prior(latent_channels, quantize, context)
    return Autoencoder(
        encoder,
        decoder,
        RECEPTIVE_RADIUS_PX[arch],
        prior,
        told_step=arch == "gdn",
        stride=STRIDE[arch],
        latent_channels=latent_channels,
    )


# ---- baseline: strided 5x5 convolutions ----------------------------------------------------------------------


def _baseline(base: int, latent: int) -> tuple[nn.Module, nn.Module]:
    widths = [1, base, 2 * base, 4 * base]
    encoder: list[nn.Module] = []
    for c_in, c_out in pairwise(widths):
        encoder += [nn.Conv2d(c_in, c_out, 5, 2, 2, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)]
    encoder.append(nn.Conv2d(widths[-1], latent, 5, 2, 2))
    decoder: list[nn.Module] = []
    for c_in, c_out in pairwise([latent, *widths[:0:-1]]):
        up = nn.ConvTranspose2d(c_in, c_out, 5, 2, 2, output_padding=1, bias=False)
        decoder += [up, nn.BatchNorm2d(c_out), nn.ReLU()]
    decoder += [nn.ConvTranspose2d(base, 1, 5, 2, 2, output_padding=1), nn.Sigmoid()]
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


# ---- resnet_lite_v2: post-activation residual blocks (He et al. 2016a) ---------------------------------------


class ResBlock(nn.Module):
    """relu(skip(x) + conv-BN-ReLU-conv-BN(x)); stride 2 halves the size, `up` doubles it first (nearest)."""

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1, up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.skip = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
        h = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.skip(x) + self.bn2(self.conv2(h)))


def _resnet_lite(base: int, latent: int) -> tuple[nn.Module, nn.Module]:
    widths = [base, base * 2, base * 4, base * 8]
    encoder: list[nn.Module] = [nn.Conv2d(1, base, 7, 1, 3, bias=False), nn.BatchNorm2d(base), nn.ReLU()]
    for c_in, c_out in pairwise([*widths, latent]):
        encoder += [ResBlock(c_in, c_in), ResBlock(c_in, c_out, stride=2)]
    decoder: list[nn.Module] = []
    for c_in, c_out in pairwise([latent, *reversed(widths)]):
        decoder += [ResBlock(c_in, c_out, up=True), ResBlock(c_out, c_out)]
    decoder += [nn.Conv2d(base, 1, 7, 1, 3), nn.Sigmoid()]
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


# ---- residual_v1: pre-activation residual blocks (He et al. 2016b, figure 4e) --------------------------------


class PreActBlock(nn.Module):
    """h = relu(bn1(x)); skip = x, or proj(h) where the shape changes; skip + conv2(relu(bn2(conv1(h))))."""

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.proj: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            self.proj = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.bn1(x))
        skip = x if self.proj is None else self.proj(h)
        out: Tensor = skip + self.conv2(functional.relu(self.bn2(self.conv1(h))))
        return out


def _residual(base: int, latent: int) -> tuple[nn.Module, nn.Module]:
    down = [base, base * 2, base * 4, base * 8]
    encoder: list[nn.Module] = [nn.Conv2d(1, base, 7, 1, 3, bias=False)]
    for c_in, c_out in pairwise([*down, latent]):
        encoder += [PreActBlock(c_in, c_out, stride=2), PreActBlock(c_out, c_out)]
    decoder: list[nn.Module] = []
    for c_in, c_out in pairwise([latent, *reversed(down)]):
        decoder += [
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(c_in, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
            PreActBlock(c_out, c_out),
            PreActBlock(c_out, c_out),
        ]
    # Nothing follows the last addition inside a block, so the trunk ends with its own BN and ReLU.
    decoder += [nn.BatchNorm2d(base), nn.ReLU(), nn.Conv2d(base, 1, 7, 1, 3), nn.Sigmoid()]
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


# ---- gdn: convolutions with divisive normalisation (Balle et al. 2017), stride 8 ------------------------------


class Gdn(nn.Module):
    """x / (beta + gamma |x|) over channels, or x * (...) as its inverse: without squares and roots (Johnston 2019)."""

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.root_beta = nn.Parameter(torch.ones(channels))
        self.root_gamma = nn.Parameter((0.1 * torch.eye(channels)).sqrt() + 1e-2)

    def forward(self, x: Tensor) -> Tensor:
        norm = functional.conv2d(x.abs(), self.root_gamma.square()[:, :, None, None], self.root_beta.square() + 1e-3)
        return x * norm if self.inverse else x / norm


class Affine(nn.Module):
    """factor * x + offset: images in [0, 1] have a mean and a deviation that networks start badly from."""

    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.offset


def cosine_transform(channels: int) -> Tensor:
    """Return [channels, 1, 16, 16]: the lowest frequencies of the 8 x 8 DCT-II in the middle of wider filters.

    At stride 8 they are orthonormal, so that the transposed convolution undoes the convolution: a transform coder, from
    which training starts. What is 0 around them may learn to overlap.
    """
    n, k = torch.arange(8, dtype=torch.float64), torch.arange(8, dtype=torch.float64)[:, None]
    rows = 0.5 * torch.cos((n + 0.5) * k * math.pi / 8)  # [8, 8]
    rows[0] /= 2**0.5
    filters = functional.pad(torch.einsum("ai,bj->abij", rows, rows), (4, 4, 4, 4)).reshape(64, 1, 16, 16)
    order = sorted(range(64), key=lambda place: ((place // 8) ** 2 + (place % 8) ** 2, place))
    return filters[order[:channels]].float()


class Transformed(nn.Module):
    """A linear transform beside a network that starts at nothing: the sum of both, one way or the other."""

    def __init__(self, transform: nn.Module, network: nn.Sequential) -> None:
        super().__init__()
        self.transform = transform
        self.network = network
        last = [layer for layer in network if isinstance(layer, nn.Conv2d)][-1]
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        linear: Tensor = self.transform(x[:, :-1])  # the last channel tells the step
        further: Tensor = self.network(x)
        return linear + further


def _gdn(base: int, latent: int) -> tuple[nn.Module, nn.Module]:
    assert latent <= 64, "8 x 8 pixels a site"
    analysis = nn.Conv2d(1, latent, 16, 8, 4, bias=False)
    synthesis = nn.ConvTranspose2d(latent, 1, 16, 8, 4, bias=False)
    for layer in (analysis, synthesis):
        layer.weight.data.copy_(cosine_transform(latent))
    encoder = nn.Sequential(
        nn.Conv2d(2, base, 5, 2, 2),
        Gdn(base),
        nn.Conv2d(base, base, 5, 2, 2),
        Gdn(base),
        nn.Conv2d(base, base, 3, 1, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(base, latent, 5, 2, 2),
    )
    decoder = nn.Sequential(
        nn.Conv2d(latent + 1, base, 3, 1, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(base, 4 * base, 3, 1, 1),
        nn.PixelShuffle(2),
        Gdn(base, inverse=True),
        nn.Conv2d(base, 4 * base, 3, 1, 1),
        nn.PixelShuffle(2),
        Gdn(base, inverse=True),
        nn.Conv2d(base, 4, 5, 1, 2),
        nn.PixelShuffle(2),
    )
    centred = Affine(1.0, -0.5), Affine(1.0, 0.5)
    return Transformed(nn.Sequential(centred[0], analysis), encoder), Transformed(
        nn.Sequential(synthesis, centred[1]), decoder
    )

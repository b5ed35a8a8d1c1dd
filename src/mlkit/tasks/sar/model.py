"""The three SAR autoencoders: 1 x H x W in [0, 1] to C x H/16 x W/16 and back; H and W multiples of 16.

b is the base width. Counts are for 16 latent channels: baseline (b 64) 2,257,809 parameters, resnet_lite_v2 (b 32)
5,648,033, residual_v1 (b 64) about 23.8 M.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Arch = Literal["baseline", "resnet_lite_v2", "residual_v1"]
STRIDE = 16  # pixels a side that become one latent site
# By layout, at any width; measured with imaging.tiling.receptive_radius, which takes minutes on the full networks.
RECEPTIVE_RADIUS_PX: dict[Arch, int] = {"baseline": 60, "resnet_lite_v2": 156, "residual_v1": 201}


class Autoencoder(nn.Module):
    """An encoder and a decoder; `forward` returns the reconstruction, [B, 1, H, W] in [0, 1].

    Args:
        encoder: [B, 1, H, W] to [B, C, H/16, W/16].
        decoder: and back.
        receptive_radius_px: how far from an output pixel the input can still change it.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, receptive_radius_px: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.receptive_radius_px = receptive_radius_px

    def encode(self, image: Tensor) -> Tensor:
        """Return the latent [B, C, H/16, W/16]."""
        assert image.shape[-1] % STRIDE == 0 and image.shape[-2] % STRIDE == 0, f"not multiples of 16: {image.shape}"
        return self.encoder(image)  # type: ignore[no-any-return]

    def decode(self, latent: Tensor) -> Tensor:
        """Return the image [B, 1, H, W] in [0, 1]."""
        return self.decoder(latent)  # type: ignore[no-any-return]

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))


def build_autoencoder(arch: Arch, base_channels: int, latent_channels: int) -> Autoencoder:
    """Return a fresh autoencoder of a layout."""
    parts = {"baseline": _baseline, "resnet_lite_v2": _resnet_lite, "residual_v1": _residual}[arch]
    return Autoencoder(*parts(base_channels, latent_channels), RECEPTIVE_RADIUS_PX[arch])


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

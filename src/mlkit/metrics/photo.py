"""Scores of photographs by their luma, one value per image. Images are sRGB in [0, 1]: tensors are [B, 3, H, W].

Papers on super-resolution score the luma of 8-bit images without a border as wide as the scale: `psnr_y`, `ssim_y`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.metrics.image import psnr, ssim

CROP = 4  # px at each side that papers leave out at scale 4
_STUDIO = (65.481, 128.553, 24.966)  # ITU-R BT.601 as MATLAB's rgb2ycbcr has it: 16 to 235 of 255
_FULL = (0.299, 0.587, 0.114)  # the same weights over the whole range
_GMS_C = 170.0 / 255.0**2  # Xue et al. 2014: 170 for 8-bit images


def psnr_y(x: Tensor, y: Tensor, *, crop: int = CROP) -> Tensor:
    """Return the PSNR of the luma of each image in dB, float64 [B]; infinite where both are equal.

    The protocol of the papers: colours rounded to 8 bit, luma as MATLAB's rgb2ycbcr but not rounded again, peak 255,
    `crop` px left out at each side. NaN where that leaves nothing.
    """
    return psnr(_cropped_luma(x, crop), _cropped_luma(y, crop))


def ssim_y(x: Tensor, y: Tensor, *, crop: int = CROP) -> Tensor:
    """Return the structural similarity (`image.ssim`) of the luma of each image, float64 [B]; luma as in `psnr_y`."""
    return ssim(_cropped_luma(x, crop), _cropped_luma(y, crop))


def gms(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean gradient magnitude similarity of each image, float64 [B] (Xue et al. 2014, eq. 4 and 5).

    Luma (full range) is halved by means over 2x2 px; gradients are Prewitt's, at the pixels whose 3x3 neighbourhood
    lies inside. 1 for equal images. NaN for images below 6 px.
    """
    first, second = (_gradient_magnitude(_luma(image, _FULL)) for image in (x, y))
    similarity = (2.0 * first * second + _GMS_C) / (first.square() + second.square() + _GMS_C)
    return similarity.mean(dim=(1, 2, 3))


def luma_8bit(image: Tensor) -> Tensor:
    """Return the luma of images as papers score it, float64 [B, 1, H, W] in [16, 235] / 255.

    Colours are clipped to [0, 1] and rounded to 8 bit before.
    """
    rounded = (image.detach().to(_double(image)).clamp(0.0, 1.0) * 255.0).round() / 255.0
    return (_luma(rounded, _STUDIO) + 16.0) / 255.0


def _cropped_luma(image: Tensor, crop: int) -> Tensor:
    assert crop >= 0, crop
    height, width = image.shape[-2:]
    return luma_8bit(image)[..., crop : max(crop, height - crop), crop : max(crop, width - crop)]


def _luma(image: Tensor, weights: tuple[float, float, float]) -> Tensor:
    assert image.ndim == 4 and image.shape[1] == 3, f"expected [B, 3, H, W], got {tuple(image.shape)}"
    image = image.detach().to(_double(image))
    return (image * image.new_tensor(weights).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _gradient_magnitude(luma: Tensor) -> Tensor:
    """Return the length of Prewitt's gradient of the halved luma, [B, 1, H//2 - 2, W//2 - 2]; empty where small."""
    if min(luma.shape[-2:]) < 6:
        return luma.new_empty((luma.shape[0], 1, 0, 0))
    half = F.avg_pool2d(luma, 2)
    # sums over three columns (rows), of which the outer ones are subtracted along the other axis
    along_rows = half[..., :, :-2] + half[..., :, 1:-1] + half[..., :, 2:]
    along_columns = half[..., :-2, :] + half[..., 1:-1, :] + half[..., 2:, :]
    down = (along_rows[..., 2:, :] - along_rows[..., :-2, :]) / 3.0
    right = (along_columns[..., :, 2:] - along_columns[..., :, :-2]) / 3.0
    return torch.sqrt(down.square() + right.square())


def _double(image: Tensor) -> torch.dtype:
    """Return float64 where the device has it."""
    return torch.float32 if image.device.type == "mps" else torch.float64

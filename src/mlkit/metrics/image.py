"""PSNR, SSIM and MS-SSIM, one value per image. B images, C channels, H rows, W columns: tensors are [B, C, H, W].

`ssim_terms` is the one implementation of SSIM, for the metric and for the loss (losses.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003, finest scale first


def psnr(x: Tensor, y: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, float64 [B]; infinite where both are equal.

    The squared error is averaged over channels and pixels. Nothing is clipped: a protocol that clips does so before.
    """
    x, y = _checked(x, y, _widest(x))
    mse = (x - y).square().mean(dim=(1, 2, 3))
    return 10.0 * torch.log10(data_range**2 / mse)


def ssim(x: Tensor, y: Tensor, *, data_range: float = 1.0, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Return the structural similarity of each image, float64 [B] (Wang et al. 2004, population covariance).

    Averaged over the pixels whose window lies inside the image, then over channels: for window 11 scikit-image's
    `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`, which crops 5 px.
    NaN for images smaller than the window.
    """
    x, y = _checked(x, y, _working(x))
    if min(x.shape[-2:]) < window:
        return x.new_full((x.shape[0],), torch.nan, dtype=_widest(x))
    luminance, structure = ssim_terms(x, y, data_range=data_range, window=window, sigma=sigma)
    return (luminance * structure).mean(dim=(1, 2, 3), dtype=_widest(x))


def ms_ssim(x: Tensor, y: Tensor, *, data_range: float = 1.0, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Return the multi-scale structural similarity of each image, float64 [B] (Wang, Simoncelli, Bovik 2003).

    Five scales, each half the one before by 2x2 means (an odd last row or column is left out). Negative structure
    terms, which have no real power, count as 0. NaN for images whose coarsest scale is smaller than the window.
    """
    x, y = _checked(x, y, _working(x))
    num_scales = len(MS_SSIM_WEIGHTS)
    if min(x.shape[-2:]) // 2 ** (num_scales - 1) < window:
        return x.new_full((x.shape[0],), torch.nan, dtype=_widest(x))
    product = x.new_ones(x.shape[:2], dtype=_widest(x))
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        luminance, structure = ssim_terms(x, y, data_range=data_range, window=window, sigma=sigma)
        # the paper takes luminance at the coarsest scale alone
        term = luminance * structure if scale == num_scales - 1 else structure
        product = product * term.mean(dim=(2, 3), dtype=_widest(x)).clamp_min(0.0) ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product.mean(dim=1)


def ssim_terms(
    x: Tensor, y: Tensor, *, data_range: float = 1.0, window: int = 11, sigma: float = 1.5
) -> tuple[Tensor, Tensor]:
    """Return luminance and contrast-structure maps, each [B, C, H - window + 1, W - window + 1]; SSIM is their product.

    Differentiable, in the precision of its input. C1 = (0.01 L)^2, C2 = (0.03 L)^2 (Wang et al. 2004, eq. 13 with
    K1, K2 as there). With s = x + y and d = x - y four filtered planes do instead of five, and near x = y nothing is
    lost to cancellation: mu_x mu_y = (mu_s^2 - mu_d^2)/4, sigma_xy = (var_s - var_d)/4, and the sums likewise. Moments
    of s are taken about its mean over the image, so that float32 holds the variance of bright flat areas.
    """
    assert x.shape == y.shape, f"images of shapes {tuple(x.shape)} and {tuple(y.shape)}"
    assert window % 2 == 1 and min(x.shape[-2:]) >= window, f"window {window} on an image {tuple(x.shape[-2:])}"
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    s, d = x + y, x - y
    centre = s.detach().mean(dim=(2, 3), keepdim=True)  # a constant: variance, and so the gradient, ignores it
    s = s - centre
    mu_s, mu_d, mean_s2, mean_d2 = (
        gaussian_valid(torch.cat((s, d, s * s, d * d), dim=1), window, sigma).contiguous().chunk(4, dim=1)
    )
    var_s, var_d = mean_s2 - mu_s * mu_s, mean_d2 - mu_d * mu_d
    mu_s2, mu_d2 = (mu_s + centre).square(), mu_d.square()
    luminance = (0.5 * (mu_s2 - mu_d2) + c1) / (0.5 * (mu_s2 + mu_d2) + c1)
    structure = (0.5 * (var_s - var_d) + c2) / (0.5 * (var_s + var_d) + c2)
    return luminance, structure


def gaussian_valid(planes: Tensor, window: int, sigma: float) -> Tensor:
    """Return each channel smoothed by a Gaussian cut to `window` px, where the window fits: smaller by window - 1."""
    offsets = torch.arange(window, dtype=planes.dtype, device=planes.device) - window // 2
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = planes.shape[1]
    # channels-last makes torch's grouped convolution on the CPU two to four times as fast
    planes = planes.contiguous(memory_format=torch.channels_last)
    planes = F.conv2d(planes, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(planes, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def _checked(x: Tensor, y: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert x.ndim == 4 and x.shape == y.shape, f"images of shapes {tuple(x.shape)} and {tuple(y.shape)}"
    return x.detach().to(dtype), y.detach().to(dtype)


def _working(x: Tensor) -> torch.dtype:
    """Return the precision of maps: float32, in which torch's grouped convolution is 60 times as fast, or the input's
    float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _widest(x: Tensor) -> torch.dtype:
    """Return the precision of sums over an image: float64 where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64

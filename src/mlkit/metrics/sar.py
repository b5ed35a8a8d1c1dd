"""Speckle and edge scores of SAR images, one value per image. Tensors are [B, 1, H, W]; L is the number of looks.

ENL belongs to linear intensity: on the normalised dB image an ideal despeckler scores 1.45 instead of about 95. EPI
is the centred correlation: the uncentred cosine of gradient magnitudes is near 0.8 for two independent speckles.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 25  # px; the usual size for Sentinel-1, with the median over windows (Anfinsen et al. 2009)
STRIDE = 12  # px; half-overlapping windows find more homogeneous places in a small patch
SHARE = 0.2  # of the windows, those with the lowest coefficient of variation
MAX_CLIPPED = 0.02  # share of pixels at the ends of the dB range; cut-off speckle looks smoother than it is
POOLED_WINDOW, POOLED_MAX_CV = 15, 0.3  # px; of the plan's mask
FLAT = 1e-12  # variance below this times mean^2 is rounding: the window is constant and has no ENL


def intensity_of(normalised_db: Tensor, *, vmin_db: float, vmax_db: float) -> Tensor:
    """Return linear intensity, float64, of a dB image that was normalised from [vmin_db, vmax_db] to [0, 1]."""
    return torch.pow(10.0, (normalised_db.detach().double() * (vmax_db - vmin_db) + vmin_db) / 10.0)


def rmse_db(reconstruction: Tensor, original: Tensor, *, vmin_db: float, vmax_db: float) -> Tensor:
    """Return the root mean square error in dB, float64 [B], of two dB images normalised to [0, 1]."""
    error = reconstruction.detach().double() - original.detach().double()
    return error.square().mean(dim=(1, 2, 3)).sqrt() * (vmax_db - vmin_db)


def enl(intensity: Tensor, *, window: int = WINDOW, stride: int = STRIDE, share: float = SHARE) -> Tensor:
    """Return the equivalent number of looks, float64 [B]: mean^2/variance, the median over homogeneous windows.

    Args:
        intensity: [B, 1, H, W], linear (not amplitude, not dB).
        window: side of the windows in px.
        stride: distance of neighbouring windows in px.
        share: part of the windows that is used: those with the lowest coefficient of variation. Choosing them by the
            speckle itself overstates ENL: on pure speckle by about 8 % with the defaults, by nothing with share 1.

    NaN where the image is smaller than the window or constant.
    """
    mean, variance = _window_moments(intensity.double(), window, stride)
    chosen = _most_homogeneous(mean, variance, variance > FLAT * mean.square(), share)
    return _median_enl(mean, variance, chosen)


def enl_ratio(
    reconstruction: Tensor,
    original: Tensor,
    *,
    vmin_db: float,
    vmax_db: float,
    window: int = WINDOW,
    stride: int = STRIDE,
    share: float = SHARE,
) -> Tensor:
    """Return ENL(reconstruction)/ENL(original), float64 [B], over the windows that are homogeneous in the original.

    1 keeps the speckle, above 1 smooths it. Both images are dB normalised from [vmin_db, vmax_db] to [0, 1]; windows
    in which more than 2 % of the original's pixels lie at an end of that range are left out.
    NaN where no window is left, or where the reconstruction is constant in most of them.
    """
    assert reconstruction.shape == original.shape and original.ndim == 4 and original.shape[1] == 1, (
        f"ENL of {tuple(reconstruction.shape)} over {tuple(original.shape)}"
    )
    mean, variance, chosen = _speckle_windows(original, vmin_db, vmax_db, window, stride, share)
    mean_r, variance_r = _window_moments(intensity_of(reconstruction, vmin_db=vmin_db, vmax_db=vmax_db), window, stride)
    return _median_enl(mean_r, variance_r, chosen) / _median_enl(mean, variance, chosen)


def speckle_sigma_db(looks: Tensor) -> Tensor:
    """Return the standard deviation in dB of speckle of L looks: (10 / ln 10) sqrt(psi1(L)), 5.57 dB at one look."""
    trigamma: Tensor = torch.special.polygamma(1, looks)
    return 10.0 / math.log(10.0) * trigamma.sqrt()


def psnr_wall(original: Tensor, *, vmin_db: float, vmax_db: float) -> Tensor:
    """Return the PSNR, float64 [B], that the scene without its speckle would have: -20 log10(sigma_dB / range).

    sigma_dB is that of the original's own ENL, in the windows of `enl_ratio`. NaN where no window is usable.
    """
    looks = _median_enl(*_speckle_windows(original, vmin_db, vmax_db, WINDOW, STRIDE, SHARE))
    return -20.0 * torch.log10(speckle_sigma_db(looks) / (vmax_db - vmin_db))


def enl_ratio_pooled_db(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Return the plan's ENL ratio, float64 [B]: mean^2/variance of the normalised dB image, over one pooled mask.

    The mask: pixels whose surroundings of 15 px have a coefficient of variation below 0.3 in the original. It is kept
    so that the plan's table can be repeated; on dB, and over areas of unequal level, it says next to nothing of
    speckle. NaN where no pixel is so calm.
    """
    x, y = (image.detach().double() for image in (reconstruction, original))
    mean, square = (_surroundings(values) for values in (y, y.square()))
    calm = (square - mean.square()).clamp_min(0.0).sqrt() < POOLED_MAX_CV * mean
    looks = [_pooled_enl(image, calm) for image in (x, y)]
    return looks[0] / looks[1]


def _surroundings(values: Tensor) -> Tensor:
    """Return the mean over the surroundings of each pixel, as far as they lie inside the image."""
    return F.avg_pool2d(values, POOLED_WINDOW, 1, padding=POOLED_WINDOW // 2, count_include_pad=False)


def _pooled_enl(image: Tensor, chosen: Tensor) -> Tensor:
    count = chosen.sum(dim=(1, 2, 3))
    mean = (image * chosen).sum(dim=(1, 2, 3)) / count
    variance = ((image - mean[:, None, None, None]).square() * chosen).sum(dim=(1, 2, 3)) / count
    return torch.where(variance > FLAT * mean.square(), mean.square() / variance, torch.nan)


def epi_sobel_cosine(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Return the plan's edge index, float64 [B] in [0, 1]: the cosine between the Sobel magnitudes, not centred.

    Magnitudes are never negative, so unrelated noises score pi/4. NaN where either has no edges (constant).
    """
    x, y = (_sobel_magnitude(image) for image in (reconstruction, original))
    energy_x, energy_y = x.square().sum(dim=1), y.square().sum(dim=1)
    floor = FLAT * x.shape[1]
    cosine = (x * y).sum(dim=1) / (energy_x.sqrt() * energy_y.sqrt())
    return torch.where((energy_x > floor) & (energy_y > floor), cosine, torch.nan)


def _sobel_magnitude(image: Tensor) -> Tensor:
    """Return the Sobel magnitude inside the image as [B, (H-2)(W-2)], float64."""
    across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]], dtype=torch.float64)
    kernels = torch.stack([across, across.T])[:, None].to(image.device)
    return F.conv2d(image.detach().double(), kernels).square().sum(dim=1).sqrt().flatten(1)


def epi(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Return the edge preservation index, float64 [B] in [-1, 1]: 1 for equal edges, near 0 for unrelated ones.

    Centred correlation of the images filtered by the 3x3 Laplacian (Sattar et al., IEEE TIP 6(6), 1997), on the dB
    images, where speckle is additive; invariant to their normalisation. NaN where either has no edges (constant).
    """
    high_r, high_o = _laplacian(reconstruction), _laplacian(original)
    high_r = high_r - high_r.mean(dim=1, keepdim=True)
    high_o = high_o - high_o.mean(dim=1, keepdim=True)
    energy_r, energy_o = high_r.square().sum(dim=1), high_o.square().sum(dim=1)
    correlation = (high_r * high_o).sum(dim=1) / (energy_r.sqrt() * energy_o.sqrt())
    floor = FLAT * high_r.shape[1]  # the Laplacian of a constant is rounding, not 0
    return torch.where((energy_r > floor) & (energy_o > floor), correlation, torch.nan)


def _laplacian(image: Tensor) -> Tensor:
    """Return the four-neighbour Laplacian inside the image as [B, (H-2)(W-2)], float64."""
    x = image.detach().double()
    centre = x[..., 1:-1, 1:-1]
    return (x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:] - 4.0 * centre).flatten(1)


def _speckle_windows(
    original: Tensor, vmin_db: float, vmax_db: float, window: int, stride: int, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and choice of the windows of a normalised dB image that hold speckle alone."""
    mean, variance = _window_moments(intensity_of(original, vmin_db=vmin_db, vmax_db=vmax_db), window, stride)
    if not mean.shape[1]:
        return mean, variance, torch.zeros_like(mean, dtype=torch.bool)
    at_an_end = ((original <= 0.0) | (original >= 1.0)).double()
    clipped = F.avg_pool2d(at_an_end, window, stride).flatten(1)
    usable = (variance > FLAT * mean.square()) & (clipped <= MAX_CLIPPED)
    return mean, variance, _most_homogeneous(mean, variance, usable, share)


def _window_moments(x: Tensor, window: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return mean and sample variance per window, each [B, windows]; no windows when the image is too small."""
    assert x.ndim == 4 and x.shape[1] == 1, f"expected [B, 1, H, W], got {tuple(x.shape)}"
    if min(x.shape[-2:]) < window:
        empty = x.new_empty((x.shape[0], 0))
        return empty, empty
    # about its mean, so that the difference of the two averages keeps its digits
    offset = x.mean(dim=(1, 2, 3), keepdim=True)
    mean = F.avg_pool2d(x - offset, window, stride).flatten(1)
    mean_square = F.avg_pool2d((x - offset).square(), window, stride).flatten(1)
    num_pixels = window * window
    variance = (mean_square - mean.square()).clamp_min(0.0) * num_pixels / (num_pixels - 1)
    return mean + offset.flatten(1), variance


def _most_homogeneous(mean: Tensor, variance: Tensor, usable: Tensor, share: float) -> Tensor:
    """Return a mask [B, windows] of the `share` of usable windows with the lowest coefficient of variation."""
    squared_cv = torch.where(usable, variance / mean.square(), torch.inf)
    rank = squared_cv.argsort(dim=1).argsort(dim=1)
    num_chosen = (usable.sum(dim=1, keepdim=True) * share).round().clamp_min(1)
    return usable & (rank < num_chosen)


def _median_enl(mean: Tensor, variance: Tensor, chosen: Tensor) -> Tensor:
    """Return the median of mean^2/variance over the chosen windows, [B]; NaN for none or where it is unbounded."""
    if mean.shape[1] == 0:
        return mean.new_full((mean.shape[0],), torch.nan)
    looks = torch.where(variance > FLAT * mean.square(), mean.square() / variance, torch.inf)
    # nanquantile would interpolate inf - inf; the lower of two middle values does as well
    median = torch.where(chosen, looks, torch.nan).nanmedian(dim=1).values
    return torch.where(median.isinf(), torch.nan, median)

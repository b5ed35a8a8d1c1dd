"""Scores of demosaicked images, one value per image. B images, H rows, W columns: tensors are [B, 3, H, W], R G B.

`_srgb` names values encoded as sRGB, `_linear` linear light with white at 1, which may lie below 0 and above 1. All
leave out a border of 8 px, where demosaickers extend the image each in its own way, and are NaN where nothing is left.

The X-Trans pattern repeats with 18 sites, so whatever it leaves behind lies at the frequencies (k/6, m/6) cycles/px
with k + m even: 17 harmonics besides the mean. `cfa_harmonic_db` looks there, `cfa_fold` says how strong it is.
Neither sees red and blue exchanged, as by a phase wrong by (0, 3); the PSNR does.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mlkit.metrics.image import psnr

BORDER = 8  # px
PERIOD = 6  # px after which every X-Trans pattern repeats along rows and columns
HARMONICS = tuple((k, m) for k in range(PERIOD) for m in range(PERIOD) if (k + m) % 2 == 0 and (k, m) != (0, 0))
HARMONIC_LIMIT_DB = 6.0  # noise and natural errors of 96 px and more stay below
FOLD_LIMIT = 0.5  # of 255: what is seen in flat areas
ZIPPER_DELTA_E = 2.3  # a just noticeable difference (Mahy et al. 1994), as in Lu and Tan 2003
_NEAR, _RING = 1, (4, 10)  # bins about a harmonic: its own, and those that tell what is usual there
_SMALLEST = PERIOD * (_RING[1] + _NEAR + 2)  # px; below, a ring reaches into the next harmonic
_LUMA = (0.299, 0.587, 0.114)
_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees
_MARK = (1.0, 0.55, 0.1)
_NOTHING = 1e-18  # power below which there is rounding alone, in float64


# ---- light -------------------------------------------------------------------------------------------------------


def srgb_encoded(linear: Tensor) -> Tensor:
    """Return linear light encoded as sRGB (IEC 61966-2-1), differentiable.

    Values below 0 are mirrored, values above 1 go on along the curve.
    """
    size = linear.abs()
    # the floor, because the unused branch must have a finite gradient too
    curve = 1.055 * size.clamp_min(0.0031308) ** (1.0 / 2.4) - 0.055
    return torch.where(size <= 0.0031308, 12.92 * linear, torch.copysign(curve, linear))


def srgb_decoded(srgb: Tensor) -> Tensor:
    """Return the linear light of values encoded as sRGB: the inverse of `srgb_encoded`."""
    size = srgb.abs()
    curve = ((size.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(size <= 0.04045, srgb / 12.92, torch.copysign(curve, srgb))


# ---- errors ------------------------------------------------------------------------------------------------------


def cpsnr(x_srgb: Tensor, y_srgb: Tensor, *, border: int = BORDER) -> Tensor:
    """Return the PSNR over all colours in dB, float64 [B], of values clipped to [0, 1] and rounded to 8 bit."""
    return psnr(_eight_bit(x_srgb, border), _eight_bit(y_srgb, border))


def cpsnr_linear(x_linear: Tensor, y_linear: Tensor, *, border: int = BORDER) -> Tensor:
    """Return the PSNR over all colours in dB, float64 [B], with peak 1; nothing is clipped or rounded."""
    return psnr(_inside(x_linear, border), _inside(y_linear, border))


def channel_psnr(x_srgb: Tensor, y_srgb: Tensor, *, border: int = BORDER) -> Tensor:
    """Return the PSNR of red, green and blue in dB, float64 [B, 3], of values as in `cpsnr`."""
    x, y = _eight_bit(x_srgb, border), _eight_bit(y_srgb, border)
    return torch.stack([psnr(x[:, colour : colour + 1], y[:, colour : colour + 1]) for colour in range(3)], dim=1)


def highlight_error(x_linear: Tensor, y_linear: Tensor, *, border: int = BORDER) -> Tensor:
    """Return the mean |x - y|, float64 [B], where y is above 1: brighter than white. NaN where that is nowhere."""
    x, y = _inside(x_linear, border), _inside(y_linear, border)
    bright = (y > 1.0).to(y.dtype)
    return ((x - y).abs() * bright).sum(dim=(1, 2, 3)) / bright.sum(dim=(1, 2, 3))  # 0/0 is NaN


def texture(x_srgb: Tensor, y_srgb: Tensor, *, border: int = BORDER) -> Tensor:
    """Return the variance of the luma's four-neighbour Laplacian over that of y, float64 [B].

    Below 1 texture was smoothed away; noise, ringing and lattices raise it. NaN where y is flat.
    """
    if min(y_srgb.shape[-2:]) < 2 * border + 3:
        return _undefined(y_srgb)
    variance_x, variance_y = (_laplacian(_inside(one, border)).var(dim=1, correction=0) for one in (x_srgb, y_srgb))
    return torch.where(variance_y > 1e-12, variance_x / variance_y, torch.nan)


def zipper(x_srgb: Tensor, y_srgb: Tensor, *, border: int = BORDER) -> Tensor:
    """Return the percentage of pixels with a zipper effect, float64 [B] (Lu and Tan 2003, section V).

    Each pixel of the truth y has a most similar one among its eight neighbours; where the CIELAB distance of these two
    (1976) is in x larger or smaller by more than 2.3, an edge was torn or washed out. Values as in `cpsnr`.
    """
    if min(y_srgb.shape[-2:]) < 2 * border + 3:
        return _undefined(y_srgb)
    lab_x, lab_y = _lab(_eight_bit(x_srgb, border)), _lab(_eight_bit(y_srgb, border))
    height, width = lab_y.shape[-2:]
    least = change = None
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)):
        at = (..., slice(row, height - 2 + row), slice(column, width - 2 + column))
        in_x, in_y = ((lab[..., 1:-1, 1:-1] - lab[at]).square().sum(dim=1).sqrt() for lab in (lab_x, lab_y))
        if least is None or change is None:
            least, change = in_y, in_x - in_y
        else:
            change = torch.where(in_y < least, in_x - in_y, change)
            least = torch.minimum(least, in_y)
    assert change is not None
    return 100.0 * (change.abs() > ZIPPER_DELTA_E).to(lab_x.dtype).mean(dim=(1, 2))


# ---- what the pattern leaves behind ------------------------------------------------------------------------------


def cfa_harmonic_db(x: Tensor, y: Tensor | None = None, *, border: int = BORDER) -> Tensor:
    """Return how far the error stands out at the pattern's harmonics in dB, float64 [B]: 0 for noise.

    The power in 3 x 3 bins about a harmonic over that in the square ring at 4 to 10 bins, averaged over harmonics and
    colours. Errors are x - y; without y what a 6 x 6 px mean leaves of x, which keeps all of each harmonic. 0 dB where
    there is no error. NaN where less than 78 px a side are left (so below 94 px, without y below 100).
    """
    error = _whole_periods(x, y, border)
    if min(error.shape[-2:]) < _SMALLEST:
        return _undefined(error)
    power = _power(error)
    height, width = power.shape[-2:]
    ratios = []
    for k, m in HARMONICS:
        around = torch.roll(power, (_RING[1] - k * height // PERIOD, _RING[1] - m * width // PERIOD), dims=(-2, -1))
        near = _block(around, _NEAR)
        outer, inner = _block(around, _RING[1]), _block(around, _RING[0] - 1)
        ring = outer.sum(dim=(-2, -1)) - inner.sum(dim=(-2, -1))
        usual = ring / (outer.shape[-1] ** 2 - inner.shape[-1] ** 2)
        ratios.append((near.mean(dim=(-2, -1)) + _NOTHING) / (usual.clamp_min(0.0) + _NOTHING))
    return 10.0 * torch.log10(torch.stack(ratios).mean(dim=(0, 2)))


def cfa_fold(x: Tensor, y: Tensor | None = None, *, border: int = BORDER) -> Tensor:
    """Return the strength of the 6 x 6 lattice in the error in units of 1/255, float64 [B].

    The root mean square over colours of the 36 means of the error at each place of the 6 x 6 pattern, without each
    colour's own mean. Errors without a lattice of standard deviation s leave 6 s / sqrt(H W) by chance.
    """
    error = _whole_periods(x, y, border)
    if 0 in error.shape:
        return _undefined(error)
    batch, channels, height, width = error.shape
    cells = error.view(batch, channels, height // PERIOD, PERIOD, width // PERIOD, PERIOD)
    means = cells.mean(dim=(2, 4)).flatten(2)
    return 255.0 * (means - means.mean(dim=2, keepdim=True)).square().mean(dim=(1, 2)).sqrt()


def lattice_seen(harmonic_db: float, fold: float) -> bool:
    """Return whether a lattice stands out of the error and is strong enough to be seen."""
    return harmonic_db > HARMONIC_LIMIT_DB and fold > FOLD_LIMIT


def log_spectrum(x_chw: Tensor, y_chw: Tensor | None = None, *, border: int = BORDER) -> NDArray[np.float32]:
    """Return a picture [H, W, 3] in [0, 1] of the error's spectrum, frequency 0 in the middle, harmonics framed.

    Colours are averaged; black is 10 dB below the median, white 40 dB above it. Sides are those of the image without
    border, down to a multiple of 6.
    """
    error = _whole_periods(x_chw[None], None if y_chw is None else y_chw[None], border)
    power = torch.fft.fftshift(_power(error)[0].mean(dim=0))
    level = 10.0 * torch.log10((power + _NOTHING) / (power.median() + _NOTHING))
    gray = ((level + 10.0) / 50.0).clamp(0.0, 1.0).cpu().numpy().astype(np.float32)
    picture = np.repeat(gray[..., None], 3, axis=2)
    height, width = gray.shape
    radius = max(3, min(height, width) // 40)
    line = max(1, radius // 4)
    rows, columns = np.arange(height), np.arange(width)
    for k, m in HARMONICS:
        # frames go round the edge, as frequencies do
        down = _distance(rows, height // 2 + k * height // PERIOD, height)[:, None]
        right = _distance(columns, width // 2 + m * width // PERIOD, width)[None, :]
        reach = np.maximum(down, right)
        picture[(reach <= radius) & (reach > radius - line)] = _MARK
    return picture


# ---- parts -------------------------------------------------------------------------------------------------------


def _distance(positions: NDArray[np.int64], centre: int, size: int) -> NDArray[np.int64]:
    return np.abs((positions - centre + size // 2) % size - size // 2)


def _whole_periods(x: Tensor, y: Tensor | None, border: int) -> Tensor:
    """Return the error without border, cut to multiples of 6 px at the bottom and right."""
    if y is not None:
        assert x.shape == y.shape, f"images of shapes {tuple(x.shape)} and {tuple(y.shape)}"
        error = _inside(x, border) - _inside(y, border)
    else:
        inside = _inside(x, border)
        if min(inside.shape[-2:]) <= PERIOD:
            return inside[..., :0, :0]
        # seven taps with half weights at the ends: a mean over 6 px that is centred and has the same zeros
        taps = inside.new_tensor([0.5, 1, 1, 1, 1, 1, 0.5]) / PERIOD
        mean = F.conv2d(inside, taps.view(1, 1, 7, 1).expand(inside.shape[1], 1, 7, 1), groups=inside.shape[1])
        mean = F.conv2d(mean, taps.view(1, 1, 1, 7).expand(inside.shape[1], 1, 1, 7), groups=inside.shape[1])
        error = inside[..., 3:-3, 3:-3] - mean
    height, width = (size // PERIOD * PERIOD for size in error.shape[-2:])
    return error[..., :height, :width].contiguous()


def _power(error: Tensor) -> Tensor:
    """Return the power spectrum of each colour under a Hann window, [B, C, H, W]."""
    rows, columns = (torch.hann_window(n, dtype=error.dtype, device=error.device) for n in error.shape[-2:])
    power: Tensor = torch.fft.fft2(error * rows[:, None] * columns[None, :], norm="ortho").abs().square()
    return power


def _block(around: Tensor, reach: int) -> Tensor:
    """Return the bins up to `reach` from the one that lies at _RING[1]."""
    low, high = _RING[1] - reach, _RING[1] + reach + 1
    return around[..., low:high, low:high]


def _undefined(image: Tensor) -> Tensor:
    return image.new_full((image.shape[0],), torch.nan, dtype=_double(image))


def _inside(image: Tensor, border: int) -> Tensor:
    assert image.ndim == 4 and image.shape[1] == 3 and border >= 0, f"{tuple(image.shape)} with border {border}"
    height, width = image.shape[-2:]
    image = image.detach().to(_double(image))
    return image[..., border : max(border, height - border), border : max(border, width - border)]


def _eight_bit(image: Tensor, border: int) -> Tensor:
    return (_inside(image, border).clamp(0.0, 1.0) * 255.0).round() / 255.0


def _laplacian(image: Tensor) -> Tensor:
    """Return the Laplacian of the luma as [B, (H-2)(W-2)]."""
    x = (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1)
    centre = x[..., 1:-1, 1:-1]
    return (x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:] - 4.0 * centre).flatten(1)


def _lab(srgb: Tensor) -> Tensor:
    """Return CIELAB (1976, D65), [B, 3, H, W]."""
    matrix = srgb.new_tensor(_XYZ) / srgb.new_tensor(_WHITE)[:, None]
    ratio = torch.einsum("ij,bjhw->bihw", matrix, srgb_decoded(srgb))
    cube = torch.where(ratio > (6 / 29) ** 3, ratio.clamp_min(1e-9) ** (1 / 3), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = cube.unbind(dim=1)
    return torch.stack((116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)), dim=1)


def _double(image: Tensor) -> torch.dtype:
    """Return float64 where the device has it."""
    return torch.float32 if image.device.type == "mps" else torch.float64

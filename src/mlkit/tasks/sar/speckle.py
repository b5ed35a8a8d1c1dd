"""Simulated SAR scenes: reflectivity from photographs, times correlated multi-look speckle, plus point targets.

intensity = sigma0 * S with S ~ Gamma(L, 1/L): mean 1, variance 1/L for L looks (Goodman 1976).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlkit.imaging.resize import upscale
from mlkit.seeding import generator

LOOKS = 4.4  # equivalent number of looks of Sentinel-1 IW GRDH (CLS 2016)
PSF_SIGMA_PX = 0.7  # correlation of the complex field between neighbours about 0.6, as oversampled products have
SIGMA0_DB = (-24.0, 1.0)  # from calm water to buildings, 25 dB
# Smaller photographs are enlarged to this shorter side: large enough to be divided at the default patch, and radar
# scenes are smoother than photographs at the scale of a pixel.
SHORTER_SIDE = 768
TARGETS_PER_MEGAPIXEL = 120.0
TARGET_DB = (3.0, 20.0)  # peak over sigma0 = 1, ships and corner reflectors
# Photographs inside scikit-image's wheel whose shorter side is at least 400 px.
PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "coffee", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon",
    "motorcycle", "retina", "rocket",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SimulatedScene:
    """A simulated scene in dB, and the same scene without speckle."""

    name: str
    db_hw: NDArray[np.float32]
    truth_db_hw: NDArray[np.float32]


def speckle(
    rng: np.random.Generator, shape: tuple[int, int], *, looks: float, psf_sigma_px: float = PSF_SIGMA_PX
) -> NDArray[np.float64]:
    """Return unit-mean Gamma(L, 1/L) intensities [H, W], correlated as a point spread function makes them.

    ceil(L) complex Gaussian fields pass through a Gaussian filter and their intensities are averaged. For other than
    whole L the values then go through the Gamma distribution functions, which keeps the order and makes the marginal
    exact. The borders wrap around, so that mean and variance are the same everywhere.

    Args:
        rng: all randomness comes from it.
        shape: rows and columns.
        looks: number of looks L, any positive number.
        psf_sigma_px: standard deviation of the point spread function of the complex field; 0 gives white speckle.
    """
    from scipy import ndimage

    whole = max(1, int(np.ceil(looks)))
    total = np.zeros(shape)
    for _ in range(2 * whole):  # real and imaginary parts
        field = rng.standard_normal(shape)
        if psf_sigma_px > 0:
            field = ndimage.gaussian_filter(field, psf_sigma_px, mode="wrap")
        total += field**2
    mean = total / (2 * whole * _energy(shape, psf_sigma_px))
    return mean if whole == looks else regamma(mean, whole, looks)


def _energy(shape: tuple[int, int], sigma_px: float) -> float:
    """Return the variance of unit white noise after the Gaussian filter."""
    from scipy import ndimage

    if sigma_px <= 0:
        return 1.0
    energy = 1.0
    for length in shape:
        impulse = np.zeros(length)
        impulse[0] = 1.0
        energy *= float((ndimage.gaussian_filter1d(impulse, sigma_px, mode="wrap") ** 2).sum())
    return energy


def regamma(values: NDArray[np.float64], looks: float, wanted: float) -> NDArray[np.float64]:
    """Return unit-mean Gamma values of `looks` looks carried to `wanted` looks, rank by rank.

    The monotone map is tabulated on 4,096 points of the logarithm; between them it is linear to about 1e-5.
    """
    from scipy import stats

    log_values = np.log(values)
    at = np.linspace(log_values.min(), log_values.max(), 4096)
    source, target = stats.gamma(looks, scale=1 / looks), stats.gamma(wanted, scale=1 / wanted)
    # from the nearer end, where the probability keeps its digits
    upper = target.isf(source.sf(np.exp(at)))
    lower = target.ppf(source.cdf(np.exp(at)))
    table = np.log(np.where(at > 0, upper, lower))
    carried: NDArray[np.float64] = np.exp(np.interp(log_values, at, table))
    return carried


def embedded_scenes(seed: int) -> Iterator[SimulatedScene]:
    """Yield a dozen scenes of 768 to 1411 px that the installed packages already hold; nothing is downloaded."""
    for name in PHOTOGRAPHS:
        yield simulate(name, _luminance(name), seed)


def simulate(name: str, luminance_hw: NDArray[np.float64], seed: int) -> SimulatedScene:
    """Return a photograph as a radar scene: luminance becomes sigma0 in dB, linear over 25 dB.

    Args:
        name: of the scene; it also chooses the random numbers.
        luminance_hw: any range; its 0.5 and 99.5 percentiles become the ends of the sigma0 range.
        seed: of speckle and targets.
    """
    low, high = np.percentile(luminance_hw, (0.5, 99.5))
    unit = np.clip((luminance_hw - low) / (high - low), 0, 1)
    sigma0 = 10 ** ((SIGMA0_DB[0] + (SIGMA0_DB[1] - SIGMA0_DB[0]) * unit) / 10)
    targets = _targets(generator(seed, "targets", name), unit.shape)
    s = speckle(generator(seed, "speckle", name), unit.shape, looks=LOOKS)
    # A point target is one scatterer: it adds its power and has no speckle of its own.
    return SimulatedScene(name, _db(sigma0 * s + targets), _db(sigma0 + targets))


def _db(intensity: NDArray[np.float64]) -> NDArray[np.float32]:
    return (10 * np.log10(intensity)).astype(np.float32)


def _targets(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the intensity of point targets, each the squared point spread function."""
    intensity = np.zeros(shape)
    reach = 4
    for _ in range(round(shape[0] * shape[1] / 1e6 * TARGETS_PER_MEGAPIXEL)):
        y, x = (float(rng.uniform(reach, length - 1 - reach)) for length in shape)
        top, left = int(y) - reach + 1, int(x) - reach + 1
        dy = np.arange(top, top + 2 * reach)[:, None] - y
        dx = np.arange(left, left + 2 * reach)[None, :] - x
        peak = 10 ** (rng.uniform(*TARGET_DB) / 10)
        intensity[top : top + 2 * reach, left : left + 2 * reach] += peak * np.exp(-(dy**2 + dx**2) / PSF_SIGMA_PX**2)
    return intensity


def _luminance(name: str) -> NDArray[np.float64]:
    """Return a photograph of scikit-image's wheel as luminance in [0, 1], its shorter side at least SHORTER_SIDE."""
    from skimage import color, data
    from skimage.util import img_as_float64

    image = img_as_float64(data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)())
    if image.ndim == 3:
        image = color.rgb2gray(image)
    factor = max(1.0, SHORTER_SIDE / min(image.shape))
    return upscale(image[..., None].astype(np.float32), factor)[..., 0].astype(np.float64)

"""What happens to light on its way: other colours, the low-pass filter's blur, and the sensor's noise."""

from __future__ import annotations

from math import exp, log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_READ_SLOPE, _READ_OFFSET, _READ_SPREAD = 2.18, 1.20, 0.26  # Brooks et al. 2019, section 3.1: log read over log shot


def noise_levels(rng: np.random.Generator, shot: tuple[float, float]) -> tuple[float, float]:
    """Return (shot, read): the variance of the noise is shot * value + read.

    Args:
        rng: what draws.
        shot: range of `shot`, from which it is drawn log-uniformly; the read noise follows it as in the cameras that
            Brooks et al. (2019, "Unprocessing images for learned raw denoising") measured.
    """
    drawn = rng.uniform(log(shot[0]), log(shot[1]))
    return exp(drawn), exp(rng.normal(_READ_SLOPE * drawn + _READ_OFFSET, _READ_SPREAD))


def with_noise(mosaic: Floats, rng: np.random.Generator, shot: float, read: float) -> Floats:
    """Return linear values with Poisson-Gaussian noise as its normal approximation; values below 0 are kept."""
    variance = np.float32(shot) * np.maximum(mosaic, np.float32(0)) + np.float32(read)
    noise = np.sqrt(variance) * rng.standard_normal(mosaic.shape, dtype=np.float32)
    return np.asarray(mosaic + noise, np.float32)


def blurred(image_hwc: Floats, sigma_px: float) -> Floats:
    """Return a linear image blurred by a Gaussian, mirrored at its borders."""
    from scipy.ndimage import gaussian_filter

    made: Floats = gaussian_filter(image_hwc, (sigma_px, sigma_px, 0), mode="mirror", truncate=3.0)
    return made


def other_colors(image_hwc: Floats, rng: np.random.Generator) -> Floats:
    """Return a linear image with its channels exchanged, more or less saturated, and weighted; nothing is below 0."""
    matrix = np.eye(3)[rng.permutation(3)]
    saturation = exp(rng.uniform(-0.3, 1.2))
    matrix = (saturation * np.eye(3) + (1 - saturation) / 3) @ matrix  # about the mean of the channels
    matrix *= np.exp(rng.uniform(-0.6, 0.3, (3, 1)))
    return np.maximum(image_hwc @ matrix.T.astype(np.float32), np.float32(0))

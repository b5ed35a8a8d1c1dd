"""Linear light, sRGB values and XYZ, in NumPy: values below 0 are mirrored, values above 1 go on along the curve."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

D65_LIGHT = 21  # of the EXIF and DNG tags that name a light source

# IEC 61966-2-1: XYZ of white D65 to linear sRGB.
XYZ_TO_SRGB: Final[NDArray[np.float64]] = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)


def srgb_to_linear(values: Floats) -> Floats:
    """Return sRGB values as linear light (IEC 61966-2-1), of the same type."""
    size = np.abs(values)
    return np.copysign(np.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** 2.4), values)


def linear_to_srgb(values: Floats) -> Floats:
    """Return linear light as sRGB values (IEC 61966-2-1), of the same type."""
    size = np.abs(values)
    return np.copysign(np.where(size <= 0.0031308, size * 12.92, 1.055 * size ** (1 / 2.4) - 0.055), values)

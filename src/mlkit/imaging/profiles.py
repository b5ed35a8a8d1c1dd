"""Colour profiles: to sRGB where that is asked for, and CMYK to RGB, with Little CMS at the pixels' own depth."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.imaging.metadata import icc_space

_RELATIVE_COLORIMETRIC = 1
_BLACK_POINT_COMPENSATION = 0x2000
_BAND_ROWS = 256
_SPACES = {1: "GRAY", 3: "RGB", 4: "CMYK"}


@cache
def srgb_profile() -> bytes:
    """Return an sRGB profile, the same bytes every time."""
    import imagecodecs

    profile = bytearray(imagecodecs.cms_profile("srgb"))
    profile[24:36] = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # made when asked for; say 2000-01-01
    return bytes(profile)


def to_srgb(values_hwc: NDArray[Any], icc: bytes) -> NDArray[Any]:
    """Return uint8, uint16 or float32 values of a profile's space in sRGB, [H, W, 3] of the same type.

    Relative colorimetric with black point compensation, in bands of rows.

    Args:
        values_hwc: [H, W, 1, 3 or 4]; CMYK as uint8 or uint16, 0 is no ink.
        icc: the profile of these channels.

    Raises:
        ValueError: when the profile is damaged or of other channels.
    """
    import imagecodecs

    space = _SPACES[values_hwc.shape[2]]
    if icc_space(icc) != space:
        raise ValueError(f"the profile is of {icc_space(icc) or 'nothing'}, the pixels are {space}")
    result = np.empty((*values_hwc.shape[:2], 3), dtype=values_hwc.dtype)
    for top in range(0, len(result), _BAND_ROWS):
        band = np.ascontiguousarray(values_hwc[top : top + _BAND_ROWS])
        try:
            turned = imagecodecs.cms_transform(
                band[..., 0] if space == "GRAY" else band,
                icc,
                srgb_profile(),
                colorspace=space.lower(),
                outcolorspace="rgb",
                intent=_RELATIVE_COLORIMETRIC,
                flags=_BLACK_POINT_COMPENSATION,
            )
        except RuntimeError as error:
            raise ValueError(f"the profile cannot be used: {error}") from error
        result[top : top + _BAND_ROWS] = np.clip(turned, 0.0, 1.0) if result.dtype.kind == "f" else turned
    return result


def plain_rgb(cmyk_hwc: NDArray[Any]) -> NDArray[Any]:
    """Return RGB of CMYK without a profile, in the same integer type: each channel (1 - ink) (1 - black)."""
    top = np.iinfo(cmyk_hwc.dtype).max
    result = np.empty((*cmyk_hwc.shape[:2], 3), dtype=cmyk_hwc.dtype)
    for first in range(0, len(result), _BAND_ROWS):
        band = top - cmyk_hwc[first : first + _BAND_ROWS].astype(np.int64)
        result[first : first + _BAND_ROWS] = (band[..., :3] * band[..., 3:] * 2 + top) // (2 * top)
    return result

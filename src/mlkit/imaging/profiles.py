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

    return _undated(imagecodecs.cms_profile("srgb"))


@cache
def linear_profile() -> bytes:
    """Return a profile of linear light with sRGB's primaries, the same bytes every time."""
    import imagecodecs

    x_y_luminance = [0.64, 0.33, 1.0, 0.30, 0.60, 1.0, 0.15, 0.06, 1.0]
    profile = imagecodecs.cms_profile("rgb", whitepoint=[0.3127, 0.3290, 1.0], primaries=x_y_luminance, gamma=1.0)
    name, own_name = ("RGB built-in".encode("utf-16-be"), "sRGB, linear".encode("utf-16-be"))
    return _undated(profile.replace(name, own_name))


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


def _undated(profile: bytes) -> bytes:
    """Return a profile that was made when asked for as made on 2000-01-01."""
    dated = bytearray(profile)
    dated[24:36] = bytes.fromhex("07d0 0001 0001 0000 0000 0000")
    return bytes(dated)


def plain_rgb(cmyk_hwc: NDArray[Any]) -> NDArray[Any]:
    """Return RGB of CMYK without a profile, in the same integer type: each channel (1 - ink) (1 - black)."""
    top = np.iinfo(cmyk_hwc.dtype).max
    result = np.empty((*cmyk_hwc.shape[:2], 3), dtype=cmyk_hwc.dtype)
    for first in range(0, len(result), _BAND_ROWS):
        band = top - cmyk_hwc[first : first + _BAND_ROWS].astype(np.int64)
        result[first : first + _BAND_ROWS] = (band[..., :3] * band[..., 3:] * 2 + top) // (2 * top)
    return result

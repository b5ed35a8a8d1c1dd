"""Transparency: colours weighted by alpha and back, so that what is transparent does not bleed when images change.

An interpolation of straight colours mixes in those of invisible pixels. Weight the colours, interpolate weighted
colours and alpha, then take the weight off again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def weighted_by_alpha(pixels_hwc: Floats, alpha_hw: Floats) -> Floats:
    """Return premultiplied colours, [H, W, C] float32."""
    return np.asarray(pixels_hwc * alpha_hw[..., None], dtype=np.float32)


def unweighted_by_alpha(
    weighted_hwc: Floats, alpha_hw: Floats, hidden_hwc: Floats | None = None, *, shown_above: float = 0.0
) -> Floats:
    """Return straight colours in [0, 1] of premultiplied ones.

    Args:
        weighted_hwc: colours times alpha.
        alpha_hw: as it was interpolated, with its overshoot; cut to [0, 1] before, it would not fit the colours.
        hidden_hwc: the colours of pixels that are invisible; black by default.
        shown_above: alpha up to which a pixel is invisible; 1e-4 after interpolation, which leaves noise.
    """
    shows = alpha_hw > max(0.0, shown_above)
    pixels = np.zeros_like(weighted_hwc) if hidden_hwc is None else np.array(hidden_hwc, dtype=np.float32)
    np.divide(weighted_hwc, alpha_hw[..., None], out=pixels, where=shows[..., None])
    return np.asarray(np.clip(pixels, 0.0, 1.0, out=pixels))


def over_white(pixels_hwc: Floats, alpha_hw: Floats) -> Floats:
    """Return the colours as seen on white paper."""
    return np.asarray(1.0 - (1.0 - pixels_hwc) * alpha_hw[..., None], dtype=np.float32)

"""From linear camera RGB to a picture: white balance, highlights, the camera's matrix, exposure, sRGB's curve.

Every pixel is developed by itself, so that a picture can be developed rows at a time.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mlkit.imaging.light import linear_to_srgb

Highlights = Literal["clip", "blend"]
Floats = NDArray[np.float32]


class Camera(Protocol):
    """What of a `RawFrame` developing needs."""

    @property
    def wb(self) -> tuple[float, float, float]: ...
    @property
    def camera_to_srgb(self) -> NDArray[np.float64]: ...


def develop_rows(
    rgb_hwc: Floats,
    frame: Camera,
    *,
    highlights: Highlights = "clip",
    exposure_stops: float = 0.0,
    linear: bool = False,
) -> Floats:
    """Return rows of a picture, [H, W, 3] float32: sRGB values in [0, 1], or with `linear` linear sRGB, not clipped.

    Args:
        rgb_hwc: linear camera RGB before white balance, 1 is the sensor's saturation.
        frame: where the white balance and the matrix come from.
        highlights: see `neutral_highlights`.
        exposure_stops: brighter (or darker) by this many stops, after highlights were treated.
        linear: before sRGB's curve; values may be below 0 (colours outside sRGB) and above 1.
    """
    balanced = rgb_hwc.astype(np.float32) * np.asarray(frame.wb, np.float32)
    # As multipliers are only known up to a factor: 1 is where the channel that saturates first does.
    balanced /= np.float32(min(frame.wb))
    balanced = neutral_highlights(balanced, highlights)
    matrix = (frame.camera_to_srgb * 2.0**exposure_stops).astype(np.float32)
    rgb_linear: Floats = balanced @ matrix.T
    return rgb_linear if linear else np.clip(linear_to_srgb(np.maximum(rgb_linear, 0)), 0, 1)


def neutral_highlights(balanced_hwc: Floats, highlights: Highlights) -> Floats:
    """Return white-balanced camera RGB of which what is saturated is grey, not the colour of the white balance.

    1 is the lowest level at which a channel saturates. The others go on above it, so a saturated sky would be magenta.

    Args:
        balanced_hwc: [H, W, 3].
        highlights: "clip": every channel ends at 1. "blend": above 1, the mean of the channels is kept, and their
            differences are those of the clipped values (as dcraw's highlight mode 2): brightness goes on, colour fades.
    """
    clipped: Floats = np.minimum(balanced_hwc, 1)
    if highlights == "clip":
        return clipped
    above = (clipped != balanced_hwc).any(axis=2)  # of most pictures few
    (chroma, mean), (clipped_chroma, _) = _chroma(balanced_hwc[above]), _chroma(clipped[above])
    size, clipped_size = (np.sqrt((part * part).sum(axis=1, keepdims=True)) for part in (chroma, clipped_chroma))
    blended = balanced_hwc.copy()
    blended[above] = mean + chroma * np.minimum(clipped_size / np.maximum(size, np.float32(1e-9)), 1)
    return blended


def _chroma(pixels: Floats) -> tuple[Floats, Floats]:
    """Return what of pixels [N, 3] differs from the mean of their channels, and that mean."""
    mean: Floats = pixels.mean(axis=1, keepdims=True)
    return pixels - mean, mean

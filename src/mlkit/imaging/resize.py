"""Image sizes: cutting to a multiple and bicubic enlargement, the one place for both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import MlkitError

Floats = NDArray[np.float32]


def resize_to_multiple(image_hwc: Floats, multiple: int) -> Floats:
    """Return the middle of the image with both sides cut down to multiples of `multiple` px; no pixel changes.

    Raises:
        MlkitError: when `multiple` is below 1, or a side is shorter than it.
    """
    if multiple < 1:
        raise MlkitError(f"a side cannot be a multiple of {multiple} px; give 1 or more")
    height, width = image_hwc.shape[:2]
    if min(height, width) < multiple:
        raise MlkitError(
            f"an image of {width} x {height} px has no part whose sides are multiples of {multiple} px; "
            f"give {min(height, width)} or less, or a larger image"
        )
    top, left = height % multiple // 2, width % multiple // 2
    return image_hwc[top : top + height - height % multiple, left : left + width - width % multiple]


def upscale(image_hwc: Floats, factor: float) -> Floats:
    """Return the image `factor` times as large per side, by bicubic interpolation (Keys 1981, a = -0.5), in [0, 1].

    Sides are rounded to whole pixels. The overshoot of the interpolation beyond [0, 1] is cut.

    Raises:
        MlkitError: for a factor below 1, or not finite.
    """
    from PIL import Image

    if not (np.isfinite(factor) and factor >= 1):
        raise MlkitError(f"an image cannot be enlarged {factor:g} times; give a factor of 1 or more")
    if factor == 1:
        return np.array(image_hwc, dtype=np.float32)
    height, width = image_hwc.shape[:2]
    size = (round(width * factor), round(height * factor))
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC))
        for plane in np.ascontiguousarray(np.moveaxis(image_hwc, 2, 0), dtype=np.float32)
    ]
    return np.asarray(np.clip(np.stack(planes, axis=2), 0.0, 1.0), dtype=np.float32)

"""What the network sees of a picture: a small square of all of it, and what lines say, found in a larger one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

LINES_PX = 640  # longer side of what lines are found in: of larger pictures they tell no more

_SMALLEST_PX = 32
_ROWS = 256

Levels = NDArray[np.uint8]


def as_levels(pixels: NDArray[np.float32]) -> Levels:
    """Return a picture [H, W, 1 or 3] in [0, 1] as 8-bit RGB [H, W, 3]."""
    levels: Levels = np.empty_like(pixels, dtype=np.uint8)
    for top in range(0, len(pixels), _ROWS):  # of a large picture, whole copies would take gigabytes
        rows = np.clip(pixels[top : top + _ROWS], 0, 1)
        rows *= 255
        levels[top : top + _ROWS] = np.rint(rows, out=rows)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels


def refuse_tiny(path: Path, pixels: NDArray[np.float32]) -> None:
    """Raise DataError naming the file where a picture [H, W, C] is too small to show a lens."""
    height, width = pixels.shape[:2]
    if min(height, width) < _SMALLEST_PX:
        raise DataError(f"{path} is {width} x {height} px; a side of {_SMALLEST_PX} px is the least")


def as_network_input(levels: Levels, size: int) -> Tensor:
    """Return all of a picture as a square, [3, size, size] in [0, 1]."""
    return _resized(levels, size, size)


def said_by_lines(levels: Levels, frame: Tensor, sure: float) -> dict[str, Tensor]:
    """Return {"lines_params" [8], "lines_facts" [NUM_FACTS]} of a picture, found at up to `LINES_PX` in its own shape.

    Args:
        levels: the picture.
        frame: [2].
        sure: of `lens_of_lines`.
    """
    from mlkit.tasks.lens.lines import lens_of_lines

    params, facts = lens_of_lines(_for_lines(levels), frame[None], sure)
    return {"lines_params": params[0], "lines_facts": facts[0]}


class HeardOnce:
    """What lines say of samples that are the same each time they are read; they are looked for once.

    Args:
        sure: of `lens_of_lines`; None: lines are not looked for, and nothing is said.
    """

    def __init__(self, sure: float | None) -> None:
        self._sure = sure
        self._said: dict[int, dict[str, Tensor]] = {}

    def of(self, index: int, levels: Callable[[], Levels], frame: Tensor) -> dict[str, Tensor]:
        """Return what `said_by_lines` does of sample `index`, whose picture `levels` makes."""
        if self._sure is None:
            return {}
        if index not in self._said:
            self._said[index] = said_by_lines(levels(), frame, self._sure)
        return self._said[index]


def curves_of(levels: Levels, frame: Tensor) -> list[tuple[Tensor, float]]:
    """Return the curves that `said_by_lines` hears in a picture; of `heard_curves`."""
    from mlkit.tasks.lens.lines import heard_curves

    return heard_curves(_for_lines(levels), frame[None])


def _for_lines(levels: Levels) -> Tensor:
    share = min(1.0, LINES_PX / max(levels.shape[:2]))
    height, width = (max(1, round(side * share)) for side in levels.shape[:2])
    return _resized(levels, height, width)[None]


def _resized(levels: Levels, height: int, width: int) -> Tensor:
    """Return a picture at another size, [3, height, width] in [0, 1]: Pillow's bicubic, which averages."""
    import torch
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(levels)).resize((width, height), Image.Resampling.BICUBIC)
    made = np.asarray(image, np.float32) / np.float32(255)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(made, 2, 0)))

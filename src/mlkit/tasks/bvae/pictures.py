"""Grids as pictures: ARC's colours, borders between cells, and a mark on every wrong cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# The ten colours of the ARC testing interface, by class.
ARC_HEX = (
    *("000000", "0074D9", "FF4136", "2ECC40", "FFDC00", "AAAAAA", "F012BE", "FF851B", "7FDBFF", "870C25"),
)  # fmt: skip
BORDER_RGB = (0x55 / 255,) * 3
PICTURE_PX = 256  # about the longer side of a picture
CELL_PX = (9, 64)  # smallest and largest cell: borders and marks must be seen


def palette(classes: int) -> Floats:
    """Return a colour a class, [C, 3] sRGB in [0, 1]: ARC's ten, then hues as far apart as they can be."""
    import colorsys

    colors = [tuple(int(text[place : place + 2], 16) / 255 for place in (0, 2, 4)) for text in ARC_HEX]
    for index in range(len(colors), classes):
        golden = 0.618033988749895  # steps of the golden ratio keep any number of hues apart
        turn = index - len(ARC_HEX)
        colors.append(colorsys.hsv_to_rgb((0.08 + turn * golden) % 1.0, 0.55, 0.95 - 0.12 * (turn % 3)))
    return np.array(colors[:classes], np.float32)


def draw_grid(
    labels_hw: NDArray[np.integer],
    classes: int,
    *,
    wrong_hw: NDArray[np.bool_] | None = None,
    picture_px: int = PICTURE_PX,
) -> Floats:
    """Return a picture of a grid, [H * cell + 1, W * cell + 1, 3] float32 in [0, 1].

    Args:
        labels_hw: below `classes`.
        classes: as many colours.
        wrong_hw: cells to mark, by a dot in black and white so that it is seen on any colour.
        picture_px: about how long the longer side becomes.
    """
    height, width = labels_hw.shape
    cell = int(np.clip(picture_px // max(height, width), *CELL_PX))
    image = np.repeat(np.repeat(palette(classes)[labels_hw], cell, axis=0), cell, axis=1)
    if wrong_hw is not None:
        _mark(image, wrong_hw, cell)
    framed = np.empty((height * cell + 1, width * cell + 1, 3), np.float32)
    framed[:-1, :-1] = image
    framed[::cell] = BORDER_RGB
    framed[:, ::cell] = BORDER_RGB
    return framed


def _mark(image: Floats, wrong_hw: NDArray[np.bool_], cell: int) -> None:
    """Draw a white dot with a black ring into the middle of each wrong cell, in place."""
    middle = cell / 2  # a cell's border is its first row and column of pixels
    distance = np.abs(np.arange(cell) - middle)
    radius = np.hypot(distance[:, None], distance[None, :])
    size = float(np.clip(cell * 0.16, 1.5, 5.0))
    dot, ring = radius <= size, radius <= size + 1.5
    for row, column in np.argwhere(wrong_hw).tolist():
        area = image[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        area[ring] = 0.0
        area[dot] = 1.0


def cropped(labels_ss: NDArray[np.integer], valid_ss: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return where the grid lies on its padded square: rows and columns with valid cells."""
    rows, columns = np.flatnonzero(valid_ss.any(axis=1)), np.flatnonzero(valid_ss.any(axis=0))
    assert labels_ss.shape == valid_ss.shape and len(rows), "a grid has cells"
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def shares_text(named: Sequence[tuple[str, float]]) -> str:
    """Return "accuracy 91.2 %   non-background 71.0 %"; without those that are undefined."""
    return "   ".join(f"{name} {100 * value:.1f} %" for name, value in named if value == value)

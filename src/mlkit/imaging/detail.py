"""Where two images differ most: the square that a comparison shows at full size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

BLOCK_PX = 32


def busiest(change_hwc: Floats, side_px: int) -> tuple[int, int]:
    """Return top and left of the square of `side_px` with the largest mean |change|, in steps of a block.

    It lies within the image; (0, 0) where the image is smaller.
    """
    return busiest_of(block_means(change_hwc), side_px)


def block_means(change_hwc: NDArray[Any]) -> Floats:
    """Return the mean |change| of each whole block of 32 px, [rows, columns]."""
    rows, columns = (side // BLOCK_PX for side in change_hwc.shape[:2])
    size = np.abs(change_hwc[: rows * BLOCK_PX, : columns * BLOCK_PX]).mean(axis=2)
    return np.asarray(size.reshape(rows, BLOCK_PX, columns, BLOCK_PX).mean(axis=(1, 3)))


def busiest_of(blocks: Floats, side_px: int) -> tuple[int, int]:
    """Return top and left in px, as `busiest`, from the means of blocks."""
    side = side_px // BLOCK_PX
    if min(blocks.shape) < side:
        return 0, 0
    squares = np.lib.stride_tricks.sliding_window_view(blocks, (side, side)).sum(axis=(2, 3))
    row, column = np.unravel_index(int(squares.argmax()), squares.shape)
    return int(row) * BLOCK_PX, int(column) * BLOCK_PX

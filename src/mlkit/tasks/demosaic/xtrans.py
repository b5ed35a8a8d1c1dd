"""The X-Trans colour filter array: its pattern, phases and symmetries.

Colours are numbered R 0, G 1, B 2. A phase (row, column) names the place in `PATTERN` at which the top-left pixel of a
mosaic lies. The pattern's true period is 18 sites: moved by (3, 3) it is itself, moved by (3, 0) or (0, 3) red and
blue change places. So it is a checkerboard of 3 x 3 cells in two kinds,

    G R G        G B G
    B G B        R G R
    G R G        G B G

each symmetric about its middle, and one is the other with red and blue exchanged (or turned by 90 degrees). All eight
symmetries of the square map the pattern to a moved copy of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError

Phase = tuple[int, int]
Scalar = TypeVar("Scalar", bound=np.generic)

R, G, B = 0, 1, 2
PERIOD = 6
CELL = 3
PATTERN: NDArray[np.uint8] = np.array(
    [
        [G, R, G, G, B, G],
        [B, G, B, R, G, R],
        [G, R, G, G, B, G],
        [G, B, G, G, R, G],
        [R, G, R, B, G, B],
        [G, B, G, G, R, G],
    ],
    dtype=np.uint8,
)
SYMMETRIES = 8  # of the square: bit 2 mirrors left and right, then bits 0-1 turn counterclockwise by 90 degrees


def colors(height: int, width: int, phase: Phase = (0, 0)) -> NDArray[np.uint8]:
    """Return the colour of each site, [height, width]."""
    rows = (np.arange(height) + phase[0]) % PERIOD
    columns = (np.arange(width) + phase[1]) % PERIOD
    return PATTERN[np.ix_(rows, columns)]


def mosaic(image_hwc: NDArray[np.float32], phase: Phase = (0, 0)) -> NDArray[np.float32]:
    """Return [H, W]: of each pixel of an RGB image the colour that its site measures."""
    height, width = image_hwc.shape[:2]
    return np.take_along_axis(image_hwc, colors(height, width, phase)[..., None], axis=2)[..., 0]


def canonical(phase: Phase) -> Phase:
    """Return the phase with row in 0..2 and column in 0..5 at which the pattern looks the same."""
    row, column = phase[0] % PERIOD, phase[1] % PERIOD
    return (row, column) if row < CELL else (row - CELL, (column + CELL) % PERIOD)


def moved(phase: Phase, rows: int, columns: int) -> Phase:
    """Return the phase of what is left after `rows` at the top and `columns` at the left are cut off."""
    return canonical((phase[0] + rows, phase[1] + columns))


def phase_of(pattern: NDArray[np.uint8] | Sequence[Sequence[int]]) -> Phase:
    """Return the phase whose top-left corner is this 6 x 6 pattern.

    Raises:
        DataError: when it is no X-Trans pattern.
    """
    corner = np.asarray(pattern)
    if corner.shape == (PERIOD, PERIOD):
        for row in range(CELL):
            for column in range(PERIOD):
                if np.array_equal(corner, colors(PERIOD, PERIOD, (row, column))):
                    return row, column
    shape = " x ".join(str(side) for side in corner.shape)
    raise DataError(
        f"a {shape} colour filter {corner.tolist()} is no X-Trans pattern, which is 6 x 6 sites, 20 of them green"
    )


def transformed(array: NDArray[Scalar], symmetry: int) -> NDArray[Scalar]:
    """Return a mosaic [H, W] or an image [H, W, C] mirrored and turned by one of the eight symmetries of the square."""
    mirrored = array[:, ::-1] if symmetry & 4 else array
    return np.rot90(mirrored, symmetry & 3)


def transformed_phase(phase: Phase, height: int, width: int, symmetry: int) -> Phase:
    """Return the phase of a mosaic [height, width] after `transformed`: it need not be cropped to keep its pattern."""
    # The mosaic's colours, framed by a period of what lies around it, so that a whole corner is there to be matched.
    sites = colors(height + 2 * PERIOD, width + 2 * PERIOD, phase)
    return phase_of(transformed(sites, symmetry)[PERIOD : 2 * PERIOD, PERIOD : 2 * PERIOD])

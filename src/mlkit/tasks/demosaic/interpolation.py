"""Fixed linear interpolation of an X-Trans mosaic: local planes fitted to the samples of each colour.

Normalised convolution with an affine basis (Knutsson and Westin 1993; Farneback 2002): at each site and for each colour
a + b x + c y is fitted to that colour's samples around it by weighted least squares, and a is the estimate. Flat colour
and linear ramps are given back exactly, which plain averages do not do, since samples lie unevenly about a site.

Kernels belong to the 3 x 3 sites of a cell `G R G / B G B / G R G` and read the 9 x 9 sites of 3 x 3 cells about it. In
the cell's own terms the colours are G, X (at the middle of the top row: R here, B in the other kind of cell) and Y (at
the middle of the left column), so that one set of kernels serves both kinds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlkit.tasks.demosaic.xtrans import CELL, PATTERN, PERIOD, B, G, R

Floats = NDArray[np.float64]

OWN_ORDER = (G, R, B)  # G, X, Y of the cell at the pattern's top left
WINDOW = 3 * CELL
_SHARP_PX, _SMOOTH_PX = 1.0, 2.0  # standard deviations of the weights
_REACH_PX = 3
_MEASURED = 1e6  # weight of the site's own sample where its colour is asked for: it is kept


def interpolating_kernels() -> Floats:
    """Return [27, 9, 9]: for each site of a cell, row by row, the kernels that estimate G, X and Y there."""
    kernels = [_plane(site, color, _SHARP_PX, keep=True) for site in _sites() for color in OWN_ORDER]
    return np.stack(kernels)


def detail_kernels() -> Floats:
    """Return [9, 9, 9]: for each site its sample minus a smooth plane through samples of its colour; 0 for ramps."""
    kernels = []
    for row, column in _sites():
        kernel = -_plane((row, column), int(PATTERN[row, column]), _SMOOTH_PX, keep=False)
        kernel[row + CELL, column + CELL] += 1.0
        kernels.append(kernel)
    return np.stack(kernels)


def sample_kernels() -> Floats:
    """Return [9, 9, 9]: for each site its sample as it is."""
    kernels = np.zeros((CELL**2, WINDOW, WINDOW))
    for place, (row, column) in enumerate(_sites()):
        kernels[place, row + CELL, column + CELL] = 1.0
    return kernels


def _sites() -> list[tuple[int, int]]:
    return [(row, column) for row in range(CELL) for column in range(CELL)]


def _plane(site: tuple[int, int], color: int, sigma: float, *, keep: bool) -> Floats:
    """Return [9, 9]: the weights of the window's samples in the plane's value at a site."""
    row, column = site
    steps = range(-_REACH_PX, _REACH_PX + 1)
    samples = np.array(
        [
            (down, right)
            for down in steps
            for right in steps
            if PATTERN[(row + down) % PERIOD, (column + right) % PERIOD] == color
        ]
    )
    weights = np.exp(-(samples**2).sum(axis=1) / (2.0 * sigma**2))
    if keep:
        weights[(samples == 0).all(axis=1)] = _MEASURED
    basis = np.column_stack([np.ones(len(samples)), samples])
    value = np.linalg.pinv(basis * np.sqrt(weights)[:, None])[0] * np.sqrt(weights)
    kernel = np.zeros((WINDOW, WINDOW))
    kernel[samples[:, 0] + row + CELL, samples[:, 1] + column + CELL] = value
    return kernel

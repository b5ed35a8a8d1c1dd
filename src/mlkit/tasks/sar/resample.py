"""Speckle of a whole scene: how much of it a reconstruction kept, and new speckle in place of what it lost.

A model trained on squared errors returns a mean over speckle, so it smooths. Multiplying independent unit-mean speckle
of Ls looks onto ground that kept Lr looks gives L looks with 1 + 1/L = (1 + 1/Lr)(1 + 1/Ls). The new speckle is
correlated as that of the original and has mean 0 in dB, since the model's mean is one in dB.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlkit.seeding import generator
from mlkit.tasks.sar.speckle import regamma

WINDOW = 25  # px, as in mlkit.metrics.sar; without overlap, since scenes are large
SHARE = 0.2  # of the windows: those that are most homogeneous in the original
MAX_CLIPPED = 0.02
BLOCK_ROWS = 256  # rows whose noise has one generator: the result does not depend on tiles
MOST_FIELDS = 8  # looks that are drawn; more are reached by carrying their distribution

Rows = Callable[[int, int], NDArray[np.float32]]  # (top, bottom) to dB rows, NaN where masked


@dataclass(frozen=True, slots=True)
class Looks:
    """Equivalent numbers of looks in the same homogeneous windows; NaN where there is no such window."""

    original: float
    made: float
    correlation: float  # of the original's intensity between neighbours

    @property
    def ratio(self) -> float:
        return self.made / self.original

    @property
    def missing(self) -> float:
        """Looks of the speckle that brings `made` to `original`; infinity where none is missing."""
        surplus = (1 + 1 / self.original) / (1 + 1 / self.made) - 1
        return 1 / surplus if surplus > 0 else math.inf


def measure_looks(original: Rows, made: Rows, shape: tuple[int, int], db_min: float, db_max: float) -> Looks:
    """Return the looks of a scene and of its reconstruction, over windows with hardly a pixel outside the range."""
    height, width = shape
    across = width // WINDOW
    found = []
    for top in range(0, height - WINDOW + 1, WINDOW) if across else ():
        strips = [rows(top, top + WINDOW)[:, : across * WINDOW].astype(np.float64) for rows in (original, made)]
        one, two = (strip.reshape(WINDOW, across, WINDOW).swapaxes(0, 1) for strip in strips)
        clipped = ((one <= db_min) | (one >= db_max)).mean(axis=(1, 2))
        usable = np.isfinite(one).all(axis=(1, 2)) & (clipped <= MAX_CLIPPED)
        if usable.any():
            a, b = (10 ** (values[usable].clip(db_min, db_max) / 10) for values in (one, two))
            found.append(np.stack([_squared_variation(a), _squared_variation(b), _neighbour_correlation(a)]))
    if not found:
        return Looks(math.nan, math.nan, math.nan)
    variation, variation_made, correlation = np.concatenate(found, axis=1)
    calm = np.argsort(variation, kind="stable")[: max(1, round(SHARE * len(variation)))]
    if not (variation[calm] > 0).all():
        return Looks(math.nan, math.nan, math.nan)
    with np.errstate(divide="ignore"):
        made_looks = float(np.median(1 / variation_made[calm]))
    return Looks(float(np.median(1 / variation[calm])), made_looks, float(np.median(correlation[calm])))


def _squared_variation(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = windows.mean(axis=(1, 2))
    return np.asarray(windows.var(axis=(1, 2), ddof=1) / mean**2)


def _neighbour_correlation(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of neighbours in each window, the mean of both directions."""
    x = windows - windows.mean(axis=(1, 2), keepdims=True)
    energy = np.maximum((x**2).mean(axis=(1, 2)), 1e-300)
    products = (x[:, 1:] * x[:, :-1]).mean(axis=(1, 2)) + (x[:, :, 1:] * x[:, :, :-1]).mean(axis=(1, 2))
    return np.asarray(products / (2 * energy))


class SpeckleRows:
    """Rows of unit-level speckle in dB for a scene of any height, the same for any cutting into bands.

    Args:
        seed: of the noise.
        name: of the scene; scenes of one call get different noise.
        width: columns.
        looks: of the speckle.
        correlation: of its intensity between neighbours; a Gaussian point spread function is chosen to give it.
    """

    def __init__(self, seed: int, name: str, width: int, looks: float, correlation: float) -> None:
        self._seed, self._name, self._width, self._looks = seed, name, width, looks
        # A field filtered with a Gaussian of sigma has the correlation exp(-1/(4 sigma^2)); intensity has its square.
        held = min(max(correlation, 0.0), 0.9)
        sigma_px = math.sqrt(-1 / (2 * math.log(held))) if held > 0.05 else 0.0
        self._reach = math.ceil(3 * sigma_px)
        taps = np.exp(-0.5 * (np.arange(-self._reach, self._reach + 1) / max(sigma_px, 1e-9)) ** 2)
        self._taps = (taps / np.sqrt((taps**2).sum())).astype(np.float32)  # unit variance after the filter

    def block(self, number: int) -> NDArray[np.float32]:
        """Return block `number` of BLOCK_ROWS rows, dB with mean 0."""
        from scipy import special

        whole = min(max(1, math.ceil(self._looks)), MOST_FIELDS)
        power = np.zeros((BLOCK_ROWS, self._width))
        for field in range(2 * whole):  # real and imaginary parts
            power += self._filtered(number, field) ** 2
        s = power / (2 * whole)
        if whole != self._looks:
            s = regamma(s, whole, self._looks)
        bias = float(special.digamma(self._looks)) - math.log(self._looks)
        return np.asarray(10 / math.log(10) * (np.log(s) - bias), np.float32)

    def _filtered(self, number: int, field: int) -> NDArray[np.float32]:
        from scipy import ndimage

        reach = self._reach
        before, own, after = (self._white(number + offset, field) for offset in (-1, 0, 1))
        white = np.concatenate([before[len(before) - reach :], own, after[:reach]])
        for axis in (0, 1) if reach else ():
            white = ndimage.correlate1d(white, self._taps, axis=axis)
        inside: NDArray[np.float32] = white[reach : reach + BLOCK_ROWS, reach : reach + self._width]
        return inside

    def _white(self, number: int, field: int) -> NDArray[np.float32]:
        rng = generator(self._seed, "resample", self._name, number, field)
        return rng.standard_normal((BLOCK_ROWS, self._width + 2 * self._reach), dtype=np.float32)


def put_speckle_back(made_hw: NDArray[np.float32], name: str, looks: Looks, seed: int) -> None:
    """Add the speckle that is missing to a reconstruction in dB, in place (it may be a mapped file)."""
    if math.isinf(looks.missing):
        return
    height, width = made_hw.shape
    noise = SpeckleRows(seed, name, width, looks.missing, looks.correlation)
    for number, top in enumerate(range(0, height, BLOCK_ROWS)):
        rows = made_hw[top : top + BLOCK_ROWS]
        rows += noise.block(number)[: len(rows)]

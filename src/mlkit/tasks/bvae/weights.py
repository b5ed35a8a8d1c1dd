"""Class weights from class counts, as the loss-testing specification has them; C classes, N cells, n_c of class c."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlkit.tasks.bvae.settings import WeightMethod

METHODS: tuple[WeightMethod, ...] = get_args(WeightMethod)
LARGEST_RATIO = 100.0  # above it the rarest class outshouts all others: 123 : 1 is what the specification smooths


def class_weights(counts: ArrayLike, method: WeightMethod, *, normalize: bool = False) -> NDArray[np.float64]:
    """Return one weight a class, [C].

    `inverse` is N / (C n_c), `sqrt_inverse` its square root, and `balanced` is scikit-learn's
    n_samples / (n_classes * bincount(y)), where n_classes are those that occur: equal to `inverse` when all do.
    A class without cells weighs as much as the rarest one that has some: it cannot be learnt, but validation cells
    of it must count.

    Args:
        counts: [C], cells of each class; at least one is not 0.
        method: how.
        normalize: scale to sum_c p_c w_c = 1, with p_c the shares of the cells: the mean weight of a cell is then 1.
    """
    counts = np.asarray(counts, dtype=np.float64)
    assert counts.ndim == 1 and counts.sum() > 0 and (counts >= 0).all(), "counts are not negative, and not all 0"
    occurring = counts > 0
    num_classes = int(occurring.sum()) if method == "balanced" else counts.size
    filled = np.where(occurring, counts, counts[occurring].min())
    weights: NDArray[np.float64] = counts.sum() / (num_classes * filled)
    if method == "sqrt_inverse":
        weights = np.sqrt(weights)
    if normalize:
        weights = weights / mean_weight(counts, weights)
    return weights


def mean_weight(counts: ArrayLike, weights: ArrayLike) -> float:
    """Return the mean weight of a cell, sum_c p_c w_c: what a method does to the size of the loss."""
    counts, weights = np.asarray(counts, np.float64), np.asarray(weights, np.float64)
    return float((counts * weights).sum() / counts.sum())


def weight_ratio(weights: Sequence[float]) -> float:
    """Return the largest weight over the smallest."""
    return max(weights) / min(weights)


def exploding(weights: Sequence[float], method: str) -> str:
    """Return a sentence when the weights span more than 100 : 1, else the empty string."""
    ratio = weight_ratio(weights)
    if ratio <= LARGEST_RATIO:
        return ""
    heavy, light = int(np.argmax(weights)), int(np.argmin(weights))
    way = "" if method == "sqrt_inverse" else f"; class_weight_method = 'sqrt_inverse' makes it {np.sqrt(ratio):.0f}:1"
    return (
        f"class weights: {method} spans {ratio:.0f}:1 (class {heavy} over class {light}), so the loss follows "
        f"the rarest class{way}"
    )

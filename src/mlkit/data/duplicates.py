"""Pictures that are in the training part and, nearly the same, in the validation part: scores would praise memory.

A picture becomes 32 x 32 means, and these differences of neighbours, of length 1. The product of two pictures is their
correlation: nearly 1 for copies that were reduced, compressed, brightened or mirrored; small for pictures that merely
share a bright sky, since smooth shades have next to no differences. Crops of one another are not found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.data.limit import Limit

Floats = NDArray[np.float32]
SIDE = 32
SAME = 0.8  # of 120 photographs two different ones reached 0.24, copies of them 0.94 or more: docs/rehearsal.md
_MOST_PX = 512  # of a side that is looked at: of larger pictures every n-th pixel
_FLAT = 1e-4  # root mean square of the differences, as a share of the largest value: nothing can be told apart there


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a dataset, small.

    part: "train" or "validation".
    where: file and name, for a message.
    features: as `features_of` returns them, [8, N] of a validation picture with its mirrored and turned copies.
    origin: parts of pictures of one origin were chosen alike, such as areas of one scene: only its mirrored and turned
        copies count.
    """

    part: str
    where: str
    features: Floats | None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A training picture and a validation picture that are nearly the same."""

    train: str
    validation: str
    correlation: float


def picture_of(part: str, where: str, image: NDArray[Any], origin: str = "") -> Picture:
    """Return what is compared of a picture [H, W] or [H, W, C] of any values; NaN counts as the smallest of them."""
    return Picture(part, where, features_of(image, symmetries=part == "validation"), origin)


def features_of(image: NDArray[Any], *, symmetries: bool = False) -> Floats | None:
    """Return the differences of neighbours in 32 x 32 means, of length 1, [N], or None of a flat picture.

    With `symmetries` [8, N]: of the picture, and of its seven mirrored and turned copies.
    """
    step = max(1, -(-max(image.shape[:2]) // _MOST_PX))
    small = np.asarray(image[::step, ::step], np.float32)
    if small.ndim == 3:
        small = small.mean(axis=2)
    small = np.nan_to_num(small, nan=float(np.nanmin(small)) if np.isfinite(small).any() else 0.0)
    means = _means(_means(small, SIDE).T, SIDE).T
    if not symmetries:
        return _differences(means)
    turned = [np.rot90(one, turns) for one in (means, means[:, ::-1]) for turns in range(4)]
    found = [_differences(one) for one in turned]
    kept = [one for one in found if one is not None]
    return np.stack(kept) if kept else None


def near_duplicates(pictures: Iterable[Picture], limit: Limit) -> list[Duplicate]:
    """Return the pairs of a training and a validation picture that are nearly the same, the nearest first.

    Validation pictures that were not compared before the time was over are in `limit`.
    """
    every = list(pictures)
    train = [picture for picture in every if picture.part == "train" and picture.features is not None]
    held = [picture for picture in every if picture.part == "validation" and picture.features is not None]
    found: list[Duplicate] = []
    if not train:
        return found
    rows = np.stack([picture.features for picture in train if picture.features is not None])
    for index in limit.spread(len(held)):
        picture = held[index]
        assert picture.features is not None
        likeness = rows @ picture.features.T
        alike = np.array([bool(picture.origin) and other.origin == picture.origin for other in train])
        likeness[alike, 0] = 0.0
        likeness[[picture.where == other.where for other in train] & alike] = 0.0
        most = likeness.max(axis=1)
        found += [
            Duplicate(train[place].where, picture.where, float(most[place])) for place in np.flatnonzero(most >= SAME)
        ]
    return sorted(found, key=lambda pair: -pair.correlation)


def _differences(means: Floats) -> Floats | None:
    down, right = means[1:, :-1] - means[:-1, :-1], means[:-1, 1:] - means[:-1, :-1]
    values = np.concatenate((down.ravel(), right.ravel()))
    length = float(np.sqrt(np.dot(values, values)))
    if length <= _FLAT * max(1e-12, float(np.abs(means).max())) * len(values) ** 0.5:
        return None
    return np.asarray(values / length, np.float32)


def _means(values: Floats, parts: int) -> Floats:
    """Return means over `parts` equal parts of the first axis, [parts, ...]; a part may begin within a row."""
    sums = np.concatenate((np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)))
    places = np.linspace(0.0, len(values), parts + 1)
    lower = np.minimum(places.astype(int), len(values) - 1)
    share = (places - lower)[:, None]
    at = sums[lower] * (1 - share) + sums[lower + 1] * share
    return np.asarray(np.diff(at, axis=0) * (parts / len(values)), np.float32)

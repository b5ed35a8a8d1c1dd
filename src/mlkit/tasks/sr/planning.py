"""Where pairs are cut from photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlkit.data.photos import Item, Photo, grid
from mlkit.errors import MlkitError
from mlkit.seeding import generator

PAIRS_FROM_BASE = 2400  # as many as FluxSR was trained on (Li et al. 2025)


@dataclass(frozen=True, slots=True)
class Place:
    """A square of a photograph at one reduction; y and x are px of the reduced photograph."""

    photo: Photo
    item: Item
    y: int
    x: int


def split_counts(count: int, share: float) -> tuple[int, int]:
    """Return how many of `count` pairs train and validate, at least one each.

    Raises:
        MlkitError: when there are fewer than two.
    """
    if count < 2:
        raise MlkitError(f"count {count} leaves no pair for validation; make 2 or more")
    validation = min(count - 1, max(1, round(share * count)))
    return count - validation, validation


def places(photos: Sequence[Photo], size: int, wanted: int | None, seed: int) -> list[Place]:
    """Return where pairs are cut, photograph by photograph.

    Args:
        photos: of one split.
        size: side of a pair in px.
        wanted: how many; None: all squares that fit side by side, at every reduction. Fewer are shared out evenly over
            the photographs; for more, squares at random places are added.
        seed: chooses among them.
    """
    tiles = [[Place(photo, item, y, x) for item in photo.items for y, x in _tiles(item, size)] for photo in photos]
    if wanted is None:
        return [place for of_photo in tiles for place in of_photo]
    shares = _even_shares([len(of_photo) for of_photo in tiles], wanted)
    chosen = []
    for photo, of_photo, number in zip(photos, tiles, shares, strict=True):
        order = generator(seed, "tiles", photo.name).permutation(len(of_photo))[:number]
        chosen += [of_photo[place] for place in sorted(order.tolist())]
    chosen += _anywhere(photos, size, wanted - len(chosen), seed)
    return sorted(chosen, key=lambda place: (place.item.number, place.y, place.x))


def _tiles(item: Item, size: int) -> list[tuple[int, int]]:
    return grid(item.height, item.width, size)


def _even_shares(available: Sequence[int], wanted: int) -> list[int]:
    """Return how many to take of each, as equal as what is available allows, `wanted` together where possible."""
    shares = [0] * len(available)
    left = min(wanted, sum(available))
    while left:
        open_ones = [place for place, number in enumerate(available) if shares[place] < number]
        each = max(1, left // len(open_ones))
        for place in open_ones:
            more = min(each, available[place] - shares[place], left)
            shares[place] += more
            left -= more
    return shares


def _anywhere(photos: Sequence[Photo], size: int, number: int, seed: int) -> list[Place]:
    """Return squares at random places, more of them in larger photographs."""
    items = [(photo, item) for photo in photos for item in photo.items]
    rooms = np.array([(item.height - size + 1) * (item.width - size + 1) for _, item in items], dtype=np.float64)
    found = []
    for place in range(number):
        rng = generator(seed, "place", photos[0].split, place)
        photo, item = items[int(rng.choice(len(items), p=rooms / rooms.sum()))]
        y, x = (int(rng.integers(side - size, endpoint=True)) for side in (item.height, item.width))
        found.append(Place(photo, item, y, x))
    return found

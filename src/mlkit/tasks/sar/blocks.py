"""Which parts of a scene are for training and which for validation, so that no pixel serves both.

A scene is divided into blocks; in each region of up to 8 x 8 blocks a rectangle of them at one corner is kept for
validation. One rectangle, not scattered blocks: each side of a validation area costs `guard` px and the patches that
would cross it, and scattered blocks would leave hardly any place for a training patch between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlkit.seeding import generator
from mlkit.tasks.sar.settings import SarBuild

REGION_BLOCKS = 8

# One row a patch. `up` to `right`: how far the patch may be shifted without coming near a validation block or off the
# scene, in px; any two of them together are safe.
PATCH = np.dtype([("scene", "<i4"), ("y", "<i4"), ("x", "<i4")] + [(k, "<i2") for k in ("up", "down", "left", "right")])


@dataclass(frozen=True, slots=True)
class Rect:
    """Rows y0 to y1 and columns x0 to x1 of a scene, ends excluded."""

    y0: int
    x0: int
    y1: int
    x1: int

    def grown(self, margin: int) -> Rect:
        return Rect(self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin)


def validation_rects(shape: tuple[int, int], build: SarBuild) -> list[Rect]:
    """Return the validation areas of a scene, possibly too small for a patch or leaving no place for training.

    They depend on the size and the seed only: the polarisations or dates of one place, stored as scenes of one size,
    are divided alike, so that no place is trained on in one and validated on in another.
    """
    # Blocks of about a quarter of a small scene, so that the share can be met, but never smaller than a patch.
    side = max(build.patch, min(build.block, max(shape) // 4))
    edges_y, edges_x = (_edges(length, side) for length in shape)
    rng = generator(build.seed, "blocks", *shape)
    rects = []
    for rows in _regions(len(edges_y) - 1):
        for columns in _regions(len(edges_x) - 1):
            tall, wide = len(rows), len(columns)
            a, b = _rectangle(tall, wide, build.val_share)
            if a == 0:
                continue
            top = rows.start if rng.integers(2) == 0 else rows.stop - a
            left = columns.start if rng.integers(2) == 0 else columns.stop - b
            rects.append(Rect(int(edges_y[top]), int(edges_x[left]), int(edges_y[top + a]), int(edges_x[left + b])))
    return rects


def _edges(length: int, side: int) -> NDArray[np.int64]:
    """Return the borders of blocks of `side` up to nearly 2 `side` px that fill a length."""
    return np.linspace(0, length, max(1, length // side) + 1).round().astype(np.int64)


def _regions(num_blocks: int) -> list[range]:
    parts = -(-num_blocks // REGION_BLOCKS)
    return [range(num_blocks * i // parts, num_blocks * (i + 1) // parts) for i in range(parts)]


def _rectangle(tall: int, wide: int, share: float) -> tuple[int, int]:
    """Return rows and columns of blocks nearest to `share` of the region, then with the shortest inner border.

    (0, 0) for a region of one block, which cannot be divided.
    """
    sizes = [(a, b) for a in range(1, tall + 1) for b in range(1, wide + 1) if a * b < tall * wide]

    def cost(size: tuple[int, int]) -> tuple[float, int, int]:
        a, b = size
        inner = (b if a < tall else 0) + (a if b < wide else 0)
        return round(abs(a * b - share * tall * wide), 6), inner, a

    return min(sizes, key=cost, default=(0, 0))


def validation_patches(scene: int, rects: list[Rect], patch: int) -> NDArray[np.void]:
    """Return patches that do not overlap and fill the validation areas from their corners."""
    places = [
        (scene, y, x, 0, 0, 0, 0)
        for rect in rects
        for y in range(rect.y0, rect.y1 - patch + 1, patch)
        for x in range(rect.x0, rect.x1 - patch + 1, patch)
    ]
    return np.array(places, dtype=PATCH)


def training_patches(scene: int, shape: tuple[int, int], rects: list[Rect], build: SarBuild) -> NDArray[np.void]:
    """Return all patches on the stride's grid (the last row and column included) that keep the guard distance."""
    patch = build.patch
    if min(shape) < patch:
        return np.empty(0, PATCH)
    near = [rect.grown(build.guard) for rect in rects]
    ys = _starts(shape[0], build, [(r.y0, r.y1) for r in near])
    xs = _starts(shape[1], build, [(r.x0, r.x1) for r in near])
    table = np.zeros(len(ys) * len(xs), PATCH)
    table["scene"] = scene
    table["y"], table["x"] = (axis.ravel() for axis in np.meshgrid(ys, xs, indexing="ij"))
    free = np.ones(len(table), bool)
    for r in near:
        free &= ~(
            _overlap(table["y"], table["y"] + patch, r.y0, r.y1) & _overlap(table["x"], table["x"] + patch, r.x0, r.x1)
        )
    table = table[free]
    _add_room(table, shape, near, patch, build.stride // 2)
    return table


def _starts(length: int, build: SarBuild, near: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Return where training patches start along one axis; small scenes are also used up to the guard distance."""
    last = length - build.patch
    starts = {*range(0, last + 1, build.stride), last}
    if len(near) == 1:
        starts |= {start for start in (near[0][0] - build.patch, near[0][1]) if 0 <= start <= last}
    return np.array(sorted(starts), dtype=np.int64)


def _add_room(table: NDArray[np.void], shape: tuple[int, int], near: list[Rect], patch: int, most: int) -> None:
    """Fill the four shift columns: rows first, then columns for the whole band of rows that these allow."""
    y, x = table["y"].astype(np.int64), table["x"].astype(np.int64)
    up, down = np.minimum(most, y), np.minimum(most, shape[0] - patch - y)
    for r in near:
        beside = _overlap(x, x + patch, r.x0, r.x1)
        up = np.where(beside & (r.y1 <= y), np.minimum(up, y - r.y1), up)
        down = np.where(beside & (r.y0 >= y + patch), np.minimum(down, r.y0 - y - patch), down)
    left, right = np.minimum(most, x), np.minimum(most, shape[1] - patch - x)
    for r in near:
        beside = _overlap(y - up, y + patch + down, r.y0, r.y1)
        left = np.where(beside & (r.x1 <= x), np.minimum(left, x - r.x1), left)
        right = np.where(beside & (r.x0 >= x + patch), np.minimum(right, r.x0 - x - patch), right)
    table["up"], table["down"], table["left"], table["right"] = up, down, left, right


def _overlap(first0: NDArray[np.integer], first1: NDArray[np.integer], second0: int, second1: int) -> NDArray[np.bool_]:
    overlap: NDArray[np.bool_] = (first0 < second1) & (second0 < first1)
    return overlap


def drop_masked(table: NDArray[np.void], db_hw: NDArray[np.float32], patch: int, most_share: float) -> NDArray[np.void]:
    """Return the patches with at most `most_share` masked pixels; those that a shift could spoil are not shifted."""
    keep = np.ones(len(table), bool)
    limit = most_share * patch * patch
    for row, place in enumerate(table):
        y, x, up, down, left, right = (int(place[key]) for key in ("y", "x", "up", "down", "left", "right"))
        swept = np.isnan(db_hw[y - up : y + patch + down, x - left : x + patch + right])
        if swept.sum() > limit:
            keep[row] = np.isnan(db_hw[y : y + patch, x : x + patch]).sum() <= limit
            for key in ("up", "down", "left", "right"):
                table[key][row] = 0
    return table[keep]

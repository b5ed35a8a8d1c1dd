"""Grids with the imbalance of the loss-testing specification: 93 % background, and 123 background cells for each of any
other class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mlkit.seeding import generator
from mlkit.tasks.bvae.readers import Grid

SIDE = 16
RATIO = 123.0  # cells of the background for each cell of one of the other classes
GRIDS_PER_TASK = 4
# Objects of 3 to 8 cells: bars, squares, a plus, an L, a T, a ring.
SHAPES: tuple[NDArray[np.bool_], ...] = tuple(
    np.array([[cell == "#" for cell in row] for row in rows])
    for rows in (
        ("###",),
        ("####",),
        ("##", "##"),
        (".#.", "###", ".#."),
        ("#.", "#.", "##"),
        ("###", ".#.", ".#."),
        ("###", "###"),
        ("###", "#.#", "###"),
    )
)


def synthetic_grids(count: int, classes: int, seed: int) -> Iterator[Grid]:
    """Yield `count` grids of 16x16 with small objects on background 0, four grids a task.

    The shares are kept over the set: every class but 0 has the same number of cells, up to one object, and class 0 has
    123 times as many. With 10 classes 93.2 % of all cells are background.
    """
    share = 1.0 / (RATIO + classes - 1)  # of each class but the background
    owed = np.zeros(classes)  # cells by which a class is behind its share
    for index in range(count):
        rng = generator(seed, "synthetic", index)
        labels_hw = np.zeros((SIDE, SIDE), dtype=np.uint8)
        owed[1:] += share * SIDE * SIDE
        while (behind := owed.clip(0)).sum() >= 3:
            color = int(rng.choice(classes, p=behind / behind.sum()))
            shape = np.rot90(SHAPES[int(rng.integers(len(SHAPES)))], int(rng.integers(4)))
            if not _place(labels_hw, shape, color, rng):
                break
            owed[color] -= int(shape.sum())
        task = f"s{index // GRIDS_PER_TASK:05d}"
        yield Grid(task, f"{task}/{index % GRIDS_PER_TASK}", labels_hw)


def _place(labels_hw: NDArray[np.uint8], shape: NDArray[np.bool_], color: int, rng: np.random.Generator) -> bool:
    """Put an object where nothing touches it; returns whether a place was found in twenty tries."""
    height, width = shape.shape
    for _ in range(20):
        top, left = (int(rng.integers(SIDE - length + 1)) for length in (height, width))
        around = labels_hw[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
        if not around.any():
            labels_hw[top : top + height, left : left + width][shape] = color
            return True
    return False

"""What a rehearsal checks of a dataset of grids: their classes, and that none is in both parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from mlkit.data.checking import DataChecks, Limit
from mlkit.data.duplicates import Picture
from mlkit.data.manifest import DatasetManifest
from mlkit.data.store import Store, open_array, values_path
from mlkit.tasks.bvae.source import GRIDS

_LENGTH = 256  # of the random vector that stands for a grid's content


def data_checks(data: DatasetManifest) -> DataChecks:
    """Return the checks of a dataset of grids."""
    store = Store(data.folder, GRIDS)
    names = open_array(data.folder / "names.npy", "table of names")
    classes, side = int(data.preprocessing["classes"]), int(data.preprocessing["side"])

    def place(number: int) -> str:
        return f"{values_path(data.folder, GRIDS)}: grid {bytes(names[number]).decode()}"

    def headers(limit: Limit) -> Iterator[str]:
        for number in limit.spread(len(store)):
            shape = store.shape(number)
            if len(shape) != 2 or not 0 < max(shape) <= side:
                yield f"{place(number)} has the shape {shape}, and the dataset says grids of up to {side} cells a side"
            elif (highest := int(store[number].max())) >= classes:
                yield f"{place(number)} has the class {highest}, and the dataset says {classes} of them, from 0"

    def pictures(limit: Limit) -> Iterator[Picture]:
        for part in ("validation", "train"):  # the smaller one first: without it nothing can be compared
            chosen = open_array(data.folder / f"{part}.npy", "table of grids").tolist()
            for index in limit.spread(len(chosen)):
                # Small grids are alike by chance: only equal ones count. Equal content gives equal vectors, other
                # content vectors at right angles.
                grid = np.ascontiguousarray(store[chosen[index]])
                digest = hashlib.sha256(repr(grid.shape).encode() + grid.tobytes()).digest()
                vector = np.random.default_rng(list(digest)).standard_normal(_LENGTH).astype(np.float32)
                vector /= np.linalg.norm(vector)
                yield Picture(part, place(chosen[index]), vector[None] if part == "validation" else vector)

    def where(part: str, sample_id: str) -> str:
        return f"{values_path(data.folder, GRIDS)}: {part} grid {sample_id}"

    return DataChecks(headers=headers, where=where, pictures=pictures)

"""What a rehearsal checks of a lens dataset: that pairs are pairs, and no photograph is in both parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mlkit.data.checking import DataChecks, Limit, stored_pictures
from mlkit.data.duplicates import Picture, features_of
from mlkit.data.manifest import DatasetManifest
from mlkit.data.store import Store, values_path
from mlkit.tasks.lens.items import PAIRS, PHOTOGRAPHS, PairEntry

_LEAST_ALIKE = 0.1  # correlation of the halves' coarse differences; a strong distortion leaves 0.3, strangers have 0.0


def data_checks(data: DatasetManifest) -> DataChecks:
    """Return the checks of a dataset of photographs, or of pairs."""
    if data.preprocessing["kind"] == "pairs":
        return _of_pairs(data)
    store = Store(data.folder, PHOTOGRAPHS)
    rows = [(str(row["split"]), str(row["name"]), int(row["levels"][-1][1])) for row in data.details["photographs"]]

    def where(part: str, sample_id: str) -> str:
        return f"{values_path(data.folder, PHOTOGRAPHS)}: {part} sample {sample_id}"

    return DataChecks(where=where, pictures=lambda limit: stored_pictures(store, rows, limit))


def _of_pairs(data: DatasetManifest) -> DataChecks:
    store = Store(data.folder, PAIRS)
    entries = [PairEntry(**values) for values in data.details["pairs"]]

    def place(number: int) -> str:
        return f"{values_path(data.folder, PAIRS)}: pair {entries[number].name}"

    whole = min(len(entries), len(store) // 2)

    def headers(limit: Limit) -> Iterator[str]:
        for number in range(whole, len(entries)):
            yield f"{place(number)} lacks a half: the file has {len(store)} pictures for {len(entries)} pairs"
        for number in limit.spread(whole):
            sides = [store.shape(2 * number + half) for half in (0, 1)]
            if sides[0] != sides[1]:
                told = " and ".join(f"{side[1]} x {side[0]} px" for side in sides)
                yield f"{place(number)} has two scales: its halves are {told}"

    def contents(limit: Limit) -> Iterator[str]:
        for number in limit.spread(whole):
            first, second = (features_of(store[2 * number + half]) for half in (0, 1))
            if first is not None and second is not None and float(first @ second) < _LEAST_ALIKE:
                yield f"{place(number)} shows two pictures: its halves have next to nothing in common"

    def pictures(limit: Limit) -> Iterable[Picture]:
        rows = [(entry.split, f"pair {entry.name}", 2 * number + 1) for number, entry in enumerate(entries)]
        return stored_pictures(store, rows, limit)

    def where(part: str, sample_id: str) -> str:
        return f"{values_path(data.folder, PAIRS)}: {part} pair {sample_id}"

    return DataChecks(headers=headers, contents=contents, where=where, pictures=pictures)

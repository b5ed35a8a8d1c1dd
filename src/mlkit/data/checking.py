"""What can be wrong with a built dataset: its files, its samples, and what a task says of both.

A task gives `DataChecks` for what only it knows (pairs, scales, the phase of a colour filter); all of it has a default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from mlkit.data.duplicates import Picture, picture_of
from mlkit.data.limit import Limit, Tick
from mlkit.data.manifest import MANIFEST, DatasetManifest
from mlkit.data.source import Source
from mlkit.data.store import Store, values_path
from mlkit.errors import MlkitError, counted, listing
from mlkit.files import sha256_file
from mlkit.seeding import generator

if TYPE_CHECKING:
    from torch import Tensor

Sample = Mapping[str, "Tensor"]
__all__ = [
    "DataChecks",
    "Limit",
    "Tick",
    "changed_files",
    "place_of",
    "sample_pictures",
    "sample_problems",
    "stored_pictures",
]

PICTURES = ("truth", "target", "image", "labels")  # keys of a sample that show it, the best first


def _none(*_: object) -> Iterator[str]:
    return iter(())


@dataclass(frozen=True, slots=True)
class DataChecks:
    """What a task checks of its dataset; problems are sentences that name the file.

    headers: yields the problems of every sample as far as they show without decoding it: halves of pairs, sizes.
    contents: yields the problems of stored items that are decoded whole: pairs that are none, scales, phases.
    sample: yields the problems of a sample as training gets it; its second argument says where the sample lies.
    where: the file and the name of a sample, from its part and its id.
    pictures: every picture of both parts, small, to find those that are in both; None: those of the samples.
    """

    headers: Callable[[Limit], Iterator[str]] | None = None
    contents: Callable[[Limit], Iterator[str]] | None = None
    sample: Callable[[Sample, str], Iterator[str]] = _none
    where: Callable[[str, str], str] | None = None
    pictures: Callable[[Limit], Iterable[Picture]] | None = None


def changed_files(data: DatasetManifest, limit: Limit) -> Iterator[str]:
    """Yield a sentence for each file whose content is not what it was when the dataset was built, small files first.

    A file that was cut or is missing is found when the dataset is opened; this finds one that kept its size.
    """
    entries = sorted(data.files.items(), key=lambda entry: int(entry[1]["bytes"]))
    total = sum(int(about["bytes"]) for _, about in entries)
    end = monotonic() + limit.seconds
    limit.total = len(entries)
    read = 0
    for name, about in entries:
        if monotonic() > end and limit.done:
            return
        if sha256_file(data.folder / name) != about["sha256"]:
            yield f"{data.folder / name} differs from its hash in {MANIFEST}; build the dataset again"
        read += int(about["bytes"])
        limit.done += 1
        limit.tick(read, total)


def sample_problems(
    checks: DataChecks, data: DatasetManifest, part: str, source: Source, seed: int, limit: Limit
) -> Iterator[str]:
    """Yield what is wrong with samples of a part, decoded as training or validation decodes them."""
    for index in limit.spread(len(source)):
        where = place_of(checks, data, part, source.sample_id(index))
        try:
            sample = source.sample(index, generator(seed, "rehearsal", index))
        except MlkitError as error:
            yield from (problem if str(data.folder) in problem else f"{where}: {problem}" for problem in error.problems)
            continue
        except Exception as error:  # noqa: BLE001 - whatever a loader from outside raises is a fault of this sample
            yield f"{where} cannot be read: {type(error).__name__}: {error}"
            continue
        bad = [problem for key, value in sample.items() if (problem := _not_finite(key, value))]
        if bad:
            yield f"{where}: {listing(bad)}; look at the file it was made from, and build the dataset again"
        else:
            yield from checks.sample(sample, where)


def sample_pictures(
    checks: DataChecks, data: DatasetManifest, sources: Mapping[str, Source], seed: int, limit: Limit
) -> Iterator[Picture]:
    """Yield the pictures that samples show, where a task does not say what to compare."""
    half = limit.seconds / max(1, len(sources))
    for part, source in sources.items():
        own = Limit(half, limit.tick)
        for index in own.spread(len(source)):
            try:
                sample = source.sample(index, generator(seed, "rehearsal", index))
            except Exception:  # noqa: BLE001 - told by `sample_problems`
                continue
            key = next((key for key in PICTURES if key in sample and sample[key].ndim >= 2), None)
            if key is None:
                return
            image = sample[key].numpy()
            image = np.moveaxis(image, 0, 2) if image.ndim == 3 else image
            yield picture_of(part, place_of(checks, data, part, source.sample_id(index)), image)
        limit.done, limit.total = limit.done + own.done, limit.total + own.total


def place_of(checks: DataChecks, data: DatasetManifest, part: str, sample_id: str) -> str:
    """Return where a sample lies, for a message."""
    return checks.where(part, sample_id) if checks.where else f"{data.folder}: {part} sample {sample_id}"


def stored_pictures(store: Store, rows: Sequence[tuple[str, str, int]], limit: Limit) -> Iterator[Picture]:
    """Yield pictures out of a store: part, name and item of each."""
    for index in limit.spread(len(rows)):
        part, name, item = rows[index]
        yield picture_of(part, f"{values_path(store.folder, store.name)}: {name}", store[item])


def _not_finite(key: str, value: Tensor) -> str:
    """Return "3 of 4,096 values of 'image' are NaN"; "" where all are finite."""
    if not value.is_floating_point():
        return ""
    bad = ~value.isfinite()
    count = int(bad.sum())
    if not count:
        return ""
    what = "NaN" if bool(value.isnan().any()) else "infinite"
    return f"{count:,} of {counted(value.numel(), 'value')} of '{key}' {'is' if count == 1 else 'are'} {what}"

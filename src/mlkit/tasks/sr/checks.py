"""What a rehearsal checks of a super-resolution dataset: both pictures of each pair, their size, content and scale."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlkit.data.checking import DataChecks, Limit, stored_pictures
from mlkit.data.duplicates import Picture, picture_of
from mlkit.data.manifest import DatasetManifest
from mlkit.data.photos import PHOTOGRAPHS
from mlkit.data.store import Store, values_path
from mlkit.errors import DataError
from mlkit.imaging.images import read_image
from mlkit.imaging.resize import upscale
from mlkit.tasks.sr.source import ENLARGED, IMAGES, TRIPLES, pair_id

Floats = NDArray[np.float32]
_PNG = b"\x89PNG\r\n\x1a\n"
_LEAST_ALIKE = 0.6  # correlation of a picture and its low-resolution one, at the low resolution; pairs have 0.95
_ZOOMED = 0.8  # correlation with the middle of the picture; of pairs it is no more than that with the whole
_MOST_DETAIL = (
    0.6  # of its image's, finer than the scale allows, in the low-resolution one; bicubic pairs have 0.4 at most
)
_LEAST_CONTRAST = 0.02  # rms; nothing can be told from a flat picture


def data_checks(data: DatasetManifest) -> DataChecks:
    """Return the checks of a dataset of pairs, or of photographs alone."""
    return _of_photographs(data) if data.preprocessing["pairs"] == "none" else _of_pairs(data)


def _of_photographs(data: DatasetManifest) -> DataChecks:
    store = Store(data.folder, PHOTOGRAPHS)
    rows = [
        (str(photo["split"]), str(photo["name"]), int(photo["items"][-1]["number"]))
        for photo in data.details["photographs"]
    ]

    def where(part: str, sample_id: str) -> str:
        return f"{values_path(data.folder, PHOTOGRAPHS)}: {part} square {sample_id}"

    return DataChecks(where=where, pictures=lambda limit: stored_pictures(store, rows, limit))


def _of_pairs(data: DatasetManifest) -> DataChecks:
    size, scale = int(data.details["size"]), int(data.preprocessing["scale"])
    count, validation = sum(data.splits.values()), data.splits["validation"]

    def headers(limit: Limit) -> Iterator[str]:
        for number in limit.spread(count):
            for name in (IMAGES, ENLARGED):
                path = data.folder / name / f"{pair_id(number)}.png"
                if problem := _png_problem(path, size):
                    yield problem

    def contents(limit: Limit) -> Iterator[str]:
        for number in limit.spread(count):
            paths = [data.folder / name / f"{pair_id(number)}.png" for name in (IMAGES, ENLARGED)]
            try:
                image, enlarged = (read_image(path) for path in paths)
            except DataError as error:
                yield from error.problems
                continue
            if image.shape == enlarged.shape:
                yield from pair_problems(image, enlarged, scale, str(paths[1]))

    def pictures(limit: Limit) -> Iterable[Picture]:
        for number in limit.spread(count):
            path = data.folder / IMAGES / f"{pair_id(number)}.png"
            try:
                image = read_image(path)
            except DataError:  # told by the headers
                continue
            yield picture_of("validation" if number < validation else "train", str(path), image)

    def where(part: str, sample_id: str) -> str:
        name = f"{sample_id}.png"
        return f"{data.folder}: pair {sample_id} ({IMAGES}/{name}, {ENLARGED}/{name}, {TRIPLES}.npy)"

    return DataChecks(headers=headers, contents=contents, where=where, pictures=pictures)


def pair_problems(image_hwc: Floats, enlarged_hwc: Floats, scale: int, where: str) -> Iterator[str]:
    """Yield what shows that a picture and its enlarged low-resolution one are no pair, or of another scale."""
    image, enlarged = (picture.mean(axis=2, keepdims=True) for picture in (image_hwc, enlarged_hwc))
    small, seen = _reduced(image, scale), _reduced(enlarged, scale)
    if min(small.std(), seen.std()) < _LEAST_CONTRAST or min(small.shape[:2]) < 4:
        return
    alike = _alike(small, seen)
    top, left = (side // 4 for side in image.shape[:2])
    middle = image[top : top + image.shape[0] // 2, left : left + image.shape[1] // 2]
    zoomed = _alike(_reduced(middle, max(1, scale // 2)), seen) if scale > 1 else 0.0
    if zoomed > max(_ZOOMED, alike + 0.1):
        yield f"{where}: the low-resolution picture has another scale: it shows the middle of its image, enlarged"
        return
    if alike < _LEAST_ALIKE:
        yield f"{where}: the two pictures are no pair: their correlation is {alike:.2f}"
        return
    detail = _beyond(image, scale)
    if detail > _LEAST_CONTRAST / 2 and _beyond(enlarged, scale) > _MOST_DETAIL * detail:
        yield (
            f"{where}: the low-resolution picture has another scale: it has {_beyond(enlarged, scale) / detail:.0%} of "
            f"the image's detail that 1/{scale} cannot hold"
        )


def _beyond(image: Floats, scale: int) -> float:
    """Return the rms of what is lost at 1/scale."""
    height, width = (side - side % scale for side in image.shape[:2])
    whole = image[:height, :width]
    return float(np.sqrt(np.mean(np.square(whole - upscale(_reduced(whole, scale), scale)))))


def _reduced(image: Floats, factor: int) -> Floats:
    height, width = (side // factor for side in image.shape[:2])
    cells = image[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return np.asarray(cells.mean(axis=(1, 3)), np.float32)


def _alike(first: Floats, second: Floats) -> float:
    height, width = (min(one, other) for one, other in zip(first.shape[:2], second.shape[:2], strict=True))
    a, b = (one[:height, :width].ravel() - one[:height, :width].mean() for one in (first, second))
    return float(a @ b / max(1e-12, float(np.linalg.norm(a) * np.linalg.norm(b))))


def _png_problem(path: Path, size: int) -> str:
    """Return what the first and the last bytes of a picture say is wrong."""
    try:
        with path.open("rb") as file:
            head = file.read(33)
            file.seek(max(0, path.stat().st_size - 12))
            tail = file.read(12)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}): the pair lacks it; build the dataset again"
    if len(head) < 33 or not head.startswith(_PNG):
        return f"{path} is no PNG file; build the dataset again"
    if tail[4:8] != b"IEND":
        return f"{path} is cut: it ends within the picture; build the dataset again"
    width, height = struct.unpack(">II", head[16:24])
    if (height, width) != (size, size):
        return f"{path} has another scale: it is {width} x {height} px instead of {size} x {size}"
    return ""

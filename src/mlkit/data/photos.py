"""Photographs as 8-bit pixels in one mapped file, each at its reductions, split whole into training and validation.

photographs.npy photographs.index.npy     uint8 sRGB [H, W, 3], photograph by photograph, reduction by reduction
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlkit.data.store import StoreWriter
from mlkit.errors import DataError, counted, listing
from mlkit.files import sha256_file
from mlkit.imaging.images import IMAGE_SUFFIXES, list_images, read_image
from mlkit.seeding import generator

PHOTOGRAPHS = "photographs"
SAMPLE = (  # colour photographs of scikit-image's wheel; nothing is downloaded
    "astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "motorcycle", "retina", "rocket",
)  # fmt: skip

Levels = NDArray[np.uint8]
Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
Read = Callable[[Path], "NDArray[np.float32] | None"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """A photograph at one reduction: its number in the store, and its size."""

    number: int
    reduction: int
    height: int
    width: int


@dataclass(slots=True)
class Photo:
    """A photograph in the store."""

    name: str
    sha256: str  # of the file; empty for the embedded sample
    height: int
    width: int
    items: list[Item] = field(default_factory=list)
    split: str = ""  # "train" or "validation"


@dataclass(slots=True)
class Stored:
    """What was stored, and one sentence for each file that cannot be read."""

    photos: list[Photo] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def find_photos(sources: Sequence[Path], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the images that files and folders name, each once, sorted.

    Args:
        sources: files, whatever their suffix, and folders.
        suffixes: of the files that count in folders.

    Raises:
        DataError: one sentence for each source that is missing or a folder without images.
    """
    found: set[Path] = set()
    problems: list[str] = []
    for source in sources:
        if source.is_dir():
            try:
                found.update(list_images(source, suffixes))
            except DataError as error:
                problems += error.problems
        elif source.exists():
            found.add(source)
        else:
            problems.append(f"{source} does not exist; give photographs or a folder of them")
    if problems or not found:
        raise DataError(*(problems or ["no source was given; give photographs or a folder of them"]))
    return sorted(found)


def others_in(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[str]:
    """Return the names of a folder's files that are no images, sorted; hidden ones and those in hidden folders not."""
    names = (path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() not in suffixes)
    return sorted(
        path.name for path in names if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


class PhotoStore:
    """Writes photographs into the store of a dataset folder.

    Args:
        folder: of the dataset.
        reductions: whole factors by which a side is divided, by means of areas.
        smallest: px; what is smaller at a reduction is left out of it.
        say: told what was decided.
        read: returns a file's pixels in [0, 1], or None where the caller keeps them elsewhere.
        remedy: what to do where all photographs are smaller.
    """

    def __init__(
        self,
        folder: Path,
        reductions: Sequence[int],
        smallest: int,
        say: Say,
        read: Read = read_image,
        *,
        remedy: str = "use a smaller --size or --reduce 1",
    ) -> None:
        self._folder = folder
        self._reductions = sorted(set(reductions))
        self._smallest = smallest
        self._say = say
        self._read = read
        self._remedy = remedy
        self._largest = (0, 0)  # of those that are too small
        self.stored = Stored()

    def add_sample(self, progress: Progress) -> Stored:
        """Store the photographs of the embedded sample."""
        with StoreWriter(self._folder, PHOTOGRAPHS, np.uint8) as writer:
            for done, name in enumerate(SAMPLE):
                progress("photographs", done, len(SAMPLE))
                self._add(name, "", _sample(name), writer)
        progress("photographs", len(SAMPLE), len(SAMPLE))
        return self._finished()

    def add_files(self, paths: Sequence[Path], progress: Progress) -> Stored:
        """Store files; equal ones are stored once, and those that cannot be read are noted.

        Raises:
            DataError: when none can be used.
        """
        with StoreWriter(self._folder, PHOTOGRAPHS, np.uint8) as writer:
            files = list(self._different(paths))
            for done, (path, digest) in enumerate(files):
                progress("photographs", done, len(files))
                try:
                    pixels = self._read(path)
                except DataError as error:
                    self.stored.broken += error.problems
                    continue
                if pixels is not None:
                    self._add(path.stem, digest, _levels(pixels), writer)
            progress("photographs", len(files), len(files))
        return self._finished()

    def _finished(self) -> Stored:
        if not self.stored.photos and not self.stored.broken and any(self._largest):
            largest = f"the largest of {self._largest[1]} x {self._largest[0]} px"
            raise DataError(f"all photographs are smaller than {self._smallest} px, {largest}; {self._remedy}")
        return self.stored

    def _different(self, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """Yield each different file once with its hash, in an order that does not depend on folders."""
        digests: dict[Path, str] = {}
        for path in paths:
            try:
                digests[path] = sha256_file(path)
            except OSError as error:
                self.stored.broken.append(f"{path} cannot be read: {error.strerror or error}")
        first: dict[str, Path] = {}
        for path in sorted(digests, key=lambda path: (path.name, digests[path], str(path))):
            twin = first.setdefault(digests[path], path)
            if twin != path:  # one of them could be trained on and the other validated on
                self._say(f"{path} is the same file as {twin} and is used once")
        for digest, path in first.items():
            yield path, digest

    def _add(self, name: str, digest: str, levels: Levels, writer: StoreWriter) -> None:
        height, width = levels.shape[:2]
        photo = Photo(self._free_name(name), digest, height, width)
        too_small = []
        for reduction in self._reductions:
            if min(height, width) // reduction < self._smallest:
                too_small.append(reduction)
                continue
            reduced = levels if reduction == 1 else _reduced(levels, reduction)
            photo.items.append(Item(writer.add(reduced), reduction, reduced.shape[0], reduced.shape[1]))
        if photo.items:
            self.stored.photos.append(photo)
        else:
            self._largest = max(self._largest, (height, width), key=min)
        if too_small:
            at = listing([str(reduction) for reduction in too_small])
            what = f"not used at reduction {at}" if photo.items else "left out"
            self._say(f"{name}: {width} x {height} px, {what}: smaller than {self._smallest} px")

    def _free_name(self, name: str) -> str:
        """Return the name, or with "-2", "-3" where files of two folders are named alike."""
        taken = {photo.name for photo in self.stored.photos}
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free


def choose_validation(photos: Sequence[Photo], share: float, seed: int) -> None:
    """Set the split of each photograph: a share of them, at least one, validates as a whole.

    Raises:
        DataError: when there are fewer than two.
    """
    if len(photos) < 2:
        raise DataError(
            f"only {photos[0].name} is left, and validation needs a photograph of its own; give two or more"
            if photos
            else "no photograph is left; give two or more"
        )
    number = min(len(photos) - 1, max(1, round(share * len(photos))))
    chosen = set(generator(seed, "validation").permutation(len(photos))[:number].tolist())
    for place, photo in enumerate(photos):
        photo.split = "validation" if place in chosen else "train"


def grid(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Return (y, x) of the squares of `size` px that fit side by side, centred."""
    top, left = height % size // 2, width % size // 2
    return [(y, x) for y in range(top, height - size + 1, size) for x in range(left, width - size + 1, size)]


def refuse_broken(stored: Stored, num_files: int, skip_broken: bool, say: Say) -> None:
    """Say which files were skipped.

    Raises:
        DataError: when files are broken and nothing is left, or they are not to be skipped.
    """
    if stored.broken and not stored.photos:
        none = "the one file cannot" if num_files == 1 else f"none of {num_files} files can"
        raise DataError(*stored.broken, f"{none} be used, so there is nothing to build")
    if stored.broken and not skip_broken:
        number = len(stored.broken)
        told = "1 photograph is broken; remove it" if number == 1 else f"{number} photographs are broken; remove them"
        raise DataError(*stored.broken, f"{told} or use --skip-broken")
    for sentence in stored.broken:
        say(f"skipped: {sentence}")


def total(photos: Sequence[Photo]) -> str:
    """Return "8 photographs, 5.1 megapixels"."""
    megapixels = sum(photo.height * photo.width for photo in photos) / 1e6
    return f"{counted(len(photos), 'photograph')}, {megapixels:.1f} megapixels"


def _levels(image_hwc: NDArray[np.float32]) -> Levels:
    """Return an image of [0, 1] as uint8 [H, W, 3]; grey ones get three equal channels."""
    levels = np.rint(image_hwc * np.float32(255.0)).astype(np.uint8)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels


def _reduced(levels: Levels, factor: int) -> Levels:
    """Return means over squares of `factor` px; what is left over at the right and bottom is cut off."""
    from PIL import Image

    height, width = (side - side % factor for side in levels.shape[:2])
    return np.asarray(Image.fromarray(np.ascontiguousarray(levels[:height, :width])).reduce(factor))


def _sample(name: str) -> Levels:
    from skimage import data

    photograph = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    return np.ascontiguousarray(photograph[..., :3], dtype=np.uint8)

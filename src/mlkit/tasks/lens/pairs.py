"""Pairs of distorted and corrected pictures that people have: found by name, stored, read as samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlkit.data.manifest import DatasetManifest
from mlkit.data.photos import Progress
from mlkit.data.store import Store, StoreWriter
from mlkit.errors import DataError, SettingsError, listing
from mlkit.imaging.images import IMAGE_SUFFIXES, list_images, read_image
from mlkit.seeding import generator
from mlkit.tasks.lens.inputs import HeardOnce, as_levels, as_network_input
from mlkit.tasks.lens.items import PAIRS, PairEntry, Split
from mlkit.tasks.lens.settings import LensBuild, LensData

if TYPE_CHECKING:
    from torch import Tensor

FOLDERS = ("distorted", "corrected")
ENDINGS = ("_original", "_generated")  # as in Kaggle's "Automatic Lens Correction"
_NAMED = 6  # files in a message


@dataclass(slots=True)
class StoredPairs:
    """What was stored, and one sentence for each pair that cannot be used."""

    entries: list[PairEntry] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def find_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """Return (name, distorted, corrected), sorted by name.

    Args:
        folder: it holds the folders `distorted` and `corrected` with files of equal names (suffixes may differ), or
            files NAME_original and NAME_generated.

    Raises:
        DataError: naming every picture without its other half.
    """
    if all((folder / name).is_dir() for name in FOLDERS):
        sides = [_by_name(folder / name) for name in FOLDERS]
        kinds = [f"{name}/" for name in FOLDERS]
    else:
        paths = list_images(folder, IMAGE_SUFFIXES)
        sides = [_by_ending(paths, ending) for ending in ENDINGS]
        kinds = [f"*{ending}" for ending in ENDINGS]
        if not any(sides):
            raise DataError(
                f"{folder} holds no pairs; give a folder with {FOLDERS[0]}/ and {FOLDERS[1]}/ of equal names, or files "
                f"NAME{ENDINGS[0]} and NAME{ENDINGS[1]}"
            )
    problems = []
    for (one, other), (kind, other_kind) in ((sides, kinds), (sides[::-1], kinds[::-1])):
        alone = sorted(set(one) - set(other))
        if alone:
            problems.append(
                f"{folder}: {len(alone)} of {kind} have no other half in {other_kind}: {listing(alone, _NAMED)}; "
                f"add or remove them"
            )
    if problems:
        raise DataError(*problems)
    return [(name, sides[0][name], sides[1][name]) for name in sorted(sides[0])]


def store_pairs(
    folder: Path,
    found: list[tuple[str, Path, Path]],
    options: LensBuild,
    skip_broken: bool,
    say: Callable[[str], None],
    progress: Progress,
) -> StoredPairs:
    """Store pairs at a whole reduction with at most `options.longest` px, and split them.

    Raises:
        DataError: naming the pairs that are broken, of two sizes or too small, unless they are to be skipped; when
            fewer than two are left.
    """
    stored = StoredPairs()
    with StoreWriter(folder, PAIRS, np.uint8) as writer:
        for done, (name, *paths) in enumerate(found):
            progress("pairs", done, len(found))
            try:
                halves = [read_image(path) for path in paths]
            except DataError as error:
                stored.broken += error.problems
                continue
            (height, width), other = halves[0].shape[:2], halves[1].shape[:2]
            if (height, width) != other:
                stored.broken.append(
                    f"pair {name}: {paths[0]} is {width} x {height} px and {paths[1]} is {other[1]} x {other[0]}"
                )
            elif min(height, width) < options.smallest:
                stored.broken.append(f"pair {name}: {width} x {height} px is smaller than {options.smallest} px")
            else:
                levels = [_levels(half, options.longest) for half in halves]
                for half in levels:
                    writer.add(half)
                stored.entries.append(PairEntry(name, "train", levels[0].shape[0], levels[0].shape[1]))
        progress("pairs", len(found), len(found))
    if stored.broken and not skip_broken:
        raise DataError(*stored.broken, f"{len(stored.broken)} pairs cannot be used; mend them or use --skip-broken")
    for sentence in stored.broken:
        say(f"skipped: {sentence}")
    if len(stored.entries) < 2:
        raise DataError(f"{len(stored.entries)} pairs are left; training and validation need one each at least")
    number = min(len(stored.entries) - 1, max(1, round(options.val_share * len(stored.entries))))
    chosen = set(generator(options.seed, "pairs").permutation(len(stored.entries))[:number].tolist())
    stored.entries = [
        replace(entry, split="validation" if place in chosen else "train") for place, entry in enumerate(stored.entries)
    ]
    return stored


class PairSource:
    """Samples {"image", "target", "frame"} of pairs; without "profile", since no true map is known.

    Training samples are mirrored half of the time; those of validation have what lines say, if `sure` is given.

    Raises:
        SettingsError: when a pair is smaller than `settings.size`.
    """

    def __init__(self, data: DatasetManifest, split: Split, settings: LensData, *, sure: float | None = None) -> None:
        entries = [PairEntry(**values) for values in data.details["pairs"]]
        self._items = [(place, entry) for place, entry in enumerate(entries) if entry.split == split]
        self._store = Store(data.folder, PAIRS)
        self._is_training, self._size = split == "train", settings.size
        self._heard = HeardOnce(None if self._is_training else sure)
        least = min((min(entry.height, entry.width), entry.name) for _, entry in self._items)
        if least[0] < settings.size:
            raise SettingsError(
                f"data.size is {settings.size}, but pair {least[1]} has only {least[0]} px; set at most "
                f"{least[0] // 32 * 32}"
            )

    def __len__(self) -> int:
        return len(self._items)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        import torch

        from mlkit.tasks.lens.geometry import frame_of

        place, entry = self._items[index]
        mirrored = self._is_training and rng.random() < 0.5
        image, target = (as_network_input(self._store[item], self._size) for item in (2 * place, 2 * place + 1))
        frame = torch.tensor(frame_of(entry.height, entry.width), dtype=torch.float32)
        if mirrored:
            image, target = image.flip(-1), target.flip(-1)
        sample = {"image": image, "target": target, "frame": frame}
        return sample | self._heard.of(index, lambda: self._store[2 * place], frame)

    def sample_id(self, index: int) -> str:
        return self._items[index][1].name


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in list_images(folder, IMAGE_SUFFIXES)}


def _by_ending(paths: list[Path], ending: str) -> dict[str, Path]:
    return {path.stem.removesuffix(ending): path for path in paths if path.stem.endswith(ending)}


def _levels(pixels: NDArray[np.float32], longest: int) -> NDArray[np.uint8]:
    """Return 8-bit RGB, reduced by a whole factor to at most `longest` px."""
    from PIL import Image

    levels = as_levels(pixels)
    factor = -(-max(levels.shape[:2]) // longest)
    return levels if factor == 1 else np.asarray(Image.fromarray(levels).reduce(factor))

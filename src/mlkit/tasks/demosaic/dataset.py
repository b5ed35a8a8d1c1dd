"""Builds datasets for demosaicing: photographs at several sizes, RAW files with their truth, and synthetic patterns.

What is stored is the truth, and mosaics are made of it when samples are read, so that positions, phases and noise are
never twice the same; only a camera's own full mosaic is stored as it is. Whole photographs are held out for validation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.data.building import dataset_folder
from mlkit.data.manifest import BuildReport, open_manifest, write_manifest
from mlkit.data.photos import (
    Photo,
    PhotoStore,
    Progress,
    Stored,
    choose_validation,
    find_photos,
    grid,
    others_in,
    refuse_broken,
    total,
)
from mlkit.data.store import Store, StoreWriter, index_path, values_path
from mlkit.errors import DataError, MlkitError, counted, listing
from mlkit.imaging.images import IMAGE_SUFFIXES
from mlkit.tasks.demosaic import torture
from mlkit.tasks.demosaic.frames import FrameStore
from mlkit.tasks.demosaic.items import LINEAR, PHOTOGRAPHS, REAL, SENSOR, SHARP, TORTURE, Entry
from mlkit.tasks.demosaic.raw import RAW_SUFFIXES
from mlkit.tasks.demosaic.settings import DemosaicBuild

__all__ = ["SOURCE_SUFFIXES", "BuildReport", "build_dataset"]

log = logging.getLogger(__name__)

SOURCE_SUFFIXES = (*IMAGE_SUFFIXES, *RAW_SUFFIXES)
SAMPLE_LABEL = "embedded sample"
SAMPLE_PATTERNS = 26
SHARP_SHARE = 0.2  # of the squares of photographs
_SHEET = "torture.png"
_SHEET_PX = 96  # a pattern's side in it


def build_dataset(
    sources: Sequence[Path] | None,
    out: Path,
    *,
    build: DemosaicBuild,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Return a dataset built from photographs, RAW files and synthetic patterns; equal input gives an equal hash.

    Args:
        sources: images and RAW files, or folders that are searched with their subfolders; None: photographs that the
            installed packages hold, with 26 patterns, or none where the mix is of patterns alone.
        out: the dataset's folder; it must be absent or empty. An interrupted build leaves nothing.
        build: the options.
        skip_broken: leave out files that cannot be read instead of refusing.
        progress: called with (what, done, total).

    Raises:
        MlkitError: when options do not go together.
        DataError: one sentence for each source that is missing, broken or does not suit `build.teacher`; when `out`
            holds something; when nothing is left for training or validation.
    """
    is_synthetic = build.mix.get("torture", 0.0) == 1.0
    if is_synthetic and sources is not None:
        raise MlkitError("mix torture=1 uses no photographs; leave out --source, or give real or sharp a share")
    if sources is None and not is_synthetic and not build.torture:
        build = build.model_copy(update={"torture": SAMPLE_PATTERNS})
    paths = None if sources is None else find_photos(sources, SOURCE_SUFFIXES)
    with dataset_folder(out) as folder:
        work = _Build(folder, build, progress or (lambda what, done, total: None))
        for source in sources or ():
            work.tell_ignored(source)
        if not is_synthetic:
            work.add_photographs(paths, skip_broken)
        work.add_patterns()
        work.finish("simulated" if is_synthetic else SAMPLE_LABEL if paths is None else "")
    return BuildReport(open_manifest(out), work.broken, work.lines)


class _Build:
    """One build in progress: options, items, what was said, what was broken."""

    def __init__(self, folder: Path, options: DemosaicBuild, progress: Progress) -> None:
        self.folder, self.options, self.progress = folder, options, progress
        self.lines: list[str] = []
        self.broken: list[str] = []
        self.entries: list[Entry] = []
        self.photos: list[Photo] = []

    def say(self, line: str) -> None:
        log.info("%s", line)
        self.lines.append(line)

    def tell_ignored(self, source: Path) -> None:
        others = others_in(source, SOURCE_SUFFIXES) if source.is_dir() else []
        if others:
            self.say(f"{source}: {counted(len(others), 'file')} of other types not read: {listing(others, 4)}")

    def add_photographs(self, paths: list[Path] | None, skip_broken: bool) -> None:
        options = self.options
        reductions = [options.downsample * factor for factor in options.reduce]
        with FrameStore(self.folder, options, self.say) as frames:
            store = PhotoStore(self.folder, reductions, options.size, self.say, frames.read)
            if paths is None:
                stored = store.add_sample(self.progress)
                self.say(f"{SAMPLE_LABEL}: {total(stored.photos)}, of scikit-image")
            else:
                stored = store.add_files(paths, self.progress)
            shallow = stored.photos
            everything = Stored(sorted([*shallow, *frames.photos], key=lambda photo: photo.name), stored.broken)
        frames.refuse_small(everything)
        if paths is not None:
            refuse_broken(everything, len(paths), skip_broken, self.say)
            self.say(total(everything.photos))
        for line in frames.lines():
            self.say(line)
        self.photos, self.broken = everything.photos, everything.broken
        choose_validation(self.photos, options.val_share, options.seed)
        held_out = [photo.name for photo in self.photos if photo.split == "validation"]
        self.say(f"{counted(len(held_out), 'photograph')} for validation alone: {listing(held_out, 6)}")
        for photo in shallow:
            for item in photo.items:
                place = (PHOTOGRAPHS, item.number, item.height, item.width, item.reduction)
                self.entries.append(Entry(photo.name, REAL, "", photo.split, *place))
        splits = {photo.name: photo.split for photo in frames.photos}
        self.entries += [replace(entry, split=splits[entry.name]) for entry in frames.entries]
        if not shallow:
            for path in (values_path(self.folder, PHOTOGRAPHS), index_path(self.folder, PHOTOGRAPHS)):
                path.unlink()  # an empty file cannot be mapped

    def add_patterns(self) -> None:
        """Draw the synthetic patterns; of each family a share validates, at least one where there are two."""
        from mlkit.imaging.grids import write_png

        options, number = self.options, self.options.torture
        if not number:
            return
        num_families = len(torture.FAMILIES)
        with StoreWriter(self.folder, TORTURE, np.uint8) as writer:
            for place in range(number):
                self.progress("patterns", place, number)
                of_family = len(range(place % num_families, number, num_families))
                held_out = min(of_family - 1, max(1, round(options.val_share * of_family)))
                split = "validation" if place // num_families < held_out else "train"
                writer.add(torture.pattern(place, options.size, options.seed))
                name, family = torture.pattern_name(place), torture.family_of(place)
                self.entries.append(Entry(name, TORTURE, family, split, TORTURE, place, options.size, options.size))
        self.progress("patterns", number, number)
        write_png(self.folder / _SHEET, torture.contact_sheet(_SHEET_PX, options.seed))
        self.say(f"{counted(number, 'synthetic pattern')} of {num_families} families; {_SHEET} shows some")

    def finish(self, label: str) -> None:
        """Find the sharp squares, count, and write the manifest."""
        options = self.options
        squares = {
            (split, group): sum(
                len(grid(entry.height, entry.width, options.size))
                for entry in self.entries
                if entry.split == split and entry.group == group
            )
            for split in ("train", "validation")
            for group in (REAL, TORTURE)
        }
        by_split = {split: squares[split, REAL] + squares[split, TORTURE] for split in ("train", "validation")}
        for split, number in by_split.items():
            if not number:
                more = "a smaller --size or more photographs" if squares["train", REAL] else "--torture 26 or more"
                raise DataError(f"nothing is left for {split}: {by_split}; use {more}")
        self.say(
            f"{by_split['train']} training and {by_split['validation']} validation squares of {options.size} px, side "
            f"by side; training crops lie anywhere"
        )
        if options.mix and squares["train", REAL]:
            by_split["train"] = squares["train", REAL]  # an epoch is once through them, whatever is mixed in
            if options.mix.get("sharp", 0) > 0:
                self._write_sharp()
            shares = ", ".join(f"{share:.0%} {group}" for group, share in options.mix.items())
            self.say(f"training samples are {shares}; an epoch is as long as the photographs are large")
        self.progress("hashes", 0, 1)
        write_manifest(
            self.folder,
            task="demosaic",
            label=label,
            preprocessing={"cfa": "X-Trans", "teacher": options.teacher, "downsample": options.downsample},
            splits=by_split,
            details={
                "size": options.size,
                "options": options.model_dump(mode="json"),
                "photographs": [asdict(photo) for photo in self.photos],
                "items": [asdict(entry) for entry in self.entries],
            },
        )
        self.progress("hashes", 1, 1)

    def _write_sharp(self) -> None:
        """Write where the fifth of the training squares with the largest Laplacian variance lies."""
        chosen = [
            (at, entry) for at, entry in enumerate(self.entries) if entry.group == REAL and entry.split == "train"
        ]
        names = {LINEAR if entry.store == SENSOR else entry.store for _, entry in chosen}
        stores = {name: Store(self.folder, name) for name in names}
        found: list[tuple[float, int, int, int]] = []
        for done, (at, entry) in enumerate(chosen):
            self.progress("detail", done, len(chosen))
            of_target = entry.store == SENSOR  # a mosaic's differences would be those of its colours
            luma = _luma(stores[LINEAR][entry.target] if of_target else stores[entry.store][entry.number])
            size = self.options.size
            for y, x in grid(entry.height, entry.width, size):
                found.append((_laplacian_variance(luma[y : y + size, x : x + size]), at, y, x))
        self.progress("detail", len(chosen), len(chosen))
        number = max(1, round(SHARP_SHARE * len(found)))
        # ties in a fixed order: the hash of the dataset must not depend on how they are sorted
        sharpest = sorted(found, key=lambda square: (-square[0], *square[1:]))[:number]
        np.save(
            self.folder / SHARP, np.asarray([square[1:] for square in sorted(sharpest, key=lambda s: s[1:])], np.int32)
        )
        self.say(f"{counted(number, 'square')} of most detail are sharp")


def _luma(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return encoded luma, [0, 1] or beyond: sharp is what is seen as such, in dark places too."""
    from mlkit.imaging.light import linear_to_srgb

    weights = np.asarray([0.299, 0.587, 0.114], np.float32)  # Rec. 601
    if pixels.dtype == np.uint8:
        return np.asarray(pixels @ weights / np.float32(255))
    return np.asarray(linear_to_srgb(pixels.astype(np.float32)) @ weights)


def _laplacian_variance(values: NDArray[Any]) -> float:
    inner = values[1:-1, 1:-1]
    around = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return float(np.var(around - 4 * inner, dtype=np.float64))

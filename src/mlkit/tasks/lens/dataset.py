"""Builds datasets for lens correction: photographs and the profiles of real lenses, or pairs that people have.

Of photographs nothing distorted is stored: the pictures behind a lens are made when samples are read, so that no two
training samples are the same, and the true map is known exactly. Photographs are split whole, and so are lenses:
nothing that validation is scored on was seen in training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlkit.data.building import dataset_folder
from mlkit.data.manifest import BuildReport, open_manifest, write_manifest
from mlkit.data.photos import (
    Photo,
    PhotoStore,
    Progress,
    choose_validation,
    find_photos,
    refuse_broken,
    total,
)
from mlkit.errors import DataError, MlkitError, counted, listing
from mlkit.imaging.images import IMAGE_SUFFIXES, read_image
from mlkit.seeding import generator
from mlkit.tasks.lens.items import PROFILES, PairEntry, PhotoEntry, View
from mlkit.tasks.lens.pairs import find_pairs, store_pairs
from mlkit.tasks.lens.profiles import Profile, database_profiles, split_lenses
from mlkit.tasks.lens.settings import LensBuild

__all__ = ["SOURCE_SUFFIXES", "BuildReport", "build_dataset"]

log = logging.getLogger(__name__)

SOURCE_SUFFIXES = IMAGE_SUFFIXES
SAMPLE_LABEL = "embedded sample"
SAMPLE_SCENES = 8
_REDUCTIONS = (1, 2, 4)
_SHEET = "samples.png"


def build_dataset(
    sources: Sequence[Path] | None,
    out: Path,
    *,
    build: LensBuild,
    pairs: Path | None = None,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Return a dataset built from photographs or pairs; equal input gives an equal hash.

    Args:
        sources: photographs or folders of them, straight as they are; None: the embedded sample.
        out: the dataset's folder; it must be absent or empty. An interrupted build leaves nothing.
        build: the options.
        pairs: a folder of distorted and corrected pictures, in place of `sources`.
        skip_broken: leave out files that cannot be read instead of refusing.
        progress: called with (what, done, total).

    Raises:
        MlkitError: when both photographs and pairs are given.
        DataError: one sentence for each source that is missing or broken, for pairs that do not match, for a lens
            that the data base does not have; when `out` holds something; when nothing is left for training or
            validation.
    """
    if pairs is not None and sources is not None:
        raise MlkitError("--pairs and --source are two ways to the same; give one of them")
    if pairs is None and sources is None and not build.scenes:
        build = build.model_copy(update={"scenes": SAMPLE_SCENES})
    found = find_pairs(pairs) if pairs is not None else []
    paths = find_photos(sources, SOURCE_SUFFIXES) if sources is not None else None
    with dataset_folder(out) as folder:
        work = _Build(folder, build, progress or (lambda what, done, total: None))
        if pairs is not None:
            work.add_pairs(found, skip_broken)
        else:
            work.add_profiles()
            work.add_photographs(paths, skip_broken)
            work.choose_views()
        work.finish(SAMPLE_LABEL if paths is None and pairs is None else "", is_pairs=pairs is not None)
    manifest = open_manifest(out)
    return BuildReport(manifest, work.broken, work.lines)


class _Build:
    """One build in progress: options, items, what was said, what was broken."""

    def __init__(self, folder: Path, options: LensBuild, progress: Progress) -> None:
        self.folder, self.options, self.progress = folder, options, progress
        self.lines: list[str] = []
        self.broken: list[str] = []
        self.profiles: list[Profile] = []
        self.splits: list[str] = []
        self.photos: list[PhotoEntry] = []
        self.pairs: list[PairEntry] = []
        self.views: list[View] = []

    def say(self, line: str) -> None:
        log.info("%s", line)
        self.lines.append(line)

    def add_profiles(self) -> None:
        """Take the profiles of lensfun's data base, and hold a share of the lenses out."""
        options = self.options
        self.progress("profiles", 0, 1)
        self.profiles, left_out = database_profiles(options.lens, seed=options.seed)
        self.splits = split_lenses(self.profiles, options.val_share, options.seed)
        lenses = {split: {p.lens for p, of in zip(self.profiles, self.splits, strict=True) if of == split}
                  for split in ("train", "validation")}  # fmt: skip
        share = [abs(profile.corner_share) for profile in self.profiles]
        self.say(
            f"{len(self.profiles):,} profiles of lensfun's data base (CC BY-SA 3.0): {len(lenses['train']):,} lenses "
            f"for training and {len(lenses['validation']):,} others for validation; in the corner the median moves "
            f"{100 * float(np.median(share)):.1f} % of the radius"
        )
        if left_out:
            self.say(f"{counted(left_out, 'profile')} left out: fisheyes, without calibration, or beyond reason")
        rows = [
            {
                "lens": profile.lens,
                "camera": profile.camera,
                "focal_mm": profile.focal_mm,
                "model": profile.model,
                "aspect": profile.aspect,
                "frame_share": profile.frame_share,
                "terms": list(profile.terms),
                "split": split,
            }
            for profile, split in zip(self.profiles, self.splits, strict=True)
        ]
        text = json.dumps({"format_version": 1, "source": "lensfun, CC BY-SA 3.0", "profiles": rows}, indent=0)
        (self.folder / PROFILES).write_text(text + "\n", encoding="utf-8")
        self.progress("profiles", 1, 1)

    def add_photographs(self, paths: list[Path] | None, skip_broken: bool) -> None:
        options = self.options
        least, read = options.smallest // 4, _read_reduced(options.longest)
        store = PhotoStore(self.folder, _REDUCTIONS, least, self.say, read, remedy="give larger ones")
        if paths is None:
            stored = store.add_sample(self.progress)
            self.say(f"{SAMPLE_LABEL}: {total(stored.photos)}, of scikit-image")
        else:
            stored = store.add_files(paths, self.progress)
            refuse_broken(stored, len(paths), skip_broken, self.say)
            self.say(total(stored.photos))
        photos = [photo for photo in stored.photos if min(photo.height, photo.width) >= options.smallest]
        if stored.photos and not photos:
            largest = max(stored.photos, key=lambda photo: min(photo.height, photo.width))
            raise DataError(
                f"all photographs are smaller than --smallest {options.smallest} px, the largest of {largest.width} x "
                f"{largest.height} px; give larger ones, or a smaller --smallest, and train at most at that data.size"
            )
        for photo in stored.photos:
            if photo not in photos:
                self.say(
                    f"{photo.name}: {photo.width} x {photo.height} px, left out: smaller than {options.smallest} px"
                )
        self.broken = stored.broken
        choose_validation(photos, options.val_share, options.seed)
        held_out = [photo.name for photo in photos if photo.split == "validation"]
        self.say(f"{counted(len(held_out), 'photograph')} for validation alone: {listing(held_out, 6)}")
        self.photos = [_entry(photo) for photo in photos]

    def add_pairs(self, found: list[tuple[str, Path, Path]], skip_broken: bool) -> None:
        stored = store_pairs(self.folder, found, self.options, skip_broken, self.say, self.progress)
        self.pairs, self.broken = stored.entries, stored.broken
        held_out = [entry.name for entry in self.pairs if entry.split == "validation"]
        self.say(
            f"{counted(len(self.pairs), 'pair')}, {len(held_out)} of them for validation alone: {listing(held_out, 6)}"
            f"; no true map is known of pairs, so scores of maps are missing"
        )

    def choose_views(self) -> None:
        """Draw a lens and a focal length for each validation sample, so that lenses come up equally often."""
        options = self.options
        by_lens: dict[str, list[int]] = {}
        for place, profile in enumerate(self.profiles):
            if self.splits[place] == "validation":
                by_lens.setdefault(profile.lens, []).append(place)
        lenses = list(by_lens.values())
        rng = generator(options.seed, "views")
        order: list[int] = []

        def drawn() -> int:
            if not order:  # every lens once before any comes again
                order.extend(rng.permutation(len(lenses)).tolist())
            of_lens = lenses[order.pop()]
            return of_lens[int(rng.integers(len(of_lens)))]

        for place, photo in enumerate(self.photos):
            if photo.split == "validation":
                self.views += [View(place, 0, drawn()) for _ in range(options.views)]
        self.views += [View(-1, number, drawn()) for number in range(options.scenes)]
        self.say(
            f"{len(self.views)} validation samples: {len(self.views) - options.scenes} of photographs and "
            f"{options.scenes} of drawn scenes, each with a lens of its own"
        )

    def finish(self, label: str, *, is_pairs: bool) -> None:
        """Count, and write the manifest."""
        if is_pairs:
            splits = {split: sum(e.split == split for e in self.pairs) for split in ("train", "validation")}
        else:
            splits = {"train": self.options.count, "validation": len(self.views)}
        self.progress("hashes", 0, 1)
        write_manifest(
            self.folder,
            task="lens",
            label=label or ("" if is_pairs else "lensfun profiles"),
            preprocessing={"kind": "pairs" if is_pairs else "profiles"},
            splits=splits,
            details={
                "options": self.options.model_dump(mode="json"),
                "photographs": [asdict(photo) for photo in self.photos],
                "pairs": [asdict(pair) for pair in self.pairs],
                "views": [asdict(view) for view in self.views],
            },
        )
        self.progress("hashes", 1, 1)


def _read_reduced(longest: int) -> Callable[[Path], NDArray[np.float32]]:
    """Return a reader that reduces by a whole factor, by means of areas, to at most `longest` px a side."""

    def read(path: Path) -> NDArray[np.float32]:
        pixels = read_image(path)
        factor = -(-max(pixels.shape[:2]) // longest)
        if factor == 1:
            return pixels
        height, width = (side // factor for side in pixels.shape[:2])
        cut = pixels[: height * factor, : width * factor]
        return np.asarray(cut.reshape(height, factor, width, factor, -1).mean(axis=(1, 3)), np.float32)

    return read


def _entry(photo: Photo) -> PhotoEntry:
    levels = tuple((item.reduction, item.number) for item in photo.items)
    return PhotoEntry(photo.name, photo.split, photo.height, photo.width, levels)

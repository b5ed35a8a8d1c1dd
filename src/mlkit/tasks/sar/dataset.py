"""Builds SAR datasets: scenes in dB in one mapped file, tables of patches, and the values that scale them.

scenes.npy scenes.index.npy     float32 dB [H, W] of each scene, NaN where masked
truth.npy truth.index.npy       the same without speckle, where the data are simulated
train.npy validation.npy        one row a patch (blocks.PATCH)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mlkit.data.building import dataset_folder
from mlkit.data.manifest import BuildReport, open_manifest, write_manifest
from mlkit.data.store import Store, StoreWriter
from mlkit.errors import DataError, counted, listing
from mlkit.files import sha256_file, sha256_json
from mlkit.tasks.sar.formats import ACCEPTED, ACCEPTED_TEXT
from mlkit.tasks.sar.planning import PlannedScene, joined, limits_db, plan_splits, thinned
from mlkit.tasks.sar.readers import Scene, open_scenes
from mlkit.tasks.sar.settings import SarBuild
from mlkit.tasks.sar.source import SCENES, TRUTH, SarSource, to_unit

__all__ = ["BuildReport", "SarSource", "build_dataset", "to_unit"]

log = logging.getLogger(__name__)

PIPELINE = "db|clip|unit"
_FEW_PATCHES = 8  # below it, a mean over validation patches hardly has an interval
Progress = Callable[[str, int, int], None]


def build_dataset(
    sources: Sequence[Path] | None,
    out: Path,
    *,
    build: SarBuild,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Return a dataset built from image files and folders of them; equal files and options give an equal hash.

    Args:
        sources: files, or folders that are searched with their subfolders; None: simulated scenes.
        out: the dataset's folder; it must be absent or empty. An interrupted build leaves nothing.
        build: the options.
        skip_broken: leave out files that cannot be read instead of refusing.
        progress: called with (what, done, total).

    Raises:
        DataError: one sentence for each source that is missing or broken; when `out` holds something; when nothing
            is left for training or validation.
    """
    paths = None if sources is None else find_images(sources)
    with dataset_folder(out) as folder:
        work = _Build(folder, build, progress or (lambda what, done, total: None))
        for source in sources or ():
            work.tell_ignored(source)
        if paths is None:
            work.store_simulated()
        else:
            work.store_files(paths, skip_broken)
        work.finish(label="simulated" if paths is None else "")
    return BuildReport(open_manifest(out), work.broken, work.lines)


def find_images(sources: Sequence[Path]) -> list[Path]:
    """Return the images that files and folders name, each once, sorted.

    Raises:
        DataError: one sentence for each source that is missing or a folder without images.
    """
    found: set[Path] = set()
    problems = []
    for source in sources:
        if source.is_dir():
            inside = [path for path in _files(source) if path.suffix.lower() in ACCEPTED]
            found.update(inside)
            if not inside:
                problems.append(f"folder {source} holds no SAR image; accepted are {ACCEPTED_TEXT}")
        elif source.exists():
            found.add(source)
        else:
            problems.append(f"{source} does not exist; give SAR images or a folder of them")
    if problems or not found:
        raise DataError(*(problems or ["no source was given; give SAR images or a folder of them"]))
    return sorted(found)


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder but hidden ones, and those in hidden folders."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


class _Build:
    """One build in progress: options, what was said, what was broken."""

    def __init__(self, folder: Path, options: SarBuild, progress: Progress) -> None:
        self.folder = folder
        self.options = options
        self.progress = progress
        self.lines: list[str] = []
        self.broken: list[str] = []
        self.scenes: list[PlannedScene] = []
        self.largest = (0, 0)  # of those that are too small

    def say(self, line: str) -> None:
        log.info("%s", line)
        self.lines.append(line)

    def tell_ignored(self, source: Path) -> None:
        if source.is_dir():
            others = sorted(path.name for path in _files(source) if path.suffix.lower() not in ACCEPTED)
            if others:
                self.say(f"{source}: {counted(len(others), 'file')} of other types not read: {listing(others, 4)}")

    def store_simulated(self) -> None:
        from mlkit.tasks.sar.speckle import LOOKS, PHOTOGRAPHS, embedded_scenes

        total = len(PHOTOGRAPHS)
        self.say(f"simulated: {total} photographs as sigma0, with speckle of {LOOKS} looks and point targets")
        with (
            StoreWriter(self.folder, SCENES, np.float32) as noisy,
            StoreWriter(self.folder, TRUTH, np.float32) as truth,
        ):
            for done, scene in enumerate(embedded_scenes(self.options.seed)):
                self.progress("scenes", done, total)
                height, width = scene.db_hw.shape
                if self._fits(scene.name, height, width):
                    noisy.add(scene.db_hw)
                    truth.add(scene.truth_db_hw)
                    about = {"height": height, "width": width, "kind": "simulated"}
                    self.scenes.append(PlannedScene(scene.name, scene.name, about))
        self.progress("scenes", total, total)

    def store_files(self, paths: list[Path], skip_broken: bool) -> None:
        num_read = 0
        files = self._hashed(paths)
        with StoreWriter(self.folder, SCENES, np.float32) as writer:
            for done, (path, digest) in enumerate(files):
                self.progress("scenes", done, len(files))
                try:
                    images = open_scenes(path, self.options.kind)
                except DataError as error:
                    self.broken += error.problems
                    continue
                for image in images:
                    try:
                        self._store(image.read(), digest, writer)
                        num_read += 1
                    except DataError as error:
                        self.broken += error.problems
        self.progress("scenes", len(files), len(files))
        if self.broken and not num_read:
            none = "the one file cannot" if len(paths) == 1 else f"none of {len(paths)} files can"
            raise DataError(*self.broken, f"{none} be used, so there is nothing to build")
        if self.broken and not skip_broken:
            told = "1 image is broken; remove it or use --skip-broken"
            if len(self.broken) > 1:
                told = f"{len(self.broken)} images are broken; remove them or use --skip-broken"
            raise DataError(*self.broken, told)
        for sentence in self.broken:
            self.say(f"skipped: {sentence}")

    def _hashed(self, paths: list[Path]) -> list[tuple[Path, str]]:
        """Return each different file once with its hash, in an order that does not depend on folders."""
        digests: dict[Path, str] = {}
        for path in paths:
            try:
                digests[path] = sha256_file(path)
            except OSError as error:
                self.broken.append(f"{path} cannot be read: {error.strerror or error}")
        first: dict[str, Path] = {}
        for path in sorted(digests, key=lambda p: (p.name, digests[p], str(p))):
            twin = first.setdefault(digests[path], path)
            if twin != path:  # one of them could be trained on and the other validated on
                self.say(f"{path} is the same file as {twin} and is used once")
        return [(path, digest) for digest, path in first.items()]

    def _store(self, scene: Scene, digest: str, writer: StoreWriter) -> None:
        height, width = scene.db_hw.shape
        counts = asdict(scene.masked)
        told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        self.say(f"{scene.name}: {width} x {height} px, {scene.why}" + (f"; masked: {told}" if told else ""))
        if not self._fits(scene.name, height, width):
            return
        writer.add(scene.db_hw)
        # Equal georeference and size: the same place at another date or in another polarisation.
        place = digest if scene.geotags is None else sha256_json([height, width, repr(scene.geotags)])
        about = {"height": height, "width": width, "kind": scene.kind, "why": scene.why, "masked": counts}
        about |= {"sha256": digest, "georeferenced": scene.geotags is not None}
        self.scenes.append(PlannedScene(self._free_name(scene.name), place, about))

    def _fits(self, name: str, height: int, width: int) -> bool:
        if min(height, width) >= self.options.patch:
            return True
        self.largest = max(self.largest, (height, width), key=min)
        self.say(f"{name} is dropped: {width} x {height} px is smaller than a patch of {self.options.patch} px")
        return False

    def _free_name(self, name: str) -> str:
        """Return the name, or with "-2", "-3" where files of two folders are named alike."""
        taken = {scene.name for scene in self.scenes}
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free

    def finish(self, label: str) -> None:
        """Plan the splits, write the patch tables and the manifest."""
        if not self.scenes:
            sides = f"{self.options.patch} px, the largest of {self.largest[1]} x {self.largest[0]} px"
            raise DataError(f"all scenes are smaller than a patch of {sides}; use a smaller --patch")
        store = Store(self.folder, SCENES)
        plan_splits(self.scenes, store, self.options, self.say)
        low, high = limits_db(self.scenes, store, self.options, self.say)
        available = joined([scene.train for scene in self.scenes])
        train, validation = thinned(available, self.options), joined([scene.validation for scene in self.scenes])
        np.save(self.folder / "train.npy", train)
        np.save(self.folder / "validation.npy", validation)
        kept = f" of {len(available)} (subset {self.options.subset:g})" if len(train) < len(available) else ""
        self.say(
            f"{counted(len(self.scenes), 'scene')}: {len(train)}{kept} training and {len(validation)} validation "
            f"patches of {self.options.patch} px; {low:.3f} to {high:.3f} dB become 0 to 1"
        )
        if len(validation) < _FEW_PATCHES:
            advice = "use a smaller --patch, more scenes or more --val-share"
            self.say(f"warning: scores of {counted(len(validation), 'validation patch')} say little; {advice}")
        self.progress("hashes", 0, 1)
        write_manifest(
            self.folder,
            task="sar",
            label=label,
            preprocessing={
                "pipeline": PIPELINE,
                "db_min": low,
                "db_max": high,
                "percentiles": list(self.options.percentiles),
                "nodata": "db_min",
                "kind": self.options.kind,
            },
            splits={"train": len(train), "validation": len(validation)},
            details={
                "patch": self.options.patch,
                "options": self.options.model_dump(mode="json"),
                "train_patches_available": len(available),
                "scenes": [
                    {
                        "name": s.name,
                        "split": s.split,
                        "validation_areas": [asdict(rect) for rect in s.rects],
                        **s.about,
                    }
                    for s in self.scenes
                ],
            },
        )
        self.progress("hashes", 1, 1)

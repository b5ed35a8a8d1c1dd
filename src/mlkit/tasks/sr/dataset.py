"""Builds datasets for super-resolution: pairs for distillation, or photographs alone to train a base on.

Pairs are described in pairs.py, photographs in mlkit.data.photos. Validation is held out by photograph; where a base
makes the images by itself, by number. Validation pairs come first, so that 000000 is always one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.data import photos as photographs
from mlkit.data.building import dataset_folder
from mlkit.data.manifest import BuildReport, open_manifest, write_manifest
from mlkit.data.photos import (
    PHOTOGRAPHS,
    Levels,
    Photo,
    PhotoStore,
    Progress,
    choose_validation,
    find_photos,
    others_in,
)
from mlkit.data.store import Store, index_path, values_path
from mlkit.errors import DataError, MlkitError, counted, listing
from mlkit.tasks.sr.planning import PAIRS_FROM_BASE, Place, places, split_counts
from mlkit.tasks.sr.settings import EMBEDDED, SrBuild

if TYPE_CHECKING:
    from mlkit.tasks.sr.bases import Base
    from mlkit.tasks.sr.pairs import Planned

__all__ = ["BuildReport", "build_dataset"]

log = logging.getLogger(__name__)

PIPELINES = {
    "from-photos": "image|encode|ode 0 to 1",
    "from-base": "noise|ode 1 to 0|decode",
    "none": "photographs",
}
SAMPLE_LABEL = "embedded sample"
_SAMPLE_PAIRS = 80
_FEW_PAIRS = 8  # below it, a mean over validation pairs hardly has an interval


def build_dataset(
    sources: Sequence[Path] | None,
    out: Path,
    *,
    build: SrBuild,
    base: Base | None = None,
    open_with: Callable[[], Base] | None = None,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Return a dataset built from photographs, or by a base alone; equal input and options give an equal hash.

    Args:
        sources: files, or folders that are searched with their subfolders; None: photographs that the installed
            packages hold, or none where the base makes the images.
        out: the dataset's folder; it must be absent or empty. An interrupted build leaves nothing.
        build: the options.
        base: what encodes, decodes and integrates; unused for photographs alone.
        open_with: gives the base where `base` is None, once sources and `out` are seen to be fit; None: opens
            `build.base`.
        skip_broken: leave out files that cannot be read instead of refusing.
        progress: called with (what, done, total); what it says of pairs contains their rate.

    Raises:
        MlkitError: when options do not go together, or `size` does not suit the base.
        DataError: one sentence for each source that is missing or broken; when `out` holds something; when nothing is
            left for training or validation.
        NonFiniteError: when the base gives no finite latents.
    """
    _refuse_options(sources, build)
    paths = None if sources is None else find_photos(sources)
    with dataset_folder(out) as folder:
        if build.pairs != "none":
            if base is None:
                base = (open_with or _opener(build.base))()
            _refuse_size(build, base)
        work = _Build(folder, build, base, progress or (lambda what, done, total: None))
        for source in sources or ():
            work.tell_ignored(source)
        work.run(paths, skip_broken)
    return BuildReport(open_manifest(out), work.broken, work.lines)


def _refuse_options(sources: Sequence[Path] | None, build: SrBuild) -> None:
    if build.pairs == "from-base" and sources is not None:
        raise MlkitError("pairs from-base are made by the base alone; leave out --source, or use --pairs from-photos")
    if build.pairs == "none" and build.count is not None:
        raise MlkitError(f"count {build.count} is a number of pairs, and --pairs none makes none; leave it out")
    if build.count is not None:
        split_counts(build.count, build.val_share)


def _opener(model_id: str) -> Callable[[], Base]:
    from mlkit.tasks.sr.bases import open_base

    return partial(open_base, model_id)


def _refuse_size(build: SrBuild, base: Base) -> None:
    if build.size % base.multiple:
        below = build.size // base.multiple * base.multiple
        works = f"{below} or {below + base.multiple}" if below else str(base.multiple)
        raise MlkitError(
            f"size {build.size} is not a multiple of {base.multiple} px, as base {base.name} needs; {works} would work"
        )


class _Build:
    """One build in progress: options, what was said, what was broken."""

    def __init__(self, folder: Path, options: SrBuild, base: Base | None, progress: Progress) -> None:
        self.folder, self.options, self.base, self.progress = folder, options, base, progress
        self.lines: list[str] = []
        self.broken: list[str] = []
        self.photos: list[Photo] = []

    def say(self, line: str) -> None:
        log.info("%s", line)
        self.lines.append(line)

    def tell_ignored(self, source: Path) -> None:
        others = others_in(source) if source.is_dir() else []
        if others:
            self.say(f"{source}: {counted(len(others), 'file')} of other types not read: {listing(others, 4)}")

    def run(self, paths: list[Path] | None, skip_broken: bool) -> None:
        kind = self.options.pairs
        if kind == "from-base":
            self.pairs_from_base()
            return
        self.store_photos(paths, skip_broken)
        label = SAMPLE_LABEL if paths is None else ""
        if kind == "none":
            self.photographs_alone(label)
        else:
            self.pairs_from_photos(label, is_sample=paths is None)

    def store_photos(self, paths: list[Path] | None, skip_broken: bool) -> None:
        store = PhotoStore(self.folder, self.options.reduce, self.options.size, self.say)
        if paths is None:
            stored = store.add_sample(self.progress)
            self.say(f"{SAMPLE_LABEL}: {photographs.total(stored.photos)}, of scikit-image")
        else:
            stored = store.add_files(paths, self.progress)
            photographs.refuse_broken(stored, len(paths), skip_broken, self.say)
            self.say(photographs.total(stored.photos))
        self.photos, self.broken = stored.photos, stored.broken
        choose_validation(self.photos, self.options.val_share, self.options.seed)
        held_out = [photo.name for photo in self._of("validation")]
        self.say(f"{counted(len(held_out), 'photograph')} for validation alone: {listing(held_out, 6)}")

    def photographs_alone(self, label: str) -> None:
        counts = {split: len(places(self._of(split), self.options.size, None, 0)) for split in ("train", "validation")}
        self.say(
            f"{counts['train']} training and {counts['validation']} validation squares of {self.options.size} px, side "
            f"by side; training crops lie anywhere"
        )
        self.finish(label, counts, {})

    def pairs_from_photos(self, label: str, is_sample: bool) -> None:
        count = _SAMPLE_PAIRS if is_sample and self.options.count is None else self.options.count
        wanted: dict[str, int | None] = {"validation": None, "train": None}
        if count is not None:
            wanted["train"], wanted["validation"] = split_counts(count, self.options.val_share)
        store = Store(self.folder, PHOTOGRAPHS)
        planned: list[Planned] = []
        for split, number in wanted.items():
            for place in places(self._of(split), self.options.size, number, self.options.seed):
                planned.append(_planned(len(planned), split, place, store, self.options.size))
        self.write_pairs(planned, label)

    def pairs_from_base(self) -> None:
        from mlkit.tasks.sr.pairs import Planned

        train, validation = split_counts(self.options.count or PAIRS_FROM_BASE, self.options.val_share)
        planned = [
            Planned(number, "validation" if number < validation else "train", {}, None)
            for number in range(train + validation)
        ]
        self.write_pairs(planned, "simulated")

    def write_pairs(self, planned: list[Planned], label: str) -> None:
        from mlkit.tasks.sr.pairs import PairWriter

        assert self.base is not None
        validation = sum(pair.split == "validation" for pair in planned)
        counts = {"train": len(planned) - validation, "validation": validation}
        way = "forwards from the photographs" if self.options.pairs == "from-photos" else "from noise to images"
        self.say(
            f"{counts['train']} training and {validation} validation pairs of {self.options.size} px; base "
            f"{self.base.name}, {counted(self.options.steps, 'step')} {way}; low resolution: 1/{self.options.scale} "
            f"({self.options.degradation})"
        )
        if validation < _FEW_PAIRS:
            advice = "more pairs, or more --val-share"
            self.say(f"warning: scores of {counted(validation, 'validation pair')} say little; make {advice}")
        with PairWriter(self.folder, self.base, self.options) as writer:
            writer.write(planned, self.progress)
        for path in (values_path(self.folder, PHOTOGRAPHS), index_path(self.folder, PHOTOGRAPHS)):
            path.unlink(missing_ok=True)  # what pairs were cut from is in their pictures
        self.finish(label, counts, self._about_base(self.base))

    def finish(self, label: str, splits: dict[str, int], base: dict[str, Any]) -> None:
        """Write the manifest."""
        options = self.options
        if not all(splits.values()):
            raise DataError(f"nothing is left for training or validation: {splits}; use a smaller --size")
        preprocessing: dict[str, Any] = {"pairs": options.pairs, "pipeline": PIPELINES[options.pairs]}
        if base:
            preprocessing |= {"scale": options.scale, "degradation": options.degradation, "upscale": "bicubic"}
            preprocessing |= {"steps": options.steps, "base": base}
        self.progress("hashes", 0, 1)
        write_manifest(
            self.folder,
            task="sr",
            label=label,
            preprocessing=preprocessing,
            splits=splits,
            details={
                "size": options.size,
                # a folder's name is no part of what was built; the base's fingerprint is
                "options": options.model_dump(mode="json", exclude={"base"}),
                "photographs": [asdict(photo) for photo in self.photos],
            },
        )
        self.progress("hashes", 1, 1)

    def _of(self, split: str) -> list[Photo]:
        return [photo for photo in self.photos if photo.split == split]

    def _about_base(self, base: Base) -> dict[str, Any]:
        dtype = next((str(parameter.dtype) for parameter in base.transformer.parameters()), "torch.float32")
        is_named = base.name == EMBEDDED or not Path(base.name).exists()
        return {
            "name": base.name if is_named else "",
            "family": base.family,
            "fingerprint": base.fingerprint,
            "dtype": dtype.removeprefix("torch."),
            "latent_channels": base.latent_channels,
            "factor": base.factor,
            "multiple": base.multiple,
        }


def _planned(number: int, split: str, place: Place, store: Store, size: int) -> Planned:
    from mlkit.tasks.sr.pairs import Planned

    about = {"photograph": place.photo.name, "reduction": place.item.reduction, "y": place.y, "x": place.x}
    return Planned(number, split, about, partial(_cut, store, place, size))


def _cut(store: Store, place: Place, size: int) -> Levels:
    levels: Levels = store[place.item.number][place.y : place.y + size, place.x : place.x + size]
    return levels

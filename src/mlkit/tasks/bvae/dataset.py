"""Builds datasets of grids: all labels in one mapped file, which of them are for training, and the class counts.

grids.npy grids.index.npy    uint8 labels [H, W] of each grid, without padding
names.npy                    the name of each grid, bytes
train.npy validation.npy     int64, numbers of grids
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.data.building import dataset_folder
from mlkit.data.manifest import BuildReport, open_manifest, write_manifest
from mlkit.data.store import StoreWriter
from mlkit.errors import DataError, counted
from mlkit.seeding import generator
from mlkit.tasks.bvae.readers import Grid, arc_grids, find_files, free_name, read_grids
from mlkit.tasks.bvae.settings import BvaeBuild
from mlkit.tasks.bvae.source import GRIDS
from mlkit.tasks.bvae.synthetic import synthetic_grids
from mlkit.tasks.bvae.weights import METHODS, class_weights, exploding

log = logging.getLogger(__name__)

EMBEDDED = ("arc1", "arc2", "synthetic")
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class _Kept:
    """The grids that fit, in order."""

    grids: list[Grid] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    num_larger: int = 0
    largest: int = 0

    def add(self, grid: Grid, side: int) -> None:
        longer = max(grid.labels_hw.shape)
        self.largest = max(self.largest, longer)
        if longer > side:
            self.num_larger += 1
            return
        name = free_name(grid.name, self.names)
        self.names.add(name)
        self.grids.append(Grid(grid.task, name, grid.labels_hw))


def build_dataset(
    source: str | None,
    out: Path,
    *,
    build: BvaeBuild,
    more: Sequence[Path] = (),
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Return a dataset of grids; equal grids and options give an equal hash.

    Args:
        source: "arc1", "arc2" or "synthetic", else a file or folder; None: arc1.
        out: the dataset's folder; it must be absent or empty. An interrupted build leaves nothing.
        build: the options.
        more: further files and folders, where `source` is one.
        skip_broken: leave out files that cannot be read instead of refusing.
        progress: called with (what, done, total).

    Raises:
        DataError: one sentence for each file that is missing or broken; when `out` holds something; when there are
            fewer than two tasks.
    """
    source = "arc1" if source is None else source
    lines: list[str] = []
    broken: list[str] = []

    def say(line: str) -> None:
        log.info("%s", line)
        lines.append(line)

    tell = progress or (lambda what, done, total: None)
    embedded = source in EMBEDDED and not more
    with dataset_folder(out) as folder:
        found = _embedded(source, build) if embedded else _of_files([Path(source), *more], build, broken, tell)
        kept = _Kept()
        for grid in found:
            kept.add(grid, build.side)
        if broken and (not kept.grids or not skip_broken):
            advice = "nothing is left to build" if not kept.grids else "mend or remove it, or use --skip-broken"
            raise DataError(*broken, f"{counted(len(broken), 'file')} cannot be used; {advice}")
        for sentence in broken:
            say(f"skipped: {sentence}")
        if kept.num_larger:
            say(f"{counted(kept.num_larger, 'grid')} larger than {build.side} cells a side left out (--side)")
        if not kept.grids:
            raise DataError(
                f"all grids are larger than --side {build.side}, the largest of {kept.largest}; use a larger --side"
            )
        _write(folder, kept.grids, build, "simulated" if source == "synthetic" and embedded else "", say)
    return BuildReport(open_manifest(out), broken, lines)


def _embedded(source: str, build: BvaeBuild) -> Iterable[Grid]:
    if source == "synthetic":
        return synthetic_grids(build.grids, build.classes, build.seed)
    if build.classes < 10:
        raise DataError(f"ARC grids have 10 colours, but --classes is {build.classes}; give 10 or leave it out")
    return arc_grids(1 if source == "arc1" else 2)


def _of_files(sources: Sequence[Path], build: BvaeBuild, broken: list[str], progress: Progress) -> Iterable[Grid]:
    named = [str(source) for source in sources]
    if len(named) > 1 and (alone := [name for name in EMBEDDED if name in named and not Path(name).exists()]):
        raise DataError(f"{alone[0]} cannot be mixed with other sources; build it alone, or give files and folders")
    paths = find_files(sources, f"{', '.join(EMBEDDED)}, or ")
    for done, path in enumerate(paths):
        progress("files", done, len(paths))
        try:
            yield from read_grids(path, build.classes)
        except DataError as error:
            broken += error.problems
    progress("files", len(paths), len(paths))


def _write(folder: Path, grids: Sequence[Grid], build: BvaeBuild, label: str, say: Callable[[str], None]) -> None:
    train, validation = _split(grids, build)
    # A grid that is also a validation grid would be known by heart.
    held_out = {_content(grids[index]) for index in validation}
    fresh = [index for index in train if _content(grids[index]) not in held_out]
    if len(fresh) < len(train):
        say(f"{counted(len(train) - len(fresh), 'training grid')} equal to a validation grid left out")
    if not fresh:
        raise DataError("every training grid is also a validation grid; give more tasks")
    with StoreWriter(folder, GRIDS, np.uint8) as writer:
        for grid in grids:
            writer.add(grid.labels_hw)
    np.save(folder / "names.npy", np.array([grid.name.encode() for grid in grids]))
    np.save(folder / "train.npy", np.array(fresh, dtype=np.int64))
    np.save(folder / "validation.npy", np.array(validation, dtype=np.int64))
    details = _counted([grids[index] for index in fresh], build.classes, say)
    largest = max(max(grid.labels_hw.shape) for grid in grids)
    num_tasks = {name: len({grids[index].task for index in part}) for name, part in _named(fresh, validation)}
    say(
        f"{counted(len(grids), 'grid')}: {counted(len(fresh), 'training grid')} of "
        f"{counted(num_tasks['train'], 'task')}, {counted(len(validation), 'validation grid')} of "
        f"{counted(num_tasks['validation'], 'other task')}"
    )
    write_manifest(
        folder,
        task="bvae",
        label=label,
        preprocessing={"classes": build.classes, "side": largest, "background": details["background"]},
        splits={"train": len(fresh), "validation": len(validation)},
        details={**details, "tasks": num_tasks, "build": build.model_dump(mode="json")},
    )


def _named(train: list[int], validation: list[int]) -> tuple[tuple[str, list[int]], ...]:
    return ("train", train), ("validation", validation)


def _split(grids: Sequence[Grid], build: BvaeBuild) -> tuple[list[int], list[int]]:
    """Return the numbers of the training and of the validation grids; a task's grids stay together."""
    tasks = sorted({grid.task for grid in grids})
    if len(tasks) < 2:
        raise DataError(f"all grids belong to one task ({tasks[0]}), and a task is never split; give two tasks or more")
    order = generator(build.seed, "split").permutation(len(tasks))
    num_validation = min(len(tasks) - 1, max(1, round(build.val_share * len(tasks))))
    chosen = {tasks[place] for place in order[:num_validation]}
    validation = [index for index, grid in enumerate(grids) if grid.task in chosen]
    train = [index for index, grid in enumerate(grids) if grid.task not in chosen]
    return train, validation


def _content(grid: Grid) -> tuple[tuple[int, ...], bytes]:
    return grid.labels_hw.shape, grid.labels_hw.tobytes()


def _counted(grids: Sequence[Grid], classes: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return class counts of the training grids, their shares, and the weights of each method."""
    counts = sum(np.bincount(grid.labels_hw.ravel(), minlength=classes) for grid in grids)
    assert isinstance(counts, np.ndarray)
    absent = [str(index) for index in np.flatnonzero(counts == 0)]
    if absent:
        say(f"no training cell has class {', '.join(absent)}: weighted as the rarest class that occurs")
    weights = {method: class_weights(counts, method).tolist() for method in METHODS}
    sentence = exploding(weights["inverse"], "inverse")
    if sentence:
        say(sentence)
    return {
        "background": int(counts.argmax()),
        "class_counts": counts.tolist(),
        "class_shares": (counts / counts.sum()).tolist(),
        "class_weights": weights,
    }

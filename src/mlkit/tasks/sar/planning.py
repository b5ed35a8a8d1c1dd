"""Which patches of stored scenes train and which validate, and the dB limits that scale them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.data.store import Store
from mlkit.errors import DataError, counted, listing
from mlkit.seeding import derive_seed, generator
from mlkit.tasks.sar.blocks import PATCH, Rect, drop_masked, training_patches, validation_patches, validation_rects
from mlkit.tasks.sar.settings import SarBuild

Say = Callable[[str], None]
_DB_FLOOR, _DB_CEILING, _BINS_PER_DB = -500, 500, 1000  # float32 values, read as intensities, span -449 to 386 dB

_SAME_CALIBRATION_DB = 30.0  # medians of calm water and of a city differ by about 20 dB


@dataclass(slots=True)
class PlannedScene:
    """A scene in the store, and where its patches are."""

    name: str
    group: str  # scenes of one group show one place and go to one split as a whole
    about: dict[str, Any]  # for the manifest
    split: str = ""  # "blocks", "train" or "validation"
    rects: list[Rect] = field(default_factory=list)  # validation areas
    train: NDArray[np.void] = field(default_factory=lambda: np.empty(0, PATCH))
    validation: NDArray[np.void] = field(default_factory=lambda: np.empty(0, PATCH))
    num_dropped: int = 0  # patches with too many masked pixels


def plan_splits(scenes: Sequence[PlannedScene], store: Store, options: SarBuild, say: Say) -> None:
    """Fill in the split, the validation areas and the patches of each scene.

    Raises:
        DataError: when training or validation would be empty.
    """
    whole = []
    for number, scene in enumerate(scenes):
        shape = _shape(store, number)
        _place(scene, number, shape, validation_rects(shape, options), options)
        scene.split = "blocks"
        if not len(scene.validation) or not len(scene.train):
            whole.append(number)
    _assign_whole(scenes, whole, store, options, say)
    for scene, db_hw in zip(scenes, store, strict=True):
        _drop_masked(scene, db_hw, options, say)
    for split, counts in (
        ("training", [len(s.train) for s in scenes]),
        ("validation", [len(s.validation) for s in scenes]),
    ):
        if not any(counts):
            raise DataError(_nothing_left(split, scenes, store, options))


def _nothing_left(split: str, scenes: Sequence[PlannedScene], store: Store, options: SarBuild) -> str:
    shapes = [_shape(store, number) for number in range(len(scenes))]
    height, width = max(shapes, key=min)
    where = f"{counted(len(scenes), 'scene')}{', the largest' if len(scenes) > 1 else ''} of {width} x {height} px"
    found = f"no {split} patch of {options.patch} px is left in {where}"
    if dropped := sum(s.num_dropped for s in scenes):
        share = f"more than {100 * options.max_nodata:g}% masked"
        return f"{found}: {dropped} of both parts have {share}; use more --max-nodata, a smaller --patch or more scenes"
    works = next((p for p in range((options.patch - 1) // 16 * 16, 0, -16) if _divides(shapes, p, options)), None)
    return f"{found}; use --patch {works} or less, or add scenes" if works else f"{found}; add larger scenes"


def _divides(shapes: Sequence[tuple[int, int]], patch: int, options: SarBuild) -> bool:
    """Return whether patches of this size fit into both parts of some scene."""
    smaller = options.model_copy(update={"patch": patch})
    for shape in shapes:
        rects = validation_rects(shape, smaller)
        if len(validation_patches(0, rects, patch)) and len(training_patches(0, shape, rects, smaller)):
            return True
    return False


def joined(tables: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """Return the patches of all scenes as one table."""
    table: NDArray[np.void] = np.concatenate(tables)
    return table


def thinned(table: NDArray[np.void], options: SarBuild) -> NDArray[np.void]:
    """Return the seeded share `subset` of a table, at least one patch, in the table's order."""
    kept = max(1, round(options.subset * len(table)))
    chosen = generator(options.seed, "subset").permutation(len(table))[:kept]
    return table[np.sort(chosen)]


def _shape(store: Store, number: int) -> tuple[int, int]:
    height, width = store.shape(number)
    return height, width


def _place(scene: PlannedScene, number: int, shape: tuple[int, int], rects: list[Rect], options: SarBuild) -> None:
    scene.rects = rects
    scene.validation = validation_patches(number, rects, options.patch)
    scene.train = training_patches(number, shape, rects, options)


def _assign_whole(scenes: Sequence[PlannedScene], whole: list[int], store: Store, options: SarBuild, say: Say) -> None:
    """Give each scene that is too small to be divided to one split, scenes of one place together."""
    groups = sorted({scenes[n].group for n in whole}, key=lambda group: derive_seed(options.seed, "whole", group))
    for_validation = round(options.val_share * len(groups))
    if len(groups) > 1 and len(whole) == len(scenes):  # nothing else could fill either split
        for_validation = min(max(for_validation, 1), len(groups) - 1)
    chosen = set(groups[:for_validation])
    for number in whole:
        scene, (height, width) = scenes[number], _shape(store, number)
        scene.split = "validation" if scene.group in chosen else "train"
        rects = [Rect(0, 0, height, width)] if scene.split == "validation" else []
        _place(scene, number, (height, width), rects, options)
    for split in ("train", "validation"):
        names = [scenes[n].name for n in whole if scenes[n].split == split]
        if names:
            say(
                f"to {split} as a whole, too small for patches of {options.patch} px in both parts with "
                f"{options.guard} px between them: {listing(names)}"
            )


def _drop_masked(scene: PlannedScene, db_hw: NDArray[np.float32], options: SarBuild, say: Say) -> None:
    if not np.isnan(db_hw).any():
        return
    before = len(scene.train), len(scene.validation)
    scene.train = drop_masked(scene.train, db_hw, options.patch, options.max_nodata)
    scene.validation = drop_masked(scene.validation, db_hw, options.patch, options.max_nodata)
    train, validation = before[0] - len(scene.train), before[1] - len(scene.validation)
    scene.num_dropped = train + validation
    if scene.num_dropped:
        share = f"more than {100 * options.max_nodata:g}% masked"
        say(f"{scene.name}: {train} training and {validation} validation patches dropped with {share}")


def limits_db(scenes: Sequence[PlannedScene], store: Store, options: SarBuild, say: Say) -> tuple[float, float]:
    """Return the percentiles of all valid pixels that training patches cover, each pixel once, to 0.001 dB.

    Raises:
        DataError: when these pixels are all equal.
    """
    counts = np.zeros((_DB_CEILING - _DB_FLOOR) * _BINS_PER_DB + 1, np.int64)
    medians = {}
    for scene, db_hw in zip(scenes, store, strict=True):
        covered = np.zeros(db_hw.shape, bool)
        for y, x in zip(scene.train["y"].tolist(), scene.train["x"].tolist(), strict=True):
            covered[y : y + options.patch, x : x + options.patch] = True
        values = db_hw[covered]
        values = values[~np.isnan(values)]
        if not len(values):
            continue
        medians[scene.name] = float(np.median(values))
        bins = np.rint((values.astype(np.float64) - _DB_FLOOR) * _BINS_PER_DB)
        counts += np.bincount(np.clip(bins, 0, len(counts) - 1).astype(np.int64), minlength=len(counts))
    low, high = (_percentile(counts, percent) for percent in options.percentiles)
    if high - low < 0.01:
        raise DataError(f"the training part is constant ({low:.3f} dB), so there is nothing to learn; check --kind")
    least, most = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    if medians[most] - medians[least] > _SAME_CALIBRATION_DB:
        say(
            f"warning: the median of {most} is {medians[most]:.1f} dB, that of {least} {medians[least]:.1f} dB: they "
            "are not calibrated alike and share one scale badly; build them apart"
        )
    return low, high


def _percentile(counts: NDArray[np.int64], percent: float) -> float:
    """Return the centre of the bin that holds the nearest-rank percentile, in dB."""
    rank = round(percent / 100 * (int(counts.sum()) - 1)) + 1
    place = int(np.searchsorted(np.cumsum(counts), rank))
    return round(_DB_FLOOR + place / _BINS_PER_DB, 3)

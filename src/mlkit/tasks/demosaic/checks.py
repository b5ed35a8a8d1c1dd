"""What a rehearsal checks of mosaics: the phase of the colour filter, and that no photograph is in both parts.

A mosaic at a wrong phase takes green for red, and a network learns to make a pattern of it. Of a mosaic and its
picture the phase at which the two agree best is the right one; of a camera's own levels, before white balance, the one
at which neighbouring green sites differ least, since green is brighter than red and blue there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mlkit.data.checking import DataChecks, Limit, Sample
from mlkit.data.duplicates import Picture, picture_of
from mlkit.data.manifest import DatasetManifest
from mlkit.data.store import Store, values_path
from mlkit.tasks.demosaic import xtrans
from mlkit.tasks.demosaic.items import LINEAR, REAL, SENSOR, Entry
from mlkit.tasks.demosaic.source import entry_of

Floats = NDArray[np.float32]
_SIDE = 240  # px of the middle of a mosaic that is looked at
_CLEARLY = 0.6  # the best phase's error as a share of the error of the phase that is told


def data_checks(data: DatasetManifest) -> DataChecks:
    """Return the checks of a dataset of mosaics."""
    entries = [entry_of(values) for values in data.details["items"]]
    stores = {name: Store(data.folder, name) for name in sorted({entry.store for entry in entries})}
    measured = [entry for entry in entries if entry.store == SENSOR]
    targets = Store(data.folder, LINEAR) if measured else None

    def place(entry: Entry) -> str:
        return f"{values_path(data.folder, entry.store)}: {entry.name}"

    def contents(limit: Limit) -> Iterator[str]:
        for index in limit.spread(len(measured)):
            entry = measured[index]
            assert targets is not None
            problem = _measured_problem(entry, stores[SENSOR][entry.number], targets[entry.target])
            if problem:
                yield f"{place(entry)} {problem}"

    def sample(values: Sample, where: str) -> Iterator[str]:
        if "image" not in values:
            return
        told = (int(values["phase"][0]), int(values["phase"][1]))
        found = best_phase(values["mosaic"].numpy()[0], np.moveaxis(values["image"].numpy(), 0, 2), told)
        if found:
            yield f"{where}: {_wrong(told, found)}; data.phase_error or the loader shifts it"

    def pictures(limit: Limit) -> Iterator[Picture]:
        last = {
            entry.name: entry for entry in sorted(entries, key=lambda entry: entry.reduction) if entry.group == REAL
        }
        chosen = list(last.values())
        for index in limit.spread(len(chosen)):
            entry = chosen[index]
            store, number = (targets, entry.target) if entry.store == SENSOR else (stores[entry.store], entry.number)
            assert store is not None
            height, width = store.shape(number)[:2]
            step = max(1, max(height, width) // 512)
            light = np.sqrt(np.maximum(store[number][::step, ::step].astype(np.float32), 0))
            yield picture_of(entry.split, place(entry), light)

    def where(part: str, sample_id: str) -> str:
        return f"{data.folder}: {part} square {sample_id}"

    return DataChecks(contents=contents if measured else None, sample=sample, where=where, pictures=pictures)


def best_phase(mosaic_hw: Floats, image_hwc: Floats, told: xtrans.Phase) -> xtrans.Phase | None:
    """Return the phase at which a mosaic agrees with its picture, where that is clearly another than the one told."""
    errors = {phase: float(np.abs(mosaic_hw - xtrans.mosaic(image_hwc, phase)).mean()) for phase in _phases()}
    return _clearly_other(errors, xtrans.canonical(told))


def _measured_problem(entry: Entry, raw_hw: NDArray[np.uint16], target_hwc: Floats) -> str:
    """Return what is wrong with the phase of a camera's mosaic; "" where nothing is."""
    top, left = (max(0, (side - _SIDE) // 2) for side in raw_hw.shape)
    part = (slice(top, top + _SIDE), slice(left, left + _SIDE))
    told = xtrans.moved(entry.phase, top, left)
    levels = (raw_hw[part].astype(np.float32) - np.float32(entry.black)) / np.float32(entry.white - entry.black)
    by_picture = {}
    for phase in _phases():
        multipliers = np.asarray(entry.wb, np.float32)[xtrans.colors(levels.shape[0], levels.shape[1], phase)]
        seen = xtrans.mosaic(np.asarray(target_hwc[part], np.float32), phase)
        by_picture[phase] = float(np.abs(levels * multipliers - seen).mean())
    found = _clearly_other(by_picture, told) or _clearly_other(_green_errors(levels, told), told)
    return f"has a wrong colour filter phase: {_wrong(told, found)} (of the middle of the picture)" if found else ""


def _green_errors(levels: Floats, told: xtrans.Phase) -> dict[xtrans.Phase, float]:
    """Return how much neighbouring green sites differ, by phase; red and blue exchanged cannot be told apart."""
    errors = {}
    for phase in _phases():
        if (phase[0] - told[0]) % xtrans.CELL == 0 and (phase[1] - told[1]) % xtrans.CELL == 0 and phase != told:
            continue
        green = xtrans.colors(levels.shape[0], levels.shape[1], phase) == xtrans.G
        across = green[:, 1:] & green[:, :-1]
        down = green[1:] & green[:-1]
        steps = np.concatenate((np.abs(np.diff(levels, axis=1))[across], np.abs(np.diff(levels, axis=0))[down]))
        errors[phase] = float(steps.mean())
    return errors


def _clearly_other(errors: dict[xtrans.Phase, float], told: xtrans.Phase) -> xtrans.Phase | None:
    best = min(errors, key=lambda phase: errors[phase])
    return best if errors[best] < _CLEARLY * errors[told] else None


def _wrong(told: xtrans.Phase, found: xtrans.Phase) -> str:
    said = f"row {told[0]}, column {told[1]}"
    return f"the mosaic is said to begin at {said} of the pattern, and fits row {found[0]}, column {found[1]}"


def _phases() -> list[xtrans.Phase]:
    return [(row, column) for row in range(xtrans.CELL) for column in range(xtrans.PERIOD)]

"""Faults planted in built datasets: files are changed, and the manifest is written again as if they were built so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.data.checking import DataChecks
from mlkit.data.duplicates import Duplicate, near_duplicates
from mlkit.data.limit import Limit
from mlkit.data.manifest import DatasetManifest, open_manifest, write_manifest

LONG_S = 60.0


def rebuilt(data: DatasetManifest, change: Callable[[dict[str, Any], dict[str, Any]], None] | None = None) -> Any:
    """Write the manifest again for the files as they are now; `change` may edit details and preprocessing."""
    details, preprocessing = copy.deepcopy(data.details), copy.deepcopy(data.preprocessing)
    if change:
        change(details, preprocessing)
    (data.folder / "manifest.json").unlink()
    write_manifest(
        data.folder,
        task=data.task,
        label=data.label,
        preprocessing=preprocessing,
        splits=data.splits,
        details=details,
    )
    return open_manifest(data.folder)


def edited(path: Path, change: Callable[[np.ndarray], None]) -> None:
    """Change the values of a .npy file in place."""
    values = np.load(path, mmap_mode="r+")
    change(values)
    values.flush()
    del values


def stored_problems(checks: DataChecks) -> list[str]:
    """Return what headers and contents say is wrong."""
    ways = [way for way in (checks.headers, checks.contents) if way]
    return [problem for way in ways for problem in way(Limit(LONG_S))]


def header_problems(checks: DataChecks) -> list[str]:
    assert checks.headers is not None
    return list(checks.headers(Limit(LONG_S)))


def duplicates(checks: DataChecks) -> list[Duplicate]:
    assert checks.pictures is not None
    return near_duplicates(checks.pictures(Limit(LONG_S)), Limit(LONG_S))

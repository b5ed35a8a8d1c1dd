"""The one file that says what a dataset folder is: task, preprocessing values, splits, the hash of each file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from mlkit import __version__
from mlkit.errors import DataError
from mlkit.files import read_json, sha256_file, sha256_json, write_json

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_HASHED = ("task", "label", "preprocessing", "splits", "files", "details")


@dataclass(frozen=True)
class DatasetManifest:
    """A dataset that was opened; everything but `folder` is what the hash covers."""

    folder: Path
    task: str
    label: str
    """"simulated" where the data are not measurements, else empty."""
    preprocessing: dict[str, Any]
    """What inference needs to treat a new image as the training images were treated."""
    splits: dict[str, int]
    """Number of samples of each split."""
    files: dict[str, dict[str, Any]]
    """{"bytes": int, "sha256": str} by name relative to the folder, with forward slashes."""
    details: dict[str, Any]
    sha256: str
    """Over task, label, preprocessing, splits, files and details: equal input and options give an equal hash."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What `mlkit dataset build` made, and what the user should know of it."""

    manifest: DatasetManifest
    broken: list[str]  # one sentence for each file that was left out
    lines: list[str]  # what was decided and dropped, in order


def write_manifest(
    folder: Path,
    *,
    task: str,
    label: str,
    preprocessing: Mapping[str, Any],
    splits: Mapping[str, int],
    details: Mapping[str, Any],
) -> None:
    """Hash the files of `folder` and write manifest.json, last; `details` must hold no path, time or version."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in names}
    content: dict[str, Any] = {
        "task": task,
        "label": label,
        "preprocessing": dict(preprocessing),
        "splits": dict(splits),
        "files": files,
        "details": dict(details),
    }
    about = {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "mlkit": __version__,
        # hashed as it will be read back: JSON turns tuples into lists and integer keys into text
        "sha256": sha256_json(json.loads(json.dumps(content))),
    }
    write_json(folder / MANIFEST, about | content)


def open_manifest(folder: Path) -> DatasetManifest:
    """Return the dataset in `folder` after cheap checks: its own hash, and presence and size of each file.

    Raises:
        DataError: when there is no dataset, the manifest was changed or is newer, or files are missing or cut.
    """
    how = "build one with: mlkit dataset build TASK"
    if not folder.is_dir():
        kind = "is a file, not a dataset folder" if folder.exists() else "does not exist"
        raise DataError(f"dataset {folder} {kind}; {how}")
    if not (folder / MANIFEST).is_file():
        raise DataError(f"dataset {folder} has no {MANIFEST}, so it is no complete dataset; {how}")
    value = read_json(folder / MANIFEST, "dataset manifest", FORMAT_VERSION)
    missing = [key for key in (*_HASHED, "sha256") if key not in value]
    if missing:
        raise DataError(f"dataset manifest {folder / MANIFEST} is damaged: it has no {', '.join(missing)}; {how}")
    content = {key: value[key] for key in _HASHED}
    if sha256_json(content) != value["sha256"]:
        raise DataError(f"dataset manifest {folder / MANIFEST} was changed after it was written; {how}")
    manifest = DatasetManifest(folder=folder, sha256=value["sha256"], **content)
    problems = [problem for name, entry in manifest.files.items() if (problem := _size_problem(folder, name, entry))]
    if problems:
        raise DataError(*problems)
    return manifest


def verify_manifest(manifest: DatasetManifest) -> None:
    """Check the hash of every file, reading all of them.

    Raises:
        DataError: one sentence for each file that is missing or differs.
    """
    problems = []
    for name, entry in manifest.files.items():
        problem = _size_problem(manifest.folder, name, entry)
        if not problem and sha256_file(manifest.folder / name) != entry["sha256"]:
            problem = f"{manifest.folder / name} differs from its hash in {MANIFEST}; build the dataset again"
        if problem:
            problems.append(problem)
    if problems:
        raise DataError(*problems)


def _size_problem(folder: Path, name: str, entry: Mapping[str, Any]) -> str:
    """Return a sentence when a file of the dataset is not there in full, else the empty string."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:  # a manifest from elsewhere must not point out of its folder
        return f"dataset manifest {folder / MANIFEST} names {name}, which is outside the dataset"
    path = folder / name
    if not path.is_file():
        return f"dataset {folder} lacks {name}; build it again"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path} has {size} bytes instead of {entry['bytes']}; build the dataset again"
    return ""

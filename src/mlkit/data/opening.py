"""A dataset by the name that a user gave it: a folder, or one below MLKIT_DATA_DIR."""

from __future__ import annotations

from pathlib import Path

from mlkit.data.manifest import DatasetManifest, open_manifest
from mlkit.errors import DataError
from mlkit.settings import Places


def open_dataset(named: Path, task: str) -> DatasetManifest:
    """Return the dataset at `named`, or below MLKIT_DATA_DIR where nothing is there.

    Raises:
        DataError: when there is none, or it is broken, of another task, or without samples of a part.
    """
    places = Places()
    folder = named if named.exists() or not (places.data_dir / named).exists() else places.data_dir / named
    manifest = open_manifest(folder)
    refuse_unfit(manifest, task)
    return manifest


def refuse_unfit(manifest: DatasetManifest, task: str) -> None:
    """Raise DataError when a dataset was built for another task, or lacks samples."""
    if manifest.task != task:
        raise DataError(
            f"dataset {manifest.folder} is for task '{manifest.task}', not '{task}'; "
            f"build one with: mlkit dataset build {task}"
        )
    empty = [name for name, count in manifest.splits.items() if count == 0]
    if empty:
        raise DataError(
            f"dataset {manifest.folder} has no samples in: {', '.join(empty)}; build it from more or larger scenes"
        )


def open_named(named: str, key: str, task: str) -> DatasetManifest:
    """Return the dataset that the settings key `key` names.

    Raises:
        DataError: as `open_dataset`, with the key.
    """
    try:
        return open_dataset(Path(named), task)
    except DataError as error:
        raise DataError(*(f"{key} = {named!r}: {problem}" for problem in error.problems)) from error

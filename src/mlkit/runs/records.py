"""What a run's files say of it, read without anything but the standard library, so that a thousand runs list at once.

A mark is what a person says of a run: a status, a note, tags. It lies in `mark.json` beside run.json, which only
training writes, so that marking changes neither what a run is nor what it came from. A run that is only planned has no
folder yet: its mark lies in `.planned/<name>.json`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlkit.errors import DataError, MlkitError, did_you_mean, listing
from mlkit.files import read_json, write_json
from mlkit.runs.folders import STATUSES, check_run_name

MARK_FORMAT = 1
DAMAGED = "damaged"
_PLANNED = ".planned"
_TAG = re.compile(r"[^\s,]{1,40}")
_CHECKPOINT = re.compile(r"ckpt-(\d+)")


@dataclass(frozen=True, slots=True)
class Record:
    """A run as a list shows it."""

    name: str
    folder: Path | None  # None: it is only planned
    status: str  # the person's, else the training's; "damaged" where run.json cannot be read
    about: Mapping[str, Any] = field(default_factory=dict)  # run.json
    mark: Mapping[str, Any] = field(default_factory=dict)  # mark.json
    step: int | None = None  # of the last checkpoint
    best_step: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)  # of the best checkpoint
    primary: str | None = None  # the metric that chose it
    problem: str = ""

    @property
    def task(self) -> str:
        return str(self.about.get("task", ""))

    @property
    def preset(self) -> str:
        return str(self.about.get("preset", ""))

    @property
    def created(self) -> str:
        """When it began, or was planned: ISO 8601, UTC."""
        return str(self.about.get("created") or self.mark.get("created", ""))

    @property
    def note(self) -> str:
        return str(self.mark.get("note", ""))

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(self.mark.get("tags", ()))

    @property
    def score(self) -> float | None:
        """The primary metric of the best checkpoint."""
        return self.scores.get(self.primary) if self.primary else None

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` says of it in a list."""
        return {
            "name": self.name,
            "id": self.about.get("id"),
            "status": self.status,
            "trained": self.about.get("status"),
            "task": self.task,
            "preset": self.preset,
            "created": self.created,
            "step": self.step,
            "best_step": self.best_step,
            "metric": self.primary,
            "score": self.score,
            "scores": dict(self.scores),
            "tags": list(self.tags),
            "note": self.note,
            "group": self.about.get("group"),
            "dataset_sha256": self.about.get("dataset_sha256"),
            "problem": self.problem,
        }


def records(runs_dir: Path) -> list[Record]:
    """Return every run and every planned one, by name; one that is damaged is a record that says so."""
    plans = _plans(runs_dir)
    names = [child.name for child in runs_dir.iterdir()] if runs_dir.is_dir() else []
    found = {name: record for name in names if (record := _record(runs_dir, name, plans))}
    for name, mark in plans.items():
        if name not in found:
            found[name] = Record(name, None, str(mark.get("status", "planned")), mark=mark)
    return [found[name] for name in sorted(found)]


def read_record(folder: Path) -> Record:
    """Return the record of one run, as `records` has it."""
    place = folder.resolve()
    found = _record(place.parent, place.name, _plans(place.parent))
    return found or Record(place.name, folder, DAMAGED, problem=f"run {folder / 'run.json'} does not exist")


def _record(runs_dir: Path, name: str, plans: Mapping[str, Mapping[str, Any]]) -> Record | None:
    """Return a run's record; None for a folder that is no run."""
    place = f"{runs_dir}{os.sep}{name}{os.sep}"
    content = None if name.startswith(".") else _content(place + "run.json")
    if content is None:
        return None
    folder = runs_dir / name
    try:
        about = json.loads(content)
        if not isinstance(about, dict):
            raise ValueError("it is no table")
    except ValueError as error:
        return Record(name, folder, DAMAGED, problem=f"run {place}run.json is damaged: {error}")
    mark, problem = _mark(place + "mark.json")
    if not mark and name in plans:  # that it was planned says nothing now
        mark = {key: value for key, value in plans[name].items() if key != "status"}
    last, best = _pointed(place + "last"), _pointed(place + "best")
    scores = _scores(f"{place}ckpt-{best}{os.sep}checkpoint.json") if best is not None else {}
    primary = about.get("primary_metric") or next((key for key in scores if key != "loss"), None)
    status = mark.get("status") or about.get("status", "wip")
    return Record(name, folder, str(status), about, mark, last, best, scores, primary, problem)


def _content(path: str) -> bytes | None:
    """Return a small file; None where it cannot be read. A tenth of the time of `Path.read_bytes`, a thousand times."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(handle, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    except OSError:  # a folder
        return None
    finally:
        os.close(handle)


def _plans(runs_dir: Path) -> dict[str, dict[str, Any]]:
    """Return what is said of runs that have not begun, or had not then, by name."""
    found = {file.stem: _mark(str(file))[0] for file in (runs_dir / _PLANNED).glob("*.json")}
    return {name: mark for name, mark in found.items() if mark}


def _mark(path: str) -> tuple[dict[str, Any], str]:
    """Return a mark, {} where there is none, and what is wrong with it."""
    if _content(path) is None:
        return {}, ""
    try:
        return read_json(Path(path), "mark", MARK_FORMAT), ""
    except MlkitError as error:
        return {}, error.problems[0]


def _pointed(path: str) -> int | None:
    """Return the step that `best` or `last` names; nothing is opened, so the checkpoint may be gone."""
    content = _content(path)
    match = _CHECKPOINT.fullmatch(content.decode("utf-8", "replace").strip()) if content else None
    return int(match[1]) if match else None


def _scores(path: str) -> dict[str, float]:
    try:
        found = json.loads(_content(path) or b"{}").get("scores", {})
        return {str(key): float(value) for key, value in found.items() if isinstance(value, int | float)}
    except (ValueError, AttributeError):
        return {}


# ---- marks -----------------------------------------------------------------------------------------------------


def check_status(status: str) -> None:
    """Raise MlkitError for a status that is none."""
    if status not in STATUSES:
        raise MlkitError(f"unknown status '{status}'{did_you_mean(status, STATUSES)}; there are: {listing(STATUSES)}")


def write_mark(
    runs_dir: Path,
    name: str,
    *,
    status: str | None = None,
    note: str | None = None,
    tags: Sequence[str] = (),
    untag: Sequence[str] = (),
) -> Record:
    """Say of a run, or of one that is only planned, what it is; what is not named stays. Returns its record.

    Raises:
        MlkitError: for an unknown status or tag; for a run that is not there, unless its status is `planned`.
    """
    folder = runs_dir / name
    is_run = (folder / "run.json").is_file()
    problems = [f"'{tag}' cannot be a tag: up to 40 signs without space or comma" for tag in tags if not _fits(tag)]
    if problems:
        raise MlkitError(*problems)
    if status is not None:
        check_status(status)
    file = folder / "mark.json" if is_run else runs_dir / _PLANNED / f"{name}.json"
    before, problem = _mark(str(file))
    if problem:
        raise DataError(problem)
    if is_run and not before:
        before = {key: value for key, value in _plans(runs_dir).get(name, {}).items() if key != "status"}
    if not is_run and not before and status != "planned":
        known = [record.name for record in records(runs_dir)]
        raise MlkitError(
            f"unknown run '{name}'{did_you_mean(name, known)}; runs in {runs_dir}: {listing(known)}; a run that is not "
            f"there can only be planned: mlkit runs mark {name} planned"
        )
    if not is_run:
        check_run_name(name)
    absent = [tag for tag in untag if tag not in before.get("tags", ())]
    if absent:
        raise MlkitError(f"run '{name}' has no tag {listing(absent)}; it has {listing(before.get('tags', []))}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    said = {key: value for key, value in (("status", status), ("note", note)) if value is not None}
    kept = [tag for tag in before.get("tags", ()) if tag not in untag]
    write_json(
        file,
        {
            "created": now,
            **before,
            "format_version": MARK_FORMAT,
            **said,
            "tags": [*kept, *(tag for tag in dict.fromkeys(tags) if tag not in kept)],
            "history": [*before.get("history", ()), {"at": now, **said}],
        },
    )
    return next(record for record in records(runs_dir) if record.name == name) if not is_run else read_record(folder)


def _fits(tag: str) -> bool:
    return bool(_TAG.fullmatch(tag)) and tag.isprintable()


# ---- lineage ---------------------------------------------------------------------------------------------------


def parent_of(record: Record) -> tuple[str, str] | None:
    """Return the run and the checkpoint that a run began from, by name; None where it began with nothing."""
    parent = (record.about.get("lineage") or {}).get("parent")
    if not parent:
        return None
    place = Path(parent)
    return (place.parent.name, place.name) if _CHECKPOINT.fullmatch(place.name) else (place.name, "")


def lineage(record: Record, known: Mapping[str, Record]) -> list[tuple[str, str]]:
    """Return the ancestors of a run, the oldest first, each with the checkpoint that the next one began from."""
    found: list[tuple[str, str]] = []
    seen = {record.name}
    parent = parent_of(record)
    while parent:
        found.append(parent)
        if parent[0] in seen or parent[0] not in known:
            break
        seen.add(parent[0])
        parent = parent_of(known[parent[0]])
    return found[::-1]


def children(record: Record, known: Mapping[str, Record]) -> list[Record]:
    """Return the runs that began from a run, the oldest first."""
    found = [other for other in known.values() if (parent := parent_of(other)) and parent[0] == record.name]
    return sorted((other for other in found if other.name != record.name), key=lambda other: other.created)

"""Run folders: which exist, which one a name means, their checkpoints, their `run.json`.

Importing it costs only the standard library, so that listing and name completion start at once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mlkit.errors import CheckpointError, MlkitError, did_you_mean, listing
from mlkit.files import read_json, write_error, write_json
from mlkit.runs.curves import metric_rows

RUN_FORMAT = 1
Status = Literal["planned", "wip", "analysis", "success", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
POINTERS = ("best", "last")

_CHECKPOINT_NAME = re.compile(r"ckpt-(\d+)")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunRef:
    """What a name stands for: a run, and one of its checkpoints where the name said which."""

    folder: Path
    checkpoint: Path | None = None

    @property
    def label(self) -> str:
        """The run's name, followed by the checkpoint's where one was named."""
        name = self.folder.resolve().name
        return name if self.checkpoint is None else f"{name}/{self.checkpoint.name}"

    def chosen_checkpoint(self) -> Path:
        """Return the named checkpoint, or the run's default one (best, else last, else newest)."""
        return self.checkpoint or default_checkpoint(self.folder)


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that `mlkit train --seeds` made of one preset: the same training from several seeds."""

    name: str
    runs: tuple[RunRef, ...]

    @property
    def label(self) -> str:
        """The group's name."""
        return self.name


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run: it has a run.json."""
    return (folder / "run.json").is_file()


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a complete checkpoint: checkpoint.json is what a save writes last."""
    return (folder / "checkpoint.json").is_file()


def list_runs(runs_dir: Path) -> list[Path]:
    """Return the run folders under `runs_dir`, sorted by name; empty when the folder does not exist."""
    if not runs_dir.is_dir():
        return []
    return sorted(child for child in runs_dir.iterdir() if not child.name.startswith(".") and is_run(child))


def checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints of a run, sorted by step."""
    found = [
        (int(match[1]), child)
        for child in run.iterdir()
        if (match := _CHECKPOINT_NAME.fullmatch(child.name)) and is_checkpoint(child)
    ]
    return [folder for _, folder in sorted(found)]


def checkpoint_step(checkpoint: Path) -> int | None:
    """Return the step in the folder's name, or None when it is not called ckpt-<step>."""
    match = _CHECKPOINT_NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def read_pointer(run: Path, which: str) -> Path | None:
    """Return the checkpoint that `best` or `last` names, or None when there is no such pointer.

    Raises:
        CheckpointError: when it names no checkpoint of this run.
    """
    assert which in POINTERS, which
    file = run / which
    if not file.is_file():
        return None
    named = file.read_text(encoding="utf-8", errors="replace").strip()
    if _CHECKPOINT_NAME.fullmatch(named) and is_checkpoint(run / named):
        return run / named
    there = listing([folder.name for folder in checkpoints(run)])
    raise CheckpointError(f"{file} names '{named[:80]}', which is no complete checkpoint; there are: {there}")


def default_checkpoint(run: Path) -> Path:
    """Return a run's best checkpoint, else its last, else its newest.

    Raises:
        CheckpointError: when the run has none.
    """
    for which in POINTERS:
        try:
            if pointed := read_pointer(run, which):
                return pointed
        except CheckpointError as error:  # a pointer that outlived its checkpoint must not hide the others
            _log.warning("%s; looking further", error)
    existing = checkpoints(run)
    if not existing:
        raise CheckpointError(f"run {run} has no complete checkpoint yet; wait for the first one, or train it again")
    return existing[-1]


def nonfinite_steps(run: Path) -> int:
    """Return how many non-finite steps a run has left evidence of."""
    # one file a step and rank: nonfinite-00000120-rank0.json
    return len({file.stem.split("-rank")[0] for file in run.glob("nonfinite-*.json")})


def training_losses(run: Path) -> list[float]:
    """Return the training loss of each logged step: `objective` where a run has it, which no warm-up changes.

    A half-written last row (a kill) is left out. Raises DataError for a damaged one.
    """
    found = [row.get("objective", row.get("loss")) for row in metric_rows(run) if "split" not in row]
    return [float(value) for value in found if value is not None]


def primary_metric(run: Path) -> str:
    """Return the metric that chooses a run's best checkpoint; "" where it is not known."""
    return str(read_run_json(run).get("primary_metric") or "") if is_run(run) else ""


# ---------------------------------------------------------------------------------------------- names


def seed_run_name(group: str, seed: int) -> str:
    """Return the name of a group's run."""
    return f"{group}-s{seed}"


def group_runs(group: str, runs_dir: Path) -> list[Path]:
    """Return the runs of a group, by seed; empty when there is no such group."""
    found = [
        (int(match[1]), folder)
        for folder in list_runs(runs_dir)
        if (match := re.fullmatch(re.escape(group) + r"-s(\d+)", folder.name))
        and read_run_json(folder).get("group") == group
    ]
    return [folder for _, folder in sorted(found)]


def resolve_run(name: str, runs_dir: Path) -> RunRef:
    """Return what `name` stands for: a run by its exact name or a unique prefix, or a path to a run or checkpoint.

    Args:
        name: "baseline_c16", "base", "runs/baseline_c16", "baseline_c16/ckpt-500", "baseline_c16/best".
        runs_dir: where runs lie; a path is looked up below it first, then as it is.

    Raises:
        MlkitError: when nothing or more than one run fits; the sentence lists what exists.
    """
    places = (runs_dir / name, Path(name)) if name else ()
    for place in places:
        if is_run(place):
            return RunRef(place)
        if is_checkpoint(place):
            return RunRef(place.absolute().parent, place.absolute())
        if place.is_dir() and checkpoints(place):  # copied without its run.json
            return RunRef(place)
    for place in places:
        if (place.name in POINTERS or _CHECKPOINT_NAME.fullmatch(place.name)) and is_run(place.parent):
            return RunRef(place.absolute().parent, _pointed_checkpoint(place.absolute()))
    existing = [folder.name for folder in list_runs(runs_dir)]
    prefix, _, checkpoint = name.rpartition("/")
    if prefix and (checkpoint in POINTERS or _CHECKPOINT_NAME.fullmatch(checkpoint)):
        named = [run for run in existing if run.startswith(prefix)]
        if len(named) == 1:
            return resolve_run(f"{named[0]}/{checkpoint}", runs_dir)
    fitting = [run for run in existing if name and run.startswith(name)]
    if len(fitting) == 1:
        return RunRef(runs_dir / fitting[0])
    if fitting:
        raise MlkitError(f"'{name}' fits {len(fitting)} runs: {listing(fitting)}; give more of the name")
    if not existing:
        raise MlkitError(
            f"unknown run '{name}': there is no run in {runs_dir} yet; "
            "start one with: mlkit train --preset PRESET, or set MLKIT_RUNS_DIR to where runs lie"
        )
    raise MlkitError(f"unknown run '{name}'{did_you_mean(name, existing)}; runs in {runs_dir}: {listing(existing)}")


def resolve_runs(names: Sequence[str], runs_dir: Path) -> list[RunRef | RunGroup]:
    """Return the group of each name, else `resolve_run` of it; one MlkitError has all that could not be resolved."""
    found: list[RunRef | RunGroup] = []
    errors: list[MlkitError] = []
    for name in names:
        try:
            group = group_runs(name, runs_dir)
            found.append(RunGroup(name, tuple(map(RunRef, group))) if group else resolve_run(name, runs_dir))
        except MlkitError as error:
            errors.append(error)
    if errors:
        raise type(errors[0])(*(problem for error in errors for problem in error.problems))
    return found


def _pointed_checkpoint(place: Path) -> Path:
    """Return the checkpoint that `<run>/best` or `<run>/last` points at; no other name reaches here complete."""
    if place.name in POINTERS and (pointed := read_pointer(place.parent, place.name)):
        return pointed
    there = [folder.name for folder in checkpoints(place.parent)]
    raise CheckpointError(
        f"run {place.absolute().parent.name} has no complete checkpoint '{place.name}'; there are: {listing(there)}"
    )


# ----------------------------------------------------------------------------------- making and changing


def new_run_folder(runs_dir: Path, name: str) -> Path:
    """Make and return the folder of a new run.

    Raises:
        MlkitError: when the name is taken (with the next free one) or cannot be a folder's name everywhere.
    """
    check_run_name(name)
    folder = runs_dir / name
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        folder.mkdir()  # of two processes that want one name, one gets it
    except FileExistsError:
        if not runs_dir.is_dir():
            raise MlkitError(f"{runs_dir} is a file; set MLKIT_RUNS_DIR to a folder for runs") from None
        free = next_free_name(runs_dir, name)
        raise MlkitError(f"a run '{name}' exists in {runs_dir}; use --name {free}, or resume it") from None
    except OSError as error:
        raise write_error(folder, error) from error
    return folder


def check_run_name(name: str) -> None:
    """Raise MlkitError for a name that cannot be a folder's name everywhere."""
    if not _RUN_NAME.fullmatch(name) or name.endswith("."):
        raise MlkitError(
            f"'{name}' cannot be a run's name: use up to 100 letters, digits, '_', '-' and '.', beginning with a "
            "letter or digit, such as residual_v1_c16"
        )


def next_free_name(runs_dir: Path, name: str) -> str:
    """Return `name` when it is free, else the first free of name_2, name_3, ..."""
    stem, counted = name, 1
    # "a_2" counts on as "a_3" only where "a" is there: in "option_2" the number may be part of the name
    if (match := re.fullmatch(r"(.+)_(\d+)", name)) and (runs_dir / match[1]).exists():
        stem, counted = match[1], int(match[2])
    while (runs_dir / name).exists():
        counted += 1
        name = f"{stem}_{counted}"
    return name


def read_run_json(run: Path) -> dict[str, Any]:
    """Return a run's run.json. Raises DataError when it is missing, damaged or newer than this mlkit."""
    return read_json(run / "run.json", "run", RUN_FORMAT)


def write_run_json(run: Path, value: Mapping[str, Any]) -> Path:
    """Write a run's run.json atomically with the format version of this mlkit; returns its path."""
    _check_status(value.get("status"))
    return write_json(run / "run.json", {**value, "format_version": RUN_FORMAT})


def set_status(run: Path, status: str) -> None:
    """Change a run's status and nothing else. Raises MlkitError for a status that is none."""
    _check_status(status)
    write_run_json(run, {**read_run_json(run), "status": status})


def _check_status(status: object) -> None:
    if status not in STATUSES:
        raise MlkitError(
            f"unknown status '{status}'{did_you_mean(str(status), STATUSES)}; there are: {listing(STATUSES)}"
        )

"""`mlkit runs verify` and `prune`: checkpoints that are whole, and those that nobody needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlkit.checkpoint import checkpoint_folders, damages, open_checkpoint, prunable, remove_checkpoints
from mlkit.commands.printing import print_json, print_table
from mlkit.commands.run_lists import runs_dir
from mlkit.errors import CheckpointError, MlkitError
from mlkit.files import locked
from mlkit.metrics import METRICS, goodness
from mlkit.runs.folders import POINTERS, list_runs, read_pointer, resolve_run
from mlkit.runs.records import read_record


def _named(names: Sequence[str]) -> list[Path]:
    """Return the runs of these names, or all.

    Raises:
        MlkitError: with every name that fits no run.
    """
    if not names:
        return list_runs(runs_dir())
    found: list[Path] = []
    problems: list[str] = []
    for name in names:
        try:
            found.append(resolve_run(name, runs_dir()).folder)
        except MlkitError as error:
            problems += error.problems
    if problems:
        raise MlkitError(*problems)
    return found


def verify_runs(names: Sequence[str], *, as_json: bool) -> None:
    """Print which checkpoints are whole.

    Raises:
        CheckpointError: with what is damaged.
    """
    rows: list[dict[str, Any]] = []
    for run in _named(names):
        for folder in checkpoint_folders(run):
            problems = checkpoint_problems(folder)
            rows.append({"run": run.name, "checkpoint": folder.name, "ok": not problems, "problems": problems})
    if as_json:
        print_json(rows)
    elif rows:
        cells = [[row["run"], row["checkpoint"], "ok" if row["ok"] else "damaged"] for row in rows]
        print_table(("Run", "Checkpoint", "Files"), cells, fold=("Run",))
    else:
        print(f"{runs_dir()}: no checkpoint to check", file=sys.stderr)  # noqa: T201
    if wrong := [problem for row in rows for problem in row["problems"]]:
        raise CheckpointError(*wrong)


def checkpoint_problems(folder: Path) -> list[str]:
    """Return what is wrong with a checkpoint, a sentence each; every file is read."""
    try:
        checkpoint = open_checkpoint(folder, verify=False)
    except CheckpointError as error:
        return list(error.problems)
    return [f"checkpoint {folder}: {problem}" for problem in damages(checkpoint)]


# ---- prune -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Doomed:
    run: Path
    folders: list[Path]
    size: int  # bytes


def prune_runs(
    names: Sequence[str],
    *,
    keep_last: int,
    keep_best: int,
    keep_every: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove checkpoints that no rule keeps, after asking; a run in training is left alone.

    Raises:
        MlkitError: when it cannot ask.
    """
    doomed = [one for run in _named(names) if (one := _doomed(run, keep_last, keep_best, keep_every)) and one.folders]
    rows = [[one.run.name, ", ".join(folder.name for folder in one.folders), _size(one.size)] for one in doomed]
    total = sum(one.size for one in doomed)
    count = sum(len(one.folders) for one in doomed)
    if not as_json and rows:
        print_table(("Run", "To remove", "Size"), rows, right=("Size",), fold=("Run", "To remove"))
    if not rows:
        print("nothing to remove", file=sys.stderr)  # noqa: T201
    elif not dry_run and (yes or _agreed(f"Remove {count} checkpoints, {_size(total)}?")):
        for one in doomed:
            with locked(one.run) as held:
                if held is False:
                    print(f"warning: {one.run.name} is in training now, left alone", file=sys.stderr)  # noqa: T201
                    continue
                remove_checkpoints(one.folders)
        print(f"removed {count} checkpoints, {_size(total)}", file=sys.stderr)  # noqa: T201
    if as_json:
        runs = [
            {"run": one.run.name, "checkpoints": [folder.name for folder in one.folders], "bytes": one.size}
            for one in doomed
        ]
        print_json({"removed": not dry_run, "runs": runs, "bytes": total})


def _doomed(run: Path, keep_last: int, keep_best: int, keep_every: int | None) -> _Doomed | None:
    """Return what may go of a run; None where it is in training."""
    with locked(run) as held:
        if held is False:
            print(f"warning: {run.name} is in training, left alone", file=sys.stderr)  # noqa: T201
            return None
    protect = []
    for which in POINTERS:
        try:
            if pointed := read_pointer(run, which):
                protect.append(pointed)
        except CheckpointError as error:
            print(f"warning: {error}", file=sys.stderr)  # noqa: T201
    primary = read_record(run).primary

    def score(folder: Path) -> float | None:
        if primary not in METRICS:
            return None
        try:
            value = open_checkpoint(folder, verify=False).info.get("scores", {}).get(primary)
        except CheckpointError:
            return None
        return None if value is None else goodness(primary, value)

    folders = prunable(
        run, keep_last=keep_last, keep_best=keep_best, keep_every=keep_every, score=score, protect=protect
    )
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return _Doomed(run, folders, sum(file.stat().st_size for file in files))


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise MlkitError("nobody can be asked here; give --yes to remove them, or --dry-run to see them only")
    import typer

    return typer.confirm(question)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"

"""`mlkit runs list` and `mark`. Neither imports pydantic, so that a thousand runs are there at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mlkit.commands.printing import print_json, print_table
from mlkit.errors import MlkitError, did_you_mean, listing
from mlkit.metrics import METRICS, goodness
from mlkit.runs.folders import resolve_run
from mlkit.runs.records import DAMAGED, Record, check_status, records, write_mark
from mlkit.tasks import TASKS

HEAD = ("Run", "Task", "Preset", "Status", "Step", "Best", "Created", "Tags", "Note")


def runs_dir() -> Path:
    """Return where runs lie: `Places().runs_dir`, without pydantic."""
    return Path(os.environ.get("MLKIT_RUNS_DIR") or "runs")


def list_runs(
    task: str | None,
    status: str | None,
    preset: str | None,
    tags: Sequence[str],
    *,
    sort: str,
    reverse: bool,
    as_json: bool,
) -> None:
    """Print the runs that fit.

    Raises:
        MlkitError: for an unknown task or status.
    """
    if task is not None and task not in TASKS:
        raise MlkitError(f"unknown task '{task}'{did_you_mean(task, TASKS)}; there are {listing(TASKS)}")
    if status not in (None, DAMAGED):
        check_status(status)
    everything = records(runs_dir())
    found = [
        one
        for one in everything
        if task in (None, one.task)
        and status in (None, one.status)
        and preset in (None, one.preset)
        and set(tags) <= set(one.tags)
    ]
    if preset is not None and not found and (near := did_you_mean(preset, {one.preset for one in everything})):
        raise MlkitError(f"no run of a preset '{preset}'{near}")
    found = sorted_records(found, sort)
    if reverse:
        found.reverse()
    if as_json:
        print_json([one.to_json() for one in found])
        return
    for one in found:
        if one.problem:
            print(f"warning: {one.problem}", file=sys.stderr)  # noqa: T201
    if not found:
        where = "no run fits" if everything else "there is no run yet; start one with: mlkit train --preset PRESET"
        print(f"{runs_dir()}: {where}", file=sys.stderr)  # noqa: T201
        return
    print_table(HEAD, [row_of(one) for one in found], right=("Step",), fold=("Run", "Preset", "Tags", "Note"))


def sorted_records(found: Sequence[Record], sort: str) -> list[Record]:
    """Return records in the order that is asked for; what has no such value comes last."""
    by_name = sorted(found, key=lambda one: one.name)
    if sort == "created":
        return sorted(by_name, key=lambda one: one.created, reverse=True)
    if sort == "score":
        return sorted(by_name, key=lambda one: -_goodness(one))
    if sort == "step":
        return sorted(by_name, key=lambda one: -(one.step if one.step is not None else -1))
    return by_name if sort == "name" else sorted(by_name, key=lambda one: str(getattr(one, sort)))


def _goodness(record: Record) -> float:
    if record.score is None or record.primary not in METRICS:
        return -float("inf")
    return goodness(record.primary, record.score)


def row_of(record: Record) -> list[str]:
    """Return the cells of a run."""
    step = "-" if record.step is None else f"{record.step:,}"
    best = score_text(record.primary, record.score)
    created = record.created[:16].replace("T", " ")
    named = (record.name, record.task or "-", record.preset or "-", record.status, step)
    return [*named, best, created or "-", " ".join(record.tags) or "-", record.note or "-"]


def score_text(metric: str | None, value: float | None) -> str:
    """Return "PSNR 21.34 dB", "-" where there is no score."""
    if metric is None or value is None:
        return "-"
    known = METRICS.get(metric)
    if known is None:
        return f"{metric} {value:.4g}"
    return f"{known.name} {value:.{known.decimals}f}{f' {known.unit}' if known.unit else ''}"


def mark_run(
    name: str, status: str | None, note: str | None, tags: Sequence[str], untag: Sequence[str], *, as_json: bool
) -> None:
    """Write a mark, and print what the run is now.

    Raises:
        MlkitError: when nothing is said, or the run is not there.
    """
    if status is None and note is None and not tags and not untag:
        raise MlkitError(f"nothing is said of '{name}': give a status, --note, --tag or --untag")
    if status != "planned":
        with suppress(MlkitError):  # a planned one, or told below
            name = resolve_run(name, runs_dir()).folder.resolve().name
    record = write_mark(runs_dir(), name, status=status, note=note, tags=tags, untag=untag)
    if as_json:
        print_json(record.to_json())
    else:
        print_table(HEAD, [row_of(record)], right=("Step",), fold=("Run", "Preset", "Tags", "Note"))

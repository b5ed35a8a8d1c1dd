"""`mlkit runs board`: the dashboard of experiments as a Markdown page that only the runs themselves decide."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mlkit.commands.printing import plain_text
from mlkit.commands.run_lists import runs_dir
from mlkit.errors import MlkitError, did_you_mean, listing
from mlkit.files import write_text
from mlkit.metrics import METRICS, get_metric
from mlkit.runs.records import Record, parent_of, records
from mlkit.tasks import TASKS

STATUS_WORDS = {
    "planned": "to be trained",
    "wip": "in training, or stopped on the way",
    "analysis": "trained, being looked at",
    "success": "trained, and as good as hoped unless a note says otherwise",
    "failed": "ended by an error, or not as good as hoped",
    "damaged": "its run.json cannot be read",
}
# Of the details that a table of `compare` leaves out, those that a dashboard wants: bright light, and artifacts.
_SHOWN_DETAILS = ("highlight_error", "zipper")
_MOST = 7


def write_board(out: Path, task: str | None, metrics: str | None) -> None:
    """Write the page.

    Raises:
        MlkitError: for an unknown task or metric, or when there is nothing to show.
    """
    if task is not None and task not in TASKS:
        raise MlkitError(f"unknown task '{task}'{did_you_mean(task, TASKS)}; there are {listing(TASKS)}")
    columns = [get_metric(key.strip()).key for key in metrics.split(",")] if metrics else None
    found = [one for one in records(runs_dir()) if task in (None, one.task)]
    if not found:
        raise MlkitError(f"no run to show in {runs_dir()}; start one with: mlkit train --preset PRESET")
    write_text(out, board_page(found, columns))
    print(f"written: {out}, {len(found)} runs", file=sys.stderr)  # noqa: T201


def board_page(found: Sequence[Record], columns: Sequence[str] | None = None) -> str:
    """Return the page: a table for each task and dataset, the newest run first, and the notes."""
    lines = [
        "# Experiments",
        "",
        "Written by `mlkit runs board` from the runs themselves. Scores are means over the validation images of each",
        "run's best checkpoint; only runs on the same data stand in one table. `mlkit compare` says which differences",
        "are more than chance.",
        "",
        *_table(("status", "meaning", "runs"), _legend(found)),
    ]
    for task in sorted({one.task for one in found if one.task}, key=TASKS.index):
        lines += ["", f"## {task}"]
        of_task = [one for one in found if one.task == task]
        shown = list(columns) if columns else default_columns(of_task)
        for data in sorted({_data(one) for one in of_task}):
            of_data = [one for one in of_task if _data(one) == data]
            label = str(of_data[0].about.get("dataset_label") or "")
            lines += ["", f"### Data `{data}`{f' ({label})' if label else ''}", "", *_runs_table(of_data, shown)]
    others = [one for one in found if not one.task]
    if others:
        rows = [[_name(one), one.status, _cell(one.note)] for one in _newest_first(others)]
        lines += ["", "## To come, or not readable", "", *_table(("run", "status", "note"), rows)]
    return "\n".join(lines) + "\n"


def default_columns(found: Sequence[Record]) -> list[str]:
    """Return the metrics that these runs have, in the order of METRICS."""
    present = {key for one in found for key in one.scores}
    plain = [key for key, metric in METRICS.items() if key in present and key != "loss" and not metric.detail]
    return plain[: _MOST - len(_SHOWN_DETAILS)] + [key for key in _SHOWN_DETAILS if key in present]


def _legend(found: Sequence[Record]) -> list[list[str]]:
    counts = {status: sum(one.status == status for one in found) for status in STATUS_WORDS}
    return [
        [f"`{status}`", words, str(counts[status])]
        for status, words in STATUS_WORDS.items()
        if counts[status] or status != "damaged"
    ]


def _runs_table(found: Sequence[Record], columns: Sequence[str]) -> list[str]:
    heads = [METRICS[key].name + (f" [{METRICS[key].unit}]" if METRICS[key].unit else "") for key in columns]
    rows = []
    for one in _newest_first(found):
        scores = [
            "-" if (value := one.scores.get(key)) is None else f"{value:.{METRICS[key].decimals}f}" for key in columns
        ]
        parent = parent_of(one)
        step = "-" if one.best_step is None else f"{one.best_step:,}"
        begun = "/".join(part for part in parent if part) if parent else "-"
        rows.append(
            [_name(one), one.status, *scores, step, one.preset or "-", begun, one.created[:10] or "-", _cell(one.note)]
        )
    head = ("run", "status", *heads, "best step", "preset", "began from", "date", "note")
    return _table(head, rows, right=len(heads) + 1)


def _newest_first(found: Sequence[Record]) -> list[Record]:
    by_name = sorted(found, key=lambda one: one.name)
    return sorted(by_name, key=lambda one: one.created, reverse=True)


def _data(record: Record) -> str:
    return str(record.about.get("dataset_sha256") or "unknown")[:12]


def _name(record: Record) -> str:
    return f"`{record.name}`" + (f" {' '.join(f'#{tag}' for tag in record.tags)}" if record.tags else "")


def _cell(text: str) -> str:
    return plain_text(text).strip() or "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 0) -> list[str]:
    """Return a Markdown table; the `right` columns after the second are numbers."""
    rule = ["---:" if right and 2 <= place < 2 + right else "---" for place in range(len(head))]
    cells = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *cells)]

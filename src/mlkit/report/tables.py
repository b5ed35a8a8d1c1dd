"""A comparison as tables: for the terminal (Rich) and for a page (Markdown). Rich is imported when it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlkit.evaluation.comparison import Comparison, Row
from mlkit.evaluation.criteria import Judged
from mlkit.evaluation.statistics import Difference
from mlkit.metrics import BETTER_TEXT, METRICS

if TYPE_CHECKING:
    from rich.console import RenderableType

MISSING = "-"
_WHOLE = ("Improvement", "Verdict")  # columns of words that are not wrapped
_FACTS = {"values_ratio": ("Values", "1/{:g}"), "bits_per_px": ("Bits/px", "{:.2f}")}


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text, before any layout."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_text: int = 1  # leading columns of words; the others are numbers, set to the right


def format_value(key: str, value: float | None, *, signed: bool = False, unit: bool = False) -> str:
    """Return a score with the metric's decimals, "-" where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    metric = METRICS.get(key)
    decimals = metric.decimals if metric else 0  # what is no metric is a count
    rounded = round(value, decimals) + 0.0  # + 0.0: "-0.00" is 0.00
    text = f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}"
    return f"{text} {metric.unit}" if unit and metric and metric.unit else text


def format_count(count: int | None) -> str:
    """Return a number of parameters to three digits: 950, 12.3 k, 1.23 M."""
    if count is None:
        return MISSING
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= size * 0.9995:
            share = count / size
            return f"{share:.{2 if share < 9.995 else 1 if share < 99.95 else 0}f} {letter}"
    return str(count)


def title(comparison: Comparison) -> str:
    """Return one line: who, on how many images, and "simulated" where the images are."""
    names = " vs ".join(row.name for row in comparison.rows)
    label = f" ({comparison.dataset_label})" if comparison.dataset_label else ""
    images = "image" if comparison.num_images == 1 else "images"
    return f"{names}: {comparison.num_images} {comparison.split} {images}{label}"


def tables(comparison: Comparison) -> list[Table]:
    """Return the models, the improvement of each over the first, and the criteria where there are any."""
    found = [_models(comparison), *(_improvements(comparison, row) for row in comparison.rows[1:])]
    if any(row.criteria for row in comparison.rows):
        cells = [[row.name, judged.sentence, *_judged(judged)] for row in comparison.rows for judged in row.criteria]
        found.append(Table("Criteria", ("Model", "Criterion", "Result", "Found"), cells, num_text=3))
    return found


def footnotes(comparison: Comparison) -> list[str]:
    """Return the sentences below the tables."""
    steps = ", ".join(f"{row.name} at step {row.step}" for row in comparison.rows)
    return [
        f"Improvement is over {comparison.rows[0].name}, positive is better, with its 95 % interval (paired "
        "studentised bootstrap over images). A verdict needs an interval without 0 and a sign-flip p of at most 0.05, "
        "each metric for itself. Smallest shown: the difference that as many images show with 80 % power.",
        f"Checkpoints: {steps}.",
        *comparison.notes,
    ]


def markdown(comparison: Comparison) -> str:
    """Return the comparison as a Markdown page."""
    lines = [f"# {title(comparison)}", ""]
    for table in tables(comparison):
        rule = ["---"] * table.num_text + ["---:"] * (len(table.head) - table.num_text)
        lines += [f"## {table.title}", "", _line(table.head), _line(rule), *map(_line, table.rows), ""]
    lines += [f"- {note}" for note in footnotes(comparison)]
    lines += [f"- dataset `{comparison.dataset_sha256[:12]}`"]
    lines += [
        f"- {METRICS[key].name}: {BETTER_TEXT[METRICS[key].better]} is better, `{text}`"
        for key, text in comparison.signatures.items()
    ]
    return "\n".join(lines) + "\n"


def rich_tables(comparison: Comparison) -> RenderableType:
    """Return what a Rich console prints for the comparison."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    colors = {"better": "green", "worse": "red", "pass": "green", "fail": "bold red"}
    parts: list[RenderableType] = [Text(title(comparison), style="bold"), Text()]
    for table in tables(comparison):
        # Text throughout: a name in square brackets is no markup
        drawn = RichTable(
            title=Text(table.title), title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=0
        )
        for place, name in enumerate(table.head):
            side: Literal["left", "right"] = "left" if place < table.num_text else "right"
            # In a narrow window names give way; numbers and verdicts do not.
            whole = place >= table.num_text or name in _WHOLE
            least = [*name.split(), *(row[place] for row in table.rows if whole)]
            drawn.add_column(Text(name), justify=side, overflow="fold", min_width=max(map(len, least)))
        for row in table.rows:
            drawn.add_row(*(Text(cell, style=colors.get(cell, "")) for cell in row))
        parts.append(drawn)
    parts += [Text(note, style="dim") for note in footnotes(comparison)]
    return Group(*parts)


def _models(comparison: Comparison) -> Table:
    facts = [fact for fact in _FACTS if any(fact in row.facts for row in comparison.rows)]
    head = ["Model", "Params", *map(_heading, comparison.metrics), *(_FACTS[fact][0] for fact in facts)]
    return Table("Models", head, [_model(row, comparison.metrics, facts) for row in comparison.rows])


def _model(row: Row, metrics: Sequence[str], facts: Sequence[str]) -> list[str]:
    scores = [format_value(key, row.means[key]) for key in metrics]
    stored = [_FACTS[fact][1].format(row.facts[fact]) if fact in row.facts else MISSING for fact in facts]
    return [row.name, format_count(row.parameters), *scores, *stored]


def _improvements(comparison: Comparison, row: Row) -> Table:
    head = ("Metric", "Improvement", "Verdict", "p", "Smallest shown")
    cells = [[_heading(key), *_improvement(key, row.differences[key])] for key in comparison.metrics]
    return Table(f"{row.name} over {comparison.rows[0].name}", head, cells, num_text=3)


def _improvement(key: str, found: Difference) -> list[str]:
    low, mean, high = (
        format_value(key, value, signed=True)
        for value in (found.improvement.low, found.improvement.mean, found.improvement.high)
    )
    with_interval = mean if MISSING in (low, high) else f"{mean} [{low}, {high}]"
    p = "<0.001" if found.p < 0.001 else f"{found.p:.3f}"
    return [with_interval, found.verdict, p, format_value(key, found.improvement.smallest_shown)]


def _judged(judged: Judged) -> tuple[str, str]:
    result = "not judged" if judged.passed is None else "pass" if judged.passed else "fail"
    if judged.value is None:
        return result, judged.reason
    return result, format_value(judged.metric, judged.value, unit=True)


def _heading(key: str) -> str:
    metric = METRICS[key]
    return f"{metric.name} [{metric.unit}]" if metric.unit and metric.unit not in metric.name.split() else metric.name


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

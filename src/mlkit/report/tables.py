"""A comparison as tables: for the terminal (Rich) and for a page (Markdown). Rich is imported when it is used."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Literal

from mlkit.evaluation.comparison import Comparison, Row
from mlkit.evaluation.criteria import Judged
from mlkit.evaluation.statistics import Difference
from mlkit.metrics import BETTER_TEXT, METRICS
from mlkit.report.values import MISSING, Table, format_count, format_p, format_value, heading, with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

_WHOLE = ("Improvement", "Verdict")  # columns of words that are not wrapped
_MANY = 16  # figures of one family, such as the KL of each latent dimension, above which a table only summarises them
_MOST_COLUMNS = 9  # that a window of 80 columns holds
_FACTS = {"values_ratio": ("Values", "1/{:g}"), "bits_per_px": ("Bits/px", "{:.2f}")}


def title(comparison: Comparison) -> str:
    """Return one line: who, on how many images, and "simulated" where the images are."""
    names = " vs ".join(row.name for row in comparison.rows)
    label = f" ({comparison.dataset_label})" if comparison.dataset_label else ""
    images = "image" if comparison.num_images == 1 else "images"
    return f"{names}: {comparison.num_images} {comparison.split} {images}{label}"


def tables(comparison: Comparison) -> list[Table]:
    """Return the models, the improvement of each over the first, what else there is, criteria and the worst images."""
    rows = comparison.rows
    found = [_models(comparison), *(_improvements(comparison, row) for row in rows[1:]), *further_tables(comparison)]
    if any(row.criteria for row in rows):
        cells = [[row.name, judged.sentence, *_judged(judged)] for row in rows for judged in row.criteria]
        found.append(Table("Criteria", ("Model", "Criterion", "Result", "Found"), cells, num_text=3))
    return found + [_worst(comparison, row) for row in rows[1:] if row.worst]


def further_tables(comparison: Comparison) -> list[Table]:
    """Return what there is of seeds, details, figures of the whole set, families of images, and the trainings."""
    rows, found = comparison.rows, []
    if any(row.seeds for row in rows):
        found += [_seed_means(comparison), *(_seed_improvements(comparison, row) for row in rows[1:] if row.seeds)]
    if details := [key for key in comparison.metrics if METRICS[key].detail]:
        told = f"In detail, with what is shown against {rows[0].name}"
        found.append(Table(told, ("Metric", *_names(rows)), [_detail(key, rows) for key in details]))
    if figures := _set_figures(rows):
        found.append(Table("Of the whole set", ("Figure", *_names(rows)), figures))
    if comparison.family_sizes:
        found.append(_families(comparison))
    if any(row.seeds or not math.isnan(row.fluctuation) for row in rows):
        found.append(_trainings(rows))
    return found


def footnotes(comparison: Comparison) -> list[str]:
    """Return the sentences below the tables."""
    steps = ", ".join(f"{row.name} at step {_steps(row)}" for row in comparison.rows)
    grouped = (
        "A model of several seeds has the mean of its runs, image by image. Over seeds each run counts as one (95 %: "
        "Student's t for a mean, Welch's t for a difference), which tells what training again could change."
    )
    several = len(comparison.rows) - 1
    corrected = f", corrected for {several} comparisons (Holm)" if several > 1 else ""
    return [
        f"Improvement is over {comparison.rows[0].name}, positive is better, with its 95 % interval (paired "
        f"studentised bootstrap over images). A verdict needs an interval without 0 and a sign-flip p{corrected} of at "
        "most 0.05, each metric for itself. W/T/L: images won, tied, lost. Smallest shown: the difference that as many "
        "images show with 80 % power.",
        *([grouped] if any(row.seeds for row in comparison.rows) else []),
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
            drawn.add_column(
                Text(name),
                justify=side,
                overflow="fold",
                min_width=max(map(len, least)),
                # Rich takes width from the widest column that may wrap, and gives none back below its least.
                no_wrap=whole and " " not in name,
            )
        for row in table.rows:
            drawn.add_row(*(Text(cell, style=colors.get(cell, "")) for cell in row))
        parts.append(drawn)
    parts += [Text(note, style="dim") for note in footnotes(comparison)]
    return Group(*parts)


def _models(comparison: Comparison) -> Table:
    facts = [fact for fact in _FACTS if any(fact in row.facts for row in comparison.rows)]
    metrics = main_metrics(comparison)
    head = ["Model", "Params", *map(heading, metrics), *(_FACTS[fact][0] for fact in facts)]
    cells = [_model(row, metrics, facts) for row in comparison.rows]
    if len(head) <= _MOST_COLUMNS:
        return Table("Models", head, cells)
    turned = [list(line) for line in zip(head, *cells, strict=True)]  # a column a model
    return Table("Models", turned[0], turned[1:])


def _model(row: Row, metrics: Sequence[str], facts: Sequence[str]) -> list[str]:
    scores = [format_value(key, row.means[key]) for key in metrics]
    stored = [_FACTS[fact][1].format(row.facts[fact]) if fact in row.facts else MISSING for fact in facts]
    return [row.name, format_count(row.parameters), *scores, *stored]


def _improvements(comparison: Comparison, row: Row) -> Table:
    head = ("Metric", "Improvement", "Verdict", "W/T/L", "p", "Smallest shown")
    cells = [[heading(key), *_improvement(key, row.differences[key])] for key in main_metrics(comparison)]
    return Table(f"{row.name} over {comparison.rows[0].name}", head, cells, num_text=3)


def _improvement(key: str, found: Difference) -> list[str]:
    interval = with_interval(key, found.improvement, signed=True)
    images = f"{found.wins}/{found.ties}/{found.losses}"
    return [interval, found.verdict, images, format_p(found.p_holm), format_value(key, found.smallest_shown)]


def _worst(comparison: Comparison, row: Row) -> Table:
    key = comparison.main
    head = ("Image", comparison.rows[0].name, row.name, "Improvement")
    cells = [
        [
            image.id,
            format_value(key, image.first),
            format_value(key, image.other),
            format_value(key, image.improvement, signed=True),
        ]
        for image in row.worst
    ]
    return Table(f"Worst images of {row.name}: {heading(key)}", head, cells)


def _seed_means(comparison: Comparison) -> Table:
    cells = [[heading(key), *(_cell(key, row) for row in comparison.rows)] for key in main_metrics(comparison)]
    return Table("Over seeds", ("Metric", *_names(comparison.rows)), cells)


def _cell(key: str, row: Row) -> str:
    """Return a mean or a figure of the whole set; of several seeds with the interval over them."""
    if row.seeds and key in row.seeds.intervals:
        return with_interval(key, row.seeds.intervals[key])
    return format_value(key, row.means.get(key, row.set_scores.get(key)))


def _seed_improvements(comparison: Comparison, row: Row) -> Table:
    assert row.seeds
    cells = [
        [heading(key), with_interval(key, row.seeds.improvements[key], signed=True), row.seeds.verdict(key)]
        for key in main_metrics(comparison)
        if key in row.seeds.improvements
    ]
    title = f"{row.name} over {comparison.rows[0].name}, over seeds"
    return Table(title, ("Metric", "Improvement", "Verdict"), cells, num_text=3)


def _detail(key: str, rows: Sequence[Row]) -> list[str]:
    """Return the row of a detail: each model's mean, with its verdict where there is a difference to the first."""
    shown = [_cell(key, row) for row in rows]
    found = [row.differences[key].verdict if key in row.differences else "" for row in rows]
    return [
        heading(key),
        *(f"{cell} {word}" if word in ("better", "worse") else cell for cell, word in zip(shown, found, strict=True)),
    ]


def _set_figures(rows: Sequence[Row]) -> list[list[str]]:
    """Return a line for each figure of the whole set; of a large family of figures its extremes and middle."""
    keys = list(dict.fromkeys(key for row in rows for key in row.set_scores))
    families: dict[str, list[str]] = {}
    for key in keys:
        families.setdefault(re.sub(r"_\d+$", "", key), []).append(key)
    lines = []
    for family, members in families.items():
        if len(members) <= _MANY:
            lines += [[key, *(_cell(key, row) for row in rows)] for key in members]
            continue
        for word, choose in (("min", min), ("median", median), ("max", max)):
            values = [[row.set_scores[key] for key in members if key in row.set_scores] for row in rows]
            shown = [format_value(family, choose(found) if found else None) for found in values]
            lines.append([f"{family}, {word} of {len(members)}", *shown])
    return lines


def _families(comparison: Comparison) -> Table:
    """Return the means of each family of images; sorted as they come, so that a model stands below the first."""
    metrics = main_metrics(comparison)
    cells = [
        [family, row.name, str(count), *(format_value(key, row.families[family][key]) for key in metrics)]
        for family, count in comparison.family_sizes.items()
        for row in comparison.rows
    ]
    return Table("By family", ("Family", "Model", "Images", *map(heading, metrics)), cells, num_text=2)


def _trainings(rows: Sequence[Row]) -> Table:
    head = ("Model", "Runs", "Step", "Largest fluctuation", "Non-finite steps")
    cells = [
        [
            row.name,
            str(len(row.seeds.names) if row.seeds else 1),
            _steps(row),
            format_value("fluctuation", row.fluctuation) if not math.isinf(row.fluctuation) else "never fell",
            str(row.nonfinite_steps),
        ]
        for row in rows
    ]
    return Table("Training", head, cells)


def _steps(row: Row) -> str:
    steps = dict.fromkeys(row.seeds.steps if row.seeds else [row.step])
    return "/".join(map(str, steps))


def _names(rows: Sequence[Row]) -> list[str]:
    return [row.name for row in rows]


def main_metrics(comparison: Comparison) -> list[str]:
    """Return the metrics of the main tables: all but details."""
    return [key for key in comparison.metrics if not METRICS[key].detail] or list(comparison.metrics)


def _judged(judged: Judged) -> tuple[str, str]:
    result = "not judged" if judged.passed is None else "pass" if judged.passed else "fail"
    if judged.value is None:
        return result, judged.reason
    return result, format_value(judged.metric, judged.value, unit=True)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

"""Tables and JSON on stdout, for the commands that list things. Rich is imported when a table is printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

COLORS = {
    "success": "green",
    "ok": "green",
    "failed": "bold red",
    "wip": "yellow",
    "analysis": "cyan",
    "planned": "dim",
    "default": "dim",
}


def print_json(value: Any) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))  # noqa: T201


def console() -> Any:
    """Return a console on stdout; into a pipe or a file no line is broken, so that `grep` finds whole ones."""
    from rich.console import Console

    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return Console()
    return Console(width=10_000)


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), fold: Sequence[str] = ()
) -> None:
    """Print a table.

    Args:
        head: names of the columns.
        rows: cells as text; words such as `failed` have a colour.
        right: columns of numbers, set to the right.
        fold: columns that may be broken over lines in a narrow window; the others are kept whole.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1), pad_edge=False, show_edge=False)
    for name in head:
        table.add_column(
            Text(name), justify="right" if name in right else "left", no_wrap=name not in fold, overflow="fold"
        )
    for row in rows:
        # Text throughout: a name in square brackets is no markup
        table.add_row(*(Text(cell, style=COLORS.get(cell, "")) for cell in row))
    console().print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names with their values, one a line."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(value, style=COLORS.get(value, "")))
    console().print(table)

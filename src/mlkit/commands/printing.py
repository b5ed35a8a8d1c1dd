"""Tables and JSON on stdout, for the commands that list things. Rich is imported when a table is printed."""

from __future__ import annotations

import json
import os
import shutil
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
    "damaged": "bold red",
}
_ANSI = {"bold": "1", "dim": "2", "green": "32", "yellow": "33", "cyan": "36", "bold red": "1;31"}


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
    """Print a table; a thousand rows take no time where no column must be folded.

    Args:
        head: names of the columns.
        rows: cells as text; words such as `failed` have a colour.
        right: columns of numbers, set to the right.
        fold: columns that may be broken over lines in a narrow window; the others are kept whole.
    """
    cells = [[plain_text(cell) for cell in row] for row in rows]
    widths = [max(map(_cells, (name, *(row[place] for row in cells)))) for place, name in enumerate(head)]
    window = shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None
    if fold and window is not None and sum(widths) + 3 * (len(head) - 1) > window:
        _print_folded(head, cells, right, fold)
        return
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def line(row: Sequence[str], style: str = "") -> str:
        parts = []
        for name, cell, width in zip(head, row, widths, strict=True):
            gap = " " * (width - _cells(cell))
            code = _ANSI.get(style or COLORS.get(cell, "")) if colored else None
            painted = f"\x1b[{code}m{cell}\x1b[0m" if code else cell
            parts.append(gap + painted if name in right else painted + gap)
        return "   ".join(parts).rstrip()

    lines = [line(head, "bold"), "─" * (sum(widths) + 3 * (len(head) - 1)), *map(line, cells)]
    print("\n".join(lines))  # noqa: T201


def plain_text(text: str) -> str:
    """Return text on one line, without signs that a terminal would take for commands."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)


def _cells(text: str) -> int:
    """Return how many columns a terminal needs for a text."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return int(cell_len(text))


def _print_folded(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], fold: Sequence[str]
) -> None:
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


def plain_value(value: Any) -> str:
    """Return a value as TOML has it; "none" where it is not set."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(plain_value(one) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {plain_value(one)}' for key, one in value.items() if one is not None)}}}"
    return f'"{value}"' if isinstance(value, str) else str(value)

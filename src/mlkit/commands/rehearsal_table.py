"""What a rehearsal found: told item by item while it goes on, and as a table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Literal, Self

from mlkit.commands.display import is_live, print_line
from mlkit.errors import MlkitError

Status = Literal["ok", "wrong", "skipped"]
_SHOWN = 5  # problems of an item that are told; JSON has all
_MARKS = {"ok": ("ok", "green"), "wrong": ("WRONG", "bold red"), "skipped": ("-", "dim")}


@dataclass(frozen=True, slots=True)
class Found:
    """What an item found: a line, and a sentence for each thing that is wrong."""

    told: str
    problems: Sequence[str] = ()
    seconds: float | None = None  # where it was measured elsewhere
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A line of the table."""

    name: str
    status: Status
    told: str
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int | None = None


class Items:
    """The items of a rehearsal, one after the other; at the end of the block they are told as a table."""

    def __init__(self, title: str) -> None:
        self._title = title
        self.items: list[Item] = []
        self._live: Any = None
        self._started_s = perf_counter()

    def __enter__(self) -> Self:
        if is_live():
            from rich.console import Console

            self._live = Console(stderr=True).status("")
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if kind is None:
            self._print()

    def do(self, name: str, action: Callable[[Callable[[int, int], None]], Found]) -> bool:
        """Do what an item asks for and keep what it found; returns whether nothing is wrong."""
        self._tell(f"rehearsing: {name}", lasts=False)
        started_s = perf_counter()
        try:
            found = action(lambda done, total: self._tell(f"rehearsing: {name} {done:,}/{total:,}", lasts=False))
        except MlkitError as error:
            found = Found("", list(error.problems))
        except Exception as error:  # a loader, a scorer or a file of the user: named like the others
            import logging

            logging.getLogger(__name__).exception("rehearsing %s", name)
            found = Found("", [f"{name}: {type(error).__name__}: {error}"])
        return self.add(name, found, perf_counter() - started_s)

    def add(self, name: str, found: Found, seconds: float = 0.0) -> bool:
        """Keep what an item found; returns whether nothing is wrong."""
        problems = list(dict.fromkeys(found.problems))
        took_s = seconds if found.seconds is None else found.seconds
        status: Status = "wrong" if problems else "ok"
        self.items.append(Item(name, status, found.told if not problems else "", problems, took_s, found.peak_bytes))
        words = found.told if not problems else f"{problems[0]}" + _more(problems, 1)
        self._tell(f"{_MARKS[status][0]:5}  {name}: {words}", lasts=True)
        return not problems

    def skip(self, name: str, why: str) -> None:
        """Keep that an item was left out."""
        self.items.append(Item(name, "skipped", why))

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[str], None]]:
        """Yield what tells how far a longer item is."""
        self._tell(f"rehearsing: {name}", lasts=False)
        yield lambda phase: self._tell(f"rehearsing: {name}, {phase}", lasts=False)

    def problems(self) -> list[str]:
        """Return all that is wrong, in order, with a count where there are many of one kind."""
        told = []
        for item in self.items:
            told += item.problems[:_SHOWN]
            if len(item.problems) > _SHOWN:
                told.append(f"{item.name}: and {len(item.problems) - _SHOWN:,} more (--json has all)")
        return told

    def result(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        items = [asdict(item) | {"seconds": round(item.seconds, 3)} for item in self.items]
        ready = not any(item.status == "wrong" for item in self.items)
        return {"ready": ready, "seconds": round(perf_counter() - self._started_s, 1), "items": items}

    def _tell(self, text: str, *, lasts: bool) -> None:
        if self._live is not None:
            from rich.text import Text

            if lasts:
                self._live.console.print(Text(text), soft_wrap=True)
            else:
                self._live.update(Text(text))
        elif lasts:
            print_line(text)

    def _print(self) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self._title, style="bold"), title_justify="left", box=None, pad_edge=False)
        for heading in ("item", "", "found"):
            table.add_column(heading, style="dim" if heading == "item" else "", overflow="fold")
        table.add_column("time", justify="right")
        for item in self.items:
            words, style = _MARKS[item.status]
            told = item.told if item.status != "wrong" else item.problems[0] + _more(item.problems, 1)
            time = f"{item.seconds:.1f} s" if item.status != "skipped" else ""
            table.add_row(item.name, Text(words, style=style), Text(told), time)
        console = Console(stderr=True)
        console.print()
        console.print(table)
        wrong = sum(len(item.problems) for item in self.items)
        seconds = perf_counter() - self._started_s
        if wrong:
            console.print(Text(f"not ready: {wrong} found wrong in {seconds:.0f} s", style="bold red"))
        else:
            console.print(Text(f"ready, after {seconds:.0f} s", style="bold green"))


def _more(problems: Sequence[str], shown: int) -> str:
    return f"  (and {len(problems) - shown:,} more)" if len(problems) > shown else ""

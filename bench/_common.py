"""What the measurements share: options, ways that take turns, tables, and the file that the documentation reads."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mlkit.data.manifest import DatasetManifest

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
Work = Callable[[], object]


# ---- options ---------------------------------------------------------------------------------------------------


def options_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every measurement takes; its help is the script's own words."""
    # One thread: where another process is busy, a second one waits for the first and falls far behind.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json",
        nargs="?",
        type=Path,
        const=BENCH / "results" / f"{Path(sys.argv[0]).stem}.json",
        help="also write the figures to FILE (default: bench/results/<name>.json)",
        metavar="FILE",
    )
    parser.add_argument("--smoke", action="store_true", help="seconds and tiny sizes, to see that it runs; no goal")
    return parser


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data, which `sar_dataset` reads."""
    parser.add_argument("--data", type=Path, help="a built SAR dataset (default: the embedded sample, built here)")


@contextmanager
def sar_dataset(options: argparse.Namespace) -> Iterator[DatasetManifest]:
    """Give the dataset of --data, or the embedded sample in a folder that is removed again."""
    from mlkit.data.manifest import open_manifest
    from mlkit.tasks.sar.dataset import build_dataset
    from mlkit.tasks.sar.settings import SarBuild

    if options.data:
        yield open_manifest(options.data)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield build_dataset(None, Path(temporary) / "sar", build=SarBuild()).manifest


# ---- turns and statistics --------------------------------------------------------------------------------------


def seconds(work: Work) -> float:
    """Return the wall time of one call."""
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def in_turns(ways: Mapping[str, Work], rounds: int, warm_ups: int = 1) -> dict[str, list[float]]:
    """Return seconds of each way by round; they take turns, so that a busy moment falls on all of them."""
    for _ in range(warm_ups):
        for work in ways.values():
            work()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(seconds(work))
    return times


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of the ratios within rounds, with the 95 % bootstrap interval of that median."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(times: Sequence[float], base: Sequence[float]) -> Ratio:
    """Return how many times longer `times` took than `base`, round by round: what slows one slows its neighbour."""
    within = np.asarray(times) / np.asarray(base)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(within, (2000, len(within))), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return Ratio(float(np.median(within)), float(low), float(high))


# ---- what is shown and written ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; `reached` None where it has no goal."""

    name: str
    value: float | str
    unit: str
    goal: str | None = None
    reached: bool | None = None


def at_most(name: str, value: float, limit: float, unit: str = "x") -> Figure:
    """Return a figure that must not be larger."""
    return Figure(name, float(f"{value:.4g}"), unit, f"<= {limit:g}", value <= limit)


def at_least(name: str, value: float, limit: float, unit: str = "x") -> Figure:
    """Return a figure that must not be smaller."""
    return Figure(name, float(f"{value:.4g}"), unit, f">= {limit:g}", value >= limit)


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, figures to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def finish(figures: Sequence[Figure], options: argparse.Namespace) -> int:
    """Print the figures, write them where asked, and return the exit code: 1 when a goal is missed."""
    print()
    for figure in figures:
        verdict = {None: "", True: "  reached", False: "  MISSED"}[None if options.smoke else figure.reached]
        goal = f"  (goal {figure.goal})" if figure.goal else ""
        shown = f"{figure.value:.4g}" if isinstance(figure.value, float) else figure.value
        print(f"{figure.name}: {shown} {figure.unit}".rstrip() + goal + verdict)
    if options.json:
        write(options.json, figures)
        print(f"written to {options.json}")
    return int(not options.smoke and any(figure.reached is False for figure in figures))


def write(path: Path, figures: Sequence[Figure]) -> None:
    """Write the figures with command, commit, date and machine."""
    result = {
        "bench": Path(sys.argv[0]).stem,
        **_head(),
        "figures": {
            one.name: {"value": one.value, "unit": one.unit, "goal": one.goal, "reached": one.reached}
            for one in figures
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_experiment(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write what a script of docs/experiments found, with command, commit, date and machine; nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**_head(), **results}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"written to {path}", flush=True)


def _head() -> dict[str, str]:
    """Return the command of this process, the commit, the date and the machine."""
    script = Path(sys.argv[0]).resolve().relative_to(ROOT).as_posix()
    return {
        "command": shlex.join(["python", script, *map(_without_folders, sys.argv[1:])]),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
    }


def _without_folders(word: str) -> str:
    """Return a word of a command, "--data=/home/me/data" or "a=/x,/y" too, with absolute paths below the project's
    folder relative to it, and of others their names."""
    parts = re.split("([=,])", word)
    for place, part in enumerate(parts):
        path = Path(part)
        if path.is_absolute():
            parts[place] = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return "".join(parts)


def commit() -> str:
    """Return the commit measured, with "+" where what is measured was changed since; "unknown" outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "src", "presets") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cpu_formats() -> list[str]:
    """Return which instructions for bf16 the CPU names; empty where that cannot be seen."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [flag for flag in ("amx_bf16", "amx_tile", "avx512_bf16", "avx512f", "avx2") if flag in flags]


def machine() -> str:
    """Return system, CPU and number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    bf16 = [flag for flag in cpu_formats() if "bf16" in flag]
    return f"{platform.system()}, {name}, {os.cpu_count()} cores, {' and '.join(bf16) or 'no'} bf16 instructions"

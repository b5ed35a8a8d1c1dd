"""How a training looks: a live line on a terminal, plain lines everywhere else (pipes, CI, NO_COLOR, logs)."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.metrics import METRICS

log = logging.getLogger("mlkit.progress")
_PLAIN_EVERY_S = 15.0  # plain lines: often enough to see life, rare enough for a log


def duration(seconds: float) -> str:
    """Return "2 h 05 min", "3 min 20 s" or "4.2 s"."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{seconds:.1f} s"


def scores_text(means: Mapping[str, float]) -> str:
    """Return scores in one line, without details and without those that no image has (MS-SSIM of small crops)."""
    shown = {key: value for key, value in means.items() if key not in METRICS or not METRICS[key].detail}
    return "  ".join(metric_text(key, value) for key, value in shown.items() if math.isfinite(value))


def metric_text(key: str, value: float) -> str:
    """Return "PSNR 21.34 dB"."""
    metric = METRICS.get(key.removeprefix("guard_"))
    if metric is None:
        return f"{key} {value:.4g}"
    if key not in METRICS:  # of the data that must not be forgotten
        return f"guard {metric_text(metric.key, value)}"
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.name} {value:.{metric.decimals}f}{unit}"


def facts_text(facts: Mapping[str, float]) -> str:
    """Return a model's facts in words: "1/16 of the values, 2 bits per pixel"."""
    words = {"values_ratio": "1/{:g} of the values", "bits_per_px": "{:g} bits per pixel"}
    return ", ".join(words[key].format(value) if key in words else f"{key} {value:g}" for key, value in facts.items())


def is_live() -> bool:
    """Return whether stderr is a terminal that takes a moving line, and nobody asked for plain text."""
    plain = os.environ.get("CI") or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stderr.isatty() and not plain


def print_line(text: str) -> None:
    """Print a line on stderr. Where nobody reads it any more (a pipe whose reader ended), training goes on unseen."""
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    except BrokenPipeError:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends


class PlainProgress:
    """Lines of text with step, rate, time left, loss."""

    def __init__(self) -> None:
        self._started_s = self._last_s = time.monotonic()
        self._first = self._total = self._per_step = self._step = 0

    def begin(self, done: int, total: int, samples_per_step: int) -> None:
        self._started_s = self._last_s = time.monotonic()
        self._first = self._step = done
        self._total, self._per_step = total, samples_per_step

    def update(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        now_s = time.monotonic()
        if now_s - self._last_s >= _PLAIN_EVERY_S or step == self._first + 1 or step == self._total:
            self._last_s = now_s
            self.say(
                f"step {step}/{self._total}  loss {values['loss']:.4f}  lr {values['lr']:.2e}  {self._pace(now_s)}"
            )

    def _pace(self, now_s: float) -> str:
        done = self._step - self._first
        rate = done / max(1e-9, now_s - self._started_s)
        return f"{rate * self._per_step:.1f} samples/s  {duration((self._total - self._step) / max(rate, 1e-9))} left"

    def stage(self, text: str) -> None: ...

    def scores(self, step: int, means: Mapping[str, float], best: bool) -> None:
        listed = scores_text(means)
        self.say(f"step {step}/{self._total}  validation: {listed}{'  (best)' if best else ''}")

    def say(self, text: str) -> None:
        log.info("%s", text)
        print_line(text)

    def end(self) -> None: ...


class LiveProgress:
    """One moving line: bar, step, rate, time left, loss and the last validation score."""

    def __init__(self, primary_metric: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._primary = primary_metric
        self._console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("loss [cyan]{task.fields[loss]}[/]"),
            TextColumn("[green]{task.fields[score]}[/]"),
            console=self._console,
            transient=True,
            refresh_per_second=8,
        )
        self._task: Any = None
        self._per_step = 1
        self._first = 0
        self._started_s = 0.0

    def begin(self, done: int, total: int, samples_per_step: int) -> None:
        self._per_step, self._first, self._started_s = samples_per_step, done, time.monotonic()
        self._task = self._bar.add_task("train", total=total, completed=done, loss="-", score="", rate="")
        self._bar.start()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        rate = (step - self._first) * self._per_step / max(1e-9, time.monotonic() - self._started_s)
        self._bar.update(self._task, completed=step, loss=f"{values['loss']:.4f}", rate=f"{rate:.1f} samples/s")
        log.debug("step %d %s", step, values)

    def stage(self, text: str) -> None:
        if self._task is not None:
            self._bar.update(self._task, description=text or "train")

    def scores(self, step: int, means: Mapping[str, float], best: bool) -> None:
        listed = scores_text(means)
        self._bar.update(self._task, score=metric_text(self._primary, means[self._primary]))
        from rich.text import Text

        line = Text.assemble((f"step {step:>6}", "dim"), f"  {listed}", ("  best" if best else "", "green"))
        log.info("%s", line.plain)
        self._console.print(line)

    def say(self, text: str) -> None:
        log.info("%s", text)
        self._console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        self._bar.stop()


def progress_for(primary_metric: str) -> PlainProgress | LiveProgress:
    """Return what suits stderr."""
    return LiveProgress(primary_metric) if is_live() else PlainProgress()


class Counting:
    """A bar for `done of total` work such as building or inference: live on a terminal, some plain lines elsewhere."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._live: Any = None
        self._task: Any = None
        self._last_s = 0.0

    def __call__(self, text: str, done: int, total: int) -> None:
        if is_live():
            self._draw(text, done, total)
        elif time.monotonic() - self._last_s > _PLAIN_EVERY_S or done == total:
            self._last_s = time.monotonic()
            print(f"{text}: {done}/{total} {self._unit}", file=sys.stderr, flush=True)  # noqa: T201

    def _draw(self, text: str, done: int, total: int) -> None:
        if self._live is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._live = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(self._unit),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._live.add_task(text, total=total)
            self._live.start()
        self._live.update(self._task, description=text, completed=done, total=total)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

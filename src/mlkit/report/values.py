"""Numbers and tables as text, before any layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlkit.evaluation.statistics import Interval
from mlkit.metrics import METRICS

MISSING = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text, before any layout."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_text: int = 1  # leading columns of words; the others are numbers, set to the right


def format_value(key: str, value: float | None, *, signed: bool = False, unit: bool = False) -> str:
    """Return a score with the metric's decimals, another figure to three digits; "-" where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    metric = METRICS.get(key)
    if metric is None:
        return f"{value:.0f}" if value == round(value) else f"{value:.3g}"
    decimals = metric.decimals
    rounded = round(value, decimals) + 0.0  # + 0.0: "-0.00" is 0.00
    text = f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}"
    return f"{text} {metric.unit}" if unit and metric.unit else text


def format_count(count: int | None) -> str:
    """Return a number of parameters to three digits: 950, 12.3 k, 1.23 M."""
    if count is None:
        return MISSING
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= size * 0.9995:
            share = count / size
            return f"{share:.{2 if share < 9.995 else 1 if share < 99.95 else 0}f} {letter}"
    return str(count)


def format_p(p: float) -> str:
    """Return a p value with three decimals."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def with_interval(key: str, interval: Interval, *, signed: bool = False) -> str:
    """Return "30.1 [29.8, 30.4]", without the ends where they cannot be known."""
    low, mean, high = (
        format_value(key, value, signed=signed) for value in (interval.low, interval.mean, interval.high)
    )
    return mean if MISSING in (low, high) else f"{mean} [{low}, {high}]"


def heading(key: str) -> str:
    """Return a metric's name with its unit: "PSNR [dB]"."""
    metric = METRICS[key]
    return f"{metric.name} [{metric.unit}]" if metric.unit and metric.unit not in metric.name.split() else metric.name

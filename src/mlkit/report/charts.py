"""Charts as geometry: where lines, bands, dots and ticks lie in a box. The template draws them as inline SVG.

Places are in the units of the box, y downwards. Colours are classes of the style sheet: `m0` is the first model's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlkit.evaluation.comparison import Comparison
from mlkit.evaluation.rows import Row
from mlkit.evaluation.statistics import Difference, improvements
from mlkit.metrics import METRICS
from mlkit.report.values import format_value, heading

WIDTH, HEIGHT = 560, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 14, 44
COLOURS = 8
_MOST_DOTS = 60


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """One model's line with what its seeds span."""

    name: str
    colour: int
    line: str  # "x,y x,y"
    band: str  # a polygon; "" without one
    dots: Sequence[tuple[float, float, str]]  # with what each says


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    text: str
    kind: str  # better, worse, same
    anchor: str  # of the image on the page; "" where it is not shown


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its axes; `series` or `dots`, and level lines."""

    title: str
    x_label: str
    y_label: str
    summary: str  # for those who do not see it
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    series: Sequence[Series] = ()
    dots: Sequence[Dot] = ()
    zero: float | None = None
    mean: float | None = None
    interval: tuple[float, float] | None = None  # top and height
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


Point = tuple[int, float, float, float]  # step, mean, lowest, highest


@dataclass(frozen=True, slots=True)
class Line:
    """What is drawn of one model."""

    name: str
    colour: int
    points: Sequence[Point]


def curve_chart(title: str, unit: str, models: Sequence[Line], decimals: int) -> Chart | None:
    """Return the chart of one figure over steps, by model; None without two points of any."""
    if not any(len(model.points) > 1 for model in models):
        return None
    steps = [step for model in models for step, *_ in model.points]
    values = [value for model in models for _, *three in model.points for value in three]
    logarithmic = min(values) > 0 and max(values) / min(values) > 30
    x = _Axis(min(steps), max(steps), _LEFT, WIDTH - _RIGHT)
    y = _Axis(*_padded(min(values), max(values), logarithmic), HEIGHT - _BOTTOM, _TOP, logarithmic)
    series = [
        Series(
            name=model.name,
            colour=model.colour % COLOURS,
            line=_path((x(step), y(mean)) for step, mean, _, _ in model.points),
            band=_path(
                [(x(step), y(high)) for step, _, _, high in model.points]
                + [(x(step), y(low)) for step, _, low, _ in reversed(model.points)]
            )
            if any(low != high for _, _, low, high in model.points)
            else "",
            dots=[
                (
                    _round(x(step)),
                    _round(y(mean)),
                    f"{model.name}, step {step:,}: {mean:.{decimals}f}{unit and ' ' + unit}",
                )
                for step, mean, _, _ in model.points
            ]
            if len(model.points) <= _MOST_DOTS
            else [],
        )
        for model in models
        if model.points
    ]
    ends = "; ".join(f"{model.name} ends at {model.points[-1][1]:.{decimals}f}" for model in models if model.points)
    return Chart(
        title=title,
        x_label="step",
        y_label=unit,
        summary=f"{title} over steps. {ends}.",
        x_ticks=[Tick(_round(x(at)), f"{at:,.0f}") for at in _nice(x.low, x.high, 6, whole=True)],
        y_ticks=[Tick(_round(y(at)), text) for at, text in y.labels()],
        series=series,
    )


def scatter_chart(comparison: Comparison, row: Row, anchors: dict[str, str]) -> Chart | None:
    """Return each image's improvement over its score in the first row; None below two images with both."""
    key = comparison.main
    first = comparison.rows[0].values[key]
    gains = improvements(first, row.values[key], METRICS[key].better)
    places = [i for i in range(len(gains)) if math.isfinite(gains[i])]
    if len(places) < 2:
        return None
    found = row.differences[key].improvement
    ends = [value for value in (found.low, found.high) if math.isfinite(value)]
    shown = [float(gains[i]) for i in places]
    x = _Axis(*_padded(min(first[places]), max(first[places])), _LEFT, WIDTH - _RIGHT)
    y = _Axis(*_padded(min(0.0, *shown, *ends), max(0.0, *shown, *ends)), HEIGHT - _BOTTOM, _TOP)
    dots = [
        Dot(
            x=_round(x(float(first[i]))),
            y=_round(y(float(gains[i]))),
            text=f"{comparison.ids[i]}: {format_value(key, float(first[i]))} to "
            f"{format_value(key, float(row.values[key][i]))}, {format_value(key, float(gains[i]), signed=True)}",
            kind="better" if gains[i] > 0 else "worse" if gains[i] < 0 else "same",
            anchor=anchors.get(comparison.ids[i], ""),
        )
        for i in places
    ]
    of_first = heading(key)
    return Chart(
        title=f"Improvement of {row.name} by image",
        x_label=f"{of_first} of {comparison.rows[0].name}",
        y_label=METRICS[key].unit or METRICS[key].name,
        summary=f"{row.differences[key].wins} images better, {row.differences[key].losses} worse; mean "
        f"{format_value(key, found.mean, signed=True)}.",
        x_ticks=[Tick(_round(x(at)), text) for at, text in x.labels()],
        y_ticks=[Tick(_round(y(at)), text) for at, text in y.labels()],
        dots=dots,
        zero=_round(y(0.0)),
        mean=_round(y(found.mean)),
        interval=(_round(y(found.high)), _round(y(found.low) - y(found.high))) if len(ends) == 2 else None,
    )


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval around 0, in percent of the bar's width."""

    low: float
    high: float
    mean: float
    shown_from: float  # the smallest difference that could have been shown, to either side of the middle
    shown_to: float
    kind: str


def interval_bar(found: Difference) -> Bar | None:
    """Return an improvement with its interval on a scale of its own; None where it cannot be known."""
    improvement = found.improvement
    if not all(math.isfinite(value) for value in (improvement.low, improvement.high, improvement.mean)):
        return None
    smallest = found.smallest_shown
    known = smallest if math.isfinite(smallest) else 0.0
    reach = max(abs(improvement.low), abs(improvement.high), known) * 1.08 or 1.0

    def at(value: float) -> float:
        return _round(50 + 50 * value / reach)

    kind = {"better": "better", "worse": "worse"}.get(found.verdict, "same")
    return Bar(at(improvement.low), at(improvement.high), at(improvement.mean), at(-known), at(known), kind)


class _Axis:
    """Values to places, linear or logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool = False) -> None:
        self.low, self.high, self._start, self._end = float(low), float(high), start, end
        self._log = logarithmic

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(one) if self._log else one for one in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self._start + share * (self._end - self._start)

    def labels(self) -> list[tuple[float, str]]:
        if self._log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            powers = [10.0**exponent * factor for exponent in exponents for factor in (1, 2, 5)]
            inside = [at for at in powers if self.low <= at <= self.high]
            return [(at, f"{at:g}") for at in (inside if len(inside) < 8 else inside[::3])]
        ticks = _nice(self.low, self.high, 5)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(at, f"{at + 0.0:.{decimals}f}") for at in ticks]


def _nice(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Return round numbers between two values, `most` or fewer."""
    if high <= low:
        return [low]
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _padded(low: float, high: float, logarithmic: bool = False) -> tuple[float, float]:
    """Return a range with some room around it."""
    low, high = float(low), float(high)
    if logarithmic:
        return low / 1.15, high * 1.15
    room = 0.07 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_round(x):g},{_round(y):g}" for x, y in points)


def _round(value: float) -> float:
    return round(value, 2)

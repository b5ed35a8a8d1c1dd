"""Charts lie in their box, and their ticks are round numbers where the values are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlkit.report.charts import Line, curve_chart, interval_bar, scatter_chart
from pages import compared

MakeRun = Callable[..., Path]


def places(text: str) -> np.ndarray:
    return np.array([[float(value) for value in point.split(",")] for point in text.split()])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (27.31, 27.38), (-5000.0, 3.0), (1e-6, 2e-6), (4.0, 4.0)])
def test_lines_and_round_ticks_lie_in_the_box(low: float, high: float) -> None:
    points = [(step, value, value, value) for step, value in zip((10, 500, 1000), (low, high, low), strict=True)]
    chart = curve_chart("PSNR", "dB", [Line("a", 0, points)], 2)
    assert chart
    line = places(chart.series[0].line)
    assert ((chart.left <= line[:, 0]) & (line[:, 0] <= chart.right)).all()
    assert ((chart.top <= line[:, 1]) & (line[:, 1] <= chart.bottom)).all()
    assert all(chart.top <= tick.at <= chart.bottom for tick in chart.y_ticks)
    texts = [tick.text for tick in chart.y_ticks]
    assert 1 <= len(texts) == len(set(texts)) <= 8
    # two ticks and what they say give the scale, and with it the place of every value
    if len(texts) > 1:
        (at, value), (other_at, other_value) = (
            (tick.at, float(tick.text)) for tick in chart.y_ticks[:: len(texts) - 1]
        )
        expected = at + (low - value) * (other_at - at) / (other_value - value)
        assert line[0, 1] == pytest.approx(expected, abs=0.5)


def test_a_loss_over_orders_of_magnitude_is_drawn_by_its_logarithm() -> None:
    points = [(step, 10.0 ** (-step / 100), 10.0 ** (-step / 100), 10.0 ** (-step / 100)) for step in (100, 200, 300)]
    chart = curve_chart("Training loss", "", [Line("a", 0, points)], 4)
    assert chart
    first, second, third = places(chart.series[0].line)[:, 1]
    assert second - first == pytest.approx(third - second, abs=0.1)


def test_one_point_is_no_curve() -> None:
    assert curve_chart("PSNR", "dB", [Line("a", 0, [(1, 2.0, 2.0, 2.0)])], 2) is None


def test_each_image_is_a_dot_above_the_line_where_it_is_better(make_run: MakeRun) -> None:
    comparison = compared(make_run("a"), make_run("b", gain_db=0.05))
    row = comparison.rows[1]
    chart = scatter_chart(comparison, row, {comparison.ids[3]: "image-1"})
    assert chart and chart.zero is not None and chart.interval and chart.mean
    gains = row.values["psnr"] - comparison.rows[0].values["psnr"]
    assert [dot.kind for dot in chart.dots] == ["better" if gain > 0 else "worse" for gain in gains]
    assert all((dot.y < chart.zero) == (gain > 0) for dot, gain in zip(chart.dots, gains, strict=True))
    assert np.array_equal(np.argsort([dot.x for dot in chart.dots]), np.argsort(comparison.rows[0].values["psnr"]))
    assert [dot.anchor for dot in chart.dots if dot.anchor] == ["image-1"]
    assert chart.interval[0] < chart.mean < chart.interval[0] + chart.interval[1]


def test_an_interval_is_drawn_around_the_middle_in_its_own_scale(make_run: MakeRun) -> None:
    row = compared(make_run("a"), make_run("b", gain_db=-1.9)).rows[1]
    bar = interval_bar(row.differences["psnr"])
    assert bar and 0 < bar.low < bar.mean < bar.high < 50
    assert 50 - bar.shown_from == pytest.approx(bar.shown_to - 50, abs=0.02)
    few = compared(make_run("c", num=4), make_run("d", num=4, gain_db=1.0)).rows[1]
    assert interval_bar(few.differences["psnr"]) is None

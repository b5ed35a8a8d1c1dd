"""Tables print numbers as METRICS says, and say when data is simulated."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mlkit.evaluation.comparison import Candidate, Comparison, compare_checkpoints
from mlkit.report.tables import format_count, format_value, markdown, rich_tables, title

MakeRun = Callable[..., Path]


def compared(*runs: Path) -> Comparison:
    return compare_checkpoints([Candidate(run.name, run / "ckpt-500") for run in runs])


def printed(comparison: Comparison, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(rich_tables(comparison))
    return captured.get()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("psnr", 31.2345, "31.23"), ("psnr", None, "-"), ("psnr", math.nan, "-"), ("psnr", -0.001, "0.00")],
)
def test_values_have_the_metrics_decimals(key: str, value: float | None, expected: str) -> None:
    assert format_value(key, value) == expected


def test_signs_and_units_are_shown_on_request() -> None:
    assert format_value("psnr", 1.5, signed=True, unit=True) == "+1.50 dB"
    assert format_value("psnr", -1.5, signed=True) == "-1.50"
    assert format_value("psnr", 0.0, signed=True) == "0.00"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (None, "-"),
        (0, "0"),
        (950, "950"),
        (999_949, "1.00 M"),
        (12_345, "12.3 k"),
        (1_234_567, "1.23 M"),
        (2_600_000_000, "2.60 G"),
    ],
)
def test_parameters_have_three_digits(count: int | None, expected: str) -> None:
    assert format_count(count) == expected


def test_simulated_data_is_in_the_title(make_run: MakeRun) -> None:
    real = compared(make_run("a"), make_run("b"))
    simulated = compared(make_run("c", dataset_label="simulated"), make_run("d", dataset_label="simulated"))
    assert title(real) == "a vs b: 24 validation images"
    assert title(simulated) == "c vs d: 24 validation images (simulated)"
    assert markdown(simulated).startswith("# c vs d: 24 validation images (simulated)\n")
    assert "(simulated)" in printed(simulated, 100)


def test_markdown_holds_scores_facts_interval_verdict_and_criteria(make_run: MakeRun) -> None:
    criteria = [{"metric": "psnr", "min": 1.5, "relative_to_baseline": True}, {"metric": "enl_ratio", "max": 0.5}]
    page = markdown(compared(make_run("a"), make_run("b|c", gain_db=1.9, criteria=criteria)))
    rows = [line for line in page.splitlines() if line.startswith("| b\\|c |")]
    assert rows[0].startswith("| b\\|c | 1.23 M | ")
    assert rows[0].endswith("| 1/16 | 2.00 |")
    assert "| PSNR >= baseline + 1.5 dB | pass | 1.9" in rows[1]
    assert "| ENL ratio <= 0.5 | fail | 0.90 |" in rows[2]
    assert re.search(r"\| PSNR \[dB\] \| \+1\.9\d \[\+1\.\d\d, \+\d\.\d\d\] \| better \| <0\.001 \| 0\.\d\d \|", page)
    assert "| ENL ratio | 0.00 [0.00, 0.00] | no difference shown | 1.000 | 0.00 |" in page
    assert "`psnr|gray|v1`" in page
    assert "a at step 500, b|c at step 500" in page
    # every row of a table has as many cells as its head
    for block in page.split("\n\n"):
        lines = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_80_columns_hold_every_number_and_whole_verdicts(make_run: MakeRun) -> None:
    rng = np.random.default_rng(0)
    keys = ("psnr", "rmse_db", "ssim", "enl_ratio", "epi")
    scored = [
        {"signatures": dict.fromkeys(keys, "v1"), "scores": {key: rng.normal(20, 1, 24).tolist() for key in keys}}
    ]
    scored.append({**scored[0], "scores": {key: rng.normal(20, 1, 24).tolist() for key in keys}})
    names = ("resnet_lite_v2_c16", "residual_v1_c16")
    comparison = compared(*(make_run(name, **changed) for name, changed in zip(names, scored, strict=True)))
    text = printed(comparison, 80)
    assert max(len(line) for line in text.splitlines()) <= 80
    for key in keys:
        found = comparison.rows[1].differences[key]
        low, high = (format_value(key, end, signed=True) for end in (found.improvement.low, found.improvement.high))
        assert re.search(re.escape(f"[{low}, {high}]") + f" +{found.verdict} ", text)
        for value in (*(row.means[key] for row in comparison.rows), found.improvement.smallest_shown):
            assert f" {format_value(key, value)}" in text
    for part in ("1.23 M", "1/16", "2.00", "Bits/px", "Smallest"):
        assert part in text


def test_names_in_brackets_are_no_markup(make_run: MakeRun) -> None:
    assert "[bold] over a" in printed(compared(make_run("a"), make_run("[bold]", gain_db=1.9)), 100)

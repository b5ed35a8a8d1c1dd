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

from mlkit.evaluation.comparison import Candidate, Comparison, Group, compare_checkpoints
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
    assert re.search(
        r"\| PSNR \[dB\] \| \+1\.9\d \[\+1\.\d\d, \+\d\.\d\d\] \| better \| 24/0/0 \| <0\.001 \| 0\.\d\d \|", page
    )
    assert "| ENL ratio | 0.00 [0.00, 0.00] | no difference shown | 0/24/0 | 1.000 | 0.00 |" in page
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
        for value in (*(row.means[key] for row in comparison.rows), found.smallest_shown):
            assert f" {format_value(key, value)}" in text
    for part in ("1.23 M", "1/16", "2.00", "Bits/px", "Smallest"):
        assert part in text


def test_names_in_brackets_are_no_markup(make_run: MakeRun) -> None:
    assert "[bold] over a" in printed(compared(make_run("a"), make_run("[bold]", gain_db=1.9)), 100)


# ------------------------------------------------------------------------- seeds, details, figures, families


def table_of(page: str, heading: str) -> list[list[str]]:
    """Return the cells below a heading of the Markdown page, its head first, without the rule."""
    lines = page.split(f"## {heading}\n\n", 1)[1].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def test_details_have_a_table_of_their_own_with_what_is_shown_against_the_first(make_run: MakeRun) -> None:
    rng = np.random.default_rng(0)
    base = {key: rng.normal(5, 1, 24) for key in ("cpsnr", "zipper", "recall_3")}
    plain = {"signatures": dict.fromkeys(base, "v1"), "scores": {key: one.tolist() for key, one in base.items()}}
    better = {key: one + (-0.5 if key == "zipper" else 0.0) for key, one in base.items()}
    gained = {**plain, "scores": {key: one.tolist() for key, one in better.items()}}
    page = markdown(compared(make_run("a", **plain), make_run("b", **gained)))
    models, improvements = table_of(page, "Models"), table_of(page, "b over a")
    assert models[0][2:] == ["cPSNR [dB]", "Values", "Bits/px"]
    assert [row[0] for row in improvements[1:]] == ["cPSNR [dB]"]
    details = table_of(page, "In detail, with what is shown against a")
    means = {key: float(one.mean()) for key, one in base.items()}
    assert details == [
        ["Metric", "a", "b"],
        ["Recall 3", f"{means['recall_3']:.3f}", f"{means['recall_3']:.3f}"],
        ["Zipper [%]", f"{means['zipper']:.2f}", f"{means['zipper'] - 0.5:.2f} better"],
    ]


def test_figures_of_the_set_are_listed_and_a_large_family_is_summed_up(make_run: MakeRun) -> None:
    few = {"active_units": 7.0, "kl_min_dim": 0.01234, "cell_recall_0": 0.5, "cell_recall_1": None}
    many = {f"kl_dim_{index}": index / 100 for index in range(256)}
    page = markdown(compared(make_run("a", set_scores={**few, **many}), make_run("b", set_scores=few)))
    assert table_of(page, "Of the whole set") == [
        ["Figure", "a", "b"],
        ["active_units", "7", "7"],
        ["kl_min_dim", "0.0123", "0.0123"],
        ["cell_recall_0", "0.5", "0.5"],
        ["cell_recall_1", "-", "-"],
        ["kl_dim, min of 256", "0", "-"],
        ["kl_dim, median of 256", "1.27", "-"],
        ["kl_dim, max of 256", "2.55", "-"],
    ]


def test_each_family_has_a_line_a_model(make_run: MakeRun) -> None:
    families = ["real"] * 16 + ["stripes"] * 8
    runs = [make_run(name, families=families, gain_db=gain) for name, gain in (("a", 0.0), ("b", 1.0))]
    found = compared(*runs)
    rows = table_of(markdown(found), "By family")
    assert rows[0] == ["Family", "Model", "Images", "PSNR [dB]", "ENL ratio"]
    assert [row[:3] for row in rows[1:]] == [
        [family, name, count] for family, count in (("real", "16"), ("stripes", "8")) for name in "ab"
    ]
    assert rows[1][3] == format_value("psnr", found.rows[0].families["real"]["psnr"])


def test_seeds_have_their_tables_and_a_note_and_80_columns_hold_them(make_run: MakeRun) -> None:
    def group(name: str, gain_db: float) -> Group:
        runs = [make_run(f"{name}-s{seed}", gain_db=gain_db + seed / 50) for seed in range(3)]
        return Group(name, [Candidate(run.name, run / "ckpt-500", fluctuation=0.125) for run in runs])

    found = compare_checkpoints([group("option_a", 1.0), group("option_b", 3.0)])
    page = markdown(found)
    means = table_of(page, "Over seeds")
    assert means[0] == ["Metric", "option_a", "option_b"]
    assert found.rows[1].seeds is not None
    interval = found.rows[1].seeds.intervals["psnr"]
    assert means[1] == [
        "PSNR [dB]",
        table_of(page, "Over seeds")[1][1],
        f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]",
    ]
    gains = table_of(page, "option_b over option_a, over seeds")
    assert gains[1][0] == "PSNR [dB]" and gains[1][1].startswith("+2.0") and gains[1][2] == "better"
    assert table_of(page, "Training")[1] == ["option_a", "3", "500", "0.125", "0"]
    assert "Over seeds each run counts as one" in page
    assert max(len(line) for line in printed(found, 80).splitlines()) <= 80


def test_a_loss_that_never_fell_is_said_in_words(make_run: MakeRun) -> None:
    runs = [make_run(name) for name in "ab"]
    known = [Candidate(run.name, run / "ckpt-500", 2, math.inf) for run in runs[:1]]
    page = markdown(compare_checkpoints([*known, Candidate("b", runs[1] / "ckpt-500")]))
    assert table_of(page, "Training")[1:] == [["a", "1", "500", "never fell", "2"], ["b", "1", "500", "-", "0"]]
    assert "## Training" not in markdown(compared(*runs))


def test_many_metrics_stand_below_each_other(make_run: MakeRun) -> None:
    keys = ("psnr", "rmse_db", "ssim", "enl_ratio", "epi", "accuracy", "exact_match", "kl_nat")
    scored = {"signatures": dict.fromkeys(keys, "v1"), "scores": dict.fromkeys(keys, [0.25] * 24)}
    found = compared(make_run("first_of_two", **scored), make_run("second_of_two", **scored))
    rows = table_of(markdown(found), "Models")
    assert rows[:3] == [
        ["Model", "first_of_two", "second_of_two"],
        ["Params", "1.23 M", "1.23 M"],
        ["PSNR [dB]", "0.25", "0.25"],
    ]
    assert [row[0] for row in rows[-2:]] == ["Values", "Bits/px"] and len(rows) == 1 + 1 + len(keys) + 2
    assert max(len(line) for line in printed(found, 80).splitlines()) <= 80


def test_the_last_digits_of_a_wide_table_are_not_cut(make_run: MakeRun) -> None:
    rng = np.random.default_rng(1)
    base, noise = rng.uniform(0.5, 0.9, 24), rng.normal(0.05, 0.01, 24)
    signatures = {"object_accuracy": "v1"}
    runs = [
        make_run(name, signatures=signatures, scores={"object_accuracy": values.tolist()})
        for name, values in (("a", base), ("b", base + noise))
    ]
    found = compared(*runs)
    smallest = found.rows[1].differences["object_accuracy"].smallest_shown
    assert f" {smallest:.4f}" in printed(found, 80)

"""Images are paired by id, unequal protocols are refused by name, and the planted difference is the one reported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.errors import DataError
from mlkit.evaluation.comparison import Candidate, Comparison, choose_images, compare_checkpoints

MakeRun = Callable[..., Path]


def candidate(run: Path, **changed: Any) -> Candidate:
    return Candidate(run.name, run / "ckpt-500", **changed)


def compared(*runs: Path) -> Comparison:
    return compare_checkpoints([candidate(run) for run in runs])


def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "ckpt-500" / "eval.json").read_text())


def rewrite(run: Path, content: dict[str, Any]) -> None:
    (run / "ckpt-500" / "eval.json").write_text(json.dumps(content))


def test_planted_gain_is_reported_with_its_interval(make_run: MakeRun) -> None:
    found = compared(make_run("baseline"), make_run("residual", gain_db=1.9))
    psnr = found.rows[1].differences["psnr"]
    assert psnr.verdict == "better"
    assert psnr.improvement.low < 1.9 < psnr.improvement.high
    assert psnr.improvement.num_pairs == 24
    assert found.rows[1].differences["enl_ratio"].verdict == "no difference shown"
    assert found.rows[0].differences == {}
    assert found.metrics == ["psnr", "enl_ratio"]


def test_a_compared_with_itself_and_with_its_copy_is_no_difference(make_run: MakeRun) -> None:
    first, copy = make_run("a"), make_run("copy")
    for other in (first, copy):
        assert {found.verdict for found in compared(first, other).rows[1].differences.values()} == {
            "no difference shown"
        }


def test_images_are_paired_by_id_not_by_place(make_run: MakeRun) -> None:
    first, other = make_run("a"), make_run("b")
    content = report(other)
    content["ids"].reverse()
    content["scores"] = {key: values[::-1] for key, values in content["scores"].items()}
    rewrite(other, content)
    improvement = compared(first, other).rows[1].differences["psnr"].improvement
    assert (improvement.low, improvement.high) == (0.0, 0.0)


def test_only_common_images_count_and_the_rest_is_noted(make_run: MakeRun) -> None:
    found = compared(make_run("a", num=24), make_run("b", num=10))
    assert found.num_images == 10
    assert found.notes == ["a: 14 evaluated images that not every run has are left out"]


def test_different_datasets_are_refused_with_both_hashes(make_run: MakeRun) -> None:
    runs = make_run("a"), make_run("b", dataset_sha256="b" * 64)
    with pytest.raises(DataError, match=r"cannot compare a with b: .* datasets \(aaaaaaaaaaaa and bbbbbbbbbbbb\)"):
        compared(*runs)


def test_different_signatures_are_refused_with_both_texts(make_run: MakeRun) -> None:
    runs = make_run("a"), make_run("b", signatures={"psnr": "psnr|y601|v1", "enl_ratio": "enl|v1"})
    with pytest.raises(DataError, match=r"signature of psnr is 'psnr\|gray\|v1' in a and 'psnr\|y601\|v1' in b"):
        compared(*runs)


def test_every_reason_for_refusal_is_given_at_once(make_run: MakeRun) -> None:
    first = make_run("a")
    other = make_run("b", dataset_sha256="b" * 64, split="train", protocol="crop4", signatures={"psnr": "x"})
    third = make_run("c", dataset_sha256="c" * 64)
    with pytest.raises(DataError) as caught:
        compared(first, other, third)
    text = str(caught.value)
    assert len(caught.value.problems) == 6
    for part in ("'validation' in a and 'train' in b", "'default' in a and 'crop4' in b", "cannot compare a with c"):
        assert part in text


def test_losses_are_never_ranked_nor_their_signatures_compared(make_run: MakeRun) -> None:
    runs = []
    for name, signature in (("a", "l1"), ("b", "focal")):
        runs.append(make_run(name))
        content = report(runs[-1])
        content["signatures"]["loss"], content["scores"]["loss"] = signature, [0.1] * 24
        rewrite(runs[-1], content)
    found = compared(*runs)
    assert "loss" not in found.metrics
    assert found.rows[1].means["loss"] == pytest.approx(0.1)


def test_missing_scores_are_left_out_in_pairs_and_noted(make_run: MakeRun) -> None:
    first, other = make_run("a"), make_run("b", gain_db=1.0)
    content = report(other)
    content["scores"]["psnr"][3] = None
    rewrite(other, content)
    found = compared(first, other)
    assert found.rows[1].differences["psnr"].improvement.num_dropped == 1
    assert "b: 1 of 24 images have no finite psnr; those pairs are left out" in found.notes
    content["scores"]["enl_ratio"][:2] = [None, None]
    rewrite(other, content)
    told = "b: 1 of 24 images have no finite psnr, 2 no enl_ratio; those pairs are left out"
    assert told in compared(first, other).notes


def test_criteria_are_those_of_each_runs_own_preset(make_run: MakeRun) -> None:
    criteria = [
        {"metric": "psnr", "min": 1.5, "max": None, "relative_to_baseline": True},
        {"metric": "enl_ratio", "min": 0.7, "max": 1.3},
        {"metric": "nonfinite_steps", "max": 0},
    ]
    first, other = make_run("baseline"), make_run("residual", gain_db=1.9, criteria=criteria)
    found = compare_checkpoints([candidate(first), candidate(other, nonfinite_steps=1)])
    assert found.rows[0].criteria == []
    assert [judged.passed for judged in found.rows[1].criteria] == [True, True, False]
    itself = compare_checkpoints([candidate(other), candidate(first)])
    assert [judged.passed for judged in itself.rows[0].criteria] == [None, True, True]


def test_missing_evaluation_is_made_by_the_callable_and_only_then(make_run: MakeRun) -> None:
    first, other = make_run("a"), make_run("b", without_eval=True)
    calls: list[Path] = []

    def evaluate(checkpoint: Path) -> None:
        calls.append(checkpoint)
        (checkpoint / "eval.json").write_text((first / "ckpt-500" / "eval.json").read_text())

    compare_checkpoints([candidate(first), candidate(other)], evaluate=evaluate)
    assert calls == [other / "ckpt-500"]


def test_missing_evaluation_without_a_callable_is_an_error(make_run: MakeRun) -> None:
    with pytest.raises(DataError, match=r"evaluation .*eval.json does not exist"):
        compared(make_run("a"), make_run("b", without_eval=True))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ids": ["000000"] * 24}, "23 image ids repeat"),
        ({"scores": {"psnr": [1.0]}}, "psnr has not one score an image"),
        ({"scores": {"psnr": ["high"] * 24}}, "is damaged: ValueError"),
        ({"scores": None}, "is damaged"),
        ({"format_version": 2}, "format version 2, this mlkit reads up to 1"),
    ],
)
def test_damaged_evaluation_is_named(make_run: MakeRun, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        compared(make_run("a"), make_run("b", **changed))


def test_no_common_image_or_metric_is_refused(make_run: MakeRun) -> None:
    first = make_run("a")
    with pytest.raises(DataError, match="a, b share no evaluated image"):
        compared(first, make_run("b", ids=[f"x{index}" for index in range(24)]))
    with pytest.raises(DataError, match="a, c share no metric"):
        compared(first, make_run("c", scores={"epi": [0.5] * 24}))


def test_unequal_sizes_and_few_images_are_noted(make_run: MakeRun) -> None:
    first, other = make_run("a", num=4), make_run("b", num=4)
    info = json.loads((other / "ckpt-500" / "checkpoint.json").read_text())
    info["facts"]["bits_per_px"] = 4.0
    (other / "ckpt-500" / "checkpoint.json").write_text(json.dumps(info))
    notes = compared(first, other).notes
    assert "not at equal size: a has 2 bits per pixel, b has 4" in notes
    assert any(note.startswith("4 images are too few") for note in notes)


def test_the_db_range_of_radar_images_is_told(make_run: MakeRun) -> None:
    first, other = make_run("a"), make_run("b")
    info = json.loads((first / "ckpt-500" / "checkpoint.json").read_text())
    info["preprocessing"] = {"db_min": -25.0, "db_max": 2.5, "pipeline": "db|clip|unit"}
    (first / "ckpt-500" / "checkpoint.json").write_text(json.dumps(info))
    assert (
        compared(first, other)
        .notes[0]
        .startswith("PSNR is of images in dB with vmin -25.00 dB and vmax 2.50 dB as 0 and 1, a range of 27.50 dB")
    )


def test_json_holds_no_nan_and_names_what_was_compared(make_run: MakeRun) -> None:
    found = compared(make_run("a", num=3), make_run("b", num=3, gain_db=1.0, dataset_label="simulated"))
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["dataset_label"] == "simulated"
    assert content["signatures"] == {"psnr": "psnr|gray|v1", "enl_ratio": "enl|v1"}
    assert content["rows"][1]["improvement_over_first"]["psnr"]["low"] is None
    assert content["rows"][0]["improvement_over_first"] == {}


def test_shown_images_are_the_largest_differences_and_the_median() -> None:
    differences = np.array([0.1, -3.0, 0.5, np.nan, 2.0, 0.2, 1.0, -0.4])
    assert choose_images(list("abcdefgh"), differences) == ["b", "e", "g", "f"]  # the median is 0.2
    assert choose_images(list("ab"), np.array([np.nan, np.nan])) == ["a", "b"]


def test_comparing_imports_no_torch() -> None:
    code = "import sys, mlkit.evaluation.comparison, mlkit.report.tables; print({'torch', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"

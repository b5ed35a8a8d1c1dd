"""The forgetting guard: what it compares, when it speaks, and that training goes on as if it were not there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlkit.checkpoint import Checkpoint, open_checkpoint
from mlkit.data.manifest import DatasetManifest, write_manifest
from mlkit.errors import DataError, SettingsError
from mlkit.training.forgetting import Guard, closing_words
from mlkit.training.state import TrainState
from shiftingtask import Heard, dataset, fit, task


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return dataset(tmp_path_factory.mktemp("data") / "old", negative=False)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return dataset(tmp_path_factory.mktemp("data") / "new", negative=True)


@pytest.fixture(scope="module")
def before(old: DatasetManifest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return weights that know the old data."""
    return fit(task(train_steps=150), old, tmp_path_factory.mktemp("before") / "run").checkpoint


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def guard(metric: str, limit: float) -> Guard:
    nothing: Any = SimpleNamespace()
    return Guard(nothing, nothing, "data/old", metric, limit)


# ------------------------------------------------------------------------------------- when it speaks


@pytest.mark.parametrize(
    ("metric", "limit", "start", "now", "expected"),
    [
        ("psnr", 0.2, 38.2, 36.97, "psnr on data/old fell by 1.23 dB since the start (38.20 -> 36.97)"),
        ("psnr", 0.25, 38.25, 38.0, ""),  # the limit itself is allowed
        ("psnr", 0.2, 38.2, 39.0, ""),
        ("ssim", 0.01, 0.95, 0.9, "ssim on data/old fell by 0.0500 since the start (0.9500 -> 0.9000)"),
        ("rmse_db", 0.5, 2.0, 3.0, "rmse_db on data/old rose by 1.000 dB since the start (2.000 -> 3.000)"),
        ("rmse_db", 0.5, 2.0, 1.0, ""),
        (
            "enl_ratio",
            0.1,
            0.9,
            1.3,
            "enl_ratio on data/old rose by 0.4",
        ),  # best at 1
        ("enl_ratio", 0.1, 0.9, 1.0, ""),
        ("psnr", 0.2, None, 30.0, ""),
        ("psnr", 0.2, 30.0, float("nan"), ""),
    ],
)
def test_it_speaks_when_the_score_is_worse_by_more_than_the_limit(
    metric: str, limit: float, start: float | None, now: float, expected: str
) -> None:
    said = guard(metric, limit).warning(start, now)
    assert said.startswith(f"forgetting: {expected}") if expected else said == ""


def test_the_closing_words_repeat_the_last_loss_or_say_that_it_is_over() -> None:
    state = TrainState(guard_start=30.0, guard_warnings=3)
    told = guard("psnr", 0.2)
    assert closing_words(told, state, {"guard_psnr": 29.0}) == told.warning(30.0, 29.0)
    assert closing_words(told, state, {"guard_psnr": 30.1}) == (
        "forgetting: psnr on data/old was more than 0.2 worse than at the start at 3 evaluations, "
        "but not at the last one"
    )
    assert closing_words(told, state, {}) == ""  # the last evaluation failed, which is said elsewhere
    assert closing_words(told, TrainState(guard_start=30.0), {"guard_psnr": 30.1}) == ""


# ------------------------------------------------------------------------------------- what it compares


@pytest.fixture(scope="module")
def forgetful(
    old: DatasetManifest, new: DatasetManifest, before: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any, list[str]]:
    """Return a run that forgets, its outcome, and what was said."""
    folder, heard = tmp_path_factory.mktemp("runs") / "forgetful", Heard()
    made = task(train_steps=40, eval_guard_data=str(old.folder), checkpoint_strict_hooks=True)
    return folder, fit(made, new, folder, init_from=before, progress=heard), heard.lines


def test_the_start_is_scored_with_the_weights_it_starts_from(forgetful: Any, before: Checkpoint) -> None:
    folder, outcome, said = forgetful
    first = rows_of(folder)[0]
    start = before.info["scores"]["psnr"]  # the same weights on the same data, scored when they were saved
    assert first == {"step": 0, "split": "validation", "guard_psnr": start}
    assert outcome.state.guard_start == start
    assert said[0].startswith("guard: psnr on ") and said[0].endswith(f" is {start:.2f} dB at the start")


def test_forgetting_is_told_at_each_evaluation_and_again_at_the_end_and_ends_nothing(
    forgetful: Any, old: DatasetManifest
) -> None:
    folder, outcome, said = forgetful
    start = outcome.state.guard_start
    scored = [row for row in rows_of(folder) if row.get("split") == "validation"][1:]
    assert [row["step"] for row in scored] == [10, 20, 30, 40]
    lost = [row for row in scored if start - row["guard_psnr"] > 0.2]
    assert lost, "the example does not forget: this test would prove nothing"
    expected = [
        f"forgetting: psnr on {old.folder} fell by {start - row['guard_psnr']:.2f} dB since the start "
        f"({start:.2f} -> {row['guard_psnr']:.2f})"
        for row in lost
    ]
    steps = [row["step"] for row in lost]
    told = [f"warning at step {step}: {words}" for step, words in zip(steps, expected, strict=True)]
    assert [line for line in said if "forgetting" in line] == told
    assert outcome.state.guard_warnings == len(lost)
    assert outcome.failures == (expected[-1],)
    assert outcome.state.step == 40 and outcome.state.hooks_failed == 0


def test_eval_json_has_the_score_of_each_guarded_image_apart_from_those_of_the_new(
    forgetful: Any, old: DatasetManifest, new: DatasetManifest
) -> None:
    folder, outcome, _ = forgetful
    report = json.loads((folder / "ckpt-40" / "eval.json").read_text())
    about = report["guard"]
    assert report["dataset_sha256"] == new.sha256 and about["dataset_sha256"] == old.sha256
    assert (about["metric"], about["start"]) == ("psnr", outcome.state.guard_start)
    assert about["signature"] == report["signatures"]["psnr"]
    assert len(about["ids"]) == len(about["scores"]) == 10
    last = rows_of(folder)[-1]
    assert float(np.mean(about["scores"])) == pytest.approx(last["guard_psnr"])
    assert float(np.mean(report["scores"]["psnr"])) == pytest.approx(last["psnr"])
    assert "guard_psnr" not in report["scores"]
    assert open_checkpoint(folder / "ckpt-40").info["scores"]["guard_psnr"] == last["guard_psnr"]


def test_it_changes_nothing_of_the_training(
    forgetful: Any, new: DatasetManifest, before: Checkpoint, tmp_path: Path
) -> None:
    folder, _, _ = forgetful
    fit(task(train_steps=40), new, tmp_path / "alone", init_from=before)
    name = "ckpt-40/model.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_larger_limit_keeps_it_silent(
    old: DatasetManifest, new: DatasetManifest, before: Checkpoint, tmp_path: Path
) -> None:
    made = task(train_steps=10, eval_guard_data=str(old.folder), eval_guard_loss=100.0)
    outcome = fit(made, new, tmp_path / "run", init_from=before)
    assert outcome.failures == () and outcome.state.guard_warnings == 0
    assert "guard_psnr" in outcome.means


def test_a_run_from_no_weights_is_scored_and_says_that_nothing_is_compared(
    old: DatasetManifest, new: DatasetManifest, tmp_path: Path
) -> None:
    heard = Heard()
    outcome = fit(task(train_steps=10, eval_guard_data=str(old.folder)), new, tmp_path / "run", progress=heard)
    assert heard.lines[0] == (
        "eval.guard_data is scored but compared with nothing: this run did not begin with it and --init-from"
    )
    assert outcome.state.guard_start is None and "guard_psnr" in outcome.means


# ------------------------------------------------------------------------------------- resumed


def test_a_resume_compares_with_the_first_start(
    forgetful: Any, old: DatasetManifest, new: DatasetManifest, tmp_path: Path
) -> None:
    folder, outcome, _ = forgetful
    made = task(train_steps=50, eval_guard_data=str(old.folder))
    again = fit(made, new, tmp_path / "longer", resume=open_checkpoint(folder / "ckpt-40"))
    assert again.state.guard_start == outcome.state.guard_start
    assert again.state.guard_warnings == outcome.state.guard_warnings + 1
    assert again.failures[0].endswith(f"({outcome.state.guard_start:.2f} -> {again.means['guard_psnr']:.2f})")


def test_a_resume_with_other_guarded_data_is_refused(
    forgetful: Any, old: DatasetManifest, new: DatasetManifest, tmp_path: Path
) -> None:
    folder, _, _ = forgetful
    with pytest.raises(SettingsError) as refused:
        made = task(train_steps=50, eval_guard_data=str(new.folder))
        fit(made, new, tmp_path / "other", resume=open_checkpoint(folder / "ckpt-40"))
    assert refused.value.problems == (
        f"eval.guard_data = '{new.folder}' has sha256 {new.sha256[:12]}, but this run began with {old.sha256[:12]}, "
        f"and its scores are compared with those at the start; name the dataset that it began with, "
        f'or none: --set eval.guard_data="none"',
    )


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("what", ["absent", "of another task", "without samples"])
def test_data_that_cannot_be_scored_are_refused_with_the_key(what: str, new: DatasetManifest, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    sentences = {
        "absent": f"dataset {folder} does not exist; build one with: mlkit dataset build TASK",
        "of another task": f"dataset {folder} is for task 'sar', not 'toy'; build one with: mlkit dataset build toy",
        "without samples": f"dataset {folder} has no samples in: validation; build it from more or larger scenes",
    }
    if what != "absent":
        folder.mkdir()
        splits = {"train": 5, "validation": 0 if what == "without samples" else 5}
        name = "sar" if what == "of another task" else "toy"
        write_manifest(folder, task=name, label="", preprocessing={}, splits=splits, details={"negative": False})
    with pytest.raises(DataError) as refused:
        fit(task(eval_guard_data=str(folder)), new, tmp_path / "run")
    assert refused.value.problems == (f"eval.guard_data = '{folder}': {sentences[what]}",)

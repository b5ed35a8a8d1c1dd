"""Names find their run or list what exists; pointers, statuses and new folders never mislead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlkit.errors import CheckpointError, DataError, MlkitError
from mlkit.runs.folders import (
    checkpoints,
    default_checkpoint,
    list_runs,
    new_run_folder,
    nonfinite_steps,
    read_pointer,
    read_run_json,
    resolve_run,
    resolve_runs,
    set_status,
    write_run_json,
)


def make_run(runs_dir: Path, name: str, steps: tuple[int, ...] = (), **pointers: str) -> Path:
    folder = runs_dir / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"format_version": 1, "name": name, "status": "wip"}))
    for step in steps:
        (folder / f"ckpt-{step}").mkdir()
        (folder / f"ckpt-{step}" / "checkpoint.json").write_text("{}")
    for which, target in pointers.items():
        (folder / which).write_text(target + "\n")
    return folder


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    make_run(runs, "baseline", (500, 1000, 10000), best="ckpt-500", last="ckpt-10000")
    make_run(runs, "baseline_c16")
    make_run(runs, "residual_v1_c16", (100,))
    make_run(runs, "resnet_lite_v2_c16", (100,))
    (runs / "compare-a-vs-b").mkdir()  # no run
    make_run(runs, ".partial-x")
    return runs


def test_listing_names_only_runs(runs_dir: Path) -> None:
    names = [run.name for run in list_runs(runs_dir)]
    assert names == ["baseline", "baseline_c16", "residual_v1_c16", "resnet_lite_v2_c16"]
    assert list_runs(runs_dir / "absent") == []


def test_exact_name_wins_over_longer_names(runs_dir: Path) -> None:
    assert resolve_run("baseline", runs_dir).folder == runs_dir / "baseline"


def test_unique_prefix_finds_its_run(runs_dir: Path) -> None:
    assert resolve_run("resi", runs_dir).folder == runs_dir / "residual_v1_c16"


def test_ambiguous_prefix_lists_what_fits(runs_dir: Path) -> None:
    with pytest.raises(MlkitError, match=r"'res' fits 2 runs: residual_v1_c16, resnet_lite_v2_c16; give more"):
        resolve_run("res", runs_dir)


def test_unknown_name_suggests_and_lists(runs_dir: Path) -> None:
    with pytest.raises(MlkitError, match=r"unknown run 'basline'.*did you mean 'baseline'\?") as caught:
        resolve_run("basline", runs_dir)
    assert "baseline, baseline_c16, residual_v1_c16, resnet_lite_v2_c16" in str(caught.value)
    with pytest.raises(MlkitError, match="unknown run ''"):
        resolve_run("", runs_dir)


def test_empty_runs_folder_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(MlkitError, match=r"there is no run in .* yet; start one with: mlkit train --preset PRESET"):
        resolve_run("baseline", tmp_path)


def test_all_unknown_names_are_reported_at_once(runs_dir: Path) -> None:
    with pytest.raises(MlkitError) as caught:
        resolve_runs(["nothing", "baseline", "res"], runs_dir)
    assert len(caught.value.problems) == 2


def test_paths_to_runs_and_checkpoints_are_found(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_path = resolve_run(str(runs_dir / "baseline"), Path("elsewhere"))
    assert (by_path.folder, by_path.checkpoint, by_path.label) == (runs_dir / "baseline", None, "baseline")
    checkpoint = resolve_run(str(runs_dir / "baseline" / "ckpt-1000"), Path("elsewhere"))
    assert checkpoint.checkpoint == runs_dir / "baseline" / "ckpt-1000"
    assert checkpoint.label == "baseline/ckpt-1000"
    assert resolve_run("baseline/ckpt-500", runs_dir).chosen_checkpoint() == runs_dir / "baseline" / "ckpt-500"
    assert resolve_run("baseline/last", runs_dir).chosen_checkpoint() == runs_dir / "baseline" / "ckpt-10000"
    monkeypatch.chdir(runs_dir / "baseline")
    assert resolve_run("ckpt-500", Path("elsewhere")).label == "baseline/ckpt-500"
    assert resolve_run(".", Path("elsewhere")).label == "baseline"
    assert resolve_run("resi", runs_dir).label == "residual_v1_c16"  # inside a run, other names still work


def test_unknown_or_incomplete_checkpoint_lists_the_complete_ones(runs_dir: Path) -> None:
    (runs_dir / "baseline" / "ckpt-2000").mkdir()  # no checkpoint.json: not complete
    for name in ("baseline/ckpt-2000", "baseline/ckpt-7"):
        with pytest.raises(CheckpointError, match="there are: ckpt-500, ckpt-1000, ckpt-10000"):
            resolve_run(name, runs_dir)


def test_checkpoints_are_sorted_by_step_and_complete(runs_dir: Path) -> None:
    (runs_dir / "baseline" / "ckpt-2000").mkdir()
    assert [folder.name for folder in checkpoints(runs_dir / "baseline")] == ["ckpt-500", "ckpt-1000", "ckpt-10000"]


def test_default_checkpoint_is_best_then_last_then_newest(runs_dir: Path) -> None:
    run = runs_dir / "baseline"
    assert default_checkpoint(run).name == "ckpt-500"
    (run / "best").unlink()
    (run / "last").write_text("ckpt-1000\r\n")
    assert default_checkpoint(run).name == "ckpt-1000"
    (run / "last").unlink()
    assert default_checkpoint(run).name == "ckpt-10000"


@pytest.mark.parametrize("content", ["ckpt-7", "../residual_v1_c16/ckpt-100", "", "/etc"])
def test_pointer_to_nowhere_is_an_error_that_the_default_survives(
    runs_dir: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = runs_dir / "baseline"
    (run / "best").write_text(content)
    with pytest.raises(CheckpointError, match="no complete checkpoint; there are: ckpt-500"):
        read_pointer(run, "best")
    assert default_checkpoint(run).name == "ckpt-10000"
    assert "no complete checkpoint" in caplog.text


def test_run_without_checkpoint_is_an_error(runs_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="has no complete checkpoint yet"):
        default_checkpoint(runs_dir / "baseline_c16")


def test_nonfinite_steps_count_steps_not_ranks(runs_dir: Path) -> None:
    run = runs_dir / "baseline"
    assert nonfinite_steps(run) == 0
    for name in ("nonfinite-00000120-rank0.json", "nonfinite-00000120-rank1.json", "nonfinite-00000340-rank0.json"):
        (run / name).write_text("{}")
    assert nonfinite_steps(run) == 2


def test_taken_name_is_refused_with_the_next_free_one(runs_dir: Path) -> None:
    with pytest.raises(MlkitError, match="use --name residual_v1_c16_2"):
        new_run_folder(runs_dir, "residual_v1_c16")
    assert new_run_folder(runs_dir, "residual_v1_c16_2").is_dir()
    for taken in ("residual_v1_c16", "residual_v1_c16_2"):
        with pytest.raises(MlkitError, match="use --name residual_v1_c16_3"):
            new_run_folder(runs_dir, taken)


def test_number_that_belongs_to_the_name_is_kept(runs_dir: Path) -> None:
    new_run_folder(runs_dir, "option_2")
    with pytest.raises(MlkitError, match="use --name option_2_2"):
        new_run_folder(runs_dir, "option_2")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101, "end.", "-flag"])
def test_name_that_cannot_be_a_folder_everywhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MlkitError, match="cannot be a run's name"):
        new_run_folder(tmp_path / "runs", name)
    assert not (tmp_path / "x").exists()


def test_runs_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(MlkitError, match="is a file"):
        new_run_folder(tmp_path / "runs", "a")


def test_status_changes_and_nothing_else(tmp_path: Path) -> None:
    write_run_json(tmp_path, {"name": "a", "status": "planned", "lineage": {"parent": None}})
    set_status(tmp_path, "success")
    expected = {"name": "a", "status": "success", "lineage": {"parent": None}, "format_version": 1}
    assert read_run_json(tmp_path) == expected
    with pytest.raises(MlkitError, match=r"unknown status 'sucess'.*did you mean 'success'\?"):
        set_status(tmp_path, "sucess")
    assert read_run_json(tmp_path) == expected


def test_newer_run_json_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format_version": 99}')
    with pytest.raises(DataError, match="format version 99, this mlkit reads up to 1"):
        read_run_json(tmp_path)


def test_import_is_light() -> None:
    code = "import sys, mlkit.runs.folders; print(sorted({'torch', 'pydantic', 'numpy', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

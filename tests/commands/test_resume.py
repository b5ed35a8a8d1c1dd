"""`mlkit resume`: it goes on exactly, says what changes, and refuses what would be another training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlkit.settings import TrainSettings
from mlkit.tasks.sar.source import SarSource

Mlkit = Callable[..., Any]
Refused = Callable[..., Any]
Files = Callable[[Path], dict[str, bytes]]

EQUAL = (  # what a run decides; clocks and names differ
    *("metrics.jsonl", "best", "last"),
    *(f"ckpt-{step}/{name}" for step in (3, 6) for name in ("model.safetensors", "eval.json", "grid.png")),
)


def assert_equal_trainings(files: Files, one: Path, other: Path, names: tuple[str, ...] = EQUAL) -> None:
    left, right = files(one), files(other)
    assert {name: left[name] == right[name] for name in names} == dict.fromkeys(names, True)


def make_weights_only(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "accelerator_state")
    (checkpoint / "training_state.json").unlink()


# ------------------------------------------------------------------------------------------- going on


def test_run_that_stopped_at_a_checkpoint_becomes_the_one_that_never_stopped(
    mlkit: Mlkit, run: Path, trained: tuple[Path, Any], files: Files
) -> None:
    shutil.rmtree(run / "ckpt-6")
    said = mlkit("resume", "first")
    assert said.code == 0
    assert said.card("mlkit resume  first") == {"from": f"step 3 ({run / 'ckpt-3'})"}
    assert list(said.card("done")) == ["trained", "scores", "best", "picture", "next"]
    assert_equal_trainings(files, run, trained[0])


def test_run_that_was_killed_before_its_first_checkpoint_starts_again(
    mlkit: Mlkit, run: Path, trained: tuple[Path, Any], files: Files
) -> None:
    for step in (3, 6):
        shutil.rmtree(run / f"ckpt-{step}")
    (run / ".partial-ckpt-3-abc").mkdir()
    said = mlkit("resume", "first", "--json")
    assert said.card("mlkit resume  first") == {"from": "step 0: no checkpoint was written"}
    result = json.loads(said.out)
    assert (result["run"], result["step"]) == (str(run), 6)
    assert_equal_trainings(files, run, trained[0])
    assert not list(run.glob(".partial*"))


def test_stop_by_sigterm_saves_and_says_how_to_go_on(
    train: Mlkit, mlkit: Mlkit, runs: Path, trained: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, files: Files
) -> None:
    real = SarSource.sample

    def sample(source: SarSource, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        rows = runs / "stopped" / "metrics.jsonl"
        if rows.exists() and rows.read_bytes().count(b"\n") == 5:  # 4 updates and 1 evaluation: this is the 5th
            os.kill(os.getpid(), signal.SIGTERM)
        return real(source, index, rng)

    with monkeypatch.context() as patch:
        patch.setattr(SarSource, "sample", sample)
        said = train("--name", "stopped")
    run = runs / "stopped"
    assert said.code == 75
    assert said.err.splitlines()[-1] == (
        f"mlkit: stopped by SIGTERM and saved at step 5; continue with: mlkit resume {run}"
    )
    assert json.loads((run / "run.json").read_text())["status"] == "wip"
    assert mlkit("resume", "stopped").code == 0
    assert json.loads((run / "run.json").read_text())["status"] == "success"
    # ckpt-5 is one of the two newest now, in the place of ckpt-3; the picture shows the run's name
    assert_equal_trainings(files, run, trained[0], ("metrics.jsonl", "ckpt-6/model.safetensors", "ckpt-6/eval.json"))


def test_second_ctrl_c_leaves_at_once_and_what_is_on_disk_stays(
    dataset: Path, runs: Path, tmp_path: Path, mlkit: Mlkit
) -> None:
    (tmp_path / "outside.py").write_text(
        """
import time
from pathlib import Path
from mlkit.tasks.sar.source import SarSource

class Slow(SarSource):
    def sample(self, index, rng):
        if Path("runs/slow/ckpt-2").exists():
            Path("asleep").touch()
            time.sleep(600)
        return super().sample(index, rng)

def load(manifest):
    return Slow(manifest, "train", 64)
"""
    )
    command = [sys.executable, "-m", "mlkit", "train", "--preset", "sar_tiny", "--data", str(dataset), "--name", "slow"]
    for assignment in (
        *("train.steps=4", "train.batch_size=2", "train.warmup_steps=0", 'train.precision="fp32"'),
        *("train.channels_last=false", "model.base_channels=4", "checkpoint.every=2", 'data.loader="outside:load"'),
    ):
        command += ["--set", assignment]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not Path("asleep").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None, "the first one waits for the end of the update"
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert time.monotonic() - asked < 5
    assert process.returncode == 130
    Path("asleep").unlink()
    assert mlkit("eval", "grid", "slow/ckpt-2", "--data", dataset).code == 0  # its files verify


def test_lr_length_and_batch_size_may_change_and_are_printed(mlkit: Mlkit, run: Path) -> None:
    shutil.rmtree(run / "ckpt-6")
    said = mlkit("resume", run, "--lr", 1e-4, "--max-steps", 4, "--batch-size", 3, "--set", "checkpoint.keep_last=5")
    assert said.code == 0, said.err
    assert said.card("mlkit resume  first") == {
        "from": f"step 3 ({run / 'ckpt-3'})",
        "checkpoint.keep_last": "2 -> 5",
        "train.batch_size": "2 -> 3",
        "train.lr": "0.001 -> 0.0001",
        "train.steps": "6 -> 4",
    }
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["samples"] for row in rows if "samples" in row] == [2, 4, 6, 9]
    # One quarter of the cosine is left: (1 + cos(3 pi / 4)) / 2 of the peak.
    assert rows[-2]["lr"] == pytest.approx(1e-4 * (1 + np.cos(0.75 * np.pi)) / 2)
    assert json.loads((run / "ckpt-4" / "checkpoint.json").read_text())["settings"]["train"]["lr"] == 1e-4


def test_finished_run_says_that_nothing_is_left(mlkit: Mlkit, run: Path, files: Files) -> None:
    before = files(run)
    said = mlkit("resume", "first")
    assert said.code == 0
    assert said.card("mlkit resume  first")["left"] == "nothing: all 6 steps are done; to go on, give --max-steps"
    after = files(run)
    assert {name: after[name] == before[name] for name in EQUAL} == dict.fromkeys(EQUAL, True)


def test_checkpoint_goes_on_in_a_new_run_that_knows_where_it_came_from(
    mlkit: Mlkit, run: Path, runs: Path, trained: tuple[Path, Any], files: Files
) -> None:
    before = files(run)
    said = mlkit("resume", "first/ckpt-3", "--name", "branch")
    assert said.code == 0
    assert said.card("mlkit resume  branch") == {"from": f"step 3 ({run / 'ckpt-3'})"}
    about = json.loads((runs / "branch" / "run.json").read_text())
    assert about["lineage"] == {"parent": str(run / "ckpt-3"), "kind": "full"}
    assert files(run) == before
    made, whole = files(runs / "branch"), files(trained[0])
    for name in ("metrics.jsonl", "ckpt-6/model.safetensors", "ckpt-6/eval.json"):
        assert made[name] == whole[name], name


def test_train_resumes_with_what_the_preset_and_flags_say(train: Mlkit, run: Path) -> None:
    shutil.rmtree(run / "ckpt-6")
    said = train("--resume-from", run / "ckpt-3", "--lr", 5e-4)
    assert said.code == 0, said.err
    assert said.card("mlkit resume  first") == {
        "from": f"step 3 ({run / 'ckpt-3'})",
        "train.lr": "0.001 -> 0.0005",
    }


def test_weights_without_their_training_state_start_a_new_count_in_a_new_run(
    mlkit: Mlkit, run: Path, runs: Path, files: Files
) -> None:
    make_weights_only(run / "ckpt-3")
    before = files(run)
    said = mlkit("resume", "first/ckpt-3")
    assert said.code == 0
    told = f"{run / 'ckpt-3'} holds weights only: new run 'first_from_3' from them, fresh optimizer, step 0"
    assert said.lines[0] == told
    assert said.card("mlkit resume  first_from_3") == {"from": f"the weights of step 3 ({run / 'ckpt-3'})"}
    about = json.loads((runs / "first_from_3" / "run.json").read_text())
    assert about["lineage"] == {"parent": str(run / "ckpt-3"), "kind": "weights"}
    assert json.loads((runs / "first_from_3" / "ckpt-6" / "training_state.json").read_text())["step"] == 6
    assert files(run) == before


def test_moved_data_are_found_where_the_user_says_and_remembered(
    mlkit: Mlkit, run: Path, dataset_copy: Path, edit: Callable[..., None], refused: Refused, files: Files
) -> None:
    gone = dataset_copy.parent / "gone"
    edit(run / "run.json", dataset_dir=str(gone))
    before = files(run)
    told = f"the dataset of run first is no longer at {gone}; say where it lies now with --data"
    assert mlkit("resume", "first", "--max-steps", 7) == refused(4, told)
    assert files(run) == before
    assert mlkit("resume", "first", "--max-steps", 7, "--data", dataset_copy).code == 0
    assert mlkit("resume", "first", "--max-steps", 8).code == 0
    assert json.loads((run / "run.json").read_text())["dataset_dir"] == str(dataset_copy)


# ------------------------------------------------------------------------------------------- broken ones


def damaged(run: Path, step: int, how: str) -> str:
    """Damage a checkpoint; returns what is to be said of it."""
    folder = run / f"ckpt-{step}"
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    if how == "truncated":
        weights.write_bytes(content[:100])
        return f"checkpoint {folder}: model.safetensors is truncated or grown: 100 bytes instead of {len(content)}"
    if how == "changed":
        changed = content[:-1] + bytes([content[-1] ^ 1])
        weights.write_bytes(changed)
        now, meant = (sha256(value).hexdigest()[:12] for value in (changed, content))
        return f"checkpoint {folder}: model.safetensors has changed: sha256 {now} instead of {meant}"
    if how == "missing":
        weights.unlink()
        return f"checkpoint {folder}: model.safetensors is missing"
    if how == "unfinished":
        (folder / "checkpoint.json").unlink()
        return f"checkpoint {folder / 'checkpoint.json'} does not exist"
    assert how == "stripped"
    make_weights_only(folder)
    return f"checkpoint {folder} holds weights only, without its training state"


@pytest.mark.parametrize("how", ["truncated", "changed", "missing", "unfinished", "stripped"])
def test_newest_checkpoint_that_is_damaged_is_named_and_the_one_before_is_used(
    how: str, mlkit: Mlkit, run: Path, trained: tuple[Path, Any], files: Files
) -> None:
    told = damaged(run, 6, how)
    said = mlkit("resume", "first")
    assert said.code == 0
    assert said.lines[0] == f"skipped: {told}"
    assert said.card("mlkit resume  first") == {"from": f"step 3 ({run / 'ckpt-3'})"}
    assert_equal_trainings(files, run, trained[0])


def test_damaged_checkpoint_that_was_named_is_refused(mlkit: Mlkit, run: Path, refused: Refused, files: Files) -> None:
    told = damaged(run, 6, "changed")
    before = files(run)
    assert mlkit("resume", "first/ckpt-6") == refused(3, told)
    assert files(run) == before


def test_run_without_a_good_checkpoint_stops_and_never_starts_anew(
    mlkit: Mlkit, run: Path, runs: Path, files: Files
) -> None:
    told = [damaged(run, 6, "truncated"), damaged(run, 3, "changed")]
    before = files(runs)
    said = mlkit("resume", "first")
    assert (said.code, said.out) == (3, "")
    assert said.err.splitlines() == [
        *(f"skipped: {sentence}" for sentence in told),
        f"mlkit: no checkpoint of {run} can be resumed, for the reasons above; "
        "start again with: mlkit train --preset PRESET --name NAME",
    ]
    assert files(runs) == before


def test_run_of_which_only_weights_are_left_says_how_to_use_them(
    mlkit: Mlkit, run: Path, runs: Path, files: Files
) -> None:
    told = [damaged(run, step, "stripped") for step in (6, 3)]
    before = files(runs)
    said = mlkit("resume", "first")
    assert said.code == 3
    assert said.err.splitlines() == [
        *(f"skipped: {sentence}" for sentence in told),
        f"mlkit: no checkpoint of {run} can be resumed, for the reasons above; "
        f"a new run from the weights of the newest: mlkit resume {run / 'ckpt-6'}",
    ]
    assert files(runs) == before


@pytest.mark.parametrize(
    ("file", "what", "code"), [("ckpt-6/checkpoint.json", "checkpoint", 3), ("run.json", "run", 4)]
)
def test_files_of_a_newer_mlkit_are_refused_and_kept(
    file: str, what: str, code: int, mlkit: Mlkit, run: Path, edit: Callable[..., None], refused: Refused, files: Files
) -> None:
    edit(run / file, format_version=99)
    before = files(run)
    assert mlkit("resume", "first", "--max-steps", 8) == refused(
        code, f"{what} {run / file} has format version 99, this mlkit reads up to 1; update mlkit"
    )
    assert files(run) == before


def test_checkpoint_of_a_task_that_is_not_here_is_refused_by_name(
    mlkit: Mlkit, run: Path, edit: Callable[..., None], files: Files
) -> None:
    stored = json.loads((run / "ckpt-6" / "checkpoint.json").read_text())["settings"]
    edit(run / "ckpt-6" / "checkpoint.json", task="other", settings={**stored, "task": "other"})
    before = files(run)
    said = mlkit("resume", "first")
    assert said.code == 3
    assert said.err.startswith(f"mlkit: checkpoint {run / 'ckpt-6'}: task: unknown task 'other'; there are sar, ")
    assert len(said.err.splitlines()) == 1
    assert files(run) == before


# ------------------------------------------------------------------------------------------- refused


def test_changes_that_make_another_training_are_all_refused_at_once(
    mlkit: Mlkit, run: Path, refused: Refused, files: Files
) -> None:
    before = files(run)
    asked = ("seed=1", "model.base_channels=8", 'train.precision="bf16"', "train.ema_decay=0.9", "train.lr=1e-5")
    said = mlkit("resume", "first", *(word for assignment in asked for word in ("--set", assignment)))
    newest = run / "ckpt-6"
    changed = (
        ("model.base_channels", "4", "8"),
        ("seed", "0", "1"),
        ("train.ema_decay", "None", "0.9"),
        ("train.precision", "'fp32'", "'bf16'"),
    )
    assert said == refused(
        3,
        *(
            f"{key} was {old} in {newest} and is {new} now; a resume cannot change it: "
            f"start a new run with --init-from {newest}"
            for key, old, new in changed
        ),
    )
    assert files(run) == before


def test_unknown_settings_are_refused(mlkit: Mlkit, run: Path, refused: Refused, files: Files) -> None:
    before = files(run)
    keys = ", ".join(sorted(TrainSettings.model_fields))
    assert mlkit("resume", "first", "--set", "train.lrr=1", "--lr", 0) == refused(
        3,
        "flag: train.lr = 0.0: input should be greater than 0",
        f"--set: unknown key 'train.lrr' (did you mean 'lr'?); train has {keys}",
    )
    assert mlkit("resume", "first", "--set", 'eval.scorer="nothing"') == refused(
        3, "eval.scorer = 'nothing' is not of the form 'package.module:function'"
    )
    assert files(run) == before


def test_end_before_where_the_run_is_is_refused(mlkit: Mlkit, run: Path, refused: Refused, files: Files) -> None:
    before = files(run)
    assert mlkit("resume", "first", "--max-steps", 4) == refused(
        3,
        f"{run / 'ckpt-6'} is at step 6, but these settings end at step 4; "
        "give --max-steps 6 or more, or an earlier checkpoint with --name",
    )
    assert files(run) == before


def test_new_run_from_the_last_step_is_refused_since_nothing_would_be_trained(
    mlkit: Mlkit, run: Path, runs: Path, refused: Refused, files: Files
) -> None:
    before = files(runs)
    assert mlkit("resume", "first", "--name", "more") == refused(
        3,
        f"{run / 'ckpt-6'} is at step 6, but these settings end at step 6; "
        "give --max-steps 7 or more, or an earlier checkpoint with --name",
    )
    assert files(runs) == before


def test_older_checkpoint_never_writes_over_newer_ones(
    mlkit: Mlkit, run: Path, runs: Path, refused: Refused, files: Files
) -> None:
    before = files(runs)
    assert mlkit("resume", "first/ckpt-3") == refused(
        2,
        "first has gone on to ckpt-6 since ckpt-3; resume the run, or go on from here in a new one: "
        f"mlkit resume {run / 'ckpt-3'} --name first_from_3",
    )
    assert mlkit("resume", "first/ckpt-3", "--name", "first") == refused(
        2, f"a run 'first' exists in {runs}; use --name first_2, or resume it"
    )
    assert files(runs) == before


def test_other_data_are_refused(
    mlkit: Mlkit, build: Mlkit, run: Path, dataset: Path, tmp_path: Path, refused: Refused, files: Files
) -> None:
    before = files(run)
    assert build(tmp_path / "other", "--stride", 32).code == 0
    now, meant = (
        json.loads((folder / "manifest.json").read_text())["sha256"][:12] for folder in (tmp_path / "other", dataset)
    )
    assert mlkit("resume", "first", "--data", tmp_path / "other") == refused(
        4,
        f"dataset {tmp_path / 'other'} has sha256 {now}, but {run / 'ckpt-6'} was trained on {meant}; "
        "give the right one with --data",
    )
    assert files(run) == before


def test_absent_runs_and_checkpoints_are_refused_and_nothing_is_started(
    mlkit: Mlkit, run: Path, runs: Path, refused: Refused, files: Files
) -> None:
    before = files(runs)
    assert mlkit("resume", "frist") == refused(2, f"unknown run 'frist' (did you mean 'first'?); runs in {runs}: first")
    assert mlkit("resume", runs / "absent") == refused(2, f"unknown run '{runs / 'absent'}'; runs in {runs}: first")
    told = "run first has no complete checkpoint 'ckpt-4'; there are: ckpt-3, ckpt-6"
    assert mlkit("resume", "first/ckpt-4") == refused(3, told)
    assert mlkit("resume", run / "ckpt-4") == refused(3, told)
    assert files(runs) == before


def test_checkpoint_outside_a_run_says_what_it_lacks(
    mlkit: Mlkit, run: Path, runs: Path, dataset: Path, tmp_path: Path, refused: Refused
) -> None:
    alone = shutil.copytree(run / "ckpt-3", tmp_path / "alone" / "ckpt-3")
    assert mlkit("resume", alone) == refused(
        4, f"checkpoint {alone} lies outside a run, so its dataset is unknown; give --data"
    )
    assert mlkit("resume", alone, "--data", dataset) == refused(
        3, f"checkpoint {alone} lies outside a run; continue it as one with --name NAME"
    )
    assert not (tmp_path / "alone" / "run.json").exists()
    assert mlkit("resume", alone, "--data", dataset, "--name", "home").code == 0
    assert (runs / "home" / "ckpt-6" / "checkpoint.json").exists()

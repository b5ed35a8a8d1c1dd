"""The real commands: stopped by a signal, and on two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlkit.files import locked
from mlkit.tasks import available_tasks
from running import EXTRA_PRESETS, fingerprint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and gloo as on POSIX")


def _train(task: str, data: Path, name: str, *more: str) -> list[str]:
    preset = EXTRA_PRESETS.get(task, f"{task}_tiny")
    fixed = ["--set", "train.precision='fp32'", "--set", "train.channels_last=false", "--set", "tracking.every=1"]
    return ["train", "--preset", preset, "--quick-test", "--data", str(data), "--name", name, *fixed, *more]


def _environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"MLKIT_RUNS_DIR": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


def _mlkit(arguments: list[str], tmp_path: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *launcher, "-m", "mlkit", *arguments],
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", available_tasks())
def test_sigterm_saves_leaves_with_75_and_resumes_to_the_same_bits(
    task: str, datasets: dict[str, Path], tmp_path: Path
) -> None:
    steps = ["--max-steps", "16", "--set", "checkpoint.every=6", "--set", "checkpoint.grid=false", "--workers", "2"]
    whole = _mlkit(_train(task, datasets[task], "whole", *steps), tmp_path)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "mlkit", *_train(task, datasets[task], "stopped", *steps)],
        env=_environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    rows = tmp_path / "runs" / "stopped" / "metrics.jsonl"
    deadline_s = time.monotonic() + 200
    while not (rows.exists() and rows.read_text().count("\n") >= 2) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)  # the data workers too, as job schedulers and Ctrl-C do
    _, said = process.communicate(timeout=200)
    assert process.returncode == 75, said
    run = tmp_path / "runs" / "stopped"
    step = json.loads((run / (run / "last").read_text().strip() / "training_state.json").read_text())["step"]
    assert said.splitlines()[-1] == (
        f"mlkit: stopped by SIGTERM and saved at step {step}; continue with: mlkit resume {run}"
    )
    assert 2 <= step < 16
    with locked(run):  # as another training would
        busy = _mlkit(["resume", str(run)], tmp_path)
    assert (busy.returncode, busy.stderr) == (
        2,
        "mlkit: run stopped is being trained by another process; wait for it, or stop it with Ctrl-C: "
        "it saves and can be resumed\n",
    )
    resumed = _mlkit(["resume", str(run)], tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    expected, found = fingerprint(tmp_path / "runs" / "whole"), fingerprint(run)
    assert {key: found[key] for key in expected if "ckpt-16" in key} == {
        key: value for key, value in expected.items() if "ckpt-16" in key
    }
    assert found["metrics.jsonl"] == expected["metrics.jsonl"]


@pytest.mark.parametrize("task", available_tasks())
def test_two_processes_train_to_the_losses_of_one(task: str, datasets: dict[str, Path], tmp_path: Path) -> None:
    length = ["--max-steps", "6", "--batch-size", "4", "--set", "checkpoint.every=3", "--set", "checkpoint.grid=false"]
    one = _mlkit(_train(task, datasets[task], "one", *length), tmp_path)
    assert one.returncode == 0, one.stderr
    # "--multi_gpu" is accelerate's word for several processes; ACCELERATE_USE_CPU keeps them on the CPU (gloo).
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    launcher += ("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no")
    two = _mlkit(_train(task, datasets[task], "two", *length), tmp_path, *launcher)
    assert two.returncode == 0, two.stderr
    assert "cpu, 2 processes" in two.stderr
    assert "Warning" not in two.stderr
    rows_one, rows_two = _rows(tmp_path / "runs" / "one"), _rows(tmp_path / "runs" / "two")
    assert [row["step"] for row in rows_two] == [row["step"] for row in rows_one]
    for row, other in zip(rows_one, rows_two, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], abs=1e-5), f"step {row['step']}"
    # A resume on two processes is exact as well.
    (tmp_path / "runs" / "two" / "ckpt-6").rename(tmp_path / "ckpt-6")
    resumed = _mlkit(["resume", str(tmp_path / "runs" / "two")], tmp_path, *launcher)
    assert resumed.returncode == 0, resumed.stderr
    assert _rows(tmp_path / "runs" / "two") == rows_two
    again = (tmp_path / "runs" / "two" / "ckpt-6" / "model.safetensors").read_bytes()
    assert again == (tmp_path / "ckpt-6" / "model.safetensors").read_bytes()

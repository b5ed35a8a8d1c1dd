"""The real commands: stopped by a signal, and on two processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlkit.files import locked
from mlkit.tasks import available_tasks
from running import fingerprint, preset_of, small_of, start_command

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and gloo as on POSIX")

FORKED = ("sr", "bvae")  # diffusers and peft take seconds to import; the launcher is proven by the others


def _train(task: str, data: Path, name: str, *more: str) -> list[str]:
    fixed = {"train.precision": "fp32", "train.channels_last": False, "tracking.every": 1, **small_of(task, data)}
    options = [word for key, value in fixed.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return ["train", "--preset", preset_of(task), "--quick-test", "--data", str(data), "--name", name, *options, *more]


@dataclass(frozen=True)
class _Said:
    """How a command ended, and its stderr."""

    returncode: int
    stderr: str


class _Started:
    """A command in processes of its own: from the interpreter, or from the fork server for a task that imports long."""

    def __init__(self, task: str, arguments: list[str], tmp_path: Path, ranks: int = 1) -> None:
        self._said = tmp_path / f"said-{time.monotonic_ns()}.txt"
        environment = os.environ | {
            "MLKIT_RUNS_DIR": str(tmp_path / "runs"),
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
        }
        self._processes: list[Any] = []
        if task in FORKED:
            for rank in range(ranks):
                own = environment | (_as_rank(rank, ranks, self._said) if ranks > 1 else {})
                file = self._said.with_suffix(f".{rank}")
                self._processes.append(start_command(arguments, own, file))
        else:
            with self._said.with_suffix(".0").open("wb") as said:
                command = [sys.executable, *(_launcher(ranks) if ranks > 1 else ()), "-m", "mlkit", *arguments]
                self._processes.append(
                    subprocess.Popen(
                        command, env=environment, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
                    )
                )

    def signal(self, number: int) -> None:
        """Send a signal to the command and its data workers too, as job schedulers and Ctrl-C do."""
        for process in self._processes:
            os.killpg(process.pid, number)

    def wait(self) -> _Said:
        codes = []
        for process in self._processes:
            if isinstance(process, subprocess.Popen):
                codes.append(process.wait(timeout=240))
            else:
                process.join(timeout=240)
                codes.append(process.exitcode)
        said = "".join(file.read_text() for file in sorted(self._said.parent.glob(f"{self._said.stem}.[0-9]")))
        return _Said(next((code for code in codes if code), 0), said)


def _launcher(ranks: int) -> tuple[str, ...]:
    # "--multi_gpu" is accelerate's word for several processes; ACCELERATE_USE_CPU keeps them on the CPU (gloo).
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(ranks), "--num_machines", "1")
    return (*launcher, "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no")


def _as_rank(rank: int, ranks: int, about: Path) -> dict[str, str]:
    """Return what such a launcher tells each process; the port is one that was free when the first one asked."""
    port = about.with_suffix(".port")
    if not port.exists():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port.write_text(str(free.getsockname()[1]))
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {name: str(value) for name, value in place.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port.read_text(),
    }


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", available_tasks())
def test_sigterm_saves_leaves_with_75_and_resumes_to_the_same_bits(
    task: str, datasets: dict[str, Path], tmp_path: Path
) -> None:
    steps = ["--max-steps", "16", "--set", "checkpoint.every=6", "--set", "checkpoint.grid=false", "--workers", "2"]
    whole = _Started(task, _train(task, datasets[task], "whole", *steps), tmp_path).wait()
    assert whole.returncode == 0, whole.stderr
    process = _Started(task, _train(task, datasets[task], "stopped", *steps), tmp_path)
    rows = tmp_path / "runs" / "stopped" / "metrics.jsonl"
    deadline_s = time.monotonic() + 200
    while not (rows.exists() and rows.read_text().count("\n") >= 2) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.signal(signal.SIGTERM)
    stopped = process.wait()
    assert stopped.returncode == 75, stopped.stderr
    run = tmp_path / "runs" / "stopped"
    step = json.loads((run / (run / "last").read_text().strip() / "training_state.json").read_text())["step"]
    assert stopped.stderr.splitlines()[-1] == (
        f"mlkit: stopped by SIGTERM and saved at step {step}; continue with: mlkit resume {run}"
    )
    assert 2 <= step < 16
    with locked(run):  # as another training would
        busy = _Started(task, ["resume", str(run)], tmp_path).wait()
    assert (busy.returncode, busy.stderr) == (
        2,
        "mlkit: run stopped is being trained by another process; wait for it, or stop it with Ctrl-C: "
        "it saves and can be resumed\n",
    )
    resumed = _Started(task, ["resume", str(run)], tmp_path).wait()
    assert resumed.returncode == 0, resumed.stderr
    expected, found = fingerprint(tmp_path / "runs" / "whole"), fingerprint(run)
    assert {key: found[key] for key in expected if "ckpt-16" in key} == {
        key: value for key, value in expected.items() if "ckpt-16" in key
    }
    assert found["metrics.jsonl"] == expected["metrics.jsonl"]


@pytest.mark.parametrize("task", available_tasks())
def test_two_processes_train_to_the_losses_of_one(task: str, datasets: dict[str, Path], tmp_path: Path) -> None:
    length = ["--max-steps", "6", "--batch-size", "4", "--set", "checkpoint.every=3", "--set", "checkpoint.grid=false"]
    if task == "sr":  # what is drawn anew for each batch is drawn apart by each process: dropout, times of the flow
        length += ["--set", "model.dropout=0", "--set", "loss.ftd=0"]
    one = _Started(task, _train(task, datasets[task], "one", *length), tmp_path).wait()
    assert one.returncode == 0, one.stderr
    two = _Started(task, _train(task, datasets[task], "two", *length), tmp_path, ranks=2).wait()
    assert two.returncode == 0, two.stderr
    assert "cpu, 2 processes" in two.stderr
    assert "Warning" not in two.stderr
    rows_one, rows_two = _rows(tmp_path / "runs" / "one"), _rows(tmp_path / "runs" / "two")
    assert [row["step"] for row in rows_two] == [row["step"] for row in rows_one]
    for row, other in zip(rows_one, rows_two, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-6, abs=1e-5), f"step {row['step']}"
    # A resume on two processes is exact as well.
    (tmp_path / "runs" / "two" / "ckpt-6").rename(tmp_path / "ckpt-6")
    resumed = _Started(task, ["resume", str(tmp_path / "runs" / "two")], tmp_path, ranks=2).wait()
    assert resumed.returncode == 0, resumed.stderr
    assert _rows(tmp_path / "runs" / "two") == rows_two
    weights = list((tmp_path / "ckpt-6").rglob("*.safetensors"))
    assert weights
    for file in weights:
        again = tmp_path / "runs" / "two" / file.relative_to(tmp_path)
        assert again.read_bytes() == file.read_bytes()

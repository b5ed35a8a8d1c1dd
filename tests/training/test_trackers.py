"""What each tracker's own store holds after a kill and a resume, and that one that fails never ends a training."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator

from mlkit.errors import SettingsError
from mlkit.settings import RunSettings, TrackingSettings
from mlkit.training import tracking, trainer
from mlkit.training.trackers import TRACKERS, About
from mlkit.training.tracking import Trackers, final_rows, named_values, read_rows, refuse_absent_trackers
from toytask import ToyTask

SERVERS = ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR", "TRACKIO_SPACE_ID")


@pytest.mark.parametrize("kind", list(TRACKERS))
def test_a_killed_and_resumed_run_is_in_the_store_once_and_nothing_left_the_machine(kind: str, tmp_path: Path) -> None:
    if find_spec(kind) is None:
        pytest.skip(f"the package {kind} is not installed: pip install 'mlkit[{kind}]'")
    # The steps 4 to 8 were told before the kill, 4 to 9 after the resume at 3, with losses that are 10 more.
    own = {key: value for key, value in os.environ.items() if key not in SERVERS} | {"HOME": str(tmp_path / "home")}
    script = Path(__file__).parents[1] / "trackerstores.py"
    done = subprocess.run(
        [sys.executable, str(script), kind, str(tmp_path)], env=own, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["failed"] == [] and found["outside"] == []
    steps = list(range(1, 10))
    assert set(found["scalars"]) == {"train/lr", "train/loss", "validation/psnr"}  # no NaN, no count of samples
    assert [step for step, _ in found["scalars"]["train/loss"]] == steps
    losses = [value for _, value in found["scalars"]["train/loss"]]
    assert losses == pytest.approx([1 / step + 10 * (step > 3) for step in steps], rel=1e-6)
    assert found["scalars"]["validation/psnr"] == [[3, 23.0], [6, 26.0], [9, 29.0]]
    assert found["pictures"] == [[3, 6, 8], [6, 6, 8], [9, 6, 8]] and found["lr"] == 1e-4
    assert all(word in found["final"] for word in ("score", "29.0", "dB", "best psnr"))


def test_a_row_is_told_by_its_part_without_what_is_no_number() -> None:
    row = {"step": 5, "samples": 40, "lr": 1e-4, "loss": 0.5, "kl": None, "share": float("nan")}
    assert named_values(row) == {"train/lr": 1e-4, "train/loss": 0.5}
    assert named_values({"step": 5, "split": "validation", "psnr": 20.0}) == {"validation/psnr": 20.0}


def test_the_final_table_has_the_last_scores_and_the_best_one() -> None:
    rows = final_rows({"psnr": 28.5, "loss": 0.25, "enl_ratio": float("nan")}, 90, "psnr", 29.0, 60)
    assert rows == [("psnr", 28.5, "dB", 90), ("loss", 0.25, "", 90), ("best psnr", 29.0, "dB", 60)]


# ---- with trackers that are none ------------------------------------------------------------------------------

said: list[str] = []


def trackers(folder: Path, start_step: int = 0, **which: bool) -> Trackers:
    settings = TrackingSettings.model_validate(which)
    return Trackers(
        settings, folder, name="first", run_id="abc", start_step=start_step, values={"seed": 0}, say=said.append
    )


class Told:
    """A tracker that keeps what it is told, and fails where it is asked to."""

    rewritten = True
    fails = ""

    def __init__(self, about: About) -> None:
        self.told: list[Any] = []
        self._do("start")

    def _do(self, what: str, *facts: Any) -> None:
        self.told.append((what, *facts))
        if what == self.fails:
            raise ConnectionError("no route")

    def log(self, values: Any, step: int) -> None:
        self._do("log", values, step)

    def image(self, key: str, image_u8: Any, step: int) -> None:
        self._do("image", key, image_u8.shape, step)

    def table(self, key: str, columns: Sequence[str], rows: Any, step: int) -> None:
        self._do("table", key, step)

    def finish(self) -> None:
        self._do("finish")


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    none = trackers(tmp_path)
    none.log({"step": 1, "loss": 1.0})
    none.log_image("grid", np.zeros((4, 4, 3), np.uint8), 1)
    none.log_final([("psnr", 1.0, "dB", 1)], 1)
    none.finish()
    assert none.failed == [] and list(tmp_path.iterdir()) == []


def test_an_absent_tracker_is_one_sentence_with_the_install(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = {
        package: f"tracking.{package} = true needs the package {package}: pip install 'mlkit[{package}]'"
        for package in ("tensorboard", "wandb", "mlflow", "trackio")
    }
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    refuse_absent_trackers(TrackingSettings())  # none asked for, none needed
    for asked in (["wandb"], ["tensorboard"], ["mlflow", "trackio"], list(sentences)):
        with pytest.raises(SettingsError) as caught:
            refuse_absent_trackers(TrackingSettings.model_validate(dict.fromkeys(asked, True)))
        assert caught.value.problems == tuple(sentences[package] for package in asked)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    refuse_absent_trackers(TrackingSettings.model_validate(dict.fromkeys(sentences, True)))


@pytest.mark.parametrize("fails", ["start", "log", "image", "table", "finish"])
def test_a_tracker_that_fails_anywhere_is_one_warning_and_the_training_comes_to_its_end(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Told, "fails", fails)
    monkeypatch.setitem(TRACKERS, "mlflow", Told)
    train = {"steps": 2, "batch_size": 10, "precision": "fp32", "channels_last": False, "workers": 0}
    settings = {"task": "toy", "train": train, "checkpoint": {"every": 2}, "tracking": {"mlflow": True, "every": 1}}
    task = ToyTask(RunSettings.model_validate(settings))
    data = task.build_dataset(None, tmp_path / "data")
    (tmp_path / "run").mkdir()
    with caplog.at_level(logging.ERROR):
        outcome = trainer.fit(
            task, data, tmp_path / "run", accelerator=Accelerator(cpu=True), name="toy", run_id="0", resume=None
        )
    assert outcome.state.step == 2 and outcome.checkpoint.folder.is_dir()
    assert outcome.failures == ("tracker mlflow failed (ConnectionError: no route); the traceback is in run.log",)
    assert caplog.text.count("tracker mlflow failed and is off from now on; training goes on") == 1
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 2]


def test_a_package_that_cannot_be_imported_is_a_failure_like_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    broken = trackers(tmp_path, trackio=True)
    broken.log({"step": 1, "loss": 1.0})
    assert len(broken.failed) == 1 and broken.failed[0].startswith("tracker trackio failed (ModuleNotFoundError")


def test_what_a_run_has_already_is_told_in_order_to_a_store_that_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlkit.imaging.grids import write_png

    rows = [{"step": 2, "loss": 4.0}, {"step": 2, "split": "validation", "psnr": 20.0}, {"step": 4, "loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (2, 4, 6):  # 6 was taken back by a kill
        write_png(tmp_path / "grids" / f"grid_{step:08d}.png", np.zeros((6, 8, 3), np.uint8))
    kept: list[Told] = []
    monkeypatch.setitem(TRACKERS, "wandb", lambda about: kept.append(Told(about)) or kept[0])
    trackers(tmp_path, start_step=4, wandb=True)
    assert kept[0].told[1:] == [
        ("log", {"train/loss": 4.0}, 2),
        ("log", {"validation/psnr": 20.0}, 2),
        ("image", "grid", (6, 8, 3), 2),
        ("log", {"train/loss": 2.0}, 4),
        ("image", "grid", (6, 8, 3), 4),
    ]


# ---- W&B with a server ----------------------------------------------------------------------------------------


def fake_wandb(monkeypatch: pytest.MonkeyPatch, last_step: int) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """Put a W&B in place whose run was logged up to `last_step`; returns what it is started with, and told."""
    started: dict[str, Any] = {}
    logged: list[tuple[Any, Any]] = []

    class Run:
        step = last_step

        class config:
            @staticmethod
            def update(values: Any, **_: Any) -> None:
                started["config"] = values

        @staticmethod
        def log(values: Any, step: Any = None, **_: Any) -> None:
            logged.append((values, step))

        @staticmethod
        def finish() -> None:
            started["finished"] = True

    def init(**arguments: Any) -> type[Run]:
        started.update(arguments)
        return Run

    fake = ModuleType("wandb")
    fake.init, fake.config = init, Run.config  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return started, logged


def test_wandb_without_a_key_logs_offline_under_the_runs_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, logged = fake_wandb(monkeypatch, 0)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.delenv("WANDB_MODE")
    said.clear()
    board = trackers(tmp_path, wandb=True)
    board.log({"step": 3, "loss": 0.5})
    board.finish()
    assert board.failed == []
    assert os.environ["WANDB_MODE"] == "offline"
    assert said == [f"W&B has no key (WANDB_API_KEY): offline into {tmp_path / 'wandb'}; send it with: wandb sync"]
    assert (started["project"], started["name"], started["id"], started["resume"]) == ("mlkit", "first", "abc", "allow")
    assert started["dir"] == str(tmp_path) and started["config"] == {"seed": 0} and started["finished"]
    assert logged == [({"train/loss": 0.5}, 3)]


def test_a_wandb_server_is_told_no_step_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, logged = fake_wandb(monkeypatch, 5)  # the next step that it takes
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    board = trackers(tmp_path, start_step=2, wandb=True)
    for step in (3, 4, 5, 6):
        board.log({"step": step, "loss": 0.5})
    assert board.failed == [] and [step for _, step in logged] == [5, 6]

"""Rows are cut back to the resumed step and survive kills; trackers work when asked and never end a run."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mlkit.errors import SettingsError
from mlkit.settings import TrackingSettings
from mlkit.training import tracking
from mlkit.training.tracking import RowFile, Trackers, read_rows, refuse_absent_trackers


def write(path: Path, steps: list[int], start_step: int = 0) -> None:
    rows = RowFile(path, start_step)
    for step in steps:
        rows.add({"step": step, "loss": 1 / 3 + step, "lr": 1e-4})
    rows.sync()
    rows.close()


def test_rows_are_one_json_object_a_line_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [5, 10])
    assert path.read_bytes() == (
        b'{"step": 5, "loss": 5.333333333333333, "lr": 0.0001}\n'
        b'{"step": 10, "loss": 10.333333333333334, "lr": 0.0001}\n'
    )
    assert [row["step"] for row in read_rows(path)] == [5, 10]


def test_rows_after_the_resumed_step_are_cut_and_the_others_keep_their_bytes(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    write(killed, [5, 10, 15, 20])
    write(killed, [15, 20, 25], start_step=10)
    write(whole, [5, 10, 15, 20, 25])
    assert killed.read_bytes() == whole.read_bytes()


def test_a_row_of_the_resumed_step_itself_stays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = RowFile(path, 0)
    rows.add({"step": 10, "loss": 1.0})
    rows.add({"step": 10, "split": "validation", "psnr": 20.0})
    rows.close()
    RowFile(path, 10).close()
    assert [row.get("split") for row in read_rows(path)] == [None, "validation"]
    RowFile(path, 9).close()
    assert read_rows(path) == []


@pytest.mark.parametrize("cut", range(1, 53))
def test_a_last_row_cut_anywhere_by_a_kill_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [5, 10])
    complete = path.read_bytes()
    first = complete.splitlines(keepends=True)[0]
    assert len(first) == 53
    path.write_bytes(first + complete[len(first) : len(first) + cut])
    assert [row["step"] for row in read_rows(path)] == [5]
    write(path, [10], start_step=10)
    assert path.read_bytes() == complete


def test_an_absent_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "metrics.jsonl") == []


def test_what_json_cannot_hold_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = RowFile(path, 0)
    rows.add({"step": 1, "enl_ratio": math.nan, "psnr": math.inf, "loss": 0.5})
    rows.close()
    assert read_rows(path) == [{"step": 1, "enl_ratio": None, "psnr": None, "loss": 0.5}]
    RowFile(path, 1).close()  # a cut keeps them
    assert json.loads(path.read_text()) == {"step": 1, "enl_ratio": None, "psnr": None, "loss": 0.5}


def test_a_row_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "metrics.jsonl", 0)
    rows.add({"step": 1, "loss": 0.5})
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}]
    rows.close()


# ---- trackers ------------------------------------------------------------------------------------------------


said: list[str] = []


def trackers(folder: Path, start_step: int = 0, **which: bool) -> Trackers:
    settings = TrackingSettings.model_validate(which)
    return Trackers(
        settings, folder, name="first", run_id="abc", start_step=start_step, values={"seed": 0}, say=said.append
    )


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    none = trackers(tmp_path)
    none.log({"train/loss": 1.0}, 1)
    none.log_image("grid", np.zeros((4, 4, 3), np.uint8), 1)
    none.finish()
    assert none.failed == [] and list(tmp_path.iterdir()) == []


def events(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(next(folder.rglob("events.*")).parent))
    read.Reload()
    return read


def test_tensorboard_gets_scalars_and_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = trackers(tmp_path, tensorboard=True)
    for step in (1, 2):
        board.log({"train/loss": 0.5 / step, "lr": 1e-4}, step)
    picture = np.zeros((6, 8, 3), np.uint8)
    picture[..., 0] = 200
    board.log_image("grid", picture, 2)
    board.finish()
    assert board.failed == []
    read = events(tmp_path / "tensorboard")
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    image = read.Images("grid")[0] if "grid" in read.Tags()["images"] else read.Images(read.Tags()["images"][0])[0]
    assert (image.height, image.width, image.step) == (6, 8, 2)


def test_tensorboard_hides_what_a_kill_took_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = trackers(tmp_path, tensorboard=True)
    for step in (1, 2, 3, 4):
        board.log({"train/loss": 1.0 * step}, step)
    board.finish()
    again = trackers(tmp_path, start_step=2, tensorboard=True)
    for step in (3, 4):
        again.log({"train/loss": 10.0 * step}, step)
    again.finish()
    found = [(event.step, event.value) for event in events(tmp_path / "tensorboard").Scalars("train/loss")]
    assert found == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def test_an_absent_tracker_is_one_sentence_with_the_install(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = {
        package: f"tracking.{package} = true needs the package {package}: pip install 'mlkit[{package}]'"
        for package in ("tensorboard", "wandb")
    }
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    refuse_absent_trackers(TrackingSettings())  # none asked for, none needed
    for asked in (["wandb"], ["tensorboard"], ["tensorboard", "wandb"]):
        with pytest.raises(SettingsError) as caught:
            refuse_absent_trackers(TrackingSettings.model_validate(dict.fromkeys(asked, True)))
        assert caught.value.problems == tuple(sentences[package] for package in asked)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    refuse_absent_trackers(TrackingSettings(tensorboard=True, wandb=True))


def test_a_tracker_that_fails_is_told_once_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    class Breaks:
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def start(self) -> None: ...

        def log(self, values: Any, step: int) -> None:
            calls.append(step)
            if step == 2:
                raise ConnectionError("no route")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker", Breaks)
    board = trackers(tmp_path, tensorboard=True)
    with caplog.at_level(logging.ERROR):
        for step in (1, 2, 3):
            board.log({"train/loss": 1.0}, step)
    board.finish()
    assert calls == [1, 2]
    assert board.failed == ["tracker tensorboard failed (ConnectionError: no route); the traceback is in run.log"]
    assert caplog.text.count("tracker tensorboard failed and is off from now on; training goes on") == 1
    assert "ConnectionError: no route" in caplog.text


def test_wandb_without_a_key_logs_offline_under_the_runs_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, Any] = {}
    logged: list[tuple[Any, Any]] = []

    class Run:
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
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.delenv("WANDB_MODE")
    said.clear()
    board = trackers(tmp_path, wandb=True)
    board.log({"train/loss": 0.5}, 3)
    board.finish()
    assert board.failed == []
    assert os.environ["WANDB_MODE"] == "offline"
    assert said == [f"W&B has no key (WANDB_API_KEY): offline into {tmp_path / 'wandb'}; send it with: wandb sync"]
    assert (started["project"], started["name"], started["id"], started["resume"]) == ("mlkit", "first", "abc", "allow")
    assert started["dir"] == str(tmp_path) and started["config"] == {"seed": 0} and started["finished"]
    assert [(values["train/loss"], step) for values, step in logged] == [(0.5, 3)]

"""Rows are cut back to the resumed step and survive kills."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mlkit.training.tracking import RowFile, read_rows


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

"""Run folders under stress: two processes at once, disks that refuse, files that are damaged."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlkit.errors import CheckpointError, DataError, MlkitError
from mlkit.runs.folders import (
    STATUSES,
    checkpoint_step,
    new_run_folder,
    next_free_name,
    read_pointer,
    read_run_json,
    resolve_run,
    set_status,
    write_run_json,
)


def test_of_many_processes_that_want_one_name_exactly_one_gets_it(tmp_path: Path) -> None:
    def want(_: int) -> bool:
        try:
            new_run_folder(tmp_path / "runs", "first")
        except MlkitError as error:
            assert "use --name first_2" in str(error)
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(want, range(32))) == 1


def test_a_refused_name_is_told_in_one_whole_sentence(tmp_path: Path) -> None:
    new_run_folder(tmp_path, "first")
    with pytest.raises(MlkitError) as caught:
        new_run_folder(tmp_path, "first")
    assert str(caught.value) == f"a run 'first' exists in {tmp_path}; use --name first_2, or resume it"
    with pytest.raises(MlkitError) as caught:
        new_run_folder(tmp_path, "my run")
    assert str(caught.value) == (
        "'my run' cannot be a run's name: use up to 100 letters, digits, '_', '-' and '.', beginning with a letter or "
        "digit, such as residual_v1_c16"
    )


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        (errno.EACCES, "Permission denied; choose a folder that you may write to"),
        (errno.EROFS, "Read-only file system; choose a folder that you may write to"),
    ],
)
def test_a_runs_folder_that_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, ending: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(DataError) as caught:
        new_run_folder(tmp_path / "runs", "first")
    assert str(caught.value) == f"cannot write {tmp_path / 'runs' / 'first'}: {ending}"


def test_free_names_count_on_over_gaps_and_longer_names(tmp_path: Path) -> None:
    for taken in ("a", "a_2", "a_4", "a_20", "ab"):
        (tmp_path / taken).mkdir()
    assert next_free_name(tmp_path, "a") == "a_3"
    assert next_free_name(tmp_path, "a_4") == "a_5"
    assert next_free_name(tmp_path, "free") == "free"


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_kept(tmp_path: Path, status: str) -> None:
    write_run_json(tmp_path, {"name": "a", "status": "planned"})
    set_status(tmp_path, status)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == status


def test_a_run_json_that_is_absent_or_half_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_run_json(tmp_path)
    assert str(caught.value) == f"run {tmp_path / 'run.json'} does not exist"
    (tmp_path / "run.json").write_text('{"format_version": 1, "na')
    with pytest.raises(DataError, match=r"^run .*run.json is damaged: Unterminated string"):
        read_run_json(tmp_path)


def test_a_status_change_on_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run_json(tmp_path, {"name": "a", "status": "wip"})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="the disk is full"):
        set_status(tmp_path, "success")
    assert read_run_json(tmp_path)["status"] == "wip"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_pointer_to_what_was_removed_is_told_in_one_whole_sentence(tmp_path: Path) -> None:
    (tmp_path / "ckpt-5").mkdir()
    (tmp_path / "ckpt-5" / "checkpoint.json").write_text("{}")
    assert read_pointer(tmp_path, "last") is None
    (tmp_path / "last").write_text("ckpt-10\n")
    with pytest.raises(CheckpointError) as caught:
        read_pointer(tmp_path, "last")
    assert str(caught.value) == (
        f"{tmp_path / 'last'} names 'ckpt-10', which is no complete checkpoint; there are: ckpt-5"
    )


def test_names_that_are_nearly_a_checkpoint_are_none(tmp_path: Path) -> None:
    for name in ("ckpt-", "ckpt-5x", "ckpt-5.old", "xckpt-5", ".partial-ckpt-5-0a1b"):
        assert checkpoint_step(tmp_path / name) is None
    assert checkpoint_step(tmp_path / "ckpt-005") == 5


def test_a_partial_checkpoint_is_never_what_a_name_means(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    (run / ".partial-ckpt-5-0a1b").mkdir(parents=True)
    write_run_json(run, {"name": "first", "status": "wip"})
    with pytest.raises(CheckpointError, match="no complete checkpoint yet"):
        resolve_run("first", tmp_path / "runs").chosen_checkpoint()

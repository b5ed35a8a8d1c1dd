"""What the machine does to a training: a disk that fills and stays full, and errors that nobody expects."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlkit.checkpoint import open_checkpoint
from mlkit.commands.display import PlainProgress

Call = Callable[..., Any]


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000))


@pytest.mark.usefixtures("small_disk")
def test_disk_that_stays_full_does_not_hide_why_the_run_ended(
    train: Call, mlkit: Call, runs: Path, trained: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = Path.write_bytes, False

    def write_bytes(self: Path, content: bytes) -> int:
        nonlocal full
        full = full or (self.name == "optimizer.bin" and "ckpt-6" in str(self))
        if full:  # from here on for everything: the run's status cannot be written either
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        result = train("--name", "first")
    run = runs / "first"
    assert result.code == 3
    assert [line for line in result.err.splitlines() if line.startswith("mlkit: ")] == [
        f"mlkit: cannot write {run / 'ckpt-6'}: the disk is full (3 MB free); free some space and try again; the last "
        f"good checkpoint is ckpt-3, to go on: mlkit resume {run}"
    ]
    open_checkpoint(run / "ckpt-3")
    assert (run / "last").read_text() == "ckpt-3\n"
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["ckpt-3", "grids"]
    assert mlkit("resume", run).code == 0
    weights = [folder / "ckpt-6" / "model.safetensors" for folder in (run, trained[0])]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.usefixtures("small_disk")
def test_disk_that_fills_between_saves_is_one_sentence(
    train: Call, mlkit: Call, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, run = os.fsync, runs / "first"

    def full(handle: int) -> None:
        if (run / "last").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = train("--name", "first", "--set", "checkpoint.grid=false", "--set", "checkpoint.keep_best=0")
    assert (result.code, result.err.splitlines()[-1]) == (
        4,
        f"mlkit: cannot write {run / 'last'}: the disk is full (3 MB free); free some space and try again",
    )
    open_checkpoint(run / "ckpt-3")
    assert mlkit("resume", run).code == 0
    open_checkpoint(run / "ckpt-6")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/lost"),
            4,
            "/lost: Permission denied; choose a place that you may use",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 4, "No space left on device; free some space and try again"),
        (KeyError("x"), 1, "internal error: KeyError: 'x'; run again with --traceback and report it"),
        (OSError(errno.EIO, "Input/output error"), 1, None),
    ],
)
def test_error_that_no_part_expects_is_one_sentence_too(
    error: Exception, code: int, sentence: str | None, train: Call, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("mlkit.commands.starting.dataset_for", fail)
    result = train()
    sentence = sentence or f"internal error: {type(error).__name__}: {error}; run again with --traceback and report it"
    assert (result.code, result.out, result.err) == (code, "", f"mlkit: {sentence}\n")
    assert not runs.exists()


def test_a_training_goes_on_when_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):  # such as `mlkit train 2>&1 | tee log` whose tee was ended
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    progress = PlainProgress()
    progress.say("step 1/2")
    progress.say("step 2/2")
    assert not isinstance(sys.stderr, Gone)
    sys.stderr.close()

"""A number that is not finite stops a run with evidence; signals ask for an orderly end; memory errors are one line."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from mlkit.errors import MemoryShortError, NonFiniteError
from mlkit.training.guards import StopSignal, memory_named, stop_if_not_finite

GOOD = {"loss": 0.5, "mse": 0.25, "grad_norm": 3.0}


def check(folder: Path, values: dict[str, float], *, fp16: bool = False, rank: int = 0) -> None:
    stop_if_not_finite(values, folder, step=120, samples=["000007", "000031"], rank=rank, fp16=fp16)


def test_finite_numbers_pass_and_leave_nothing(tmp_path: Path) -> None:
    check(tmp_path, GOOD)
    check(tmp_path, {"loss": 0.0, "grad_norm": 3.0e38})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "mse", "grad_norm"])
def test_any_other_number_stops_with_evidence_and_the_way_on(tmp_path: Path, name: str, bad: float) -> None:
    with pytest.raises(NonFiniteError) as caught:
        check(tmp_path, GOOD | {name: bad})
    evidence = tmp_path / "nonfinite-00000120-rank0.json"
    assert str(caught.value) == (
        f"step 120: {name} not finite; the weights were not updated. Evidence (values, sample ids): {evidence}. "
        "Resuming would meet it again: look at those samples, or start a new run with a lower train.lr or "
        "train.grad_clip_norm by --init-from the last checkpoint"
    )
    assert caught.value.exit_code == 5
    assert json.loads(evidence.read_text()) == {
        "format_version": 1,
        "step": 120,
        "values": GOOD | {name: str(bad)},
        "samples": ["000007", "000031"],
    }


def test_all_that_is_not_finite_is_named(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="step 120: loss, grad_norm not finite"):
        check(tmp_path, {"loss": math.nan, "mse": 1.0, "grad_norm": math.inf})


def test_with_a_loss_scaler_an_infinite_gradient_is_routine_and_a_loss_is_not(tmp_path: Path) -> None:
    check(tmp_path, GOOD | {"grad_norm": math.inf}, fp16=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NonFiniteError, match="step 120: loss not finite"):
        check(tmp_path, GOOD | {"grad_norm": math.inf, "loss": math.inf}, fp16=True)


def test_every_process_stops_and_writes_its_own_samples(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="nonfinite-00000120-rank1"):
        check(tmp_path, GOOD | {"loss": math.nan}, rank=1)
    assert [path.name for path in tmp_path.iterdir()] == ["nonfinite-00000120-rank1.json"]


# ---- signals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_old_handlers_come_back(number: signal.Signals) -> None:
    heard: list[int] = []

    def own(number: int, frame: object) -> None:
        heard.append(number)

    before = {each: signal.signal(each, own) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with StopSignal() as stop:
            assert stop.asked_by is None
            signal.raise_signal(number)
            assert stop.asked_by == number.name
            assert heard == []
        assert {signal.getsignal(each) for each in before} == {own}
        signal.raise_signal(number)
        assert heard == [number]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_the_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyError), StopSignal():
        raise KeyError
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_sigterm_is_patient() -> None:
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # schedulers repeat it
        assert stop.asked_by == "SIGTERM"


@pytest.mark.skipif(os.name != "posix", reason="exit codes of signals as on POSIX")
def test_a_second_sigint_leaves_at_once() -> None:
    code = (
        "import signal\n"
        "from mlkit.training.guards import StopSignal\n"
        "with StopSignal():\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        print('asked', flush=True)\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "asked\n")


def test_outside_the_main_thread_signals_are_left_to_the_caller() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with StopSignal() as stop:
            seen.extend([stop.asked_by, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None, before]
    assert signal.getsignal(signal.SIGTERM) is before


# ---- memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 12 GiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee documentation"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_allocation_that_fails_becomes_one_sentence(error: Exception) -> None:
    with pytest.raises(MemoryShortError) as caught, memory_named():
        raise error
    first = str(error).splitlines()[0]
    assert str(caught.value) == (
        f"out of memory ({first}); lower --batch-size (and raise train.accumulate to keep the same update), "
        "or use --precision bf16"
    )
    assert caught.value.exit_code == 6


def test_a_real_allocation_that_fails_is_named() -> None:
    with pytest.raises(MemoryShortError, match="out of memory"), memory_named():
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch") as caught, memory_named():
        raise RuntimeError("shape mismatch")
    assert type(caught.value) is RuntimeError

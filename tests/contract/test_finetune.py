"""Starting from older weights without forgetting, for every task: measured, guarded, frozen, killed and resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from mlkit.checkpoint import newest_good, open_checkpoint
from mlkit.files import sha256_file
from mlkit.tasks import available_tasks
from running import Job, fingerprint, run, run_with_kills, task_of, train

TASKS = ("toy", *available_tasks())
pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork servers are POSIX")

STEPS = {
    "train.steps": 7,
    "train.batch_size": 2,
    "train.accumulate": 2,
    "train.ema_decay": 0.9,
    "checkpoint.every": 2,
    "checkpoint.grid": False,
    "checkpoint.keep_last": 2,
    "tracking.every": 1,
}


def _finetune(task: str, data: Path, start: Path, **changes: Any) -> Job:
    """Return a job with everything on, and one parameter frozen."""
    held = {
        "train.ewc": 10.0,
        "train.ewc_data": str(data),
        "train.ewc_samples": 3,
        "train.freeze": _first_parameter(start),
        "eval.guard_data": str(data),
        "eval.guard_loss": 0.0,
    }
    return Job(task, data, STEPS | held | changes, init_from=start)


def _first_parameter(start: Path) -> tuple[str, ...]:
    """Return the name of one trained parameter: of those that the optimizer's average follows."""
    with safe_open(start / "ema.safetensors", "pt") as file:
        return (sorted(file.keys())[0],)


class Starts:
    """Checkpoints that a new run may start from, made where one is asked for."""

    def __init__(self, root: Path, datasets: dict[str, Path]) -> None:
        self._root, self._datasets = root, datasets

    def __getitem__(self, task: str) -> Path:
        if not (self._root / task).exists():
            assert run(Job(task, self._datasets[task], STEPS | {"train.steps": 2}), self._root / task)
        return self._root / task / "ckpt-2"


@pytest.fixture(scope="session")
def starts(datasets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Starts:
    return Starts(tmp_path_factory.mktemp("starts"), datasets)


def _same(one: Path, other: Path) -> None:
    expected, found = fingerprint(one), fingerprint(other)
    different = [name for name in expected | found if found.get(name) != expected.get(name)]
    assert not different, f"differs: {different}"
    assert (one / "ewc.safetensors").read_bytes() == (other / "ewc.safetensors").read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_every_part_works_and_a_kill_changes_no_bit(
    task: str, datasets: dict[str, Path], starts: Starts, tmp_path: Path
) -> None:
    job = _finetune(task, datasets[task], starts[task])
    assert run(job, tmp_path / "one")
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "split" not in row]
    assert trained[0]["ewc"] == 0 and all(row["ewc"] > 0 for row in trained[1:])
    scored = [row for row in rows if "split" in row]
    key = f"guard_{task_of(job).primary_metric}"
    assert [row["step"] for row in scored] == [0, 2, 4, 6, 7] and all(row[key] is not None for row in scored)
    saved, _ = newest_good(tmp_path / "one")
    assert saved is not None and saved.info["ewc_sha256"] == sha256_file(tmp_path / "one" / "ewc.safetensors")
    (frozen,) = _first_parameter(starts[task])
    assert f"fisher.{frozen}" not in load_file(tmp_path / "one" / "ewc.safetensors")
    assert frozen not in load_file(saved.folder / "ema.safetensors")
    for workers, kills in ((0, 6), (1, 3)) if task == "toy" else ((1, 2),):
        killed = _finetune(task, datasets[task], starts[task], **{"train.workers": workers})
        hit, _ = run_with_kills(killed, tmp_path / f"killed-{workers}", seed=workers, rows=len(rows), kills=kills)
        assert hit > 0
        _same(tmp_path / "one", tmp_path / f"killed-{workers}")


def test_killed_before_any_operation_on_files_and_resumed_gives_the_same_bits(
    datasets: dict[str, Path], starts: Starts, tmp_path: Path
) -> None:
    short = {"train.steps": 3, "checkpoint.keep_last": 1}
    job = _finetune("toy", datasets["toy"], starts["toy"], **short)
    assert run(job, tmp_path / "one")
    place, ended = 0, False
    while not ended:
        place += 1
        folder = tmp_path / f"at-{place}"
        ended = run(job, folder, die_at=place)
        if not ended:
            assert run(job, folder)
            _same(tmp_path / "one", folder)
            assert not list(folder.glob(".partial-*")), "a leftover of the killed process stayed"
    assert place > 30


def test_without_the_stored_weights_at_the_start_the_proof_fails(
    datasets: dict[str, Path], starts: Starts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail: measure again where a run is resumed, and it has other weights."""
    from mlkit.training import ewc

    job = _finetune("toy", datasets["toy"], starts["toy"])
    train(job, tmp_path / "one")
    (tmp_path / "one" / "ckpt-7").rename(tmp_path / "kept")
    monkeypatch.setattr(ewc, "restored", lambda run, checkpoint: ewc.measure(run))
    train(job, tmp_path / "one")
    again = open_checkpoint(tmp_path / "one" / "ckpt-7")
    name = "model.safetensors"
    assert (again.folder / name).read_bytes() != (tmp_path / "kept" / name).read_bytes()

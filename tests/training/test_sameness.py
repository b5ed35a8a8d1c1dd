"""Two runs that are the same have no differences; any bit of what counts is one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from mlkit.files import sha256_file, write_json
from mlkit.settings import RunSettings
from mlkit.training import trainer
from mlkit.training.memory import PeakMemory, free_bytes
from mlkit.training.sameness import differences
from toytask import ToyTask


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two runs, `a` and `b`, of one seed."""
    folder = tmp_path_factory.mktemp("runs")
    train = {"steps": 4, "batch_size": 10, "precision": "fp32", "channels_last": False, "ema_decay": 0.9}
    task = ToyTask(RunSettings.model_validate({"task": "toy", "train": train, "checkpoint": {"every": 2}}))
    data = task.build_dataset(None, folder / "data")
    for name in ("a", "b"):
        (folder / name).mkdir()
        trainer.fit(task, data, folder / name, accelerator=Accelerator(cpu=True), name="toy", run_id="0")
    return folder


def hashed_again(checkpoint: Path, name: str) -> None:
    """Let a checkpoint's hash of a file be that of the file as it is."""
    about = json.loads((checkpoint / "checkpoint.json").read_text())
    entry = about["files"][name]
    if isinstance(entry, dict):
        entry["sha256"], entry["bytes"] = sha256_file(checkpoint / name), (checkpoint / name).stat().st_size
    else:
        about["files"][name] = sha256_file(checkpoint / name)
    del about["sha256"]
    write_json(checkpoint / "checkpoint.json", about)


def test_runs_of_one_seed_are_the_same_but_for_the_clock(runs: Path) -> None:
    assert differences(runs / "a", runs / "b") == []
    states = [json.loads((runs / name / "ckpt-4" / "training_state.json").read_text()) for name in "ab"]
    assert states[0]["train_s"] != states[1]["train_s"]


def one_weight(run: Path, name: str) -> None:
    file = run / "ckpt-4" / name
    values = load_file(file)
    key = next(key for key, value in values.items() if value.is_floating_point())
    values[key].view(-1)[0] = torch.nextafter(values[key].view(-1)[0], torch.tensor(1e9))
    save_file(values, file)
    hashed_again(run / "ckpt-4", name)


def one_counter(run: Path) -> None:
    file = run / "ckpt-4" / "training_state.json"
    state = json.loads(file.read_text())
    state["samples_seen"] += 1
    file.write_text(json.dumps(state))
    hashed_again(run / "ckpt-4", "training_state.json")


def one_score(run: Path) -> None:
    file = run / "ckpt-4" / "eval.json"
    file.write_text(file.read_text().replace("1", "2", 1))


def one_moment(run: Path) -> None:
    file = next((run / "ckpt-4" / "accelerator_state").iterdir())
    content = torch.load(file, weights_only=True)
    next(iter(content["optimizer"]["state"].values()))["exp_avg"].view(-1)[0] += 0.5
    torch.save(content, file)
    hashed_again(run / "ckpt-4", f"accelerator_state/{file.name}")


PLANTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "rows": (lambda run: (run / "metrics.jsonl").write_text("{}\n") and None, "the rows of metrics.jsonl"),
    "a checkpoint less": (lambda run: shutil.rmtree(run / "ckpt-2"), "the checkpoints: ckpt-2, ckpt-4 and ckpt-4"),
    "a weight's last bit": (lambda run: one_weight(run, "model.safetensors"), "ckpt-4: model.safetensors, by up to"),
    "an average's last bit": (lambda run: one_weight(run, "ema.safetensors"), "ckpt-4: ema.safetensors, by up to"),
    "a counter": (one_counter, "ckpt-4: counters"),
    "a score": (one_score, "ckpt-4: eval.json"),
    "a moment": (one_moment, "ckpt-4: the optimizer's state, by up to 0.5"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_difference_is_named(what: str, runs: Path, tmp_path: Path) -> None:
    other = shutil.copytree(runs / "b", tmp_path / "b")
    change, phrase = PLANTED[what]
    change(other)
    (found,) = differences(runs / "a", other)
    assert found.startswith(phrase), found


def test_the_peak_is_what_was_held_since_it_was_reset() -> None:
    device = torch.device("cpu")
    memory = PeakMemory(device)
    memory.reset()
    before = memory.peak_bytes()
    held = torch.ones(100_000_000 // 4)
    assert memory.peak_bytes() - before > 80_000_000
    del held
    free = free_bytes(device)
    assert free is None or 0 < free < 2**50
    if Path("/proc/self/clear_refs").exists():
        memory.reset()
        assert memory.peak_bytes() - before < 60_000_000

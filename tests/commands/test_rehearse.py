"""`mlkit train --rehearse`: ready, or what is wrong with its place; nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import namedtuple
from collections.abc import Callable
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.commands import rehearsal_runs
from mlkit.commands.rehearsal_runs import Ended, Phase, short_settings
from mlkit.data.manifest import open_manifest
from planted import rebuilt

Mlkit = Callable[..., Any]
Result = Any
ITEMS = [
    *("settings", "dataset", "hashes", "headers", "contents", "samples", "near-duplicates", "precision"),
    *("train", "validation", "checkpoint", "grid", "disk", "kill and resume"),
]


@pytest.fixture
def rehearse(train: Mlkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mlkit:
    """Return `mlkit train --rehearse` of a small SAR preset; what it writes aside goes into `tmp_path / "tmp"`."""
    (tmp_path / "tmp").mkdir()
    get_temp_dir()  # kept for the whole process: sockets of later tests must not lie in this one's long path
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return lambda *more, **options: train("--rehearse", *more, **options)


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_good_training_is_ready_and_nothing_is_written(
    rehearse: Mlkit, dataset: Path, runs: Path, tmp_path: Path
) -> None:
    before = fingerprint(dataset)
    done = rehearse("--json")
    found = json.loads(done.out)
    assert done.code == 0 and found["ready"] and done.lines[-1].startswith("ready, after ")
    items = {item["name"]: item for item in found["items"]}
    assert list(items) == ITEMS and {item["status"] for item in items.values()} == {"ok"}
    assert items["kill and resume"]["told"] == "killed in update 2, resumed from update 1: every bit as left alone"
    assert all(items[name]["peak_bytes"] > 10_000_000 for name in ("train", "validation", "grid"))
    assert "batch 2" in items["train"]["told"]
    assert fingerprint(dataset) == before and not runs.exists() and not list((tmp_path / "tmp").glob("mlkit*"))


def test_a_loss_that_becomes_nan_is_told_with_its_samples(rehearse: Mlkit, runs: Path, tmp_path: Path) -> None:
    done = rehearse("--lr", "1e35")
    assert done.code == 7 and not runs.exists() and not list((tmp_path / "tmp").glob("mlkit*"))
    (problem,) = [line for line in done.err.splitlines() if line.startswith("mlkit: ")]
    assert problem.startswith("mlkit: ") and "not finite in update 2; its samples: scene/y" in problem
    assert any(line.startswith("not ready: 1 found wrong") for line in done.lines)


# ---- without a process of its own --------------------------------------------------------------------------------


@pytest.fixture
def planned_runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let no training start; returns what was to be run. Each ends as `Ended` of its place in `endings`."""
    asked: list[Any] = []

    def run(planned: Any, told: Callable[[str], None]) -> Ended:
        asked.append(planned)
        phases = {name: Phase(0.5, 2_000_000) for name in ("train", "validation", "checkpoint", "grid")}
        checkpoint = planned.folder / "ckpt-1"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "model.safetensors").write_bytes(b"x" * 1000)
        return Ended(phases=phases, at="train", held=planned.hold_at > 0)

    monkeypatch.setattr(rehearsal_runs, "run", run)
    monkeypatch.setattr("mlkit.training.sameness.differences", lambda first, second: [])
    return asked


def problems(done: Result) -> list[str]:
    return [line.removeprefix("mlkit: ") for line in done.err.splitlines() if line.startswith("mlkit: ")]


def test_settings_that_are_refused_end_a_rehearsal_with_all_that_is_wrong(rehearse: Mlkit, runs: Path) -> None:
    done = rehearse("--set", 'data.loader="nowhere:none"', "--json")
    assert done.code == 7 and not json.loads(done.out)["ready"]
    assert len(problems(done)) == 1 and "nowhere" in problems(done)[0]
    assert [item["name"] for item in json.loads(done.out)["items"]] == ["settings"]


def test_a_cut_file_is_named(rehearse: Mlkit, dataset_copy: Path, planned_runs: list[Any]) -> None:
    path = dataset_copy / "scenes.npy"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 100)
    done = rehearse(data=dataset_copy)
    assert done.code == 7 and planned_runs == []
    assert problems(done) == [f"{path} has {size - 100} bytes instead of {size}; build the dataset again"]


def test_a_changed_file_is_named_and_no_training_is_tried(
    rehearse: Mlkit, dataset_copy: Path, planned_runs: list[Any]
) -> None:
    values = np.load(dataset_copy / "scenes.npy", mmap_mode="r+")
    values[:50] += 1
    values.flush()
    done = rehearse("--json", data=dataset_copy)
    path = dataset_copy / "scenes.npy"
    assert problems(done) == [f"{path} differs from its hash in manifest.json; build the dataset again"]
    items = {item["name"]: item["status"] for item in json.loads(done.out)["items"]}
    assert items["hashes"] == "wrong" and items["training"] == "skipped" and planned_runs == []


def test_a_scale_that_does_not_fit_is_named(rehearse: Mlkit, dataset_copy: Path) -> None:
    data = open_manifest(dataset_copy)
    rebuilt(data, lambda details, preprocessing: preprocessing.update(db_min=200.0, db_max=300.0))
    (problem,) = problems(rehearse(data=dataset_copy))
    assert problem.startswith(f"{dataset_copy / 'scenes.npy'}: scene scene has another scale: 100 % of it lies outside")


def test_too_little_disk_for_all_checkpoints_is_told(
    rehearse: Mlkit, runs: Path, tmp_path: Path, planned_runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    small, real = usage(10**9, 10**9, 5_000), shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path) if "/tmp/" in f"{path}/" and str(path).startswith(
        str(tmp_path / "tmp")) else small)  # fmt: skip
    (problem,) = problems(rehearse())
    assert problem.startswith(f"{runs / 'sar_tiny'} needs ") and "are free; free some, lower" in problem


def test_a_rehearsal_that_has_no_room_itself_says_so(
    rehearse: Mlkit, planned_runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5_000))
    (problem,) = problems(rehearse())
    assert problem.startswith("the rehearsal needs ") and "name another folder with TMPDIR" in problem
    assert planned_runs == []


def test_a_killed_validation_is_told_as_such(rehearse: Mlkit, monkeypatch: pytest.MonkeyPatch) -> None:
    died = rehearsal_runs._died(-9, "validation", Path("nowhere"))
    ended = Ended(phases={"train": Phase(0.1, 1)}, at="validation", problems=(died,), exit_code=6)
    monkeypatch.setattr(rehearsal_runs, "run", lambda planned, told: ended)
    done = rehearse("--json")
    assert done.code == 7 and problems(done) == [
        "validation: the system killed the validation, most likely for its memory; lower --batch-size (and raise "
        "train.accumulate to keep the same update), or eval.batch_size"
    ]
    status = {item["name"]: item["status"] for item in json.loads(done.out)["items"]}
    assert [status[name] for name in ("train", "validation", "checkpoint", "grid", "kill and resume")] == [
        *("ok", "wrong", "skipped", "skipped", "skipped")
    ]


def test_more_memory_than_is_free_is_told(
    rehearse: Mlkit, planned_runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlkit.training.memory.free_bytes", lambda device: 1_000_000)
    found = problems(rehearse())
    assert found[0] == "train needs 2.0 MB of memory, and 1.0 MB are free; lower --batch-size or eval.batch_size"
    assert [problem.partition(" ")[0] for problem in found] == ["train", "validation", "checkpoint", "grid"]


def test_a_resume_that_is_not_exact_is_told(
    rehearse: Mlkit, planned_runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlkit.training.sameness.differences", lambda first, second: ["ckpt-2: counters", "the rows"])
    assert problems(rehearse()) == [
        "killed and resumed, the training differs from one left alone in ckpt-2: counters, the rows"
    ]
    whole, killed, resumed = planned_runs
    assert (whole.hold_at, killed.hold_at, resumed.hold_at) == (0, 2, 0)
    assert killed.folder == resumed.folder != whole.folder and resumed.resume and not killed.resume


def test_an_update_that_takes_long_is_rehearsed_with_fewer_samples(
    rehearse: Mlkit, planned_runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlkit.commands.rehearsing.step_seconds", lambda *_: 100.0)
    done = rehearse("--batch-size", "6", "--json")
    (train,) = [item["told"] for item in json.loads(done.out)["items"] if item["name"] == "train"]
    assert "batch 2 of 6: an update takes about 1 min 40 s" in train
    monkeypatch.setattr("mlkit.commands.rehearsing.step_seconds", lambda *_: 10.0)
    planned_runs.clear()
    rehearse("--batch-size", "6")
    assert [(run.settings["train"]["batch_size"], run.settings["train"]["steps"]) for run in planned_runs] == [
        *((6, 1), (2, 2), (2, 2), (2, 2))
    ]
    assert [run.settings["checkpoint"]["grid"] for run in planned_runs] == [True, False, False, False]


def test_own_images_are_looked_at(rehearse: Mlkit, planned_runs: list[Any], tmp_path: Path, scene: Path) -> None:
    shutil.copytree(scene.parent, tmp_path / "own", ignore=shutil.ignore_patterns("data"))
    (tmp_path / "own" / "cut.npy").write_bytes(scene.read_bytes()[:5000])
    found = problems(rehearse("--checkpoint-eval-images-dir", tmp_path / "own"))
    assert len(found) == 1 and str(tmp_path / "own" / "cut.npy") in found[0]


def test_a_resume_and_a_rehearsal_are_not_asked_for_together(rehearse: Mlkit, tmp_path: Path) -> None:
    done = rehearse("--resume-from", tmp_path / "ckpt-1")
    assert done.code == 2 and problems(done) == ["give --resume-from or --rehearse, not both"]


def test_one_seed_stands_for_all_of_them(rehearse: Mlkit, planned_runs: list[Any]) -> None:
    assert rehearse("--seeds", "3,4").code == 0
    assert {run.settings["seed"] for run in planned_runs} == {3}


def test_short_settings_keep_what_decides_memory_and_switch_off_what_reaches_out(rehearse: Mlkit) -> None:
    from mlkit.presets import override, resolve_preset

    flags = {"tracking.wandb": True, "train.accumulate": 3, "eval.max_samples": 500, "checkpoint.keep_every": 2}
    settings = override(resolve_preset("sar_tiny").settings, assignments=(), flags=flags)
    short = short_settings(settings, steps=2, batch_size=None)
    train = settings.train
    assert (short["train"]["batch_size"], short["train"]["accumulate"]) == (train.batch_size, 3)
    assert short["train"]["steps"] == 2 and short["checkpoint"]["strict_hooks"] and short["checkpoint"]["every"] == 1
    assert not any(short["tracking"][name] for name in ("wandb", "tensorboard", "mlflow", "trackio"))
    assert short["eval"]["max_samples"] == max(train.batch_size, settings.checkpoint.grid_images)
    assert short["model"] == settings.model_dump(mode="json")["model"]  # type: ignore[attr-defined]


def test_checkpoints_that_are_kept_at_marks_count_for_the_disk() -> None:
    from mlkit.commands.checks import kept_checkpoints
    from mlkit.settings import CheckpointSettings

    assert kept_checkpoints(CheckpointSettings(keep_last=2, keep_best=1), 10_000) == 4
    assert kept_checkpoints(CheckpointSettings(keep_last=2, keep_best=1, keep_every=1_000), 10_500) == 14

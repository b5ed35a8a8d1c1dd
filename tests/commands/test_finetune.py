"""`mlkit train` from older weights: what is refused before a run is made, what it says, what a resume may change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Mlkit = Callable[..., Any]
Refused = Callable[..., Any]
Files = Callable[[Path], dict[str, bytes]]


def test_ewc_without_init_from_is_refused(train: Mlkit, refused: Refused, runs: Path) -> None:
    said = train("--name", "held", "--set", "train.ewc=100")
    assert said == refused(
        3,
        "train.ewc = 100 holds the weights near those that a run starts from, but this one starts from none; "
        "add --init-from CHECKPOINT, or --set train.ewc=0",
    )
    assert not (runs / "held").exists()


@pytest.mark.parametrize("key", ["train.ewc_data", "eval.guard_data"])
def test_a_dataset_in_the_settings_that_is_not_there_is_refused(
    key: str, train: Mlkit, refused: Refused, run: Path, runs: Path
) -> None:
    on = ("--set", "train.ewc=1", "--set", f'{key}="nowhere"')
    assert train("--name", "held", "--init-from", run, *on) == refused(
        4, f"{key} = 'nowhere': dataset nowhere does not exist; build one with: mlkit dataset build TASK"
    )
    assert not (runs / "held").exists()


def test_names_that_freeze_nothing_are_refused(train: Mlkit, run: Path, runs: Path) -> None:
    said = train("--name", "frozen", "--init-from", run, "--set", 'train.freeze=["encodr.*"]')
    assert said.code == 3
    assert said.lines[0].startswith(
        "mlkit: train.freeze: 'encodr.*' matches no parameter (did you mean 'encoder.*'?); "
    )
    assert not (runs / "frozen").exists()


def test_the_card_tells_how_much_is_trained(train: Mlkit, run: Path) -> None:
    said = train("--name", "frozen", "--init-from", run, "--set", 'train.freeze=["encoder.*"]', "--validate-only")
    card = said.card("mlkit train --validate-only")
    every, _, trained = card["parameters"].partition(" (")
    assert 0 < int(trained.removesuffix(" trained)").replace(",", "")) < int(every.replace(",", ""))


@pytest.fixture
def guarded(train: Mlkit, run: Path, dataset: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any]:
    """Return a run with everything on, and what it said; its data are named as `--data` may be."""
    monkeypatch.setenv("MLKIT_DATA_DIR", str(dataset.parent))
    memory = {"train.ewc": 2, "train.ewc_data": dataset.name, "train.ewc_samples": 2, "eval.guard_data": dataset.name}
    memory |= {"eval.guard_loss": 0, "train.lr": 1e-9}
    said = train(
        *("--name", "second", "--init-from", run),
        *(word for key, value in memory.items() for word in ("--set", f"{key}={json.dumps(value)}")),
    )
    assert said.code == 0, said.err
    return runs / "second", said


def test_the_guarded_score_stands_beside_the_others(guarded: tuple[Path, Any], run: Path) -> None:
    folder, said = guarded
    start = json.loads((run / "ckpt-6" / "checkpoint.json").read_text())["scores"]["psnr"]
    assert f"guard: psnr on data is {start:.2f} dB at the start" in said.lines
    assert sum("  guard PSNR " in line for line in said.lines) == 2  # two checkpoints
    assert "guard PSNR" in said.card("done")["scores"]
    assert (folder / "ewc.safetensors").is_file()
    assert any(line.startswith("elastic weight consolidation: measuring on 2 samples of ") for line in said.lines)


def test_json_has_the_guarded_score(train: Mlkit, run: Path, dataset: Path) -> None:
    said = train("--name", "other", "--init-from", run, "--set", f'eval.guard_data="{dataset}"', "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["scores"]["guard_psnr"] > 0


@pytest.mark.parametrize(
    ("change", "before", "now"),
    [
        ("train.ewc=3", "train.ewc was 2.0", "3.0"),
        ('train.ewc_data="same"', "train.ewc_data was 'data'", "'same'"),
        ("train.ewc_samples=3", "train.ewc_samples was 2", "3"),
        ('train.freeze=["encoder.*"]', "train.freeze was []", "['encoder.*']"),
    ],
)
def test_a_resume_cannot_change_what_holds_the_weights(
    change: str, before: str, now: str, guarded: tuple[Path, Any], mlkit: Mlkit, refused: Refused, files: Files
) -> None:
    folder, _ = guarded
    there = files(folder)
    last = folder / "ckpt-6"
    assert mlkit("resume", folder, "--max-steps", 9, "--set", change) == refused(
        3,
        f"{before} in {last} and is {now} now; a resume cannot change it: start a new run with --init-from {last}",
    )
    assert files(folder) == there


def test_a_resume_in_a_new_run_needs_the_file_of_the_old_one(
    guarded: tuple[Path, Any], mlkit: Mlkit, runs: Path
) -> None:
    folder, _ = guarded
    said = mlkit("resume", folder / "ckpt-3", "--name", "branch")
    assert said.code == 0, said.err
    assert (runs / "branch" / "ewc.safetensors").read_bytes() == (folder / "ewc.safetensors").read_bytes()
    weights = "ckpt-6/model.safetensors"
    assert (runs / "branch" / weights).read_bytes() == (folder / weights).read_bytes()
    (folder / "ewc.safetensors").unlink()
    said = mlkit("resume", folder / "ckpt-3", "--name", "third")
    assert said.code == 3
    assert said.err.startswith(f"mlkit: {folder / 'ewc.safetensors'} is missing: it holds what train.ewc needs")
    assert not (runs / "third").exists()

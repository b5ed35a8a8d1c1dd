"""A loader and a scorer of the user's own: what they give is used, and what they break is told and counted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

Mlkit = Callable[..., Any]
Refused = Callable[..., Any]

MODULE = '''
import torch
from mlkit.presets import resolve_preset
from mlkit.tasks import load_task

class Halved:
    """Every second sample of the task's own source."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source) // 2

    def sample(self, index, rng):
        return self.source.sample(2 * index, rng)

    def sample_id(self, index):
        return "half-" + self.source.sample_id(2 * index)


def halved(manifest):
    return Halved(load_task(resolve_preset("sar_tiny").settings).train_source(manifest))


def brightness(outputs, batch):
    return {"brightness": batch["image"].mean(dim=(1, 2, 3))}


def fails_later(outputs, batch, calls=[]):
    calls.append(1)
    if len(calls) > 4:
        raise ValueError("no more")
    return brightness(outputs, batch)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module of the user's, made anew for the test."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    return name


def report(run: Path, step: int) -> dict[str, Any]:
    return dict(json.loads((run / f"ckpt-{step}" / "eval.json").read_text()))


def counted(run: Path, step: int) -> int:
    return int(json.loads((run / f"ckpt-{step}" / "training_state.json").read_text())["hooks_failed"])


def weights(run: Path) -> dict[str, Any]:
    return dict(load_file(run / "ckpt-6" / "model.safetensors"))


def test_a_loader_gives_the_samples_that_are_trained_on(
    train: Mlkit, runs: Path, mine: str, trained: tuple[Path, Any], dataset: Path
) -> None:
    said = train("--name", "own", "--set", f'data.loader="{mine}:halved"')
    assert said.code == 0, said.err
    count = json.loads((dataset / "manifest.json").read_text())["splits"]["train"] // 2
    assert said.card("mlkit train  own")["length"] == f"6 steps of 2 samples ({12 / count:.3g} epochs)"
    assert any((weights(runs / "own")[key] != value).any() for key, value in weights(trained[0]).items())


def test_a_scorer_adds_its_values_and_changes_nothing_that_is_learned(
    train: Mlkit, runs: Path, mine: str, trained: tuple[Path, Any]
) -> None:
    said = train("--name", "own", "--set", f'eval.scorer="{mine}:brightness"')
    assert said.code == 0 and "warning" not in said.err
    found, plain = report(runs / "own", 6), report(trained[0], 6)
    values = found["scores"].pop("brightness")
    assert len(values) == len(found["ids"]) and np.isfinite(values).all()
    assert found["signatures"].pop("brightness") == f"brightness|outside|{mine}:brightness"
    assert found == plain
    assert all((weights(runs / "own")[key] == value).all() for key, value in weights(trained[0]).items())


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (
            "no_such_package:score",
            "cannot be imported: No module named 'no_such_package'; is its folder in PYTHONPATH?",
        ),
        ("broken:score", "cannot be imported: ZeroDivisionError: division by zero"),
        ("{mine}:brightnes", ": module {mine} has no 'brightnes'"),
    ],
)
def test_a_scorer_that_is_not_there_is_told_first_and_last_and_counted(
    function: str,
    told: str,
    train: Mlkit,
    mlkit: Mlkit,
    runs: Path,
    mine: str,
    trained: tuple[Path, Any],
    tmp_path: Path,
) -> None:
    (tmp_path / "own" / "broken.py").write_text("1 / 0")
    named = function.format(mine=mine)
    told = f"eval.scorer = '{named}'" + (told if told.startswith(":") else f" {told}").format(mine=mine)
    said = train("--name", "own", "--set", f'eval.scorer="{named}"')
    assert said.code == 0
    assert said.lines[0] == f"warning: {told}; training goes on without its scores"
    ends = [f"warning: {told} at step {step}; the traceback is in run.log" for step in (3, 6)]
    assert [line for line in said.lines if line in ends] == ends
    assert "Traceback" in (runs / "own" / "run.log").read_text()
    assert [counted(runs / "own", step) for step in (3, 6)] == [1, 2]
    assert report(runs / "own", 6) == report(trained[0], 6)
    shutil.rmtree(runs / "own" / "ckpt-6")
    again = mlkit("resume", "own")  # as when a module was removed after the run began
    assert again.code == 0 and again.lines[0].startswith(f"warning: {told}")
    assert counted(runs / "own", 6) == 2


def test_a_scorer_that_fails_on_the_way_keeps_the_scores_of_mlkit(
    train: Mlkit, runs: Path, mine: str, trained: tuple[Path, Any]
) -> None:
    said = train("--name", "own", "--set", f'eval.scorer="{mine}:fails_later"', "--json")
    assert said.code == 0
    told = f"eval.scorer = '{mine}:fails_later' failed: ValueError: no more at step 6; the traceback is in run.log"
    assert json.loads(said.out)["failures"] == [told]
    assert "brightness" in report(runs / "own", 3)["scores"]
    assert report(runs / "own", 6)["scores"] == report(trained[0], 6)["scores"]
    assert [counted(runs / "own", step) for step in (3, 6)] == [0, 1]

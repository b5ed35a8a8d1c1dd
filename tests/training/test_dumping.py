"""Pictures of training batches: the right ones, no more than asked for, and training does not notice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mlkit.checkpoint import newest_good, read_counters
from mlkit.data.manifest import DatasetManifest
from mlkit.settings import RunSettings
from mlkit.task import Batch, Loss
from mlkit.training import trainer
from mlkit.training.state import Outcome
from running import fingerprint
from toytask import ToyTask


class Watched(ToyTask):
    """A toy that remembers what it trained on, and what it predicted on and how; `fails` makes predicting fail."""

    def __init__(self, settings: RunSettings, fails: bool = False) -> None:
        super().__init__(settings)
        self.fails = fails
        self.trained: list[Tensor] = []
        self.drawn: list[tuple[Tensor, Tensor, bool]] = []

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        self.trained.append(batch["noisy"])
        return super().loss(model, batch, step=step)

    def predict(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        if torch.is_grad_enabled():
            raise AssertionError("a picture needs no gradient")
        if self.fails and int(batch["index"].max()) < 50 and len(batch["index"]) == 2:
            raise RuntimeError("no picture of this")
        outputs = super().predict(model, batch)
        self.drawn.append((batch["noisy"], outputs["image"], model.training))
        return outputs


def settings(**changes: Any) -> RunSettings:
    train = {"batch_size": 5, "accumulate": 2, "precision": "fp32", "channels_last": False, "ema_decay": 0.9}
    debug = {"dump_every": 2, "dump_max": 2, "dump_images": 2}
    sections = {"train": {"steps": 8, **train}, "checkpoint": {"every": 4, "grid": False}, "debug": debug}
    return RunSettings.model_validate({"task": "toy", **sections, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return ToyTask(settings()).build_dataset(None, tmp_path_factory.mktemp("data") / "toy")


def fit(task: ToyTask, data: DatasetManifest, folder: Path) -> Outcome:
    folder.mkdir(exist_ok=True)
    found, _ = newest_good(folder)
    return trainer.fit(task, data, folder, accelerator=Accelerator(cpu=True), name="toy", run_id="0", resume=found)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "debug").glob("*")}


def test_the_last_pass_of_every_nth_update_is_drawn_until_there_are_enough(
    data: DatasetManifest, tmp_path: Path
) -> None:
    task = Watched(settings())
    outcome = fit(task, data, tmp_path / "run")
    assert sorted(pictures(tmp_path / "run")) == ["step_00000002.png", "step_00000004.png"]
    assert all(content.startswith(b"\x89PNG") for content in pictures(tmp_path / "run").values())
    drawn = [one for one in task.drawn if len(one[0]) == 2]  # validation comes in batches of five
    for (given, _, training), update in zip(drawn, (2, 4), strict=True):
        assert torch.equal(given, task.trained[2 * update - 1][:2]) and not training
    assert outcome.failures == ()


def test_a_training_with_pictures_is_the_one_without(data: DatasetManifest, tmp_path: Path) -> None:
    fit(Watched(settings()), data, tmp_path / "with")
    fit(ToyTask(settings(debug={})), data, tmp_path / "without")
    assert fingerprint(tmp_path / "with") == fingerprint(tmp_path / "without")
    assert not (tmp_path / "without" / "debug").exists()


def test_a_resumed_run_draws_what_the_unharmed_one_drew(data: DatasetManifest, tmp_path: Path) -> None:
    def steps(count: int) -> RunSettings:
        debug = {"dump_every": 3, "dump_max": 5}
        steady = settings(debug=debug)
        return steady.model_copy(
            update={"train": steady.train.model_copy(update={"steps": count, "schedule": "constant"})}
        )

    fit(Watched(steps(8)), data, tmp_path / "whole")
    fit(Watched(steps(4)), data, tmp_path / "resumed")
    assert sorted(pictures(tmp_path / "resumed")) == ["step_00000003.png"]
    fit(Watched(steps(8)), data, tmp_path / "resumed")
    assert sorted(pictures(tmp_path / "whole")) == ["step_00000003.png", "step_00000006.png"]
    assert pictures(tmp_path / "resumed") == pictures(tmp_path / "whole")


def test_a_picture_that_fails_is_counted_and_training_goes_on(data: DatasetManifest, tmp_path: Path) -> None:
    outcome = fit(Watched(settings(), fails=True), data, tmp_path / "run")
    told = "debug picture at step {} failed; the traceback is in run.log"
    assert outcome.failures == (told.format(2), told.format(4)) and outcome.state.step == 8
    assert read_counters(outcome.checkpoint)["hooks_failed"] == 2
    fit(ToyTask(settings(debug={})), data, tmp_path / "without")
    weights = [tmp_path / name / "ckpt-8" / "model.safetensors" for name in ("run", "without")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (tmp_path / "run" / "debug").exists()


@pytest.mark.parametrize(("every", "most", "due"), [(0, 8, []), (3, 2, [3, 6]), (1, 1, [1]), (20, 8, [])])
def test_pictures_are_due_by_the_step_alone(every: int, most: int, due: list[int]) -> None:
    debug = settings(debug={"dump_every": every, "dump_max": most}).debug
    assert [step for step in np.arange(1, 13).tolist() if debug.dump_due(step)] == due

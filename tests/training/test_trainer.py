"""What the loop tells at its end: scores of these very weights, and trackers that are closed whatever happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from accelerate import Accelerator
from torch import Tensor, nn

from mlkit.data.manifest import DatasetManifest
from mlkit.errors import NonFiniteError
from mlkit.settings import RunSettings
from mlkit.task import Batch, Loss
from mlkit.training import trainer
from mlkit.training.state import Outcome
from mlkit.training.tracking import Trackers
from toytask import ToyTask


class Failing(ToyTask):
    """A toy whose scores, or whose loss, fail from some call on."""

    scores_left, losses_left = 10**9, 10**9

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        self.scores_left -= 1
        if self.scores_left < 0:
            raise RuntimeError("no scores any more")
        return super().metrics(outputs, batch)

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        self.losses_left -= 1
        loss = super().loss(model, batch, step=step)
        return Loss(loss.total * float("nan")) if self.losses_left < 0 else loss


def settings() -> RunSettings:
    train = {"steps": 4, "batch_size": 10, "precision": "fp32", "channels_last": False, "workers": 0}
    return RunSettings.model_validate({"task": "toy", "train": train, "checkpoint": {"every": 2}})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return Failing(settings()).build_dataset(None, tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture
def task() -> Failing:
    return Failing(settings())


def fit(task: Failing, data: DatasetManifest, folder: Path) -> Outcome:
    folder.mkdir()
    return trainer.fit(task, data, folder, accelerator=Accelerator(cpu=True), name="toy", run_id="0")


def test_the_outcome_has_the_scores_of_its_own_weights(task: Failing, data: DatasetManifest, tmp_path: Path) -> None:
    outcome = fit(task, data, tmp_path / "whole")
    assert outcome.means["psnr"] == outcome.checkpoint.info["scores"]["psnr"] and not outcome.failures


def test_a_failed_last_evaluation_leaves_no_older_scores_to_be_taken_for_the_last(
    task: Failing, data: DatasetManifest, tmp_path: Path
) -> None:
    task.scores_left = 1  # the ten validation samples are one batch: the first checkpoint's evaluation works
    outcome = fit(task, data, tmp_path / "failing")
    assert outcome.state.step == 4 and outcome.state.best_step == 2
    assert outcome.means == {} and outcome.checkpoint.info["scores"] == {}
    assert outcome.failures[0] == "evaluation at step 4 failed; the traceback is in run.log"


def test_trackers_are_closed_when_training_fails(
    task: Failing, data: DatasetManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    monkeypatch.setattr(Trackers, "finish", lambda self: closed.append(1))
    task.losses_left = 3
    with pytest.raises(NonFiniteError):
        fit(task, data, tmp_path / "diverged")
    assert closed

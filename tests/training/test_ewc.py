"""Elastic weight consolidation: the Fisher information and the penalty are those of the paper, and weights are held.

Expected values are computed in NumPy from the formulas of Kirkpatrick et al. 2017, eq. 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mlkit.checkpoint import Checkpoint, open_checkpoint
from mlkit.data.manifest import DatasetManifest
from mlkit.errors import CheckpointError, DataError, NonFiniteError, SettingsError
from mlkit.files import sha256_file
from mlkit.task import Batch, Loss, Source
from shiftingtask import ShiftingTask, dataset, fit, task
from toytask import ToyTask

WEIGHT = 1e6


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return dataset(tmp_path_factory.mktemp("data") / "old", negative=False)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return dataset(tmp_path_factory.mktemp("data") / "new", negative=True)


@pytest.fixture(scope="module")
def before(old: DatasetManifest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return weights that know the old data."""
    return fit(task(train_steps=150), old, tmp_path_factory.mktemp("before") / "run").checkpoint


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "split" not in row]


def weights_of(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(run / f"ckpt-{step}" / "model.safetensors")


# ------------------------------------------------------------------------------------- against the formulas


class _Lines:
    """Samples (x, y) of three numbers and one."""

    def __init__(self, broken: int = -1) -> None:
        made = np.random.default_rng(0)
        self.x, self.y = made.normal(size=(7, 3)), made.normal(size=7)
        if broken >= 0:
            self.y[broken] = np.nan

    def __len__(self) -> int:
        return len(self.y)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        return {"x": torch.tensor(self.x[index], dtype=torch.float32), "y": torch.tensor([self.y[index]]).float()}

    def sample_id(self, index: int) -> str:
        return f"line-{index}"


class _Regression(ToyTask):
    """Least squares, whose gradients are known: of the loss (w x + b - y)^2 / 2 it is (w x + b - y) (x, 1)."""

    broken = -1

    def build_model(self) -> nn.Module:
        return nn.Linear(3, 1)

    def train_source(self, data: DatasetManifest) -> Source:
        return _Lines(self.broken)

    def eval_source(self, data: DatasetManifest) -> Source:
        return _Lines()

    def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
        return Loss((model(batch["x"]) - batch["y"]).square().mean() / 2)

    def predict(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return {"y": model(batch["x"])}

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        error = (outputs["y"] - batch["y"]).square()[:, 0]
        return {"loss": error, "psnr": -error}


def regression(weight: float, samples: int = 7) -> _Regression:
    return _Regression(task(train_ewc=weight, train_ewc_samples=samples, train_steps=6, checkpoint_every=1).settings)


@pytest.fixture
def line_weights(old: DatasetManifest, tmp_path: Path) -> Checkpoint:
    return fit(regression(0), old, tmp_path / "line").checkpoint


def test_fisher_information_is_the_mean_squared_gradient_of_single_samples(
    old: DatasetManifest, line_weights: Checkpoint, tmp_path: Path
) -> None:
    fit(regression(1.0), old, tmp_path / "run", init_from=line_weights)
    found = load_file(tmp_path / "run" / "ewc.safetensors")
    start = load_file(line_weights.folder / "model.safetensors")
    lines = _Lines()
    residual = lines.x @ start["weight"].numpy()[0] + start["bias"].numpy()[0] - lines.y
    # Seven samples are one epoch: each is met once, whatever the order.
    expected = np.mean((residual[:, None] * lines.x) ** 2, 0)
    assert found["fisher.weight"].numpy()[0] == pytest.approx(expected, rel=1e-5)
    assert found["fisher.bias"].numpy()[0] == pytest.approx((residual**2).mean(), rel=1e-5)
    assert all(torch.equal(found[f"anchor.{name}"], value) for name, value in start.items())


def test_the_penalty_is_half_lambda_times_the_weighted_squared_distance(
    old: DatasetManifest, line_weights: Checkpoint, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    made = regression(40.0).settings
    made = made.model_copy(update={"checkpoint": made.checkpoint.model_copy(update={"keep_last": 10})})
    fit(_Regression(made), old, run, init_from=line_weights)
    stored = load_file(run / "ewc.safetensors")
    rows = rows_of(run)
    assert rows[0]["ewc"] == 0
    assert len(rows) == 6
    for row in rows[1:]:  # the row of update N + 1 tells the penalty at the weights after update N
        now = weights_of(run, row["step"] - 1)
        distances = [
            (stored[f"fisher.{name}"].double() * (now[name].double() - stored[f"anchor.{name}"].double()) ** 2).sum()
            for name in now
        ]
        assert row["ewc"] == pytest.approx(20.0 * float(sum(distances)), rel=1e-4)
        assert row["ewc"] > 0


def test_its_gradient_is_that_of_a_loss_with_the_penalty_in_it(
    old: DatasetManifest, line_weights: Checkpoint, tmp_path: Path
) -> None:
    """The same training with the penalty written into the task's loss, where autograd takes its derivative."""
    fit(regression(40.0), old, tmp_path / "run", init_from=line_weights)
    stored = load_file(tmp_path / "run" / "ewc.safetensors")

    class Inside(_Regression):
        def loss(self, model: nn.Module, batch: Batch, *, step: int) -> Loss:
            plain = super().loss(model, batch, step=step)
            held = sum(
                (
                    stored[f"fisher.{name.removeprefix('net.')}"]
                    * (value - stored[f"anchor.{name.removeprefix('net.')}"]).square()
                ).sum()
                for name, value in model.named_parameters()
            )
            return Loss(plain.total + 20.0 * held)

    fit(Inside(regression(0).settings), old, tmp_path / "inside", init_from=line_weights)
    one, other = rows_of(tmp_path / "run"), rows_of(tmp_path / "inside")
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in other], rel=1e-5)
    assert [row["grad_norm"] for row in one] == pytest.approx([row["grad_norm"] for row in other], rel=1e-4)


def test_it_is_added_once_an_update_however_many_passes(
    old: DatasetManifest, line_weights: Checkpoint, tmp_path: Path
) -> None:
    for name, size, passes in (("one", 10, 1), ("five", 2, 5)):
        made = regression(40.0).settings
        train = made.train.model_copy(update={"batch_size": size, "accumulate": passes})
        fit(_Regression(made.model_copy(update={"train": train})), old, tmp_path / name, init_from=line_weights)
    one, five = rows_of(tmp_path / "one"), rows_of(tmp_path / "five")
    for key in ("loss", "ewc", "grad_norm"):
        assert [row[key] for row in one] == pytest.approx([row[key] for row in five], rel=1e-4)


class _Counting(nn.Module):
    """Normalises by running statistics before a line, and counts its calls in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.line = nn.BatchNorm1d(3, eps=1e-5, affine=False), nn.Linear(3, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        made: Tensor = self.line(self.norm(x))
        return made


class _Normalised(_Regression):
    def build_model(self) -> nn.Module:
        return _Counting()


def test_one_sample_is_normalised_by_the_running_statistics_and_nothing_of_the_network_changes(
    old: DatasetManifest, tmp_path: Path
) -> None:
    start = fit(_Normalised(regression(0).settings), old, tmp_path / "start").checkpoint
    for name, weight in (("with", 1e-30), ("without", 0.0)):
        fit(_Normalised(regression(weight).settings), old, tmp_path / name, init_from=start)
    one, other = weights_of(tmp_path / "with", 6), weights_of(tmp_path / "without", 6)
    assert float(one["calls"]) == 12  # six updates before, six after
    assert all(torch.equal(one[name], value) for name, value in other.items())
    before = load_file(start.folder / "model.safetensors")
    lines = _Lines()
    mean, variance = before["norm.running_mean"].numpy(), before["norm.running_var"].numpy()
    x = (lines.x - mean) / np.sqrt(variance + 1e-5)
    residual = x @ before["line.weight"].numpy()[0] + before["line.bias"].numpy()[0] - lines.y
    found = load_file(tmp_path / "with" / "ewc.safetensors")["fisher.line.bias"].numpy()[0]
    assert found == pytest.approx((residual**2).mean(), rel=1e-5)


# ------------------------------------------------------------------------------------- what it does


def test_old_data_are_forgotten_without_it_and_less_with_it(
    old: DatasetManifest, new: DatasetManifest, before: Checkpoint, tmp_path: Path
) -> None:
    changed = {
        "train_steps": 60,
        "train_ewc_data": str(old.folder),
        "train_ewc_samples": 50,
        "eval_guard_data": str(old.folder),
    }
    means = {
        weight: fit(task(train_ewc=weight, **changed), new, tmp_path / f"run-{weight:g}", init_from=before).means
        for weight in (0.0, WEIGHT)
    }
    assert means[WEIGHT]["guard_psnr"] > means[0.0]["guard_psnr"] + 3
    anchor = load_file(tmp_path / f"run-{WEIGHT:g}" / "ewc.safetensors")

    def moved(weight: float) -> float:
        now = weights_of(tmp_path / f"run-{weight:g}", 60)
        return sum(float((now[name] - anchor[f"anchor.{name}"]).square().sum()) for name in now)

    assert moved(WEIGHT) < moved(0.0)


def test_measuring_draws_nothing_that_training_draws_and_changes_no_statistics(
    old: DatasetManifest, tmp_path: Path
) -> None:
    """With a penalty of nothing the weights are those of a run without, in a network with dropout and BatchNorm."""
    toy = ToyTask(task(train_steps=3, train_workers=0).settings)
    start = fit(toy, old, tmp_path / "start").checkpoint
    for name, weight in (("with", 1e-30), ("without", 0.0)):
        made = ToyTask(task(train_steps=4, train_ewc=weight, train_ewc_samples=9, checkpoint_every=2).settings)
        fit(made, old, tmp_path / name, init_from=start)
    one, other = weights_of(tmp_path / "with", 4), weights_of(tmp_path / "without", 4)
    assert all(torch.equal(one[name], value) for name, value in other.items())


def test_any_number_of_workers_measures_the_same(old: DatasetManifest, before: Checkpoint, tmp_path: Path) -> None:
    hashes = set()
    for workers in (0, 2):
        made = task(train_ewc=1.0, train_ewc_samples=6, train_steps=1, train_workers=workers)
        fit(made, old, tmp_path / f"{workers}", init_from=before)
        hashes.add(sha256_file(tmp_path / f"{workers}" / "ewc.safetensors"))
    assert len(hashes) == 1


def test_frozen_parameters_are_not_measured(old: DatasetManifest, before: Checkpoint, tmp_path: Path) -> None:
    made = task(train_ewc=1.0, train_ewc_samples=3, train_steps=2, train_freeze=("0.*",))
    fit(made, old, tmp_path / "run", init_from=before)
    named = {"anchor.2.weight", "anchor.2.bias", "fisher.2.weight", "fisher.2.bias"}
    assert load_file(tmp_path / "run" / "ewc.safetensors").keys() == named


# ------------------------------------------------------------------------------------- what is refused


def test_without_weights_to_hold_it_is_refused(old: DatasetManifest, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        fit(task(train_ewc=10.0), old, tmp_path / "run")
    assert refused.value.problems == (
        "train.ewc = 10 holds the weights near those that a run starts from, but this one starts from none; "
        "add --init-from CHECKPOINT, or --set train.ewc=0",
    )


def test_a_sample_without_a_finite_gradient_is_named(
    old: DatasetManifest, line_weights: Checkpoint, tmp_path: Path
) -> None:
    made = regression(1.0)
    made.broken = 4
    with pytest.raises(NonFiniteError, match=r"the gradient of sample line-4 of .* is not finite while train.ewc"):
        fit(made, old, tmp_path / "run", init_from=line_weights)
    assert not list((tmp_path / "run").glob("*ewc*"))


def test_data_that_are_not_there_are_told_with_their_key(
    old: DatasetManifest, before: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"train\.ewc_data = 'nowhere': dataset nowhere does not exist"):
        fit(task(train_ewc=1.0, train_ewc_data="nowhere"), old, tmp_path / "run", init_from=before)


# ------------------------------------------------------------------------------------- resumed


@pytest.fixture
def stopped(old: DatasetManifest, before: Checkpoint, tmp_path: Path) -> Checkpoint:
    """Return the checkpoint at step 1 of a run that goes to 3."""
    fit(held(), old, tmp_path / "run", init_from=before)
    return open_checkpoint(tmp_path / "run" / "ckpt-1")


def held(**changed: Any) -> ShiftingTask:
    few = {"train_ewc": 5.0, "train_ewc_samples": 4, "train_steps": 3, "checkpoint_every": 1, "checkpoint_keep_last": 3}
    return task(**few, **changed)


def test_a_resume_in_another_folder_takes_the_file_along_and_gives_the_same_bits(
    old: DatasetManifest, stopped: Checkpoint, tmp_path: Path
) -> None:
    fit(held(), old, tmp_path / "branch", resume=stopped)
    for name in ("ewc.safetensors", "ckpt-3/model.safetensors"):
        assert (tmp_path / "branch" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    again = open_checkpoint(tmp_path / "branch" / "ckpt-3")
    assert again.info["ewc_sha256"] == sha256_file(tmp_path / "branch" / "ewc.safetensors")


def test_a_resume_needs_the_data_no_more(old: DatasetManifest, before: Checkpoint, tmp_path: Path) -> None:
    other = dataset(tmp_path / "other", negative=True)
    fit(held(train_ewc_data=str(other.folder)), old, tmp_path / "run", init_from=before)
    (other.folder / "manifest.json").unlink()
    fit(
        held(train_ewc_data=str(other.folder)),
        old,
        tmp_path / "branch",
        resume=open_checkpoint(tmp_path / "run/ckpt-1"),
    )
    assert weights_of(tmp_path / "run", 3).keys() == weights_of(tmp_path / "branch", 3).keys()


def test_a_resume_without_its_file_or_with_another_is_refused(
    old: DatasetManifest, stopped: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "ewc.safetensors"
    meant, values = sha256_file(path), load_file(path)
    way = f"start a new run: mlkit train --preset NAME --init-from {stopped.folder}"
    path.unlink()
    with pytest.raises(CheckpointError) as refused:
        fit(held(), old, tmp_path / "run", resume=stopped)
    assert refused.value.problems == (
        f"{path} is missing: it holds what train.ewc needs to go on exactly from {stopped.folder}; "
        f"put it back, or {way}",
    )
    save_file({name: value + 1 for name, value in values.items()}, path)
    with pytest.raises(CheckpointError) as refused:
        fit(held(), old, tmp_path / "run", resume=stopped)
    assert refused.value.problems == (
        f"{path} has changed: sha256 {sha256_file(path)[:12]} instead of the {meant[:12]} that {stopped.folder} was "
        f"trained with; put the right one back, or {way}",
    )


def test_a_checkpoint_of_a_run_without_it_cannot_go_on_with_it(
    old: DatasetManifest, before: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"was trained without train\.ewc; start a new run: mlkit train"):
        fit(held(), old, tmp_path / "run", resume=before)

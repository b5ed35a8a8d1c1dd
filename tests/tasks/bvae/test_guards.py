"""Each guard catches the failure that is planted for it, in words with figures, and leaves healthy runs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mlkit.data.manifest import DatasetManifest
from mlkit.tasks.bvae.dataset import build_dataset
from mlkit.tasks.bvae.guards import mode_collapse, posterior_collapse, unused
from mlkit.tasks.bvae.settings import BvaeBuild, BvaeModel, BvaeSettings
from mlkit.tasks.bvae.tally import Tally
from mlkit.tasks.bvae.task import BvaeTask
from mlkit.training import trainer
from shiftingtask import Heard

HEALTHY: dict[str, Any] = {
    "accuracy": 0.95,
    "majority_share": 0.931,
    "object_accuracy": 0.6,
    "predicted_counts": [900, 60, 40],
    "label_counts": [931, 40, 29],
}


def test_all_background_is_named_with_the_figure_that_it_scores() -> None:
    planted = HEALTHY | {"accuracy": 0.931, "object_accuracy": 0.0, "predicted_counts": [1000, 0, 0]}
    assert mode_collapse(**planted) == (
        "mode collapse: 93.1 % accuracy is what all-background scores; class 0 is predicted for every cell; "
        "try loss.reduction = 'sum', a smaller loss.beta or class weights"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"predicted_counts": [0, 1000, 0], "accuracy": 0.04}, "class 1 is predicted for every cell"),
        ({"predicted_counts": [996, 4, 0], "accuracy": 0.93}, "class 0 is predicted for 99.6 % of the cells"),
        ({"accuracy": 0.929, "object_accuracy": 0.02}, "only 2.0 % of the cells that are not background are right"),
    ],
    ids=["another class than the background", "a few cells off", "the accuracy of it by other means"],
)
def test_collapse_to_one_class_is_found_in_its_other_forms(change: dict[str, Any], told: str) -> None:
    found = mode_collapse(**HEALTHY | change)
    assert found.startswith("mode collapse: ")
    assert told in found


@pytest.mark.parametrize(
    "change",
    [
        {},
        # class weights trade background for objects: the accuracy of all-background, but six of ten objects
        {"accuracy": 0.931, "object_accuracy": 0.6, "predicted_counts": [850, 90, 60]},
        {"accuracy": 0.8, "object_accuracy": 0.7, "predicted_counts": [750, 150, 100]},
        # grids of one class alone have nothing to collapse to
        {"accuracy": 1.0, "majority_share": 1.0, "predicted_counts": [1000, 0, 0], "label_counts": [1000, 0, 0]},
        {"accuracy": 1.0, "object_accuracy": 1.0, "predicted_counts": [931, 40, 29]},
    ],
    ids=["healthy", "accuracy equal to the share by chance", "below it", "one class in the data", "perfect"],
)
def test_a_healthy_model_is_not_called_collapsed(change: dict[str, Any]) -> None:
    assert mode_collapse(**HEALTHY | change) == ""


def test_a_latent_that_tells_nothing_is_named_with_its_dimensions() -> None:
    assert posterior_collapse([6e-8, 0.01, 0.9, 0.0], 0.05, [False, False, True, False]) == (
        "posterior collapse: 3 of 4 latent dimensions below 0.05 nat, 1 active units (0: 6e-08, 1: 0.01, 3: 0); "
        "try loss.reduction = 'sum', a smaller loss.beta, a warm-up of beta or loss.free_bits"
    )


def test_units_that_do_not_vary_over_the_data_are_a_collapse_whatever_their_kl() -> None:
    # KL above the floor in every dimension, the same for every grid: it tells nothing
    assert posterior_collapse([0.3, 0.4], 0.05, [False, False]).startswith("posterior collapse: 0 of 2")
    assert posterior_collapse([0.3, 0.4], 0.05, [True, True]) == ""


def test_a_model_that_leaves_some_dimensions_unused_is_healthy_and_they_are_listed() -> None:
    kl = [0.0, 1.2, 0.7, 0.9, 0.02, 2.1]
    assert posterior_collapse(kl, 0.05) == ""
    assert unused(kl, 0.05) == "2 of 6 latent dimensions below 0.05 nat: 0: 0, 4: 0.02"
    assert unused([1.0, 2.0], 0.05) == ""


def test_sites_of_a_map_that_lie_in_the_padding_are_not_judged() -> None:
    kl, judged = [0.5, 0.0, 0.0, 0.0], [True, False, False, False]
    assert posterior_collapse(kl, 0.05).startswith("posterior collapse: 3 of 4")
    assert posterior_collapse(kl, 0.05, judged=judged) == ""
    assert posterior_collapse([0.01, 9.0, 9.0, 9.0], 0.05, judged=judged).startswith("posterior collapse: 1 of 1")


@pytest.mark.parametrize(("kl_there", "collapsed"), [(0.5, False), (0.001, True)])
def test_a_map_is_judged_by_small_grids_as_well_as_by_large_ones(kl_there: float, collapsed: bool) -> None:
    model = BvaeModel(side=30, layout="map", latent=2)
    labels = torch.full((8, 30, 30), 10, dtype=torch.uint8)
    labels[:, :5, :9] = torch.randint(0, 10, (8, 5, 9))
    there = torch.zeros(2, 8, 8)
    there[:, :2, :3] = 1.0  # 5 x 9 cells lie at 2 x 3 sites
    signs = torch.tensor([1.0, -1.0] * 4)[:, None]
    mu = signs * (2 * kl_there) ** 0.5 * there.reshape(1, -1)  # a KL of mu^2 / 2 there, and none in the padding
    tally = Tally(model, 0.05)
    outputs = {"labels": labels.long() % 10, "mu": mu, "log_variance": torch.zeros_like(mu)}
    tally.add(outputs, {"labels": labels, "background": torch.zeros(8).long()})
    found = tally.warnings()
    assert [text.partition(":")[0] for text in found] == (["posterior collapse"] if collapsed else [])
    assert all("12 of 12 latent dimensions" in text for text in found)


# ---- the guards of a run -------------------------------------------------------------------------------------------

STEPS, FROM = 140, 120


@pytest.fixture(scope="module")
def quarters(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """Return grids of 8x8 that a small network learns in seconds: a quarter of them coloured."""
    folder, rng = tmp_path_factory.mktemp("quarters"), np.random.default_rng(0)
    corner = np.zeros((8, 8), bool)
    corner[:4, :4] = True
    for index in range(40):
        grids = np.zeros((6, 8, 8), np.uint8)
        for grid in grids:
            grid[np.rot90(corner, rng.integers(4))] = rng.integers(1, 3)
            grid[tuple(rng.integers(8, size=2))] = 0  # so that hardly two of them are equal
        np.save(folder / f"{index}.npy", grids)
    return build_dataset(str(folder), folder / "data", build=BvaeBuild(classes=3)).manifest


def _warned(
    loss: dict[str, Any], data: DatasetManifest, folder: Path, steps: int = STEPS
) -> tuple[list[str], tuple[str, ...]]:
    """Return what a run said on the way, of training batches and of evaluations every 20 updates, and at its end."""
    settings = {
        "train": {"steps": steps, "batch_size": 16, "lr": 1e-2, "precision": "fp32", "channels_last": False},
        "data": {"symmetries": False, "permute_colors": False},
        "model": {"classes": 3, "side": 8, "channels": 8, "hidden": 32, "latent": 4, "initial_sigma": 0.15},
        "loss": {"guard_every": 5, **loss},
        "checkpoint": {"every": 20, "grid": False, "keep_last": 1},
    }
    folder.mkdir()
    task, heard = BvaeTask(BvaeSettings.model_validate(settings)), Heard()
    outcome = trainer.fit(
        task, data, folder, accelerator=Accelerator(cpu=True), name="bvae", run_id="0", progress=heard
    )
    return [line for line in heard.lines if line.startswith("warning")], outcome.warnings


def test_a_model_that_learns_its_grids_is_left_alone(quarters: DatasetManifest, tmp_path: Path) -> None:
    said, at_the_end = _warned({"beta": 0.05, "guard_after": FROM}, quarters, tmp_path / "gated")
    assert (said, at_the_end) == ([], ())
    # It began collapsed, as every run does: without `guard_after` that would be told.
    said, at_the_end = _warned({"beta": 0.05, "guard_after": 0}, quarters, tmp_path / "open", steps=20)
    assert any(" validation: mode collapse: " in line for line in said)
    assert at_the_end


def test_the_specifications_option_a_collapses_and_both_guards_say_so(
    quarters: DatasetManifest, tmp_path: Path
) -> None:
    loss = {"use_focal_loss": True, "reduction": "mean", "beta": 1.0, "guard_after": FROM}
    said, at_the_end = _warned(loss, quarters, tmp_path / "run")
    for where in (f"warning at step {FROM}: validation: ", f"warning at step {FROM + 1}: "):
        kinds = {line.removeprefix(where).partition(":")[0] for line in said if line.startswith(where)}
        assert {"mode collapse", "posterior collapse"} <= kinds, "each is told, of batches and of evaluations"
    assert any("is what all-background scores" in line for line in said)
    assert len(at_the_end) == 2


# ---- figures of a set ----------------------------------------------------------------------------------------------


def test_the_figures_of_a_set_do_not_depend_on_how_it_was_batched() -> None:
    torch.manual_seed(0)
    outputs = {
        "labels": torch.randint(0, 3, (12, 5, 5)),
        "mu": torch.randn(12, 4) * torch.tensor([1.0, 0.05, 2.0, 0.0]) + 3.0,
        "log_variance": torch.randn(12, 4),
    }
    batch = {"labels": torch.randint(0, 4, (12, 5, 5), dtype=torch.uint8), "background": torch.zeros(12).long()}
    found = []
    for size in (12, 5, 1):
        tally = Tally(BvaeModel(classes=3, latent=4, side=5), 0.05)
        for start in range(0, 12, size):
            part = slice(start, start + size)
            tally.add(
                {key: value[part] for key, value in outputs.items()}, {key: value[part] for key, value in batch.items()}
            )
        found.append(tally.figures())
    for other in found[1:]:
        assert other.scores() == pytest.approx(found[0].scores(), nan_ok=True)
    valid = batch["labels"] < 3
    labels, made = batch["labels"][valid].long(), outputs["labels"][valid]
    assert found[0].confusion.sum() == int(valid.sum())
    assert found[0].scores()["cell_accuracy"] == pytest.approx(float((labels == made).float().mean()))
    assert found[0].scores()["cell_recall_2"] == pytest.approx(float((made[labels == 2] == 2).float().mean()))
    assert found[0].mean_variance == pytest.approx(np.var(outputs["mu"].double().numpy(), axis=0), abs=1e-9)
    assert found[0].active == [True, False, True, False]

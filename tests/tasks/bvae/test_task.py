"""The task's own promises: figures under each picture, collapse warned of once it means something, noise by sample."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mlkit.data.manifest import DatasetManifest
from mlkit.data.sampler import stack
from mlkit.presets import resolve_preset
from mlkit.task import DrawsTraining, Tallies
from mlkit.tasks import load_task
from mlkit.tasks.bvae.pictures import ARC_HEX, draw_grid, palette
from mlkit.tasks.bvae.settings import BvaeSettings
from mlkit.tasks.bvae.task import BvaeTask

OPTIONS = ("option_a", "option_b", "option_c")


def _batch(task: BvaeTask, data: DatasetManifest, count: int = 4) -> dict[str, torch.Tensor]:
    source = task.eval_source(data)
    return stack([source.sample(index, np.random.default_rng(0)) for index in range(count)])


def _outputs(task: BvaeTask, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return outputs of a model that answers these labels with certainty and whose latent tells 0.5 nat a dimension."""
    classes, latent = task.settings.model.classes, task.settings.model.latent
    logits = 50.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()
    mu = torch.ones(len(labels), latent)
    return {"labels": labels, "logits": logits, "mu": mu, "log_variance": torch.zeros_like(mu)}


@pytest.fixture
def task(task_of: Callable[..., BvaeTask]) -> BvaeTask:
    return task_of()


def test_all_background_gains_nothing_over_the_majority_share(task: BvaeTask, synthetic: DatasetManifest) -> None:
    batch = _batch(task, synthetic)
    scores = task.metrics(_outputs(task, torch.zeros_like(batch["labels"]).long()), batch)
    shares = (batch["labels"] == 0).float().mean(dim=(1, 2))
    assert scores["accuracy"].tolist() == pytest.approx(shares.tolist())
    assert scores["majority_share"].tolist() == pytest.approx(shares.tolist())
    assert scores["accuracy_gain"].abs().max() == 0
    assert scores["object_accuracy"].tolist() == [0.0] * 4
    present = [len(labels.unique()) for labels in batch["labels"]]
    assert scores["balanced_accuracy"].tolist() == pytest.approx([1 / number for number in present])
    assert scores["kl_nat"].tolist() == pytest.approx([0.5 * task.settings.model.latent] * 4)
    assert scores["kl_per_dim"].tolist() == pytest.approx([0.5] * 4)


def test_the_padding_enters_no_score_and_no_loss(task_of: Callable[..., BvaeTask], arc: DatasetManifest) -> None:
    task = task_of(model={"side": 30})
    batch = _batch(task, arc)
    valid = batch["labels"] < 10
    assert not valid.all()
    right = torch.where(valid, batch["labels"], 0).long()
    torch.manual_seed(0)
    nonsense = torch.where(valid, right, torch.randint(0, 10, right.shape))
    one, other = (task.metrics(_outputs(task, labels), batch) for labels in (right, nonsense))
    assert all(torch.equal(one[key].nan_to_num(-1), other[key].nan_to_num(-1)) for key in one)
    assert one["exact_match"].tolist() == [1.0] * 4
    assert one["ce_nat"].max() < 1e-3


def test_cross_entropy_is_plain_whatever_the_loss_weighs(
    task_of: Callable[..., BvaeTask], synthetic: DatasetManifest
) -> None:
    weighted = {"use_focal_loss": True, "use_class_weights": True, "reduction": "mean"}
    plain, other = task_of(), task_of(loss=weighted)
    torch.manual_seed(0)
    net = plain.build_model().eval()
    with torch.no_grad():
        found = [
            task.metrics(task.predict(net, _batch(task, synthetic)), _batch(task, synthetic)) for task in (plain, other)
        ]
    assert torch.equal(found[0]["ce_nat"], found[1]["ce_nat"])
    assert not torch.allclose(found[0]["loss"], found[1]["loss"])


def test_the_panels_show_the_grid_alone_with_its_figures(
    task_of: Callable[..., BvaeTask], arc: DatasetManifest
) -> None:
    task = task_of(model={"side": 30})
    batch = _batch(task, arc)
    valid = batch["labels"][0] < 10
    height, width = int(valid.any(dim=1).sum()), int(valid.any(dim=0).sum())
    made = torch.zeros_like(batch["labels"]).long()
    original, result = task.panels(_outputs(task, made), batch, 0)
    assert original.role == "given" and result.role == "made"
    assert original.image_hwc.shape[0] / original.image_hwc.shape[1] == pytest.approx(height / width, rel=0.02)
    share = 100 * float((batch["labels"][0][valid] == 0).float().mean())
    assert original.note == f"majority share {share:.1f} %\n{width} x {height} cells"
    assert result.note.startswith(f"accuracy {share:.1f} %\nnon-background ")


def test_cells_have_arcs_colours_borders_and_a_mark_where_they_are_wrong() -> None:
    labels = np.array([[0, 1, 2], [3, 4, 5]])
    wrong = np.array([[False, True, False], [False, False, False]])
    image = draw_grid(labels, 10, wrong_hw=wrong)
    cell = (image.shape[0] - 1) // 2
    assert image.shape == (2 * cell + 1, 3 * cell + 1, 3) and image.dtype == np.float32
    assert (image[:, ::cell] == 0x55 / 255).all() and (image[::cell] == np.float32(0x55 / 255)).all()
    for row in range(2):
        for column in range(3):
            inside = image[row * cell + 1 : (row + 1) * cell, column * cell + 1 : (column + 1) * cell]
            color = [int(ARC_HEX[labels[row, column]][place : place + 2], 16) for place in (0, 2, 4)]
            assert np.rint(inside[1, 1] * 255).tolist() == color
            middle = inside[cell // 2 - 1, cell // 2 - 1]
            assert (middle == 1.0).all() == bool(wrong[row, column])
    assert len({tuple(color) for color in palette(40).tolist()}) == 40


@pytest.mark.parametrize("side", [1, 9, 30])
def test_a_mark_is_seen_in_cells_of_every_size(side: int) -> None:
    labels, wrong = np.full((side, side), 5), np.ones((side, side), bool)
    plain, marked = draw_grid(labels, 10), draw_grid(labels, 10, wrong_hw=wrong)
    changed = (plain != marked).any(axis=2).mean()
    assert changed > 0.1 if side > 1 else changed > 0.01
    assert (marked == 1.0).all(axis=2).any() and (marked == 0.0).all(axis=2).any()


def test_noise_is_a_function_of_the_sample_and_evaluation_has_none(task: BvaeTask, synthetic: DatasetManifest) -> None:
    source = task.train_source(synthetic)
    one, again, other = (source.sample(0, np.random.default_rng(seed))["noise"] for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (task.settings.model.latent,) and one.dtype == torch.float32
    assert "noise" not in task.eval_source(synthetic).sample(0, np.random.default_rng(0))


def test_an_untrained_model_is_not_warned_of(task: BvaeTask, synthetic: DatasetManifest) -> None:
    source = task.train_source(synthetic)
    batch = stack([source.sample(index, np.random.default_rng(index)) for index in range(4)])
    net = task.build_model()
    assert list(task.loss(net, batch, step=0).warnings) == []
    assert list(task.loss(net, batch, step=501).warnings) == []  # between two looks
    kinds = [text.partition(":")[0] for text in task.loss(net, batch, step=500).warnings]
    assert "posterior collapse" in kinds


def test_weights_that_explode_are_told_at_the_first_step(
    task_of: Callable[..., BvaeTask], synthetic: DatasetManifest
) -> None:
    for method, told in (("inverse", 1), ("sqrt_inverse", 0)):
        task = task_of(loss={"use_class_weights": True, "class_weight_method": method})
        source = task.train_source(synthetic)
        batch = stack([source.sample(index, np.random.default_rng(index)) for index in range(2)])
        warnings = task.loss(task.build_model(), batch, step=0).warnings
        assert len(warnings) == told
        assert all(re.match(r"class weights: inverse spans 1\d\d:1 ", text) for text in warnings)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_and_its_elbo_differ_in_nothing_but_the_scaling(name: str) -> None:
    one, other = (resolve_preset(preset).settings for preset in (name, f"{name}_elbo"))
    assert isinstance(one, BvaeSettings) and isinstance(other, BvaeSettings)
    assert one.loss.reduction == "mean" and other.loss.reduction == "sum"
    same = {"loss": one.loss, "preset": ""}
    assert one.model_copy(update=same) == other.model_copy(update=same)
    scaling = {"reduction": "sum", "normalize_weights": one.loss.use_class_weights}
    assert one.loss.model_copy(update=scaling) == other.loss


def test_the_options_are_those_of_the_specification() -> None:
    found = {}
    for name in OPTIONS:
        settings = resolve_preset(name, quick_test=True).settings
        assert isinstance(settings, BvaeSettings)
        loss = settings.loss
        method = loss.class_weight_method if loss.use_class_weights else None
        found[name] = (loss.use_focal_loss, loss.focal_gamma, method, settings.train.epochs)
        judged = {criterion.metric: (criterion.min, criterion.max) for criterion in settings.eval.criteria}
        assert judged["accuracy"] == (0.70, 0.85) and judged["kl_min_dim"] == (0.05, None)
    assert found == {
        "option_a": (True, 2.0, None, 5.0),
        "option_b": (True, 2.0, "sqrt_inverse", 5.0),
        "option_c": (True, 1.0, "inverse", 5.0),
    }


def test_criteria_may_name_the_figures_of_a_set(task: BvaeTask, synthetic: DatasetManifest) -> None:
    tally, batch = task.tally(), _batch(task, synthetic)
    tally.add(_outputs(task, torch.zeros_like(batch["labels"]).long()), batch)
    assert isinstance(task, Tallies) and isinstance(task, DrawsTraining)
    assert set(task.settings.set_scores) <= tally.scores().keys()


def test_pictures_show_training_grids_as_they_are_under_their_names(task: BvaeTask, synthetic: DatasetManifest) -> None:
    plain, augmented = task.plain_train_source(synthetic), task.train_source(synthetic)
    assert [plain.sample_id(index) for index in range(20)] == [augmented.sample_id(index) for index in range(20)]
    one, other = (plain.sample(3, np.random.default_rng(seed))["labels"] for seed in (1, 2))
    assert torch.equal(one, other)


def test_the_embedded_default_is_arc_1(tmp_path: Path, arc: DatasetManifest) -> None:
    task = load_task(resolve_preset("bvae_tiny").settings)
    assert task.build_dataset(None, tmp_path / "built").sha256 == arc.sha256

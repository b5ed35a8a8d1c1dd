"""Scores of label grids, checked against torchmetrics, scikit-learn and torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torchmetrics.functional.classification import multiclass_accuracy

from mlkit.metrics import labels as scores

C = 5


@pytest.fixture
def grids() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return made, true and valid, [6, 7, 9]; two thirds of the cells are right, padding holds nonsense."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, C, (6, 7, 9), generator=generator)
    wrong = torch.rand(labels.shape, generator=generator) < 0.33
    made = torch.where(wrong, torch.randint(0, C, labels.shape, generator=generator), labels)
    valid = torch.zeros_like(labels, dtype=torch.bool)
    for index in range(6):
        valid[index, : 2 + index, : 9 - index] = True
    made = torch.where(valid, made, (labels + 1) % C)  # all wrong where it must not count
    return made, labels, valid


def test_accuracy_is_that_of_torchmetrics_on_the_cells_without_padding(
    grids: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    made, labels, valid = grids
    found = scores.accuracy(made, labels, valid)
    for index in range(6):
        expected = multiclass_accuracy(
            made[index][valid[index]], labels[index][valid[index]], num_classes=C, average="micro"
        )
        assert float(found[index]) == pytest.approx(float(expected))


def test_recalls_and_balanced_accuracy_are_those_of_scikit_learn(
    grids: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    made, labels, valid = grids
    labels = torch.where(labels == 4, 3, labels)  # no grid has class 4
    recalls, balanced = scores.recalls(made, labels, valid, C), scores.balanced_accuracy(made, labels, valid, C)
    for index in range(6):
        true, guess = labels[index][valid[index]].numpy(), made[index][valid[index]].numpy()
        present = sorted(set(true.tolist()))
        expected = metrics.recall_score(true, guess, labels=present, average=None, zero_division=0)
        assert recalls[index, present].tolist() == pytest.approx(expected.tolist())
        assert float(balanced[index]) == pytest.approx(expected.mean())
    assert recalls[:, 4].isnan().all()


def test_all_background_scores_its_share_and_one_class_of_the_balance() -> None:
    labels = torch.tensor([[[0, 0, 0], [0, 1, 2]]])
    valid = torch.tensor([[[True, True, True], [True, True, True]]])
    made = torch.zeros_like(labels)
    assert float(scores.accuracy(made, labels, valid)) == pytest.approx(4 / 6)
    assert float(scores.class_share(labels, valid, 0)) == pytest.approx(4 / 6)
    assert float(scores.class_share(labels, valid, torch.tensor([2]))) == pytest.approx(1 / 6)
    assert float(scores.accuracy_without(made, labels, valid, 0)) == 0.0
    assert float(scores.balanced_accuracy(made, labels, valid, 3)) == pytest.approx(1 / 3)
    assert float(scores.accuracy_without(labels, labels, valid, torch.tensor([0]))) == 1.0


def test_a_grid_of_background_alone_has_no_non_background_accuracy() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    assert scores.accuracy_without(labels, labels, torch.ones(1, 2, 2, dtype=torch.bool), 0).isnan().all()


def test_a_match_is_exact_whatever_stands_in_the_padding(
    grids: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    made, labels, valid = grids
    right = torch.where(valid, labels, made)
    right[2, 0, 0] = (labels[2, 0, 0] + 1) % C
    assert scores.exact_match(right, labels, valid).tolist() == [1, 1, 0, 1, 1, 1]


def test_kl_is_that_of_torch_distributions() -> None:
    torch.manual_seed(0)
    mu, log_variance = torch.randn(4, 7) * 2, torch.randn(4, 7)
    expected = kl_divergence(Normal(mu, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(scores.kl_by_dimension(mu, log_variance), expected)


def test_a_unit_is_active_when_its_mean_varies_by_more_than_a_hundredth() -> None:
    place = torch.linspace(0, 2 * math.pi, 1001)[:-1]
    mu = torch.stack([place.sin() * 0.15, place.sin() * 0.13, place.sin() + 5, torch.full_like(place, 3.0)], dim=1)
    # the variance of a * sin is a^2 / 2: 0.01125, 0.00845, 0.5, 0
    assert scores.active_units(mu).tolist() == [True, False, True, False]

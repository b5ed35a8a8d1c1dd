"""The objective: the specification's scaling, the ELBO's, the warm-up of beta, free bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from mlkit.data.manifest import DatasetManifest
from mlkit.data.sampler import stack
from mlkit.tasks.bvae.objective import Cells, beta_at, cells_of, kl_term, reconstruction
from mlkit.tasks.bvae.settings import BvaeLoss
from mlkit.tasks.bvae.task import BvaeTask

C = 10


@pytest.fixture
def batch() -> tuple[torch.Tensor, Cells]:
    torch.manual_seed(1)
    labels = torch.randint(0, C, (3, 16, 16))
    labels[1, 8:] = C  # padding
    labels[2, :, 3:] = C
    return torch.randn(3, C, 16, 16), cells_of(labels.to(torch.uint8), C)


def test_the_sum_is_the_negative_log_likelihood_of_the_grid_without_its_padding(
    batch: tuple[torch.Tensor, Cells],
) -> None:
    logits, cells = batch
    found = reconstruction(logits, cells, torch.ones(C), BvaeLoss())
    log_p = Categorical(logits=logits.movedim(1, -1)).log_prob(cells.labels)
    for index in range(3):
        assert float(found[index]) == pytest.approx(-float(log_p[index][cells.valid[index]].sum()), rel=1e-5)


def test_the_padding_cannot_be_learnt_from(batch: tuple[torch.Tensor, Cells]) -> None:
    logits, cells = batch
    logits.requires_grad_()
    reconstruction(logits, cells, torch.ones(C), BvaeLoss()).sum().backward()
    assert logits.grad is not None
    assert not logits.grad.movedim(1, -1)[~cells.valid].any()
    assert logits.grad.movedim(1, -1)[cells.valid].any(dim=-1).all()


def test_with_the_mean_the_kl_weighs_256_times_more_on_a_grid_of_16_by_16(batch: tuple[torch.Tensor, Cells]) -> None:
    logits, cells = batch
    summed = reconstruction(logits, cells, torch.ones(C), BvaeLoss())
    mean = reconstruction(logits, cells, torch.ones(C), BvaeLoss(reduction="mean"))
    assert (summed / mean).tolist() == pytest.approx([256, 128, 48])


def test_a_weighted_focal_loss_is_divided_by_cells_and_not_by_weights(batch: tuple[torch.Tensor, Cells]) -> None:
    logits, cells = batch
    weights = torch.linspace(0.2, 6.0, C)
    chosen = BvaeLoss(use_focal_loss=True, focal_gamma=2.0, use_class_weights=True, reduction="mean")
    found = reconstruction(logits, cells, weights, chosen)
    p = logits.double().softmax(dim=1)
    expected = 0.0
    for row in range(16):
        for column in range(16):
            label = int(cells.labels[0, row, column])
            own = float(p[0, label, row, column])
            expected -= float(weights[label]) * (1 - own) ** 2 * math.log(own) / 256
    assert float(found[0]) == pytest.approx(expected, rel=1e-5)


def test_weights_and_gamma_count_only_where_they_are_asked_for(batch: tuple[torch.Tensor, Cells]) -> None:
    logits, cells = batch
    plain = reconstruction(logits, cells, torch.ones(C), BvaeLoss())
    assert torch.equal(reconstruction(logits, cells, torch.full((C,), 9.0), BvaeLoss()), plain)
    assert torch.equal(reconstruction(logits, cells, torch.ones(C), BvaeLoss(focal_gamma=5.0)), plain)
    zero = BvaeLoss(use_focal_loss=True, focal_gamma=0.0)
    torch.testing.assert_close(reconstruction(logits, cells, torch.ones(C), zero), plain)


def test_the_loss_of_a_batch_is_the_negative_elbo(synthetic: DatasetManifest, task_of: Callable[..., BvaeTask]) -> None:
    task = task_of()
    source = task.train_source(synthetic)
    batch = stack([source.sample(index, np.random.default_rng(index)) for index in range(4)])
    torch.manual_seed(0)
    net = task.build_model()
    found = task.loss(net, batch, step=0)
    with torch.no_grad():
        mu, log_variance = net.encode(batch["labels"])  # type: ignore[operator]
        posterior = Normal(mu, (0.5 * log_variance).exp())
        z = mu + posterior.scale * batch["noise"]
        log_p = Categorical(logits=net.decode(z).movedim(1, -1)).log_prob(batch["labels"].long())  # type: ignore[operator]
        elbo = log_p.sum(dim=(1, 2)) - kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    assert float(found.total.detach()) == pytest.approx(-float(elbo.mean()), rel=1e-5)


def test_linear_warm_up_of_beta() -> None:
    chosen = BvaeLoss(beta=4.0, beta_schedule="linear", beta_steps=100)
    assert [beta_at(step, chosen) for step in (0, 25, 100, 5000)] == pytest.approx([0.0, 1.0, 4.0, 4.0])
    assert beta_at(0, BvaeLoss(beta=4.0)) == 4.0


def test_cyclical_warm_up_is_that_of_fu_et_al() -> None:
    total, cycles, rise = 400, 4, 0.5  # their T, M and R
    chosen = BvaeLoss(beta=1.0, beta_schedule="cyclical", beta_steps=total // cycles, beta_rise=rise)
    for t in range(1, total + 1):
        tau = ((t - 1) % math.ceil(total / cycles)) / (total / cycles)
        expected = tau / rise if tau <= rise else 1.0
        assert beta_at(t - 1, chosen) == pytest.approx(expected)


def test_free_bits_clamp_the_batch_mean_of_a_dimension_and_not_its_samples() -> None:
    kl_bd = torch.tensor([[0.0, 0.1, 2.0], [0.4, 0.1, 0.0]])  # means 0.2, 0.1, 1.0
    assert float(kl_term(kl_bd, 0.0)) == pytest.approx(1.3)
    assert float(kl_term(kl_bd, 0.15)) == pytest.approx(0.2 + 0.15 + 1.0)
    assert float(kl_term(kl_bd, 0.15)) != pytest.approx(float(kl_bd.clamp_min(0.15).mean(dim=0).sum()))


def test_free_bits_leave_a_dimension_below_them_without_a_gradient() -> None:
    kl_bd = torch.tensor([[0.05, 1.0], [0.01, 2.0]], requires_grad=True)
    kl_term(kl_bd, 0.1).backward()
    assert kl_bd.grad is not None
    assert kl_bd.grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]

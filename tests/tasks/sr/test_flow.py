"""The formulas of flow trajectory distillation, against their definitions in float64 and an ODE solver of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from mlkit.tasks.sr.flow import ftd_loss, integrate, noise_to_lr, one_step

T_LR = 0.25


@pytest.fixture
def pair() -> tuple[Tensor, Tensor, Tensor]:
    """Return eps, z0 and z_lr of three samples."""
    drawn = torch.randn(3, 3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    return drawn[0], drawn[1], drawn[1] + 0.3 * drawn[2]


def test_the_line_runs_from_the_low_resolution_latent_to_the_noise(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    eps, _, z_lr = pair
    assert torch.equal(noise_to_lr(eps, z_lr, torch.full((3,), T_LR), T_LR), z_lr)
    assert torch.equal(noise_to_lr(eps, z_lr, torch.ones(3), T_LR), eps)
    # its velocity, by differences, is u_L = (eps - z_L)/(1 - T_L) everywhere
    early, late = (noise_to_lr(eps, z_lr, torch.full((3,), t), T_LR) for t in (0.4, 0.9))
    assert torch.allclose((late - early) / 0.5, (eps - z_lr) / (1 - T_LR), atol=1e-5)


def test_each_sample_has_a_time_of_its_own(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    eps, _, z_lr = pair
    together = noise_to_lr(eps, z_lr, torch.tensor([0.25, 0.5, 1.0]), T_LR)
    for place, t in enumerate((0.25, 0.5, 1.0)):
        one = slice(place, place + 1)
        assert torch.equal(together[one], noise_to_lr(eps[one], z_lr[one], torch.tensor([t]), T_LR))


def test_the_teachers_velocity_is_the_mixture_of_both_flows(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    eps, z0, z_lr = pair
    u_sr, u_l = (z_lr - z0) / T_LR, (eps - z_lr) / (1 - T_LR)
    assert torch.allclose(eps - z0, (1 - T_LR) * u_l + T_LR * u_sr, atol=1e-6)


@pytest.mark.parametrize("t_lr", [0.1, 0.25, 0.6])
def test_the_distillation_loss_is_a_weighted_regression_to_the_lr_to_hr_velocity(
    t_lr: float, pair: tuple[Tensor, Tensor, Tensor]
) -> None:
    eps, z0, z_lr = pair
    velocity = torch.randn(eps.shape, generator=torch.Generator().manual_seed(1))
    wide = [value.double() for value in (velocity, z_lr, z0)]
    plain = (wide[0] - (wide[1] - wide[2]) / t_lr).square().mean()
    expected = (t_lr / (1 - t_lr)) ** 2 * plain
    assert float(ftd_loss(velocity, eps, z0, z_lr, t_lr)) == pytest.approx(float(expected), rel=1e-5)


def test_the_true_velocity_has_no_loss_whatever_noise_it_is_seen_through(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    eps, z0, z_lr = pair
    true = (z_lr - z0) / T_LR
    assert float(ftd_loss(true, eps, z0, z_lr, T_LR)) < 1e-12
    assert torch.allclose(one_step(z_lr, true, T_LR), z0, atol=1e-6)


def test_the_loss_is_float32_for_bf16_velocities(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    eps, z0, z_lr = pair
    assert ftd_loss(eps.bfloat16(), eps, z0, z_lr, T_LR).dtype == torch.float32


def test_the_scale_of_the_step_is_linear_and_zero_changes_nothing(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    eps, _, z_lr = pair
    assert torch.equal(one_step(z_lr, eps, T_LR, 0.0), z_lr)
    whole = one_step(z_lr, eps, T_LR)
    assert torch.allclose(one_step(z_lr, eps, T_LR, 1.6), z_lr + 1.6 * (whole - z_lr), atol=1e-5)


def test_euler_comes_to_where_an_adaptive_solver_does() -> None:
    def velocity(z: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * t).view(-1, 1, 1, 1) - 0.5 * z

    start = torch.tensor([[[[0.7, -0.2]]]])
    for t_from, t_to in ((1.0, 0.0), (0.25, 0.0), (0.0, 1.0)):
        reached = integrate(velocity, start, t_from, t_to, 4000)
        solved = solve_ivp(
            lambda t, z: np.sin(3 * t) - 0.5 * z, (t_from, t_to), start.flatten().numpy().astype(float), rtol=1e-9
        )
        assert np.allclose(reached.flatten(), solved.y[:, -1], atol=1e-3)


def test_euler_of_a_straight_line_is_exact_in_one_step_and_there_and_back(pair: tuple[Tensor, Tensor, Tensor]) -> None:
    eps, z0, _ = pair
    assert torch.allclose(integrate(lambda z, t: eps - z0, eps, 1.0, 0.0, 1), z0, atol=1e-6)
    there = integrate(lambda z, t: eps - z0, z0, 0.0, 1.0, 7)
    assert torch.allclose(there, eps, atol=1e-5)

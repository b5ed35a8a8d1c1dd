"""Flow trajectory distillation: where the low-resolution latent lies on a rectified flow, and what is learned there.

Rectified flow: z_t = (1 - t) z_0 + t eps with t = 0 the data and t = 1 the noise; velocity u = dz/dt = eps - z_0.
FluxSR (Li et al. 2025, arXiv 2502.01993) places the latent z_L of the enlarged low-resolution image at the time T_L:

    z_L = z_0 + T_L u_SR                        LR-to-HR flow, on [0, T_L]
    z_t = (1-t)/(1-T_L) z_L + (t-T_L)/(1-T_L) eps   noise-to-LR flow, on [T_L, 1], of velocity u_L = (eps - z_L)/(1-T_L)
    u   = (1-T_L) u_L + T_L u_SR

The paper's figure prints a minus in the second line; with a plus, z_(T_L) = z_L and z_1 = eps. One network carries u_SR
and with u implies u_L. Latents are [B, C, h, w], times [B] or a number.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def noise_to_lr(eps: Tensor, z_lr: Tensor, t: Tensor, t_lr: float) -> Tensor:
    """Return z_t on the straight line from z_lr at t = t_lr to eps at t = 1; t [B] in [t_lr, 1]."""
    share = ((t - t_lr) / (1.0 - t_lr)).view(-1, *[1] * (z_lr.ndim - 1))
    return (1.0 - share) * z_lr + share * eps


def ftd_loss(velocity: Tensor, eps: Tensor, z0: Tensor, z_lr: Tensor, t_lr: float) -> Tensor:
    """Return the distillation loss, a mean over everything, in float32.

    || (u - T_L v)/(1-T_L) - (eps - z_L)/(1-T_L) ||^2 with u = eps - z_0. It equals (T_L/(1-T_L))^2 times the mean
    squared difference of v and (z_L - z_0)/T_L: a regression to the constant LR-to-HR velocity.

    Args:
        velocity: v of the network at z_t.
        eps, z0, z_lr: of one pair: the noise belongs to this z0 by the base's own ODE.
        t_lr: T_L.
    """
    velocity, eps, z0, z_lr = (value.float() for value in (velocity, eps, z0, z_lr))
    implied = (eps - z0 - t_lr * velocity) / (1.0 - t_lr)
    return (implied - (eps - z_lr) / (1.0 - t_lr)).square().mean()


def one_step(z_lr: Tensor, velocity: Tensor, t_lr: float, sr_scale: float = 1.0) -> Tensor:
    """Return z0_hat = z_L - sr_scale v T_L; with sr_scale 0 exactly z_L, above 1 the correction is amplified."""
    return z_lr - (sr_scale * velocity) * t_lr


def integrate(
    velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, t_from: float, t_to: float, steps: int
) -> Tensor:
    """Return z at `t_to`, by Euler's method in equal steps; forwards to noise (t_to > t_from) or back to data.

    Args:
        velocity: of latents [B, C, h, w] at times [B].
        z: at `t_from`.
        t_from, t_to: in [0, 1].
        steps: at least 1.
    """
    times = torch.linspace(t_from, t_to, steps + 1, dtype=torch.float64).tolist()
    for now, then in pairwise(times):
        t = torch.full((z.shape[0],), now, dtype=torch.float32, device=z.device)
        z = z + (then - now) * velocity(z, t)
    return z

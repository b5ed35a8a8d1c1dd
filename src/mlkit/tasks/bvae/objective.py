"""The objective: reconstruction + beta(step) * KL, as an ELBO or as the loss-testing specification scales it.

B grids, C classes, S cells a side, D latent dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.losses import focal_loss
from mlkit.tasks.bvae.settings import BvaeLoss, BvaeModel


@dataclass(frozen=True, slots=True)
class Cells:
    """What a batch says about its cells."""

    labels: Tensor  # int64 [B, S, S] below C; 0 in the padding
    valid: Tensor  # bool [B, S, S]


def cells_of(labels: Tensor, classes: int) -> Cells:
    """Return labels as int64 with the padding (class `classes`) told apart."""
    labels = labels.long()
    valid = labels < classes
    return Cells(torch.where(valid, labels, 0), valid)


def reached(cells: Cells, settings: BvaeModel) -> Tensor:
    """Return which latent dimensions have cells to tell of, [B, D] bool: of a map not the sites in the padding."""
    if settings.layout == "vector":
        return cells.valid.new_ones(len(cells.valid), settings.latent)
    more = -settings.side % 4
    sites = F.max_pool2d(F.pad(cells.valid.float(), (0, more, 0, more)), 4) > 0
    return sites.flatten(1).repeat(1, settings.latent)


def beta_at(step: int, settings: BvaeLoss) -> float:
    """Return beta at an update (0-based).

    `linear` rises to its value over `beta_steps`. `cyclical` is that of Fu et al. (2019), with T / M = beta_steps
    and R = beta_rise: tau = mod(t - 1, T/M) / (T/M) for their 1-based t; tau / R up to R, then 1.
    """
    if settings.beta_schedule == "constant":
        return settings.beta
    if settings.beta_schedule == "linear":
        return settings.beta * min(1.0, step / settings.beta_steps)
    tau = step % settings.beta_steps / settings.beta_steps
    return settings.beta * min(1.0, tau / settings.beta_rise)


def reconstruction(logits: Tensor, cells: Cells, class_weights: Tensor, settings: BvaeLoss) -> Tensor:
    """Return the reconstruction term of each grid, [B]: padding counts nothing, weights [C] are 1 where none are used.

    A mean over cells is over the number of cells and not over the sum of weights: the weights change the size of the
    term, as the specification's own code has it.
    """
    loss = focal_loss(
        logits,
        cells.labels,
        gamma=settings.focal_gamma if settings.use_focal_loss else 0.0,
        class_weights=class_weights if settings.use_class_weights else None,
    )
    total = (loss * cells.valid).flatten(1).sum(dim=1)
    return total if settings.reduction == "sum" else total / cells.valid.flatten(1).sum(dim=1)


def kl_term(kl_bd: Tensor, free_bits: float) -> Tensor:
    """Return the KL term, a scalar: summed over dimensions, the batch mean of each at least `free_bits`.

    The mean is clamped (Kingma et al. 2016); clamping each sample's value is another, stronger loss.
    """
    mean_d = kl_bd.mean(dim=0)
    return (mean_d.clamp_min(free_bits) if free_bits else mean_d).sum()

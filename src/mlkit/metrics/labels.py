"""Scores of label grids and of the latents behind them. Labels are integer [B, H, W]; cells where `valid` is False are
padding, and count nowhere. B grids, C classes, D latent dimensions. Each score is one value a grid, [B] float32."""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01  # Burda et al. (2016): a unit is active where Var_x(E_q[z|x]) is larger
NUM_RECALLS = 10  # classes whose recall is a score of its own: ARC's colours


def accuracy(made: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Return the share of cells that are right."""
    return _share(made == labels, valid)


def class_share(labels: Tensor, valid: Tensor, wanted: int | Tensor) -> Tensor:
    """Return the share of cells of one class: with the training set's most frequent one, the accuracy of always
    answering it. `wanted` is one class, or one a grid, [B]."""
    return _share(labels == _per_grid(wanted), valid)


def accuracy_without(made: Tensor, labels: Tensor, valid: Tensor, background: int | Tensor) -> Tensor:
    """Return the share of the cells of other classes than `background` that are right; NaN for a grid without any."""
    return _share(made == labels, valid & (labels != _per_grid(background)))


def recalls(made: Tensor, labels: Tensor, valid: Tensor, classes: int) -> Tensor:
    """Return the share of the cells of each class that are right, [B, C]; NaN where a grid has none of it."""
    one_by_one = [_share(made == labels, valid & (labels == index)) for index in range(classes)]
    return torch.stack(one_by_one, dim=1)


def balanced_accuracy(made: Tensor, labels: Tensor, valid: Tensor, classes: int) -> Tensor:
    """Return the mean recall of the classes that a grid has, so that a large background counts once."""
    return recalls(made, labels, valid, classes).nanmean(dim=1)


def exact_match(made: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Return 1 where every cell is right, else 0."""
    return ((made == labels) | ~valid).flatten(1).all(dim=1).float()


def kl_by_dimension(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mu, sigma^2) || N(0, 1)) of each dimension in nat, [B, D] (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mu.square() + log_variance.exp() - 1.0 - log_variance)


def active_units(mu: Tensor) -> Tensor:
    """Return which latent dimensions are active, [D] bool: the posterior means [N, D] vary over the data by more than
    0.01 (Burda et al. 2016)."""
    return mu.var(dim=0, correction=0) > ACTIVE_VARIANCE


def _share(right: Tensor, of: Tensor) -> Tensor:
    """Return how many of the cells `of` are right, [B]; NaN where there are none."""
    return (right & of).flatten(1).sum(dim=1).float() / of.flatten(1).sum(dim=1).float()


def _per_grid(wanted: int | Tensor) -> int | Tensor:
    return wanted.reshape(-1, 1, 1) if isinstance(wanted, Tensor) else wanted

"""Losses that two or more tasks share; differentiable, the mean over everything unless they say otherwise.

B images, C channels or classes, H rows, W columns: images are [B, C, H, W]. Each leaves autocast for float32 (float64
stays float64): in bf16 the squares of SSIM and small differences are rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.metrics.image import ssim_terms


def charbonnier(x: Tensor, y: Tensor, *, epsilon: float = 1e-3) -> Tensor:
    """Return mean sqrt((x - y)^2 + epsilon^2), an L1 that is smooth at 0 (Charbonnier et al. 1994)."""
    with _full_precision(x):
        difference = _float(x) - _float(y)
        return torch.sqrt(difference.square() + epsilon**2).mean()


def ssim_loss(x: Tensor, y: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Return 1 - SSIM, averaged over images: 0 for equal images. The SSIM is that of `metrics.image.ssim`."""
    with _full_precision(x):
        luminance, structure = ssim_terms(_float(x), _float(y), data_range=data_range)
        return 1.0 - (luminance * structure).mean()


def gradient_loss(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean |difference| of the forward differences, rows and columns averaged: an L1 on edges."""
    with _full_precision(x):
        difference = _float(x) - _float(y)
        down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
        right = (difference[..., :, 1:] - difference[..., :, :-1]).abs().mean()
        return 0.5 * (down + right)


def chroma_loss(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean |difference| of R - G and B - G, averaged over both, of images [B, 3, H, W]: an L1 on colours."""
    assert x.shape[1] == 3, f"expected [B, 3, H, W], got {tuple(x.shape)}"
    with _full_precision(x):
        difference = _float(x) - _float(y)
        return (difference[:, ::2] - difference[:, 1:2]).abs().mean()


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float = 2.0, class_weights: Tensor | None = None) -> Tensor:
    """Return -w_y (1 - p_y)^gamma log p_y per label, in nat, p = softmax (categorical form of Lin et al. 2017).

    Not a log-likelihood for gamma > 0. It is not reduced, and not divided by the sum of weights as `cross_entropy`
    does: whether pixels are summed or averaged decides its size against other terms, so the caller says it.

    Args:
        logits: [B, C, ...], before the softmax.
        labels: [B, ...] integer classes below C.
        gamma: 0 is weighted cross-entropy.
        class_weights: [C]; None means 1.
    """
    with _full_precision(logits):
        log_p = F.log_softmax(_float(logits), dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
        loss = -log_p
        if gamma != 0.0:
            # -expm1 keeps the digits of 1 - p near p = 1; the floor, because x^gamma has no gradient at 0 for gamma < 1
            loss = loss * (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny) ** gamma
        return loss if class_weights is None else loss * class_weights.to(loss)[labels]


@contextmanager
def _full_precision(x: Tensor) -> Iterator[None]:
    with torch.autocast(device_type=x.device.type, enabled=False):
        yield


def _float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

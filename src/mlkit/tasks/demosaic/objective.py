"""What is minimised, for each image of a batch or their mean: the weighted sum that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mlkit.losses import chroma_loss, gradient_loss, ssim_loss
from mlkit.metrics.mosaic import srgb_encoded
from mlkit.tasks.demosaic.settings import DemosaicLoss

_BORDER_PX = 6  # at the edge of a crop less is known than within a picture, and training should be about pictures
_ROOT_OFFSET = 1e-3  # bounds the slope of the root at 0, where noise would count most

Encoding = Literal["linear", "root", "srgb"]


def objective(made: Tensor, truth: Tensor, encoded: Tensor, weights: DemosaicLoss) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and its parts, detached and before weighting.

    Args:
        made, truth: [B, 3, H, W].
        encoded: [B], 1 where values are sRGB already.
        weights: of the parts, and the encoding in which linear light is compared.
    """
    inner = slice(_BORDER_PX, -_BORDER_PX)
    made, truth = (_compared(image.float()[..., inner, inner], encoded, weights.encoding) for image in (made, truth))
    terms: tuple[tuple[str, float, Callable[[Tensor, Tensor], Tensor]], ...] = (
        ("l1", weights.l1, functional.l1_loss),
        ("gradient", weights.gradient, gradient_loss),
        ("chroma", weights.chroma, chroma_loss),
        ("ssim_loss", weights.ssim, ssim_loss),
    )
    total = torch.zeros((), device=made.device)
    parts = {}
    for name, weight, term in terms:
        if weight > 0:
            value = term(made, truth)
            total = total + weight * value
            parts[name] = value.detach()
    return total, parts


def _compared(image: Tensor, encoded: Tensor, encoding: Encoding) -> Tensor:
    """Return the values that are compared: those of linear light in an encoding, odd about 0 and going on above 1."""
    if encoding == "linear":
        return image
    if encoding == "root":
        # sqrt(|x| + o) - sqrt(o) with the sign of x, written so that it has a slope at 0
        curve = image / ((image.abs() + _ROOT_OFFSET).sqrt() + _ROOT_OFFSET**0.5)
    else:
        curve = srgb_encoded(image)
    return torch.where(encoded.bool()[:, None, None, None], image, curve)

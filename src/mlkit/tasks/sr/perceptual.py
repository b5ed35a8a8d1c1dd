"""The perceptual term: LPIPS where the user has its weights, else multi-scale gradients and MS-SSIM.

Images are sRGB around [0, 1], [B, 3, H, W]. Both terms are 0 for equal images, and have a gradient to the first.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mlkit.losses import gradient_loss
from mlkit.metrics.image import MS_SSIM_WEIGHTS, ssim_terms
from mlkit.tasks.sr.lpips import Lpips, open_lpips

_SCALES = 3  # of the gradients: 1, 1/2 and 1/4 of the side
_WINDOW = 11
_SMALLEST_TERM = 1e-3  # x^0.04 has no gradient at 0, and a huge one near it
_SMALLEST_RANGE = 1e-3  # of a total-variation map; flat images stay flat
log = logging.getLogger(__name__)


class Perceptual:
    """The perceptual term of a run.

    Args:
        lpips_weights: a safetensors file, as `open_lpips` reads it; None takes the term that needs no weights.
        tv_share: weight of LPIPS of the total-variation maps; 0 leaves them out.

    Raises:
        DataError: when the file is missing, or holds other weights.
    """

    def __init__(self, lpips_weights: str | Path | None = None, *, tv_share: float = 0.5) -> None:
        self._tv_share = tv_share
        self._lpips: Lpips | None = None
        self._sha256 = ""
        if lpips_weights is not None:
            self._lpips, self._sha256 = open_lpips(Path(lpips_weights))
        log.info("perceptual term: %s", self.describe())

    def __call__(self, made: Tensor, image: Tensor) -> Tensor:
        """Return the term, a scalar averaged over the images."""
        with torch.autocast(made.device.type, enabled=False):
            made, image = made.float(), image.float()
            if self._lpips is None:
                return multi_scale_gradient(made, image) + structure_loss(made, image)
            lpips = self._lpips.to(made.device)
            term: Tensor = lpips(made, image).mean()
            if self._tv_share:
                term = term + self._tv_share * lpips(*variation_maps(made, image)).mean()
            return term

    def describe(self) -> str:
        """Return in words what is computed, down to the weights."""
        if self._lpips is None:
            return (
                "L1 of gradients at 3 scales + (1 - MS-SSIM at as many of its 5 scales as fit); no weights of LPIPS "
                "were given"
            )
        tv = f" + {self._tv_share:g} LPIPS of total variation" if self._tv_share else ""
        return f"LPIPS (VGG16){tv}, weights sha256 {self._sha256}"


def multi_scale_gradient(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean of `losses.gradient_loss` at the whole, half and quarter side, as far as 2 px are left."""
    terms = []
    for _ in range(_SCALES):
        terms.append(gradient_loss(x, y))
        x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
        if min(x.shape[-2:]) < 2:
            break
    return torch.stack(terms).mean()


def structure_loss(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 - MS-SSIM (Wang et al. 2003), averaged over images and channels, with gradient.

    Crops are smaller than the 176 px that five scales need: the scales that fit are used, their exponents scaled to
    the sum of all five. One scale (below 22 px) is SSIM. 0 below the window of 11 px.
    """
    num_scales = sum(min(x.shape[-2:]) // 2**scale >= _WINDOW for scale in range(len(MS_SSIM_WEIGHTS)))
    if num_scales == 0:
        return x.new_zeros(())
    weights = MS_SSIM_WEIGHTS[:num_scales]
    enlarged = sum(MS_SSIM_WEIGHTS) / sum(weights)
    product = x.new_ones(x.shape[:2])
    for scale, weight in enumerate(weights):
        luminance, structure = ssim_terms(x, y, window=_WINDOW)
        # the paper takes luminance at the coarsest scale alone
        term = luminance * structure if scale == num_scales - 1 else structure
        product = product * term.mean(dim=(2, 3)).clamp_min(_SMALLEST_TERM) ** (weight * enlarged)
        x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
    return 1.0 - product.mean()


def variation_maps(made: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return |d/dx| + |d/dy| of both images by channel, [B, 3, H, W], over the larger of their two maxima: in [0, 1].

    As TV-LPIPS compares them (Li et al. 2025). The divisor is a constant of the pair, without gradient.
    """
    first, second = _variation(made), _variation(image)
    largest = torch.maximum(first.detach().amax(dim=(1, 2, 3)), second.detach().amax(dim=(1, 2, 3)))
    divisor = largest.clamp_min(_SMALLEST_RANGE).view(-1, 1, 1, 1)
    return first / divisor, second / divisor


def _variation(image: Tensor) -> Tensor:
    """Return the forward differences; 0 beyond the last row and column, so that the side stays what it was."""
    right = functional.pad((image[..., :, 1:] - image[..., :, :-1]).abs(), (0, 1, 0, 0))
    return right + functional.pad((image[..., 1:, :] - image[..., :-1, :]).abs(), (0, 0, 0, 1))

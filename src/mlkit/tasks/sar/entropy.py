"""Latents as whole numbers, and how probable each of them is: what a rate term trains and a range coder needs.

y = encoder(x) * gain / step, q = sign(y) floor(|y| + 0.4): rounded, a little more often towards 0, where values cost
less (Sullivan, IEEE Trans. Information Theory 42(5), 1996). In training that is replaced by uniform noise of one step
(Balle et al. 2017) or keeps its value and passes the gradient (straight through). Each q is logistic, integrated over
its unit cell:

    mean  = sum_k a_k q_k            scale = b^2 level + sum_k v_k^2 |q_k|

over neighbours k that are coded before it: 3 x 3 sites of all earlier channels, and those above and to the left of its
own. The level is the mean of all |q| of the image, one number that its file holds: without it, a calm scene would be
coded with the scales of a busy one. Sums alone, so that the coder can do them in whole numbers and no rounding parts
sender and receiver.

C latent channels, h and w latent rows and columns.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Quantize = Literal["none", "noise", "straight_through"]
LARGEST = 127  # of a coded value: 8 bits
MIN_SCALE, MAX_SCALE = 0.05, 64.0  # of the logistic distribution, in quantisation steps
LEVEL_UNIT, LARGEST_LEVEL = 4096, 65535  # the level is stored in 1/4096
_ROUNDING = 0.4  # added before the fraction is cut off: 0.5 is plain rounding; 0.4 gained 0.05 to 0.1 dB at equal rates
_LEAST_PROBABILITY = 2.0**-24


class Prior(nn.Module):
    """Quantiser and probabilities of C latent channels.

    Args:
        channels: C.
        quantize: what stands for rounding while training; in eval mode values are rounded.
        context: whether neighbours tell mean and scale; without, each channel has one distribution.
    """

    def __init__(self, channels: int, quantize: Quantize, context: bool = True) -> None:
        super().__init__()
        assert quantize != "none"
        self.quantize: Quantize = quantize
        self.context = context
        self.gain = nn.Parameter(torch.full((channels,), 4.0))
        self.root_base = nn.Parameter(torch.full((channels,), 0.8))  # b
        if context:
            self.mean_taps = nn.Parameter(torch.zeros(channels, channels, 3, 3))  # a
            self.root_scale_taps = nn.Parameter(torch.full((channels, channels, 3, 3), 0.02))  # v
            with torch.no_grad():
                self.root_scale_taps[range(channels), range(channels)] = 0.3  # what lies beside is the best guess
            self.register_buffer("mask", causal_mask(channels), persistent=False)

    def forward(self, latent: Tensor, step: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Return the latent for the decoder, [B, C, h, w], and its bits, [B]; `step` is [B, 1, 1, 1] or a number."""
        with torch.autocast(latent.device.type, enabled=False):
            scaled = self._scaled(latent, step)
            if self.training:
                noisy = scaled + torch.rand_like(scaled) - 0.5
                straight = scaled + (rounded(scaled) - scaled).detach()
                coded = noisy  # for the rate, noise in both ways: rounding has no useful gradient there
                decoded = noisy if self.quantize == "noise" else straight
                seen = straight  # neighbours are known whole, as in the coder: noise on zeros would look like values
            else:
                coded = decoded = seen = rounded(scaled)
            mean, scale = self.mean_and_scale(seen)
            bits = logistic_bits(coded - mean, scale).sum(dim=(1, 2, 3))
            return self.restored(decoded, step), bits

    def whole(self, latent: Tensor, step: Tensor | float = 1.0) -> Tensor:
        """Return the whole numbers that stand for a latent."""
        return rounded(self._scaled(latent, step))

    def restored(self, q: Tensor, step: Tensor | float = 1.0) -> Tensor:
        """Return the latent that whole numbers stand for."""
        return q * (step / self.gain[:, None, None])

    def _scaled(self, latent: Tensor, step: Tensor | float) -> Tensor:
        return (latent.float() * (self.gain[:, None, None] / step)).clamp(-LARGEST, LARGEST)

    def mean_and_scale(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale of each value given its neighbours, [B, C, h, w], both in quantisation steps."""
        level = q.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(1 / LEVEL_UNIT, LARGEST_LEVEL / LEVEL_UNIT)
        base = self.root_base.square()[:, None, None] * level
        if not self.context:
            return torch.zeros_like(q), base.clamp(MIN_SCALE, MAX_SCALE).expand_as(q)
        assert isinstance(self.mask, Tensor)
        mean = functional.conv2d(q, self.mean_taps * self.mask, padding=1)
        spread = functional.conv2d(q.abs(), self.root_scale_taps.square() * self.mask, padding=1)
        return mean, (base + spread).clamp(MIN_SCALE, MAX_SCALE)


def rounded(scaled: Tensor) -> Tensor:
    """Return whole numbers, rounded towards 0 from up to 0.6."""
    return scaled.sign() * (scaled.abs() + _ROUNDING).floor()


def causal_mask(channels: int) -> Tensor:
    """Return [C, C, 3, 3], 1 where a channel may look: at all taps of earlier ones, at NW, N, NE and W of its own."""
    mask = torch.zeros(channels, channels, 3, 3)
    earlier = torch.ones(channels, channels).tril(-1)
    mask += earlier[:, :, None, None]
    own = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    mask[range(channels), range(channels)] = own
    return mask


def logistic_bits(residual: Tensor, scale: Tensor) -> Tensor:
    """Return -log2 of the logistic probability of the unit cell around a residual."""
    # Of the lower tail: there the difference of two values near 0 keeps its digits.
    distance = -residual.abs()
    probability = torch.sigmoid((distance + 0.5) / scale) - torch.sigmoid((distance - 0.5) / scale)
    return -torch.log2(probability.clamp_min(_LEAST_PROBABILITY))

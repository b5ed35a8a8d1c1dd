"""Whole numbers to bytes and back with a range coder, every probability of which is exact on every machine.

The same sums as in entropy.Prior, in whole numbers: taps are multiples of 1/65536, and floats that hold whole numbers
below 2^53 give exact sums in any order. Probabilities are counts from correctly rounded decimals. So nothing that is
decoded depends on the rounding of a processor or a library; what is made of the decoded numbers may.

C latent channels, h and w latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlkit.tasks.sar.entropy import LARGEST, LARGEST_LEVEL, LEVEL_UNIT, MAX_SCALE, MIN_SCALE

if TYPE_CHECKING:
    from mlkit.tasks.sar.entropy import Prior

ONE = 1 << 16  # what 1 is in means and scales
_LEVELS = 64  # tables of scales, evenly spaced in the logarithm: 12 % apart
_FRACTIONS = 4  # places of the mean between two whole numbers
_REACH = 2 * LARGEST + 1  # largest distance of a value from a rounded mean
_TOTAL = 1 << 24  # of the counts of a table; the coder works with 24 bits
_CHUNK = 2048  # values whose tables are laid out at once

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WholePrior:
    """The numbers of a Prior as the coder uses them; exact in float64."""

    mean_taps: Floats | None  # [C, C, 3, 3]; None without context
    scale_taps: Floats | None
    base: Ints  # [C], at level 1

    @property
    def channels(self) -> int:
        return len(self.base)


def whole_prior(prior: Prior) -> WholePrior:
    """Return the whole numbers of a prior, from its weights by products and roundings that are the same anywhere."""

    def values(weights: Any) -> Floats:
        return np.asarray(weights.detach().cpu().numpy(), np.float64)

    base = np.rint(values(prior.root_base) ** 2 * ONE).astype(np.int64)
    if not prior.context:
        return WholePrior(None, None, base)
    mask = values(prior.mask)
    mean_taps = np.rint(values(prior.mean_taps) * ONE) * mask
    return WholePrior(mean_taps, np.rint(values(prior.root_scale_taps) ** 2 * ONE) * mask, base)


def level_of(q: NDArray[np.integer]) -> int:
    """Return the mean of |q| in 1/4096, which decoding must be told."""
    return min(max(int(np.abs(q.astype(np.int64)).sum()) * LEVEL_UNIT // q.size, 1), LARGEST_LEVEL)


def encode(q: NDArray[np.integer], prior: WholePrior) -> bytes:
    """Return the bytes of values q, [C, h, w] in [-127, 127]."""
    from constriction import stream

    assert q.shape[0] == prior.channels and np.abs(q).max(initial=0) <= LARGEST
    level = level_of(q)
    encoder = stream.queue.RangeEncoder()
    padded = np.pad(q.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    order = np.concatenate(list(_fronts(q.shape[1], q.shape[2], prior.mean_taps is not None)))
    for channel in range(len(q)):
        mean, scale = _earlier(padded, prior, channel, level)
        if prior.mean_taps is not None:
            own_mean, own_scale = _own(padded, prior, channel, np.arange(mean.size))
            mean, scale = mean + own_mean, scale + own_scale
        values = q[channel].ravel()[order].astype(np.int64)
        for start in range(0, len(order), _CHUNK):
            part = slice(start, start + _CHUNK)
            whole, probabilities = _tables(mean[order[part]], scale[order[part]])
            encoder.encode((values[part] - whole + _REACH).astype(np.int32), _family(), probabilities)
    return np.asarray(encoder.get_compressed(), "<u4").tobytes()


def decode(content: bytes, shape: tuple[int, int, int], prior: WholePrior, level: int) -> NDArray[np.int16]:
    """Return the values [C, h, w] that `encode` was given, of that level; altered bytes give others or a ValueError."""
    from constriction import stream

    if len(content) % 4:
        raise ValueError("the coded values end within a word")
    decoder = stream.queue.RangeDecoder(np.frombuffer(content, "<u4").astype(np.uint32))
    channels, height, width = shape
    padded = np.zeros((channels, height + 2, width + 2))
    fronts = list(_fronts(height, width, prior.mean_taps is not None))
    for channel in range(channels):
        mean, scale = _earlier(padded, prior, channel, level)
        inner = padded[channel, 1:-1, 1:-1]
        for front in fronts:
            for start in range(0, len(front), _CHUNK):
                places = front[start : start + _CHUNK]
                place_mean, place_scale = mean[places], scale[places]
                if prior.mean_taps is not None:
                    own_mean, own_scale = _own(padded, prior, channel, places)
                    place_mean, place_scale = place_mean + own_mean, place_scale + own_scale
                whole, probabilities = _tables(place_mean, place_scale)
                values = decoder.decode(_family(), probabilities).astype(np.int64) + whole - _REACH
                if np.abs(values).max() > LARGEST:
                    raise ValueError("the coded values are out of range")
                inner[places // width, places % width] = values
    return padded[:, 1:-1, 1:-1].astype(np.int16)


def _family() -> Any:
    from constriction import stream

    return stream.model.Categorical(perfect=False)


def _fronts(height: int, width: int, context: bool) -> Iterator[Ints]:
    """Yield places (row * width + column) that do not depend on each other, after all that they depend on."""
    rows, columns = np.divmod(np.arange(height * width), width)
    if not context:
        yield np.arange(height * width)
        return
    time = columns + 2 * rows  # NW, N, NE and W have an earlier one
    order = np.argsort(time, kind="stable")
    ends = np.flatnonzero(np.diff(time[order])) + 1
    yield from np.split(order, ends)


def _earlier(padded: Floats, prior: WholePrior, channel: int, level: int) -> tuple[Floats, Floats]:
    """Return what the earlier channels add to mean and scale of a channel, and its base, each [h * w]."""
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    mean = np.zeros((height, width))
    scale = np.full((height, width), float(int(prior.base[channel]) * level // LEVEL_UNIT))
    if prior.mean_taps is not None and prior.scale_taps is not None and channel:
        for y in range(3):
            for x in range(3):
                seen = padded[:channel, y : y + height, x : x + width]
                mean += np.tensordot(prior.mean_taps[channel, :channel, y, x], seen, 1)
                scale += np.tensordot(prior.scale_taps[channel, :channel, y, x], np.abs(seen), 1)
    return mean.ravel(), scale.ravel()


def _own(padded: Floats, prior: WholePrior, channel: int, places: Ints) -> tuple[Floats, Floats]:
    """Return what the values at NW, N, NE and W add to mean and scale at some places of a channel."""
    assert prior.mean_taps is not None and prior.scale_taps is not None
    rows, columns = np.divmod(places, padded.shape[2] - 2)
    mean, scale = np.zeros(len(places)), np.zeros(len(places))
    for y, x in ((0, 0), (0, 1), (0, 2), (1, 0)):
        seen = padded[channel, rows + y, columns + x]
        mean += prior.mean_taps[channel, channel, y, x] * seen
        scale += prior.scale_taps[channel, channel, y, x] * np.abs(seen)
    return mean, scale


# ---- tables ----------------------------------------------------------------------------------------------------------


def _tables(mean: Floats, scale: Floats) -> tuple[Ints, NDArray[np.float32]]:
    """Return rounded means, and the probabilities of each distance from them, [n, 2 * _REACH + 1]."""
    quarters = np.clip(
        (mean.astype(np.int64) * _FRACTIONS + ONE // 2) // ONE, -LARGEST * _FRACTIONS, LARGEST * _FRACTIONS
    )
    levels = np.searchsorted(_thresholds(), scale.astype(np.int64), side="right")
    whole, fraction = np.divmod(quarters, _FRACTIONS)
    keys = levels * _FRACTIONS + fraction
    found, inverse = np.unique(keys, return_inverse=True)
    stacked = np.stack([_table(int(key) // _FRACTIONS, int(key) % _FRACTIONS) for key in found])
    return whole, stacked[inverse]


@lru_cache(maxsize=1)
def _thresholds() -> Ints:
    """Return the scales, in 1/ONE, at which the next table begins: half way between two tables, geometrically."""
    with localcontext(Context(prec=30)):
        return np.array([int(_scale(level + Decimal("0.5")) * ONE) for level in range(_LEVELS - 1)])


def _scale(level: Decimal | int) -> Decimal:
    low, high = Decimal(str(MIN_SCALE)), Decimal(str(MAX_SCALE))
    return low * ((high / low).ln() * level / (_LEVELS - 1)).exp()


@lru_cache(maxsize=_LEVELS * _FRACTIONS)
def _table(level: int, fraction: int) -> NDArray[np.float32]:
    """Return the counts, of 2^24, of each distance -_REACH to _REACH from a rounded mean; at least 1."""
    with localcontext(Context(prec=30)):
        scale, offset = _scale(level), Decimal(fraction) / _FRACTIONS
        below = [_logistic((Decimal(edge) - Decimal("0.5") - offset) / scale) for edge in range(-_REACH, _REACH + 2)]
        counts = [int((after - before) * _TOTAL) for before, after in pairwise(below)]
    return np.maximum(counts, 1).astype(np.float32)  # below 2^24 a float32 holds them exactly


def _logistic(x: Decimal) -> Decimal:
    if x > 40:
        return Decimal(1)
    return Decimal(0) if x < -40 else 1 / (1 + (-x).exp())  # Decimal's exp is rounded correctly, whatever the machine

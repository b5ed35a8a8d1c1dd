"""Randomness as a function of (seed, step): no generator has a state that could be lost.

Every random number of training comes from a key such as (seed, "step", 1204, rank) or (seed, "sample", 38528).
The order of an epoch is a keyed bijection of 0..n-1 that is computed place by place, never stored, so a billion
samples cost as little as ten.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_MASK64 = (1 << 64) - 1
_ROUNDS = 6  # 4 rounds of a balanced Feistel network suffice in theory (Luby and Rackoff 1988); 2 more for weak keys


def derive_seed(seed: int, *keys: str | int) -> int:
    """Return a seed in [0, 2**63) that is a function of `seed` and `keys` alone (BLAKE2b), equal on every machine."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in (seed, *keys))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *keys: str | int) -> np.random.Generator:
    """Return a NumPy generator for a key; making one takes some microseconds, so one a sample is cheap."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *keys)))


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices) from one number."""
    import torch

    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - the global generator is what other libraries draw from
    torch.manual_seed(seed)


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed the global generators inside the block and give back their states after it."""
    import torch

    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        seed_everything(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _mix(value: int) -> int:
    """Return the SplitMix64 finaliser of a 64-bit value (Steele, Lea and Flood 2014, section 3)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK64
    return value ^ (value >> 31)


class Permutation:
    """A keyed bijection of 0..n-1, computed place by place in constant memory.

    A balanced Feistel network permutes 0..4**b-1, the smallest such range that holds n; places that land outside n
    walk on until they fall inside (cycle walking: Black and Rogaway 2002, section 3). Under 4 steps on average.
    """

    __slots__ = ("_half_bits", "_half_mask", "_keys", "n")

    def __init__(self, n: int, key: int) -> None:
        assert n > 0, "a permutation needs at least one place"
        self.n = n
        self._half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
        self._half_mask = (1 << self._half_bits) - 1
        self._keys = tuple(_mix((key + (r + 1) * 0x9E3779B97F4A7C15) & _MASK64) for r in range(_ROUNDS))

    def __call__(self, place: int) -> int:
        """Return where `place` (0..n-1) goes."""
        assert 0 <= place < self.n
        while True:
            left, right = place >> self._half_bits, place & self._half_mask
            for key in self._keys:
                left, right = right, left ^ (_mix(right ^ key) & self._half_mask)
            place = left << self._half_bits | right
            if place < self.n:
                return place

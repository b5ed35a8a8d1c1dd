"""A transformer's tokens are squares of its image: restoring on shifted grids and blending hides their borders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def shifted(apply: Callable[[Floats], Floats], tiles_nchw: Floats, shifts: int, token: int) -> Floats:
    """Return `apply` of tiles [N, C, h, w] on grids of tokens half a token apart, blended.

    Each counts most in the middle of its tokens: what one does at its tokens' borders is covered by another.

    Args:
        apply: keeps the size.
        tiles_nchw: h and w multiples of `token`.
        shifts: 2, diagonally, or 4.
        token: side in px.
    """
    half = token // 2
    height, width = tiles_nchw.shape[2:]
    offsets = [(0, 0), (half, half), (0, half), (half, 0)][:shifts]
    total = np.zeros((height, width), dtype=np.float32)
    made: Floats | None = None
    for down, right in offsets:
        moved = np.pad(tiles_nchw, ((0, 0), (0, 0), (down, 0), (right, 0)), mode="reflect")[:, :, :height, :width]
        result = apply(np.ascontiguousarray(moved))[:, :, down:, right:]
        weight = np.outer(_window(height, down, token), _window(width, right, token))
        made = np.zeros((*result.shape[:2], height, width), dtype=np.float32) if made is None else made
        made[:, :, : height - down, : width - right] += result * weight
        total[: height - down, : width - right] += weight
    assert made is not None
    made /= total
    return made


def _window(size: int, offset: int, token: int) -> Floats:
    """Return weights of the pixels of an axis that a grid moved by `offset` covers, 1 in the middle of a token."""
    place = (np.arange(size - offset) + offset) % token
    return np.asarray(np.sin(np.pi * (place + 0.5) / token) ** 2, dtype=np.float32)

"""How steadily a training loss fell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def largest_fluctuation(losses: Sequence[float], window: int = 5) -> float:
    """Return the largest rise of a training loss over its lowest value so far, relative to its whole fall.

    Both are means over `window` rows, since single batches differ: 0 for a loss that only falls, 0.1 where it once rose
    by a tenth of what it fell from its first to its lowest value, infinity where it never fell. NaN below two windows.
    """
    values = np.asarray(losses, np.float64)
    if len(values) < 2 * window:
        return float("nan")
    smooth = np.convolve(values, np.full(window, 1.0 / window), mode="valid")
    rise = float((smooth - np.minimum.accumulate(smooth)).max())
    fall = float(smooth[0] - smooth.min())
    if rise <= 0:
        return 0.0
    return rise / fall if fall > 0 else float("inf")

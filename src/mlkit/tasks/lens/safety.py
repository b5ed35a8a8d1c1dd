"""Whether a map may be applied to somebody's photograph: safe, warn or unsafe, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mlkit.metrics.geometry import jacobian_stats

Level = Literal["safe", "warn", "unsafe"]

# Real lenses of the data base, up to 15 % in the corner, have a least determinant above 0.4 and less than 0.2 outside.
FOLDED_PCT = 0.0
LOW_DET = 0.4
LARGE_OOB = 0.01
LARGEST_OOB = 0.25


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one map.

    level: unsafe maps are not applied unasked.
    reasons: one clause each; none when safe.
    stats: of `metrics.geometry.jacobian_stats`.
    """

    level: Level
    reasons: tuple[str, ...]
    stats: Mapping[str, float]

    def __str__(self) -> str:
        return self.level if not self.reasons else f"{self.level}: {'; '.join(self.reasons)}"


def judge(grid: Tensor) -> Verdict:
    """Return the verdict on the map [1, H, W, 2] of one picture."""
    stats = {key: float(value[0]) for key, value in jacobian_stats(grid).items()}
    if not all(math.isfinite(value) for value in stats.values()):
        return Verdict("unsafe", ("the map is not finite",), stats)
    grave, mild = [], []
    if stats["negative_det_pct"] > FOLDED_PCT:
        grave.append(
            f"{stats['negative_det_pct']:.2g} % of the picture fold over (least determinant {stats['det_min']:.2f})"
        )
    elif stats["det_min"] < LOW_DET:
        mild.append(
            f"areas are drawn out up to {1 / stats['det_min']:.1f} times (least determinant {stats['det_min']:.2f})"
        )
    if stats["oob_ratio"] > LARGEST_OOB:
        grave.append(f"{stats['oob_ratio']:.0%} of the picture have no source")
    elif stats["oob_ratio"] > LARGE_OOB:
        mild.append(f"{100 * stats['oob_ratio']:.1f} % of the picture have no source, the edge is repeated there")
    level: Level = "unsafe" if grave else "warn" if mild else "safe"
    return Verdict(level, (*grave, *mild), stats)

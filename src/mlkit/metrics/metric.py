"""What a score means: name, unit, direction, protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "one"]

HIGHER: Better = "higher"
LOWER: Better = "lower"
BETTER_TEXT: dict[Better, str] = {"higher": "higher", "lower": "lower", "one": "closest to 1"}


@dataclass(frozen=True, slots=True)
class Metric:
    """What a score means."""

    key: str
    name: str
    unit: str  # "" for a plain number
    better: Better  # "one": the closest to 1
    signature: str  # key|what is compared|border|range|how images are averaged|version of this protocol
    summary: str
    decimals: int  # digits worth printing
    detail: bool = False  # left out of progress lines and of the main table of `compare`, which has a second one

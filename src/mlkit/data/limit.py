"""Looking at as much of something as a time allows, spread over all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic

Tick = Callable[[int, int], None]  # done, all


@dataclass(slots=True)
class Limit:
    """How long something may take, and how far it came."""

    seconds: float
    tick: Tick = lambda done, total: None
    done: int = 0
    total: int = 0
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = monotonic() + self.seconds

    def spread(self, count: int) -> Iterator[int]:
        """Yield 0 .. count-1 in an order that is spread over all, until the time is over."""
        self.total += count
        stride = _coprime(count)
        for place in range(count):
            if monotonic() > self._end and place:
                return
            yield place * stride % count
            self.done += 1
            self.tick(self.done, self.total)

    @property
    def told(self) -> str:
        """Return "all 40", or "37 of 400"."""
        return f"all {self.total:,}" if self.done >= self.total else f"{self.done:,} of {self.total:,}"


def _coprime(count: int) -> int:
    """Return a step about 0.618 of `count` that visits every place."""
    step = max(1, round(0.618 * count))
    while math.gcd(step, count) != 1:
        step += 1
    return step

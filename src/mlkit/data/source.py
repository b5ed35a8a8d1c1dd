"""What a loader draws from: the one thing a task must offer about its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Source(Protocol):
    """A map-style source of samples without hidden randomness; it is pickled into data workers."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return sample `index` without its batch axis; all its randomness comes from `rng`."""
        ...

    def sample_id(self, index: int) -> str:
        """Return a name that stays the same over rebuilds of the same data; `compare` pairs images by it."""
        ...

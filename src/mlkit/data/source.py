"""What a loader draws from: the one thing a task must offer about its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

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


@runtime_checkable
class FamilySource(Protocol):
    """A source whose samples are of several families, such as real pictures and kinds of patterns."""

    def family(self, index: int) -> str:
        """Return the name of a sample's family; `eval.json` keeps it and `compare` gives the means of each."""
        ...


@runtime_checkable
class RampedSource(Protocol):
    """A source whose training samples change over a run, such as a mix that is turned up slowly."""

    def sample_at(self, index: int, rng: np.random.Generator, seen: int) -> dict[str, Tensor]:
        """Return what `sample` would once the run has seen `seen` samples: a function of these three alone."""
        ...

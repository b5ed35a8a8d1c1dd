"""What the trainer tells while it runs. Commands hand in something that draws it; the default is silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Told by the main process only."""

    def begin(self, done: int, total: int, samples_per_step: int) -> None:
        """A run of `total` updates starts, or goes on, at `done`."""
        ...

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Update number `step` (1-based) is done; `values` are loss, its parts, lr and so on."""
        ...

    def stage(self, text: str) -> None:
        """Something else than updates goes on, such as "evaluating 12/40"; empty when it ended."""
        ...

    def scores(self, step: int, means: Mapping[str, float], best: bool) -> None:
        """The validation part was scored."""
        ...

    def say(self, text: str) -> None:
        """One line that stays."""
        ...

    def end(self) -> None: ...


class Silent:
    """Draws nothing."""

    def begin(self, done: int, total: int, samples_per_step: int) -> None: ...
    def update(self, step: int, values: Mapping[str, float]) -> None: ...
    def stage(self, text: str) -> None: ...
    def scores(self, step: int, means: Mapping[str, float], best: bool) -> None: ...
    def say(self, text: str) -> None: ...
    def end(self) -> None: ...

"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Shadow copies of the trained parameters; buffers (BatchNorm statistics) are the model's own.

    Early updates keep less, (1 + n) / (10 + n) after n of them: with 0.999 from the start, an eighth of the average
    would still be the random initial weights after 2,000 updates.

    Args:
        model: the network, not wrapped.
        decay: share of the old average that is kept at late updates; None makes every method do nothing.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self._shadow: dict[str, Tensor] = {}
        if decay is not None:
            self._shadow = {
                name: value.detach().clone().float() for name, value in model.named_parameters() if value.requires_grad
            }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the current weights, after an optimizer update; `step` came before it."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(model.named_parameters())
        shadows = list(self._shadow.values())
        current = [parameters[name].detach().to(shadow.dtype) for name, shadow in self._shadow.items()]
        torch._foreach_lerp_(shadows, current, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Return the average by parameter name; empty when off."""
        return self._shadow

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore an average in place; the names were checked by the checkpoint reader."""
        for name, shadow in self._shadow.items():
            shadow.copy_(state[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the average into the model for the block and the trained weights back after it."""
        if self.decay is None:
            yield
            return
        parameters = {name: value for name, value in model.named_parameters() if name in self._shadow}
        kept = {name: value.detach().clone() for name, value in parameters.items()}
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(self._shadow[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in parameters.items():
                    value.copy_(kept[name])

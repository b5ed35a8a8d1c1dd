"""An exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class Ema:
    """Shadow copies of the trained parameters, and of the running statistics of their normalisation layers.

    The statistics belong to the weights: a BatchNorm whose weights are averaged over thousands of updates and whose
    mean and variance are those of the last ones normalises by numbers that no network of this training had. Other
    buffers are the model's own.

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
            self._shadow = {name: value.detach().clone().float() for name, value in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the current weights, after an optimizer update; `step` came before it."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        values = tensors_of(model)
        shadows = list(self._shadow.values())
        current = [values[name].detach().to(shadow.dtype) for name, shadow in self._shadow.items()]
        torch._foreach_lerp_(shadows, current, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Return the average by the names of parameters and buffers; empty when off."""
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
        values = {name: value for name, value in tensors_of(model).items() if name in self._shadow}
        kept = {name: value.detach().clone() for name, value in values.items()}
        with torch.no_grad():
            for name, value in values.items():
                value.copy_(self._shadow[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in values.items():
                    value.copy_(kept[name])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, the model's own."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Return what is averaged: trained parameters, and statistics of layers that are not frozen as a whole."""
    found: dict[str, Tensor] = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for prefix, module in model.named_modules():
        frozen = [not value.requires_grad for value in module.parameters(recurse=False)]
        if isinstance(module, _NormBase) and not (frozen and all(frozen)):
            for name in ("running_mean", "running_var"):
                if isinstance(value := getattr(module, name), Tensor):
                    found[f"{prefix}.{name}" if prefix else name] = value
    return found

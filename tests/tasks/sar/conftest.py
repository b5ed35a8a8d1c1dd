"""Small networks whose outputs vary as those of trained ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mlkit.tasks.sar.model import Autoencoder, build_autoencoder


def _net_of(arch: Any, base: int = 4, latent: int = 4) -> Autoencoder:
    """Return a narrow network whose normalisations fit its random weights; without that its output is nearly flat."""
    torch.manual_seed(0)
    net = build_autoencoder(arch, base, latent)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net(torch.rand(2, 1, 192, 192))
    return net.eval()


@pytest.fixture
def net_of() -> Callable[..., Autoencoder]:
    return _net_of

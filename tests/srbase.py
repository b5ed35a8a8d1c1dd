"""Bases for tests of the data: one of closed form, and a small real one.

LinearBase: a base whose flow is known in closed form, with the interface of mlkit.tasks.sr.bases.Base."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

RATE = 0.25  # dz/dt = RATE z


class LinearBase(nn.Module):
    """Latents are squares of 4 x 4 px, [-1, 1], side by side in 48 channels; Euler multiplies by 1 + RATE/steps."""

    family, name, fingerprint = "linear", "linear", "0123456789abcdef" * 4
    latent_channels, factor, multiple = 48, 4, 8

    def __init__(self, rate: float = RATE) -> None:
        super().__init__()
        self.transformer = nn.Linear(1, 1)
        self.vae = nn.Identity()
        self.rate = rate
        self.times: list[float] = []

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        self.times += t[:1].tolist()
        return self.rate * z

    def encode(self, image: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(image * 2 - 1, 4)

    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(z, 4) * 0.5 + 0.5


def save_small_base(folder: Path, seed: int = 0) -> Path:
    """Write a base as the embedded one is made, narrow and with random weights; returns the folder."""
    from mlkit.tasks.sr.bases import save_base
    from mlkit.tasks.sr.bases.build import new_transformer
    from mlkit.tasks.sr.bases.patch import PatchAutoencoder

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae = PatchAutoencoder()  # with all its coefficients nothing is lost
        transformer = new_transformer(vae, heads=1, double_blocks=1, single_blocks=1, prompt_channels=8)
        nn.init.normal_(transformer.proj_out.weight, std=0.02)
    save_base(folder, transformer=transformer, vae=vae, prompt_embeds=torch.zeros(1, 8), pooled=torch.zeros(8), card="")
    return folder

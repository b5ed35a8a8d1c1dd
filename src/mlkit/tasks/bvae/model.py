"""The beta-VAE: grids of classes to a Gaussian latent, and back to one score a class and cell (logits).

B grids, C classes, S cells a side, D latent dimensions, F = `model.channels`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlkit.tasks.bvae.settings import BvaeModel

LOG_VARIANCE_LIMITS = (-12.0, 6.0)  # exp() of more overflows in half precision; no posterior needs it


class Residual(nn.Module):
    """Returns x plus two convolutions of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        # Starts as the identity, so that any number of blocks trains at the rate of none.
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.second(F.relu(self.first(F.relu(x))))
        return made


class BetaVae(nn.Module):
    """Three stages of F, 2F and 4F channels at full, half and quarter side, and the latent.

    The latent is one vector behind fully connected layers, as the specification has it, or a map at a quarter of the
    side. Of a map too, z is [B, D]: D = latent * sites, channel by channel. Padding is a class of its own to the
    encoder; the decoder has no score for it and is asked nothing there.
    """

    def __init__(self, settings: BvaeModel) -> None:
        super().__init__()
        self.classes, self.side, self.latent = settings.classes, settings.side, settings.latent_dims
        self.canvas = -(-settings.side // 4) * 4
        self.quarter = self.canvas // 4
        first, second, third = (settings.channels * factor for factor in (1, 2, 4))
        self.third = third

        self.encoder = nn.Sequential(
            nn.Conv2d(self.classes + 1, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            *(Residual(third) for _ in range(settings.blocks)),
            nn.ReLU(),
        )
        self.is_map = settings.layout == "map"
        if self.is_map:
            self.heads: nn.Conv2d | nn.Sequential = nn.Conv2d(third, 2 * settings.latent, 1)
            self.expand: nn.Conv2d | nn.Sequential = nn.Conv2d(settings.latent, third, 1)
        else:
            flat = third * self.quarter**2
            self.heads = nn.Sequential(
                nn.Flatten(), nn.Linear(flat, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, 2 * self.latent)
            )
            self.expand = nn.Sequential(
                nn.Linear(self.latent, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, flat)
            )
        last = self.heads if isinstance(self.heads, nn.Conv2d) else self.heads[-1]
        assert isinstance(last, nn.Conv2d | nn.Linear) and last.bias is not None
        with torch.no_grad():
            last.bias[len(last.bias) // 2 :] += 2.0 * math.log(settings.initial_sigma)
        self.decoder = nn.Sequential(
            *(Residual(third) for _ in range(settings.blocks)),
            nn.ReLU(),
            nn.ConvTranspose2d(third, second, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(second, first, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, self.classes, 3, padding=1),
        )

    def forward(self, labels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [B, C, S, S], mu [B, D] and log sigma^2 [B, D].

        Args:
            labels: [B, S, S] integer; C is padding.
            noise: [B, D] from N(0, 1), for z = mu + sigma * noise; None: z = mu, as in evaluation.
        """
        mu, log_variance = self.encode(labels)
        z = mu if noise is None else mu + (0.5 * log_variance).exp() * noise
        return self.decode(z), mu, log_variance

    def encode(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2, [B, D] each, in float32."""
        more = self.canvas - self.side
        padded = F.pad(labels.long(), (0, more, 0, more), value=self.classes)
        one_hot = F.one_hot(padded, self.classes + 1).movedim(-1, 1)
        features = self.encoder(one_hot.to(next(self.parameters()).dtype))
        mu, log_variance = self.heads(features).float().chunk(2, dim=1)
        return mu.flatten(1), log_variance.flatten(1).clamp(*LOG_VARIANCE_LIMITS)

    def decode(self, z: Tensor) -> Tensor:
        """Return logits [B, C, S, S] of latents [B, D]."""
        if self.is_map:
            z = z.reshape(len(z), -1, self.quarter, self.quarter)
        features = self.expand(z).reshape(-1, self.third, self.quarter, self.quarter)
        logits: Tensor = self.decoder(features)[..., : self.side, : self.side]
        return logits

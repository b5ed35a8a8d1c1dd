"""How long a run is, and its learning rate: functions of the settings and the step, so there is no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from mlkit.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """The length of a run in updates, from settings that may speak of epochs."""

    steps: int
    warmup_steps: int
    samples_per_step: int
    samples_per_epoch: int

    @property
    def steps_per_epoch(self) -> float:
        return self.samples_per_epoch / self.samples_per_step


def plan(settings: TrainSettings, num_samples: int, *, step: int = 0, samples_seen: int = 0) -> Plan:
    """Return the plan for a training source of `num_samples`.

    Args:
        settings: length, batch and warm-up.
        num_samples: of the training source.
        step: updates that are done.
        samples_seen: in them; where the batch size was changed since, epochs still mean passes over the data.
    """
    per_step = settings.batch_size * settings.accumulate
    steps = settings.steps
    if steps is None:
        assert settings.epochs is not None
        steps = max(1, step + _updates(settings.epochs, num_samples, per_step, samples_seen))
    warmup = settings.warmup_steps or 0
    if settings.warmup_epochs is not None:
        warmup = _updates(settings.warmup_epochs, num_samples, per_step)
    return Plan(steps, min(warmup, steps // 2), per_step, num_samples)


def _updates(epochs: float, num_samples: int, per_step: int, samples_seen: int = 0) -> int:
    """Return the updates left of some epochs, the last partial one too; 1.1 means 11/10, not the float above it."""
    return max(0, math.ceil((Fraction(str(epochs)) * num_samples - samples_seen) / per_step))


def lr_at(step: int, settings: TrainSettings, steps: int, warmup_steps: int) -> float:
    """Return the learning rate of update `step` (0-based).

    Linear warm-up from lr / warmup_steps; then constant, half a cosine period down to `min_lr_ratio` (Loshchilov and
    Hutter 2017, eq. 5, without restarts), or one cycle: up from lr / 25 over the first 30 % and down again (Smith and
    Topin 2018; cosine arms), which brings a warm-up of its own.
    """
    floor = settings.min_lr_ratio
    if settings.schedule == "onecycle":
        up = max(1, int(0.3 * steps))
        if step < up:
            low, high, share = 1 / 25, 1.0, step / up
        else:
            low, high, share = 1.0, floor, (step - up) / max(1, steps - up)
        return settings.lr * (high + (low - high) * (1 + math.cos(math.pi * share)) / 2)
    if step < warmup_steps:
        return settings.lr * (step + 1) / warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    share = (step - warmup_steps) / max(1, steps - warmup_steps)
    return settings.lr * (floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, share))) / 2)

"""What a running training is made of: its parts, what changes over steps, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mlkit.checkpoint import Checkpoint
from mlkit.data.manifest import DatasetManifest
from mlkit.task import Source, Task
from mlkit.training.ema import Ema
from mlkit.training.ewc import Ewc
from mlkit.training.forgetting import Guard
from mlkit.training.progress import Progress
from mlkit.training.schedule import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(slots=True)
class TrainState:
    """Everything that changes over steps and is not a tensor."""

    step: int = 0  # completed optimizer updates
    samples_seen: int = 0  # over all processes; the data position
    best: float | None = None  # of the primary metric, as it is reported
    best_step: int | None = None
    watched_best: float | None = None  # of early stopping's metric
    evaluations_without_gain: int = 0
    hooks_failed: int = 0
    guard_start: float | None = None  # mean score of the guarded data at the start of a run from older weights
    guard_sha256: str | None = None  # of these data
    guard_warnings: int = 0  # evaluations at which forgetting was told
    train_s: float = 0.0  # time in updates, without evaluation and saving


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended."""

    state: TrainState
    checkpoint: Checkpoint
    stopped_by: str | None = None  # "SIGTERM"; None when it came to its end
    stopped_early: bool = False
    means: Mapping[str, float] = field(default_factory=dict)  # validation scores of the last evaluation
    failures: tuple[str, ...] = ()  # hooks and trackers that failed, one sentence each
    warnings: tuple[str, ...] = ()  # what the last evaluation says is wrong


@dataclass(slots=True)
class Run:
    """The parts of a running training, set up once and the same for a fresh and a resumed run."""

    task: Task
    data: DatasetManifest
    folder: Path
    name: str
    run_id: str
    plan: Plan
    accelerator: Accelerator
    network: nn.Module  # called by the loss: autocast, and DDP where there are several processes
    net: nn.Module  # the model itself
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema
    source: Source
    eval_source: Source
    progress: Progress
    held: list[nn.Module]  # normalisation layers that keep their statistics, since they are frozen
    guard: Guard | None = None
    ewc: Ewc | None = None
    failures: list[str] = field(default_factory=list)
    warned: set[str] = field(default_factory=set)  # kinds of warnings of evaluations that were told
    warnings: list[str] = field(default_factory=list)  # those of the last evaluation, told again at the end

    @property
    def main(self) -> bool:
        return bool(self.accelerator.is_main_process)

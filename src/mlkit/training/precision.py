"""How the network is called: number format and memory order, and the choice between them on this machine."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mlkit.errors import SettingsError
from mlkit.metrics import METRICS
from mlkit.seeding import derive_seed, isolated_rng
from mlkit.task import Batch, Task
from mlkit.training.freezing import build_net

Chosen = Literal["fp32", "bf16", "fp16"]
LARGEST_LOSS_DB = 0.05  # a faster format must stay this close to fp32
_TRIALS_S = 10.0  # seconds after which no more rounds are made: the choice must not cost more than it saves
_LONG_PASS_S = 2.0  # a pass that takes longer is tried with one sample


@dataclass(frozen=True, slots=True)
class Choice:
    """A number format, a memory order, and the reason in words."""

    precision: Chosen
    channels_last: bool
    reason: str = ""


class Network(nn.Module):
    """The network as a task calls it: autocast inside, float32 outside, so that losses are float32.

    Args:
        net: the model.
        device: where it lives.
        choice: number format and memory order; the model's own weights stay float32.
    """

    def __init__(self, net: nn.Module, device: torch.device, choice: Choice) -> None:
        super().__init__()
        if choice.precision == "fp16" and device.type == "cpu":
            raise SettingsError("train.precision = 'fp16' needs a GPU; on a CPU use fp32, bf16 or auto")
        self.net = net.to(device)
        if choice.channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device_type = device.type
        self.choice = choice

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args = tuple(self._ordered(value) for value in args)
        kwargs = {name: self._ordered(value) for name, value in kwargs.items()}
        if self.choice.precision == "fp32":
            return self.net(*args, **kwargs)
        dtype = torch.bfloat16 if self.choice.precision == "bf16" else torch.float16
        with torch.autocast(self.device_type, dtype=dtype):
            outputs = self.net(*args, **kwargs)
        return _as_float32(outputs)

    def _ordered(self, value: Any) -> Any:
        if self.choice.channels_last and isinstance(value, Tensor) and value.ndim == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value


def _as_float32(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    if isinstance(value, tuple | list):
        return type(value)(_as_float32(item) for item in value)
    if isinstance(value, dict):
        return {key: _as_float32(item) for key, item in value.items()}
    return value


def choose(task: Task, sample: Batch, device: torch.device, *, bare: bool = False) -> Choice:
    """Return the fastest way to call the network on this machine that keeps the primary metric within 0.05 dB.

    The candidates take turns at passes of one model on the same samples; then all predict with equal weights, and what
    differs by more than 0.05 dB (0.5 % in another unit) is left out. What the settings ask for is not tried again.

    Args:
        task: the task; `task.settings.train` says which of precision and channels_last are free.
        sample: a few samples of real size.
        device: where training will run.
        bare: training starts from a checkpoint, so the task's own initial weights need not be there.
    """
    asked = task.settings.train
    orders = [False, True] if asked.channels_last == "auto" else [bool(asked.channels_last)]
    formats: list[Chosen] = ["fp32", "bf16"] if asked.precision == "auto" else [asked.precision]
    candidates = [Choice(precision, order) for precision in formats for order in orders]
    if len(candidates) == 1:
        return candidates[0]
    trials = _trials(task, sample, device, candidates, bare)
    reference = trials[0]
    allowed = LARGEST_LOSS_DB if METRICS[task.primary_metric].unit == "dB" else 0.005 * abs(reference.score)
    good = [trial for trial in trials if abs(trial.score - reference.score) <= allowed]
    best = min(good, key=lambda trial: trial.step_s)
    listed = ", ".join(
        f"{_name(trial.choice)} {reference.step_s / trial.step_s:.2f}x{'' if trial in good else ' but not as good'}"
        for trial in trials
    )
    reason = f"auto chose {_name(best.choice)} on this {platform.machine() or 'machine'}: {listed}"
    return Choice(best.choice.precision, best.choice.channels_last, reason)


@dataclass(frozen=True, slots=True)
class _Trial:
    choice: Choice
    step_s: float
    score: float


def _trials(task: Task, sample: Batch, device: torch.device, candidates: Sequence[Choice], bare: bool) -> list[_Trial]:
    """Return speed and score of each candidate on one network: two copies of a large one may not fit.

    They take turns, so that a busy moment does not fall on one alone.
    """
    settings = task.settings
    with isolated_rng(derive_seed(settings.seed, "init")):
        net = build_net(task, bare=bare)
    trained = [value for value in net.parameters() if value.requires_grad]
    # Tensor by tensor: the moments keep the memory order of the candidate that made them.
    optimizer = torch.optim.AdamW(trained, lr=settings.train.lr, foreach=False)
    times: list[list[float]] = [[] for _ in candidates]
    while len(times[0]) < 5 and (not times[0] or sum(map(sum, times)) < _TRIALS_S):
        for choice, taken in zip(candidates, times, strict=True):
            with isolated_rng(derive_seed(settings.seed, "trial", len(taken))):
                seconds = _timed_pass(task, _ordered(net, device, choice).train(), sample, device)
                if not times[0] and seconds > _LONG_PASS_S:
                    sample = {key: value[:1] for key, value in sample.items()}  # one sample tells as much
                    seconds = _timed_pass(task, _ordered(net, device, choice).train(), sample, device)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            taken.append(seconds)
    trials = []
    for choice, taken in zip(candidates, times, strict=True):
        network = _ordered(net, device, choice).eval()  # equal weights: what differs is the format alone
        with isolated_rng(derive_seed(settings.seed, "trial")), torch.no_grad():
            scores = task.metrics(task.predict(network, sample), sample)[task.primary_metric]
        score = float(scores.float().nanmean())
        # The first pass of each pays for set-up; the fastest of the others is the least disturbed.
        trials.append(_Trial(choice, min(taken[1:] or taken), score if math.isfinite(score) else -1e9))
    return trials


def _ordered(net: nn.Module, device: torch.device, choice: Choice) -> Network:
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Network(net, device, choice)


def _timed_pass(task: Task, network: Network, sample: Batch, device: torch.device) -> float:
    """Return the seconds of one forward and backward pass."""
    started_s = time.perf_counter()
    task.loss(network, sample, step=0).total.backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def _name(choice: Choice) -> str:
    return choice.precision + (" channels-last" if choice.channels_last else "")


def fused_adamw_works(devices: Sequence[torch.device]) -> bool:
    """Return whether AdamW's one-kernel form exists here; it is the same arithmetic, a few per cent faster."""
    return all(device.type in ("cpu", "cuda") for device in devices)

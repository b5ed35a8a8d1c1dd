"""The opening card of a run: what will be trained, on what, how long it will take, what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mlkit.commands.checks import check_disk
from mlkit.commands.display import duration, facts_text
from mlkit.data.manifest import DatasetManifest
from mlkit.data.sampler import StepSampler, batches
from mlkit.errors import SettingsError
from mlkit.presets import resolve_preset
from mlkit.seeding import derive_seed, generator, isolated_rng
from mlkit.task import Task, training_source
from mlkit.tasks import load_task

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from mlkit.commands.starting import Request
    from mlkit.training.schedule import Plan


def opening_card(
    task: Task, data: DatasetManifest, accelerator: Accelerator, folder: Path, request: Request, *, bare: bool
) -> dict[str, str]:
    """Return the lines of the opening card.

    `bare`: training starts from a checkpoint, so the task's own initial weights need not be there.
    """
    from mlkit.training.freezing import build_net
    from mlkit.training.schedule import plan

    settings = task.settings
    source = training_source(task, data)
    planned = plan(settings.train, len(source))
    with isolated_rng(derive_seed(settings.seed, "init")):
        net = build_net(task, bare=bare)  # once for all that the card tells: a base of 24 GB takes a while
    parameters = sum(value.numel() for value in net.parameters())
    trained = sum(value.numel() for value in net.parameters() if value.requires_grad)
    disk = check_disk(folder, net, settings, planned.steps)
    step_s = step_seconds(task, net, data, accelerator)
    passes = planned.steps / planned.steps_per_epoch
    lines = {
        "task": f"{settings.task}  preset {settings.preset}, seed {settings.seed}",
        "data": f"{data.folder}  {', '.join(f'{count} {name}' for name, count in data.splits.items())}"
        + (f"  ({data.label})" if data.label else ""),
        "parameters": f"{parameters:,}" + (f" ({trained:,} trained)" if trained != parameters else ""),
        **({"model": facts_text(task.facts)} if task.facts else {}),
        "device": ("cpu" if accelerator.device.type == "cpu" else str(accelerator.device))
        + (f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""),
        "precision": settings.train.precision + (" channels-last" if settings.train.channels_last else ""),
        "length": f"{planned.steps:,} steps of {planned.samples_per_step} samples ({passes:.3g} epochs)"
        + (", the quick test's budget" if request.quick_test else ""),
        "disk": disk,
        "time": f"about {duration(step_s * planned.steps)}, and evaluation",
    }
    if accelerator.device.type == "cpu" and not request.quick_test:
        quick = _quick(task, data, request, planned, step_s)
        if quick:
            lines["instead"] = quick
    return lines


def step_seconds(task: Task, net: nn.Module, data: DatasetManifest, accelerator: Accelerator) -> float:
    """Return about how long an update takes, from one or two real passes of `net`, which keeps their gradients."""
    import torch

    from mlkit.training.guards import memory_named
    from mlkit.training.precision import Choice, Network

    train = task.settings.train
    batch = sample_batch(task, data, accelerator, limit=4 if accelerator.device.type == "cpu" else 10**9)
    count = len(batch["index"])
    with memory_named(), isolated_rng(derive_seed(task.settings.seed, "init")):
        network = Network(net, accelerator.device, Choice(train.precision, bool(train.channels_last)))  # type: ignore[arg-type]
        network.train()
        times = []
        for _ in range(2):
            started_s = perf_counter()
            task.loss(network, batch, step=0).total.backward()  # type: ignore[no-untyped-call]
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize(accelerator.device)  # kernels are only queued until then
            times.append(perf_counter() - started_s)
            if times[-1] > 3:
                break
    passes = train.batch_size * train.accumulate / count / accelerator.num_processes
    return float(min(times) * passes)


def _quick(task: Task, data: DatasetManifest, request: Request, planned: Plan, step_s: float) -> str:
    """Return what `--quick-test` would take instead, by samples and their size; nothing where it is no shorter."""
    try:
        quick = resolve_preset(request.preset, assignments=request.assignments, quick_test=True).settings
    except SettingsError:
        return ""  # a preset without a quick test
    if quick.train.steps is None:
        return ""
    share = _sample_numel(load_task(quick), data) / _sample_numel(task, data)
    samples = quick.train.steps * quick.train.batch_size * quick.train.accumulate
    quick_s = step_s / planned.samples_per_step * share * samples
    if quick_s >= step_s * planned.steps:
        return ""
    return f"--quick-test: {quick.train.steps} steps, about {duration(quick_s)}"


def _sample_numel(task: Task, data: DatasetManifest) -> int:
    sample = training_source(task, data).sample(0, generator(0, "size"))
    return sum(value.numel() for value in sample.values())


def sample_batch(task: Task, data: DatasetManifest, accelerator: Accelerator, limit: int) -> Mapping[str, Any]:
    """Return one batch of the training source, of at most `limit` samples."""
    source = training_source(task, data)
    count = min(limit, task.settings.train.batch_size)
    sampler = StepSampler(len(source), seed=task.settings.seed, batch_size=count, first_sample=0, num_batches=1)
    return next(
        batches(source, sampler, seed=task.settings.seed, purpose="sample", workers=0, device=accelerator.device)
    )

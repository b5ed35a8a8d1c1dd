"""A new run: from a request to a folder that trains, with everything checked before the folder is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mlkit.checkpoint import Checkpoint, foreign_weights, load_weights, open_checkpoint
from mlkit.commands.display import duration, facts_text
from mlkit.commands.opened import pick_device
from mlkit.commands.session import (
    check_disk,
    check_ids,
    check_named,
    dataset_for,
    new_run_json,
    open_accelerator,
    print_card,
    run_log,
    say,
    train_in,
    write_settings,
)
from mlkit.data.manifest import DatasetManifest, verify_manifest
from mlkit.data.sampler import StepSampler, batches
from mlkit.errors import CheckpointError, MlkitError, SettingsError, listing
from mlkit.presets import resolve_preset
from mlkit.runs.folders import check_run_name, new_run_folder, next_free_name, resolve_run, write_run_json
from mlkit.seeding import derive_seed, generator, isolated_rng
from mlkit.settings import Places, RunSettings
from mlkit.task import Task, training_source
from mlkit.tasks import load_task

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from mlkit.training.schedule import Plan


@dataclass(frozen=True, slots=True)
class Request:
    """What `mlkit train` was asked for."""

    preset: str
    name: str | None
    assignments: tuple[str, ...]
    flags: Mapping[str, Any]
    quick_test: bool
    validate_only: bool
    init_from: Path | None
    resume_from: Path | None
    data: Path | None
    device: str
    as_json: bool


def start(request: Request) -> None:
    """Start a run, or only check that it could start."""
    settings = resolve_preset(
        request.preset, assignments=request.assignments, flags=request.flags, quick_test=request.quick_test
    ).settings
    start_from = request.init_from
    if request.resume_from is not None and not request.init_from and foreign_weights(request.resume_from):
        start_from = request.resume_from
        say(f"{start_from} holds weights only: a new run from them, fresh optimizer, step 0")
    elif request.resume_from is not None:
        from mlkit.commands.resuming import resume_with

        for option, given in (("--init-from", request.init_from), ("--validate-only", request.validate_only)):
            if given:
                raise MlkitError(f"give --resume-from or {option}, not both")
        resume_with(
            request.resume_from,
            settings,
            name=request.name,
            data=request.data,
            device=request.device,
            as_json=request.as_json,
        )
        return
    runs_dir = Places().runs_dir
    name = request.name or settings.preset
    check_run_name(name)
    if (runs_dir / name).exists() and not request.validate_only:
        free = next_free_name(runs_dir, name)
        raise MlkitError(f"a run '{name}' exists in {runs_dir}; use --name {free}, or: mlkit resume {runs_dir / name}")
    init_from = _weights(start_from, settings) if start_from else None
    check_named(settings)
    _check_ewc(settings, init_from)

    accelerator = open_accelerator(request.device)
    task = load_task(settings)
    data = dataset_for(task, request.data, accelerator)
    check_ids(task, data)
    task, reason = decide_precision(task, data, accelerator)
    card, seconds = _card(task, data, accelerator, runs_dir / name, request)
    if reason:
        card["precision"] += f"  ({reason})"
    if request.validate_only:
        _validate(task, data, accelerator, card, seconds)
        return
    main = accelerator.is_main_process
    folder = runs_dir / name
    if main:
        folder = new_run_folder(runs_dir, name)
        lineage = {"parent": str(init_from.folder.resolve()), "kind": "weights"} if init_from else {}
        write_settings(folder, task.settings)
        write_run_json(folder, new_run_json(name, task.settings, data, lineage))
    accelerator.wait_for_everyone()
    with run_log(folder):
        if main:
            print_card(f"mlkit train  {name}", card)
        train_in(folder, task, data, accelerator, resume=None, init_from=init_from, as_json=request.as_json)


def decide_precision(task: Task, data: DatasetManifest, accelerator: Accelerator) -> tuple[Task, str]:
    """Return the task with precision and channels_last decided, equally on every process, and why."""
    from accelerate.utils import broadcast_object_list

    from mlkit.training.guards import memory_named
    from mlkit.training.precision import choose

    settings = task.settings
    with memory_named():
        choice = choose(task, sample_batch(task, data, accelerator, limit=4), accelerator.device)
    choice = broadcast_object_list([choice])[0] if accelerator.num_processes > 1 else choice
    train = settings.train.model_copy(update={"precision": choice.precision, "channels_last": choice.channels_last})
    return load_task(settings.model_copy(update={"train": train})), choice.reason


def sample_batch(task: Task, data: DatasetManifest, accelerator: Accelerator, limit: int) -> Mapping[str, Any]:
    """Return one batch of the training source, of at most `limit` samples."""
    source = training_source(task, data)
    count = min(limit, task.settings.train.batch_size)
    sampler = StepSampler(len(source), seed=task.settings.seed, batch_size=count, first_sample=0, num_batches=1)
    return next(
        batches(source, sampler, seed=task.settings.seed, purpose="sample", workers=0, device=accelerator.device)
    )


def _weights(path: Path, settings: RunSettings) -> Checkpoint:
    checkpoint = foreign_weights(path)
    foreign = checkpoint is not None
    if checkpoint is None:
        checkpoint = open_checkpoint(resolve_run(str(path), Places().runs_dir).chosen_checkpoint())
    if not foreign and checkpoint.info["task"] != settings.task:
        raise CheckpointError(
            f"--init-from {path} is of task '{checkpoint.info['task']}', this preset is of '{settings.task}'"
        )
    load_weights(load_task(settings).build_model(), checkpoint, averaged=True)  # those of another model do not fit
    return checkpoint


def _check_ewc(settings: RunSettings, init_from: Checkpoint | None) -> None:
    """Refuse elastic weight consolidation without weights to hold, or without its data, before anything is written."""
    if settings.train.ewc == 0:
        return
    from mlkit.data.opening import open_named
    from mlkit.training.ewc import refuse_without_weights

    refuse_without_weights(settings, init_from is not None)
    if settings.train.ewc_data != "same":
        open_named(settings.train.ewc_data, "train.ewc_data", settings.task)


def _card(
    task: Task, data: DatasetManifest, accelerator: Accelerator, folder: Path, request: Request
) -> tuple[dict[str, str], float]:
    """Return the lines of the opening card, and the seconds that one update takes about."""
    from mlkit.training.freezing import build_net
    from mlkit.training.schedule import plan

    settings = task.settings
    source = training_source(task, data)
    planned = plan(settings.train, len(source))
    with isolated_rng(derive_seed(settings.seed, "init")):
        net = build_net(task)  # once for all that the card tells: a base of 24 GB takes a while
    parameters = sum(value.numel() for value in net.parameters())
    trained = sum(value.numel() for value in net.parameters() if value.requires_grad)
    disk = check_disk(folder, net, settings)
    step_s = _step_seconds(task, net, data, accelerator)
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
    return lines, step_s


def _step_seconds(task: Task, net: nn.Module, data: DatasetManifest, accelerator: Accelerator) -> float:
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


def _validate(task: Task, data: DatasetManifest, accelerator: Accelerator, card: dict[str, str], step_s: float) -> None:
    """Check the data's hashes and that one real batch gives a finite loss; the backward pass ran for the card."""
    import torch

    from mlkit.errors import NonFiniteError
    from mlkit.training.freezing import build_net
    from mlkit.training.guards import memory_named

    verify_manifest(data)
    device, _ = pick_device(accelerator.device.type)
    batch = sample_batch(task, data, accelerator, limit=10**9)
    with memory_named(), isolated_rng(derive_seed(task.settings.seed, "init")):  # the weights that training starts from
        net = build_net(task).to(device)
        loss = task.loss(net, batch, step=0)
        loss.total.backward()  # type: ignore[no-untyped-call]
    if not torch.isfinite(loss.total):
        source = training_source(task, data)
        shown = listing([source.sample_id(index) for index in batch["index"].tolist()])
        raise NonFiniteError(f"the loss of one batch is {loss.total:g}; look at its samples and the settings: {shown}")
    print_card("mlkit train --validate-only", card)
    say(f"ready: settings, data (every file's hash), disk and one step of real size are good; loss {loss.total:.4f}")

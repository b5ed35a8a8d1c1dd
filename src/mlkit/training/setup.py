"""From a task and its data to the parts of a running training, fresh or restored from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mlkit.checkpoint import Checkpoint, load_weights, read_tensors, read_training_state
from mlkit.data.manifest import DatasetManifest
from mlkit.errors import SettingsError
from mlkit.seeding import derive_seed, seed_everything
from mlkit.task import Task, training_source
from mlkit.training.ema import Ema
from mlkit.training.forgetting import open_guard, refuse_other_guard
from mlkit.training.freezing import build_net, held_layers
from mlkit.training.precision import Choice, Network, fused_adamw_works
from mlkit.training.progress import Progress
from mlkit.training.ranks import synced
from mlkit.training.schedule import plan
from mlkit.training.state import Run, TrainState

if TYPE_CHECKING:
    from accelerate import Accelerator


def set_up(
    task: Task,
    data: DatasetManifest,
    folder: Path,
    accelerator: Accelerator,
    name: str,
    run_id: str,
    init_from: Checkpoint | None,
    progress: Progress,
    *,
    bare: bool = False,
) -> Run:
    """Return the parts of a run that starts; `bare`: its first weights are those of a checkpoint."""
    settings = task.settings.train
    if settings.batch_size % accelerator.num_processes:
        raise SettingsError(
            f"train.batch_size = {settings.batch_size} is over all processes and cannot be divided by "
            f"{accelerator.num_processes}; choose a multiple"
        )
    assert settings.precision != "auto" and settings.channels_last != "auto", "decided before the run folder is made"
    source, eval_source = training_source(task, data), task.eval_source(data)
    if settings.deterministic and accelerator.device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)  # some operations have no such form: torch says which
        torch.backends.cudnn.benchmark = False
    seed_everything(derive_seed(task.settings.seed, "init"))  # initial weights depend on the seed alone
    net = build_net(task, bare=bare)
    if init_from:
        load_weights(net, init_from, averaged=True)
    if accelerator.num_processes > 1:
        net = synced(net)
    choice = Choice(settings.precision, settings.channels_last)
    network = Network(net, accelerator.device, choice)
    optimizer = torch.optim.AdamW(
        _parameter_groups(net, settings.weight_decay),
        lr=0.0,  # the loop sets it at every step
        betas=settings.betas,
        fused=fused_adamw_works([accelerator.device]),
    )
    return Run(
        task=task,
        data=data,
        folder=folder,
        name=name,
        run_id=run_id,
        plan=plan(settings, len(source)),
        accelerator=accelerator,
        network=accelerator.prepare_model(network),
        net=net,
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(accelerator.device.type, enabled=settings.precision == "fp16"),
        ema=Ema(net, settings.ema_decay),
        source=source,
        eval_source=eval_source,
        progress=progress,
        held=held_layers(net, settings.freeze),
        guard=open_guard(task),
    )


def _parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels only: pulling biases and normalisation weights to zero helps nothing."""
    trained = [value for value in net.parameters() if value.requires_grad]
    return [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": weight_decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]


def restore(run: Run, checkpoint: Checkpoint) -> TrainState:
    load_weights(run.net, checkpoint, averaged=False)
    values, tensors = read_training_state(checkpoint)
    refuse_other_guard(run.task.settings, values)
    wanted = [{key: value for key, value in group.items() if key != "params"} for group in run.optimizer.param_groups]
    run.optimizer.load_state_dict(tensors["optimizer"])
    for group, own in zip(run.optimizer.param_groups, wanted, strict=True):
        group.update(own)  # weight decay and betas may have been changed; the state would bring the old ones back
    run.scaler.load_state_dict(tensors["scaler"])
    if run.ema.state():
        run.ema.load(read_tensors(checkpoint.folder / "ema.safetensors"))
    state = TrainState(**values)
    run.plan = plan(run.task.settings.train, len(run.source), step=state.step, samples_seen=state.samples_seen)
    return state

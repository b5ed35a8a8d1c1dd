"""Elastic weight consolidation: weights that matter for older data are held near where they were.

Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", eq. 3: the loss gains
lambda/2 sum_i F_i (w_i - w0_i)^2, where w0 are the weights that the run starts from and F is the diagonal of the
Fisher information there: the mean over samples of the squared gradient of each sample's loss, which stands for its
negative log-likelihood (the empirical Fisher). Its scale is that of the loss, so lambda has to be found by trying.

w0 and F are measured once, when the run begins, and written to the run's folder; a resume reads them again.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit.checkpoint import Checkpoint, read_tensors
from mlkit.data.opening import open_named
from mlkit.data.sampler import StepSampler, batches
from mlkit.errors import CheckpointError, NonFiniteError, SettingsError
from mlkit.files import atomic_file, sha256_file
from mlkit.seeding import derive_seed, isolated_rng
from mlkit.settings import RunSettings
from mlkit.task import training_source
from mlkit.training.precision import Choice, Network

if TYPE_CHECKING:
    from mlkit.data.manifest import DatasetManifest
    from mlkit.training.state import Run

FILE = "ewc.safetensors"


@dataclass(frozen=True, slots=True)
class Ewc:
    """What the penalty needs, by parameter name, on the device of the network."""

    weight: float  # lambda
    anchor: Mapping[str, Tensor]  # w0
    fisher: Mapping[str, Tensor]  # F
    sha256: str  # of the file that holds both

    @torch.no_grad()
    def add_gradient(self, net: nn.Module) -> Tensor:
        """Add the penalty's gradient, lambda F (w - w0), to the gradients of `net`; returns the penalty, a scalar.

        It is the same on every process and needs no graph, so it is added after the backward pass, unscaled.
        """
        parameters = dict(net.named_parameters())
        moved = torch._foreach_sub([parameters[name].detach() for name in self.anchor], list(self.anchor.values()))
        pulls = torch._foreach_mul(list(self.fisher.values()), moved)
        for name, pull in zip(self.anchor, pulls, strict=True):
            gradient = parameters[name].grad
            if gradient is not None:  # the optimizer leaves the others alone, so they stay at w0
                gradient.add_(pull, alpha=self.weight)
        total = torch.stack([(pull * way).sum() for pull, way in zip(pulls, moved, strict=True)]).sum()
        return total * (self.weight / 2)


def refuse_without_weights(settings: RunSettings, has_weights: bool) -> None:
    """Raise SettingsError where the penalty is on in a run that starts from no weights."""
    if settings.train.ewc > 0 and not has_weights:
        raise SettingsError(
            f"train.ewc = {settings.train.ewc:g} holds the weights near those that a run starts from, but this one "
            f"starts from none; add --init-from CHECKPOINT, or --set train.ewc=0"
        )


def measure(run: Run) -> Ewc | None:
    """Return the penalty around the weights that the run has now, written to its folder; None when it is off.

    The network is in training mode, as its loss expects, but normalises by its running statistics: one sample has
    none to speak of. Nothing of it changes. Every process measures the same, the main one writes.

    Raises:
        NonFiniteError: for a sample whose gradient is not finite.
        DataError: when `train.ewc_data` cannot be opened.
    """
    settings = run.task.settings.train
    if settings.ewc == 0:
        return None
    data = run.data
    if settings.ewc_data != "same":
        data = open_named(settings.ewc_data, "train.ewc_data", run.task.settings.task)
    run.progress.say(
        f"elastic weight consolidation: measuring on {settings.ewc_samples} samples of {data.folder} what each weight "
        f"matters"
    )
    fisher, loss = _fisher(run, data)
    trained = {name: value.detach() for name, value in run.net.named_parameters() if value.requires_grad}
    anchor = {name: value.clone(memory_format=torch.contiguous_format) for name, value in trained.items()}
    tenth = sum(float((fisher[name] * value.float().square()).sum()) for name, value in trained.items()) * 0.1**2
    run.progress.say(
        f"elastic weight consolidation: to change every weight by a tenth would cost {settings.ewc / 2 * tenth:.2g}, "
        f"beside a loss of {loss:.2g}"  # what lambda means depends on the loss: this is how to find one
    )
    content = _packed(anchor, fisher)
    if run.main:
        with atomic_file(run.folder / FILE) as partial:
            partial.write_bytes(content)
    run.accelerator.wait_for_everyone()
    return _unpacked(run, run.folder / FILE)


def stored_file(checkpoint: Checkpoint) -> Path:
    """Return the file that a resume of this checkpoint needs, beside it, after checking its hash.

    Raises:
        CheckpointError: when it is missing or has changed.
    """
    path, meant = checkpoint.folder.parent / FILE, checkpoint.info.get("ewc_sha256")
    way = f"start a new run: mlkit train --preset NAME --init-from {checkpoint.folder}"
    if meant is None:
        raise CheckpointError(f"checkpoint {checkpoint.folder} was trained without train.ewc; {way}")
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: it holds what train.ewc needs to go on exactly from {checkpoint.folder}; "
            f"put it back, or {way}"
        )
    found = sha256_file(path)
    if found != meant:
        raise CheckpointError(
            f"{path} has changed: sha256 {found[:12]} instead of the {meant[:12]} that {checkpoint.folder} was trained "
            f"with; put the right one back, or {way}"
        )
    return path


def restored(run: Run, checkpoint: Checkpoint) -> Ewc | None:
    """Return the penalty of a run that is resumed; None when it is off. Raises as `stored_file`."""
    if run.task.settings.train.ewc == 0:
        return None
    path = stored_file(checkpoint)
    if run.main and path.parent.resolve() != run.folder.resolve():  # goes on in a new run
        with atomic_file(run.folder / FILE) as partial:
            shutil.copyfile(path, partial)
    return _unpacked(run, path)


def _fisher(run: Run, data: DatasetManifest) -> tuple[dict[str, Tensor], float]:
    """Return the mean over samples of the squared gradients, float32, by trained parameter; and of the loss."""
    task, net, count = run.task, run.net, run.task.settings.train.ewc_samples
    seed, device = task.settings.seed, run.accelerator.device
    source = training_source(task, data)
    sampler = StepSampler(len(source), seed=seed, batch_size=1, first_sample=0, num_batches=count)
    trained = {name: value for name, value in net.named_parameters() if value.requires_grad}
    sums = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in trained.items()}
    kept = {name: value.clone() for name, value in net.named_buffers()}
    network = Network(net, device, _unscaled(task.settings))
    network.train()
    total = 0.0
    for layer in net.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.eval()
    loader = batches(source, sampler, seed=seed, purpose="ewc", workers=task.settings.train.workers, device=device)
    for place, batch in enumerate(loader):
        net.zero_grad(set_to_none=True)
        with isolated_rng(derive_seed(seed, "ewc", place)):
            loss = task.loss(network, batch, step=0).total
            loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach()) / count
        norm = torch.zeros((), device=device)
        for name, value in trained.items():
            if value.grad is not None:
                square = value.grad.detach().float().square()
                sums[name].add_(square, alpha=1 / count)
                norm += square.sum()
        if not math.isfinite(float(norm)):
            name = source.sample_id(int(batch["index"][0]))
            raise NonFiniteError(
                f"the gradient of sample {name} of {data.folder} is not finite while train.ewc measures what weights "
                f"matter; look at that sample and at the weights of --init-from"
            )
        run.progress.stage(f"measuring {place + 1}/{count}")
    net.zero_grad(set_to_none=True)
    net.train()
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            buffer.copy_(kept[name])
    run.progress.stage("")
    return sums, total


def _unscaled(settings: RunSettings) -> Choice:
    """Return how the run calls its network, but not in fp16: its small gradients vanish without a scaler."""
    train = settings.train
    assert train.precision != "auto"
    return Choice("fp32" if train.precision == "fp16" else train.precision, bool(train.channels_last))


def _packed(anchor: Mapping[str, Tensor], fisher: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    named = {f"anchor.{name}": value for name, value in anchor.items()}
    named |= {f"fisher.{name}": value for name, value in fisher.items()}
    # Copies: safetensors refuses channels-last strides and two names of one tensor.
    order = torch.contiguous_format
    return bytes(save({name: value.cpu().clone(memory_format=order) for name, value in named.items()}))


@torch.no_grad()
def _unpacked(run: Run, path: Path) -> Ewc:
    """Return what a file holds for the parameters that the run trains."""
    stored = read_tensors(path)
    trained = {name: value for name, value in run.net.named_parameters() if value.requires_grad}
    wanted = {f"{kind}.{name}": value for kind in ("anchor", "fisher") for name, value in trained.items()}
    if wanted.keys() != stored.keys() or any(stored[name].shape != value.shape for name, value in wanted.items()):
        raise CheckpointError(f"{path} is of another model than this run trains; start a new run with --init-from")
    # In the memory order of the weights, so that the fast path of foreach is taken.
    on_device = {
        name: torch.empty_like(value, dtype=stored[name].dtype).copy_(stored[name]) for name, value in wanted.items()
    }
    anchor = {name: on_device[f"anchor.{name}"] for name in trained}
    fisher = {name: on_device[f"fisher.{name}"] for name in trained}
    return Ewc(run.task.settings.train.ewc, anchor, fisher, sha256_file(path))

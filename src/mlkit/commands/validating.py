"""`mlkit train --validate-only`: one real step, the data's hashes, and the figures of a checkpoint that is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.checkpoint import Checkpoint, load_weights
from mlkit.commands.card import sample_batch
from mlkit.commands.display import scores_text
from mlkit.commands.session import print_card, say
from mlkit.data.manifest import DatasetManifest, verify_manifest
from mlkit.errors import NonFiniteError, listing
from mlkit.seeding import derive_seed, isolated_rng
from mlkit.task import Task, training_source

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from mlkit.evaluation.evaluate import Evaluation


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check found; figures only where weights were named that training would start from."""

    loss: float
    scored: Evaluation | None


def check_step(task: Task, data: DatasetManifest, accelerator: Accelerator, init_from: Checkpoint | None) -> Checked:
    """Check the data's hashes and that one real batch gives a finite loss; score the weights of `init_from`.

    Raises:
        DataError, NonFiniteError: with the file or the samples.
    """
    import torch

    from mlkit.training.freezing import build_net
    from mlkit.training.guards import memory_named

    verify_manifest(data)
    batch = sample_batch(task, data, accelerator, limit=10**9)
    with memory_named(), isolated_rng(derive_seed(task.settings.seed, "init")):  # the weights that training starts from
        net = build_net(task, bare=init_from is not None)
        if init_from:
            load_weights(net, init_from, averaged=True)
        net = net.to(accelerator.device)
        scored = _scored(task, data, net, accelerator) if init_from else None  # first: a step counts for BatchNorm
        loss = task.loss(net, batch, step=0)
        loss.total.backward()  # type: ignore[no-untyped-call]
    if not torch.isfinite(loss.total):
        source = training_source(task, data)
        shown = listing([source.sample_id(index) for index in batch["index"].tolist()])
        raise NonFiniteError(f"the loss of one batch is {loss.total:g}; look at its samples and the settings: {shown}")
    return Checked(float(loss.total.detach()), scored)


def _scored(task: Task, data: DatasetManifest, net: nn.Module, accelerator: Accelerator) -> Evaluation:
    """Return the scores of the validation samples that training scores."""
    from mlkit.evaluation.evaluate import evaluate, spread_indices

    settings, source = task.settings, task.eval_source(data)
    return evaluate(
        task,
        net,
        source,
        device=accelerator.device,
        batch_size=settings.eval.batch_size or settings.train.batch_size,
        indices=spread_indices(len(source), settings.eval.max_samples),
    )


def tell_ready(card: Mapping[str, str], checked: Checked, weights: Path | None, *, as_json: bool) -> dict[str, Any]:
    """Tell what was checked, and the figures of the weights that were named; returns it for `--json`."""
    scored = checked.scored
    warnings = [*scored.failures, *scored.warnings] if scored else []
    for warning in warnings:
        say(f"warning: {warning}")
    if not as_json:
        print_card("mlkit train --validate-only", card)
        if scored:
            say(f"validation of {weights}: {scores_text(scored.means())}")
        say(
            "ready: settings, data (every file's hash), disk and one step of real size are good; "
            f"loss {checked.loss:.4f}"
        )
    figures = {"scores": _finite(scored.means()), "set_scores": _finite(scored.set_scores)} if scored else {}
    of = {"checkpoint": str(weights), **figures, "warnings": warnings} if scored else {}
    return {"ready": True, "loss": checked.loss, **of}


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if math.isfinite(value)}

"""A checkpoint opened for use: its task, its model with weights, and the dataset it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.checkpoint import Checkpoint, load_weights, open_checkpoint
from mlkit.data.manifest import DatasetManifest, open_manifest
from mlkit.errors import DataError, SettingsError, listing
from mlkit.presets import validate
from mlkit.task import Task, bare_model
from mlkit.tasks import load_task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mlkit.evaluation.evaluate import Evaluation
    from mlkit.task import Source


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A checkpoint's network on a device, in eval mode, with averaged weights where there are some."""

    checkpoint: Checkpoint
    task: Task
    net: nn.Module
    device: torch.device


def pick_device(name: str) -> tuple[torch.device, str]:
    """Return the device for "auto", "cpu", "cuda" or "mps", and a sentence when it is another than was asked for."""
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind])), ""
    if name not in present:
        raise SettingsError(f"unknown device '{name}'; there are auto, {listing(list(present))}")
    if not present[name]:
        return torch.device("cpu"), f"no {name} device here: using the CPU"
    return torch.device(name), ""


def open_model(folder: Path, device: torch.device, *, task_name: str | None = None) -> OpenedModel:
    """Return the model of a verified checkpoint.

    Raises:
        CheckpointError: when it is damaged, or of another task than `task_name`.
    """
    import torch

    from mlkit.errors import CheckpointError, NewerCheckpointError
    from mlkit.runs.folders import checkpoints

    try:
        checkpoint = open_checkpoint(folder)
    except NewerCheckpointError:
        raise
    except CheckpointError as error:
        others = [other.name for other in checkpoints(folder.absolute().parent) if other.name != folder.name]
        told = f"; the run also has {listing(others)}" if others else ""
        raise CheckpointError(*(f"{problem}{told}" for problem in error.problems)) from error
    if task_name is not None and checkpoint.info["task"] != task_name:
        raise CheckpointError(f"checkpoint {folder} is of task '{checkpoint.info['task']}', not '{task_name}'")
    try:
        task = load_task(validate(checkpoint.info["settings"]))
    except SettingsError as error:
        problems = (
            f"checkpoint {folder} cannot be used: {problem.removeprefix('task: ')}" for problem in error.problems
        )
        raise CheckpointError(*problems) from error
    net = bare_model(task)
    load_weights(net, checkpoint, averaged=True)
    # Frozen weights and eval mode: nothing below this line trains.
    return OpenedModel(checkpoint, task, net.to(device).eval().requires_grad_(False), torch.device(device))


def dataset_of(checkpoint: Checkpoint, data: Path | None = None) -> DatasetManifest:
    """Return the dataset that a checkpoint was trained on, from `data` or where its run says it lies.

    Raises:
        DataError: when it is not there, or has another hash.
    """
    from mlkit.runs.folders import read_run_json

    if data is None:
        run = checkpoint.folder.parent
        if not (run / "run.json").is_file():
            raise DataError(
                f"checkpoint {checkpoint.folder} lies outside a run, so its dataset is unknown; give --data"
            )
        data = Path(read_run_json(run)["dataset_dir"])
        if not data.exists():
            raise DataError(f"the dataset of run {run.name} is no longer at {data}; say where it lies now with --data")
    manifest = open_manifest(data)
    meant = str(checkpoint.info["dataset_sha256"])
    if manifest.sha256 != meant:
        raise DataError(
            f"dataset {data} has sha256 {manifest.sha256[:12]}, but {checkpoint.folder} was trained on {meant[:12]}; "
            f"give the right one with --data"
        )
    return manifest


def evaluate_opened(
    opened: OpenedModel, source: Source, indices: Sequence[int], *, panels_of: Sequence[int] = ()
) -> Evaluation:
    """Return scores and panels of a source under an opened model; pictures one by one, since their sizes may differ.

    Raises:
        DataError: when a picture that was asked for failed.
    """
    from mlkit.evaluation.evaluate import evaluate

    settings = opened.task.settings
    batch_size = 1 if panels_of else settings.eval.batch_size or settings.train.batch_size
    result = evaluate(
        opened.task,
        opened.net,
        source,
        device=opened.device,
        batch_size=batch_size,
        indices=indices,
        panels_of=panels_of,
    )
    if not set(panels_of) <= result.panels.keys():
        raise DataError(*result.failures)
    return result


def write_scores(folder: Path, data: Path | None = None) -> None:
    """Write the eval.json that a checkpoint lacks, on the validation samples that training scores."""
    from mlkit.evaluation.evaluate import spread_indices, write_report

    opened = open_model(folder, pick_device("auto")[0])
    manifest = dataset_of(opened.checkpoint, data)
    source = opened.task.eval_source(manifest)
    scored = evaluate_opened(opened, source, spread_indices(len(source), opened.task.settings.eval.max_samples))
    info: dict[str, Any] = dict(opened.checkpoint.info)
    write_report(
        folder / "eval.json",
        scored,
        task=info["task"],
        step=info["step"],
        split="validation",
        protocol=opened.task.settings.eval.protocol,
        dataset_sha256=manifest.sha256,
        dataset_label=manifest.label,
    )


def render_side_by_side(
    checkpoints: Sequence[tuple[str, Path]], ids: Sequence[str], out: Path, data: Path | None = None
) -> None:
    """Write one picture with a row an image: what is given to every model once, then each model's own panels."""
    from mlkit.evaluation.evaluate import indices_of_ids
    from mlkit.imaging.grids import Panel, comparison_grid, of_role, write_png

    rows: list[list[Panel]] = [[] for _ in ids]
    label = ""
    for place, (name, folder) in enumerate(checkpoints):
        opened = open_model(folder, pick_device("auto")[0])
        manifest = dataset_of(opened.checkpoint, data)
        source = opened.task.eval_source(manifest)
        indices = indices_of_ids(source, ids)
        shown = evaluate_opened(opened, source, indices, panels_of=indices)
        label = manifest.label
        for row, index in zip(rows, indices, strict=True):
            row += of_role(shown.panels[index], "given") if place == 0 else []
            others = [panel for panel in shown.panels[index] if panel.role != "given"]
            row += [replace(panel, title=f"{name}\n{panel.title}") for panel in others]
    heading = " vs ".join(name for name, _ in checkpoints) + (f"  ({label} data)" if label else "")
    write_png(out, comparison_grid(rows, heading=heading, labels=list(ids)))

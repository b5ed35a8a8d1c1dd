"""What `train` and `resume` refuse before anything is written: disk, packages, functions, folders, ids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.commands.session import say
from mlkit.data.manifest import DatasetManifest
from mlkit.errors import DataError, SettingsError
from mlkit.files import existing_parent
from mlkit.outside import outside_function, split_name
from mlkit.settings import CheckpointSettings, RunSettings
from mlkit.task import SavesOwnFiles, Task
from mlkit.training.tracking import refuse_absent_trackers

if TYPE_CHECKING:
    from torch import nn


def checkpoint_bytes(net: nn.Module, settings: RunSettings) -> int:
    """Return the size of one full checkpoint: weights, two moments of AdamW, and the average where it is on."""
    trained = sum(value.numel() for value in net.parameters() if value.requires_grad)
    frozen = 0 if isinstance(net, SavesOwnFiles) else sum(value.numel() for value in net.parameters()) - trained
    buffers = sum(value.numel() for value in net.buffers())
    return 4 * (trained * (3 + (settings.train.ema_decay is not None)) + frozen + buffers)


def kept_checkpoints(settings: CheckpointSettings, steps: int) -> int:
    """Return how many checkpoints a run of so many updates has at most at once."""
    marked = steps // settings.keep_every if settings.keep_every else 0
    return settings.keep_last + settings.keep_best + marked + 1  # one more while the newest is written


def check_disk(folder: Path, net: nn.Module, settings: RunSettings, steps: int) -> str:
    """Return a line on the disk that a run of so many updates needs; raises DataError when there is less."""
    kept = kept_checkpoints(settings.checkpoint, steps)
    needed = kept * checkpoint_bytes(net, settings)
    if settings.train.ewc > 0:  # the weights at the start and their Fisher information
        needed += 8 * sum(value.numel() for value in net.parameters() if value.requires_grad)
    free = refuse_little_disk(folder, needed, kept)
    return f"{size_text(needed)} for up to {kept} checkpoints ({size_text(free)} free)"


def refuse_little_disk(folder: Path, needed: int, kept: int) -> int:
    """Return the free disk in bytes; raises DataError when it is less than what a run's checkpoints need."""
    free = shutil.disk_usage(existing_parent(folder)).free
    if free < needed:
        raise DataError(
            f"{folder} needs {size_text(needed)} for {kept} checkpoints but {size_text(free)} are free; free some, "
            f"lower checkpoint.keep_last, or move runs with MLKIT_RUNS_DIR"
        )
    return free


def size_text(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def check_named(settings: RunSettings) -> None:
    """Refuse a package, a folder or a loader that is not there, before anything is written; tell an absent scorer."""
    from mlkit.tasks import load_task

    refuse_absent_trackers(settings.tracking)
    if settings.data.loader is not None:
        outside_function(settings.data.loader, "data.loader")
    if settings.eval.scorer is not None:
        _tell_absent_scorer(settings.eval.scorer)
    if settings.eval.guard_data is not None:
        from mlkit.training.forgetting import guarded_data

        guarded_data(settings)
    if settings.checkpoint.eval_images_dir is not None:
        from mlkit.imaging.images import list_images

        list_images(Path(settings.checkpoint.eval_images_dir), load_task(settings).image_suffixes)


def _tell_absent_scorer(named: str) -> None:
    """Say before training what each evaluation will count: scores of its own are no reason to lose a training."""
    split_name(named, "eval.scorer")  # no name of a function: a slip in the settings
    try:
        outside_function(named, "eval.scorer")
    except SettingsError as error:
        say(f"warning: {error.problems[0]}; training goes on without its scores")


def check_ids(task: Task, data: DatasetManifest) -> None:
    """Refuse ids for the grid that no validation sample has, before anything is written."""
    from mlkit.evaluation.evaluate import indices_of_ids

    if task.settings.checkpoint.eval_ids:
        indices_of_ids(task.eval_source(data), task.settings.checkpoint.eval_ids)

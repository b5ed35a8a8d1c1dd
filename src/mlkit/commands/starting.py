"""A new run: from a request to a folder that trains, with everything checked before the folder is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.checkpoint import Checkpoint, foreign_weights, load_weights, open_checkpoint
from mlkit.commands.card import opening_card, sample_batch
from mlkit.commands.checks import check_ids, check_named
from mlkit.commands.session import (
    dataset_for,
    new_run_json,
    open_accelerator,
    print_card,
    print_json,
    run_log,
    say,
    train_in,
    write_settings,
)
from mlkit.data.manifest import DatasetManifest
from mlkit.errors import CheckpointError, MlkitError, listing
from mlkit.preset_files import chain_of
from mlkit.presets import resolve_preset
from mlkit.runs.folders import (
    check_run_name,
    group_runs,
    new_run_folder,
    next_free_name,
    resolve_run,
    write_run_json,
)
from mlkit.settings import Places, RunSettings
from mlkit.task import Task, bare_model
from mlkit.tasks import load_task

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, slots=True)
class Request:
    """What `mlkit train` was asked for."""

    preset: str
    name: str | None
    assignments: tuple[str, ...]
    flags: Mapping[str, Any]
    quick_test: bool
    validate_only: bool  # also where `rehearse`: nothing is started
    init_from: Path | None
    resume_from: Path | None
    data: Path | None
    device: str
    as_json: bool
    seeds: tuple[int, ...] = ()
    rehearse: bool = False


def start(request: Request) -> None:
    """Start a run, or one for each seed or link of a chain, or only check that it could start."""
    if chain := chain_of(request.preset):
        from mlkit.commands.chains import start_chain

        start_chain(request, chain)
    elif request.seeds:
        from mlkit.commands.seeds import start_seeds

        start_seeds(request)
    else:
        result = start_run(request).result
        if request.as_json:
            print_json(result)


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was started, resumed or only checked, and came to its end."""

    settings: RunSettings  # with what `auto` decided
    result: dict[str, Any]  # what `--json` prints


def start_run(request: Request, about: Mapping[str, Any] | None = None) -> Started:
    """Train one run, or resume or only check it.

    Args:
        request: what was asked for; its `seeds` are not looked at.
        about: what its run.json says besides: the group of seeds or the chain that it is one of.
    """
    resolved = resolve_preset(
        request.preset, assignments=request.assignments, flags=request.flags, quick_test=request.quick_test
    )
    settings = resolved.settings
    start_from = request.init_from
    if request.resume_from is not None and not request.init_from and foreign_weights(request.resume_from):
        start_from = request.resume_from
        say(f"{start_from} holds weights only: a new run from them, fresh optimizer, step 0")
    elif request.resume_from is not None:
        from mlkit.commands.resuming import resume_run

        only = "--rehearse" if request.rehearse else "--validate-only"
        for option, given in (("--init-from", request.init_from), (only, request.validate_only)):
            if given:
                raise MlkitError(f"give --resume-from or {option}, not both")
        result = resume_run(
            request.resume_from,
            settings,
            name=request.name,
            data=request.data,
            device=request.device,
            as_json=request.as_json,
        )
        return Started(settings, result)
    runs_dir = Places().runs_dir
    name = request.name or settings.preset
    check_run_name(name)
    if request.rehearse:
        from mlkit.commands.rehearsing import rehearse

        return Started(settings, rehearse(request, settings, start_from))
    if not request.validate_only:
        refuse_taken(name, runs_dir)
    init_from = opened_weights(start_from, settings) if start_from else None
    check_named(settings)
    check_ewc(settings, init_from)

    accelerator = open_accelerator(request.device)
    task = load_task(settings)
    data = dataset_for(task, request.data, accelerator)
    check_ids(task, data)
    bare = init_from is not None
    task, reason = decide_precision(task, data, accelerator, bare=bare)
    card = opening_card(task, data, accelerator, runs_dir / name, request, bare=bare)
    if reason:
        card["precision"] += f"  ({reason})"
    if request.validate_only:
        from mlkit.commands.validating import check_step, tell_ready

        checked = check_step(task, data, accelerator, init_from)
        ready = tell_ready(card, checked, start_from, as_json=request.as_json) if accelerator.is_main_process else {}
        return Started(task.settings, ready)
    main = accelerator.is_main_process
    folder = runs_dir / name
    if main:
        folder = new_run_folder(runs_dir, name)
        lineage = {"parent": str(init_from.folder.resolve()), "kind": "weights"} if init_from else {}
        write_settings(folder, task.settings)
        origins = {**resolved.origins, **_by_auto(settings)}
        told = {**(about or {}), "primary_metric": task.primary_metric, "origins": origins}
        write_run_json(folder, new_run_json(name, task.settings, data, lineage, told))
    accelerator.wait_for_everyone()
    with run_log(folder):
        if main:
            print_card(f"mlkit train  {name}", card)
        result = train_in(folder, task, data, accelerator, resume=None, init_from=init_from, as_json=request.as_json)
    return Started(task.settings, result)


def _by_auto(settings: RunSettings) -> dict[str, str]:
    """Return the keys that were decided when the run began."""
    return {f"train.{key}": "auto" for key in ("precision", "channels_last") if getattr(settings.train, key) == "auto"}


def refuse_taken(name: str, runs_dir: Path) -> None:
    """Refuse a name that a run or a group of runs has: `compare` could not tell them apart."""
    if (runs_dir / name).exists():
        free = next_free_name(runs_dir, name)
        raise MlkitError(f"a run '{name}' exists in {runs_dir}; use --name {free}, or: mlkit resume {runs_dir / name}")
    if group := group_runs(name, runs_dir):
        raise MlkitError(
            f"'{name}' is a group of runs in {runs_dir}: {listing([run.name for run in group])}; use another --name"
        )


def decide_precision(
    task: Task, data: DatasetManifest, accelerator: Accelerator, *, bare: bool = False
) -> tuple[Task, str]:
    """Return the task with precision and channels_last decided, equally on every process, and why."""
    from accelerate.utils import broadcast_object_list

    from mlkit.training.guards import memory_named
    from mlkit.training.precision import choose

    settings = task.settings
    with memory_named():
        choice = choose(task, sample_batch(task, data, accelerator, limit=4), accelerator.device, bare=bare)
    choice = broadcast_object_list([choice])[0] if accelerator.num_processes > 1 else choice
    train = settings.train.model_copy(update={"precision": choice.precision, "channels_last": choice.channels_last})
    return load_task(settings.model_copy(update={"train": train})), choice.reason


def opened_weights(path: Path, settings: RunSettings) -> Checkpoint:
    checkpoint = foreign_weights(path)
    foreign = checkpoint is not None
    if checkpoint is None:
        checkpoint = open_checkpoint(resolve_run(str(path), Places().runs_dir).chosen_checkpoint())
    if not foreign and checkpoint.info["task"] != settings.task:
        raise CheckpointError(
            f"--init-from {path} is of task '{checkpoint.info['task']}', this preset is of '{settings.task}'"
        )
    try:
        load_weights(bare_model(load_task(settings)), checkpoint, averaged=True)  # those of another model do not fit
    except CheckpointError as error:
        raise CheckpointError(error.problems[0] + _other_model(checkpoint, settings), *error.problems[1:]) from error
    return checkpoint


def _other_model(checkpoint: Checkpoint, settings: RunSettings) -> str:
    """Return which of the model's settings differ from a checkpoint's, to end a sentence with; "" where none does."""
    there = checkpoint.info.get("settings", {}).get("model", {})
    here = settings.model_dump(mode="json").get("model", {})
    differ = [
        f"model.{key} is {there[key]!r} there and {here[key]!r} here"
        for key in there
        if here.get(key, there[key]) != there[key]
    ]
    return f"; {listing(differ)}" if differ else ""


def check_ewc(settings: RunSettings, init_from: Checkpoint | None) -> None:
    """Refuse elastic weight consolidation without weights to hold, or without its data, before anything is written."""
    if settings.train.ewc == 0:
        return
    from mlkit.data.opening import open_named
    from mlkit.training.ewc import refuse_without_weights

    refuse_without_weights(settings, init_from is not None)
    if settings.train.ewc_data != "same":
        open_named(settings.train.ewc_data, "train.ewc_data", settings.task)

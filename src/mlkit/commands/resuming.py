"""A resume: find the checkpoint, refuse what must not change, say what does, train on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    damages,
    foreign_weights,
    newest_good,
    open_checkpoint,
    read_counters,
)
from mlkit.commands.checks import check_ids, check_named
from mlkit.commands.opened import dataset_of
from mlkit.commands.session import (
    held_alone,
    new_run_json,
    open_accelerator,
    print_card,
    run_log,
    say,
    train_in,
    write_settings,
)
from mlkit.data.manifest import DatasetManifest, open_manifest
from mlkit.errors import CheckpointError, DataError, MlkitError, NewerCheckpointError, SettingsError
from mlkit.preset_files import flatten
from mlkit.presets import load_settings, override, validate
from mlkit.runs.folders import (
    is_run,
    new_run_folder,
    next_free_name,
    read_run_json,
    resolve_run,
    write_run_json,
)
from mlkit.settings import Places, RunSettings
from mlkit.task import training_source
from mlkit.tasks import load_task
from mlkit.training.schedule import plan
from mlkit.training.tracking import read_rows

# A change of these makes another training of it; the rest may change and is printed.
FIXED = (
    *("task", "seed", "model.", "train.precision", "train.channels_last", "train.ema_decay", "train.optimizer"),
    *("train.freeze", "train.ewc", "train.ewc_data", "train.ewc_samples"),
)


def resume_run(
    path: Path,
    settings: RunSettings | None,
    *,
    name: str | None,
    data: Path | None,
    device: str,
    assignments: tuple[str, ...] = (),
    flags: Mapping[str, Any] | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Resume a run or a checkpoint; returns what `--json` prints.

    Args:
        path: a run (name, prefix, folder) or a checkpoint.
        settings: from a preset (`train --resume-from`); None takes the checkpoint's own.
        name: continue in a new run of this name.
        data: where the dataset lies now.
        device: where to train.
        assignments: `--set` changes.
        flags: dotted keys and values that change; None values are skipped.
        as_json: the result will be printed as JSON, so no closing card.

    Raises:
        CheckpointError, SettingsError, DataError: each with what would work.
    """
    if foreign_weights(path):
        raise CheckpointError(
            f"{path} holds weights without settings; say what they are for: "
            f"mlkit train --preset PRESET --resume-from {path}"
        )
    ref = resolve_run(str(path), Places().runs_dir)
    run, checkpoint = ref.folder, _checkpoint(ref.folder, ref.checkpoint)
    stored = _stored(checkpoint) if checkpoint else load_settings(run / "settings.toml")
    wanted = override(settings or stored, assignments=assignments, flags=flags or {})
    wanted = with_decided(wanted, stored)
    changed = refuse_changes(stored, wanted, checkpoint)
    check_named(wanted)
    manifest = _dataset(run, checkpoint, data)
    weights_only = checkpoint is not None and not checkpoint.is_full
    if checkpoint and weights_only:
        name = name or next_free_name(
            Places().runs_dir, f"{checkpoint.info.get('run', run.name)}_from_{checkpoint.step}"
        )
        say(f"{checkpoint.folder} holds weights only: new run '{name}' from them, fresh optimizer, step 0")
    elif checkpoint and name is None and not is_run(run):
        raise CheckpointError(f"checkpoint {checkpoint.folder} lies outside a run; continue it as one with --name NAME")
    task = load_task(wanted)
    check_ids(task, manifest)
    if checkpoint and not weights_only:
        counters = read_counters(checkpoint)
        seen = counters["samples_seen"]
        _check_memory(wanted, checkpoint, counters)
        length = len(training_source(task, manifest))
        steps = plan(wanted.train, length, step=checkpoint.step, samples_seen=seen).steps
        changed |= _refuse_shorter(checkpoint, steps, as_new=name is not None)
    if name is None:
        with held_alone(run):
            pass  # refused before anything is written; the training takes it for good
    accelerator = open_accelerator(device)
    folder = run
    if accelerator.is_main_process:
        if name is not None:
            kind = "weights" if weights_only else "full"
            told = {"primary_metric": task.primary_metric, "origins": _origins(run, stored, wanted)}
            folder = _branch(run, name, wanted, manifest, checkpoint, kind, told)
        elif checkpoint:
            _refuse_older(run, checkpoint)
        write_settings(folder, wanted)
        about = read_run_json(folder)
        told = {"origins": _origins(run, stored, wanted)} if "origins" in about else {}
        moved = {"dataset_dir": str(manifest.folder.resolve())} if data is not None else {}  # found there next time too
        if {**about, **told, **moved} != about:
            write_run_json(folder, {**about, **told, **moved})
    else:
        folder = Places().runs_dir / name if name is not None else run
    accelerator.wait_for_everyone()
    with run_log(folder):
        if accelerator.is_main_process:
            where = (
                f"step {checkpoint.step} ({checkpoint.folder})" if checkpoint else "step 0: no checkpoint was written"
            )
            if weights_only:
                where = f"the weights of {where}"
            print_card(f"mlkit resume  {folder.name}", {"from": where, **changed})
        return train_in(
            folder,
            task,
            manifest,
            accelerator,
            resume=None if weights_only else checkpoint,
            init_from=checkpoint if weights_only else _parent(folder, checkpoint),
            as_json=as_json,
        )


def _origins(run: Path, stored: RunSettings, wanted: RunSettings) -> dict[str, str]:
    """Return what set each value of a run, by key: as it was, and "resume" for what changes now."""
    before = dict(read_run_json(run).get("origins", {})) if is_run(run) else {}
    old, new = (flatten(settings.model_dump(mode="json")) for settings in (stored, wanted))
    return before | {key: "resume" for key in sorted(old | new) if key != "preset" and old.get(key) != new.get(key)}


def _check_memory(settings: RunSettings, checkpoint: Checkpoint, counters: Mapping[str, Any]) -> None:
    """Refuse to go on without what holds a run to older weights or data, before anything is written."""
    if settings.eval.guard_data is not None:
        from mlkit.training.forgetting import refuse_other_guard

        refuse_other_guard(settings, counters)
    if settings.train.ewc > 0:
        from mlkit.training.ewc import stored_file

        stored_file(checkpoint)


def refuse_changes(stored: RunSettings, wanted: RunSettings, checkpoint: Checkpoint | None) -> dict[str, str]:
    """Return the changes that are allowed, as "old -> new" by key.

    Raises:
        SettingsError: with every change that would make it another training.
    """
    old, new = (flatten(settings.model_dump(mode="json")) for settings in (stored, wanted))
    changed = {key: (old.get(key), new.get(key)) for key in sorted(old | new) if old.get(key) != new.get(key)}
    refused = [
        key for key in changed if any(key == fixed or (fixed[-1] == "." and key.startswith(fixed)) for fixed in FIXED)
    ]
    if refused and checkpoint:
        raise SettingsError(
            *(
                f"{key} was {changed[key][0]!r} in {checkpoint.folder} and is {changed[key][1]!r} now; a resume cannot "
                f"change it: start a new run with --init-from {checkpoint.folder}"
                for key in refused
            )
        )
    return {key: f"{before} -> {now}" for key, (before, now) in changed.items() if key != "preset"}


def _checkpoint(run: Path, named: Path | None) -> Checkpoint | None:
    """Return the named checkpoint, or the newest one that verifies; None for a run that was killed before its first."""
    if named is not None:
        return open_checkpoint(named)
    found, skipped = newest_good(run)
    for sentence in skipped:
        say(f"skipped: {sentence}")
    if found is None and skipped:
        weights = [folder for folder in reversed(checkpoint_folders(run)) if _holds_weights(folder)]
        way = (
            f"a new run from the weights of the newest: mlkit resume {weights[0]}"
            if weights
            else "start again with: mlkit train --preset PRESET --name NAME"
        )
        raise CheckpointError(f"no checkpoint of {run} can be resumed, for the reasons above; {way}")
    return found


def _holds_weights(folder: Path) -> bool:
    try:
        return not open_checkpoint(folder).is_full
    except CheckpointError:
        return False


def _stored(checkpoint: Checkpoint) -> RunSettings:
    """Return a checkpoint's settings; what this mlkit does not know in them is told with the checkpoint's name."""
    values = checkpoint.info["settings"]
    return validate(values, dict.fromkeys(flatten(values), f"checkpoint {checkpoint.folder}"))


def _refuse_shorter(checkpoint: Checkpoint, steps: int, *, as_new: bool) -> dict[str, str]:
    """Return a line for the card where nothing is left to train; a run cannot end before where it is."""
    least = checkpoint.step + as_new  # a new run without an update would have no checkpoint of its own
    if steps < least:
        raise SettingsError(
            f"{checkpoint.folder} is at step {checkpoint.step}, but these settings end at step {steps}; give "
            f"--max-steps {least} or more, or an earlier checkpoint with --name"
        )
    done = f"nothing: all {steps} steps are done; to go on, give --max-steps"
    return {"left": done} if steps == checkpoint.step else {}


def _refuse_older(run: Path, checkpoint: Checkpoint) -> None:
    """Refuse to write over newer good checkpoints of the same run."""
    for folder in reversed(checkpoint_folders(run)):
        if folder == checkpoint.folder:
            return
        try:
            found = open_checkpoint(folder, verify=False)
            newer = found.is_full and not damages(found)  # what cannot be resumed may be made again
        except NewerCheckpointError:
            newer = True
        except CheckpointError:
            newer = False  # broken: it may be written over
        if newer:
            raise MlkitError(
                f"{run.name} has gone on to {folder.name} since {checkpoint.folder.name}; resume the run, or go on "
                f"from here in a new one: mlkit resume {checkpoint.folder} --name {run.name}_from_{checkpoint.step}"
            )


def _branch(
    run: Path,
    name: str,
    settings: RunSettings,
    data: DatasetManifest,
    checkpoint: Checkpoint | None,
    kind: str,
    told: Mapping[str, Any],
) -> Path:
    """Return a new run's folder that continues `run` from `checkpoint`, with its rows so far where it is in full."""
    folder = new_run_folder(Places().runs_dir, name)
    lineage = {"parent": str((checkpoint.folder if checkpoint else run).resolve()), "kind": kind}
    if checkpoint is None:  # it starts where the other was to start
        lineage = read_run_json(run)["lineage"] or lineage
    write_run_json(folder, new_run_json(name, settings, data, lineage, told))
    for rows in ("metrics.jsonl", "timing.jsonl"):
        if kind == "full" and (run / rows).exists() and read_rows(run / rows):
            shutil.copyfile(run / rows, folder / rows)  # the trainer cuts it back to the step
    return folder


def _parent(run: Path, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Return the weights that a run without a checkpoint was to start from: the same start again."""
    lineage = read_run_json(run)["lineage"]
    if checkpoint is None and lineage.get("kind") == "weights":
        parent = Path(lineage["parent"])
        return foreign_weights(parent) or open_checkpoint(parent)
    return None


def _dataset(run: Path, checkpoint: Checkpoint | None, data: Path | None) -> DatasetManifest:
    if data is None and is_run(run) and not (place := Path(read_run_json(run)["dataset_dir"])).exists():
        raise DataError(f"the dataset of run {run.name} is no longer at {place}; say where it lies now with --data")
    if checkpoint is not None:
        return dataset_of(checkpoint, data)
    about = read_run_json(run)
    manifest = open_manifest(data or Path(about["dataset_dir"]))
    if manifest.sha256 != about["dataset_sha256"]:
        raise SettingsError(f"dataset {manifest.folder} has changed since run {run.name} began; start a new run")
    return manifest


def with_decided(wanted: RunSettings, stored: RunSettings) -> RunSettings:
    """Take what `auto` decided when the run began: deciding again could choose otherwise."""
    decided = {
        key: getattr(stored.train, key)
        for key in ("precision", "channels_last")
        if getattr(wanted.train, key) == "auto"
    }
    return wanted.model_copy(update={"train": wanted.train.model_copy(update=decided)})

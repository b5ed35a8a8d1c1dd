"""The one checkpoint format: save, verify, load, list, prune.

ckpt-<step>/                step = completed optimizer updates
    checkpoint.json         what it is, with size and SHA-256 of every other file; written last
    model.safetensors       all weights and buffers, or a model's own files: adapter_*.{json,safetensors}, base/
    ema.safetensors         where EMA is on
    training_state.json     } with these two it resumes in full;
    accelerator_state/      } without them, by weights only
    eval.json, grid.png     made by hooks; may be absent, and are not part of what is verified
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.errors import CheckpointError, DataError, MlkitError, NewerCheckpointError, NewerFormatError, listing
from mlkit.files import atomic_folder, read_json, sha256_json, write_text
from mlkit.task import SavesOwnFiles

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT_VERSION = 1
_OPTIMIZER = "accelerator_state/optimizer.bin"
_STATE = "training_state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder whose checkpoint.json was read; `verify` says whether its files are whole."""

    folder: Path
    info: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.info["step"])

    @property
    def is_full(self) -> bool:
        """Whether it can be resumed exactly: by weights only where the state was never written, or was taken out."""
        return all(name in self.info["files"] and (self.folder / name).exists() for name in (_STATE, _OPTIMIZER))


# ---- write ---------------------------------------------------------------------------------------------------


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint holds of a model: all parameters and persistent buffers.

    Frozen parameters too: they may come from another run. A model that can fetch them again is a `SavesOwnFiles`.
    """
    return {name: value.detach() for name, value in model.state_dict().items()}


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    *,
    info: Mapping[str, Any],
    ema: Mapping[str, Tensor] | None = None,
    optimizer: Mapping[str, Any] | None = None,
    training_state: Mapping[str, Any] | None = None,
    reports: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Write a checkpoint beside its final place, publish it with one rename, and verify it there.

    Args:
        folder: its final place; an older folder of that name is replaced only by the finished new one.
        model: the network, not wrapped.
        info: what checkpoint.json says besides the files: step, task, settings, data, preprocessing.
        ema: averaged weights and running statistics by their names in the model.
        optimizer: state of optimizer (and scaler): tensors, numbers and containers only.
        training_state: counters, as JSON.
        reports: further text files by name, such as eval.json; not verified later.

    Raises:
        CheckpointError: when it cannot be written, naming the last good one, or when what is on the disk differs from
            what was meant.
    """
    try:
        _write(folder, model, info, ema, optimizer, training_state, reports)
    except DataError as error:  # no permission, disk full
        older, _ = newest_good(folder.parent)
        left = (
            f"the last good checkpoint is {older.folder.name}, to go on"
            if older
            else "there is no older one, to start again"
        )
        problems = (f"{problem}; {left}: mlkit resume {folder.parent}" for problem in error.problems)
        raise CheckpointError(*problems) from error
    return open_checkpoint(folder)


def _write(
    folder: Path,
    model: nn.Module,
    info: Mapping[str, Any],
    ema: Mapping[str, Tensor] | None,
    optimizer: Mapping[str, Any] | None,
    training_state: Mapping[str, Any] | None,
    reports: Mapping[str, str] | None,
) -> None:
    import torch
    from safetensors.torch import save as to_safetensors

    with atomic_folder(folder, replace=True) as partial:
        meant: dict[str, dict[str, Any]] = {}

        def put(name: str, content: bytes) -> None:
            path = partial / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            meant[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

        def packed(tensors: Mapping[str, Tensor]) -> bytes:
            # Contiguous copies: safetensors refuses channels-last strides, and two names of one tensor.
            order = torch.contiguous_format
            own = {name: value.cpu().clone(memory_format=order) for name, value in tensors.items()}
            return bytes(to_safetensors(own))

        if isinstance(model, SavesOwnFiles):
            model.save_files(partial)
            for path in sorted(path for path in partial.rglob("*") if path.is_file()):
                path.chmod(partial.stat().st_mode & 0o666)  # safetensors lets nobody but the owner read its files
                content = path.read_bytes()
                meant[path.relative_to(partial).as_posix()] = {
                    "bytes": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
        else:
            put("model.safetensors", packed(whole_state(model)))
        if ema:
            put("ema.safetensors", packed(ema))
        if optimizer is not None:
            buffer = io.BytesIO()
            torch.save(dict(optimizer), buffer)
            put(_OPTIMIZER, buffer.getvalue())
        if training_state is not None:
            put(_STATE, (json.dumps(training_state, indent=2, allow_nan=False) + "\n").encode())
        for name, text in (reports or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        about: dict[str, Any] = {"format_version": FORMAT_VERSION, **info, "files": meant}
        about["sha256"] = sha256_json(about)  # of itself without this line, so that a changed setting is found
        (partial / "checkpoint.json").write_text(json.dumps(about, indent=2, allow_nan=False) + "\n")


# ---- read ----------------------------------------------------------------------------------------------------


def open_checkpoint(folder: Path, *, verify: bool = True) -> Checkpoint:
    """Return the checkpoint in `folder`.

    Raises:
        CheckpointError: when it is absent, newer than this mlkit, or (with `verify`) a file is missing, truncated
            or changed, naming each.
    """
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {folder} does not exist")
    try:
        info = read_json(folder / "checkpoint.json", "checkpoint", FORMAT_VERSION)
    except NewerFormatError as error:
        raise NewerCheckpointError(*error.problems) from error
    except MlkitError as error:
        raise CheckpointError(*error.problems) from error
    if not isinstance(info.get("step"), int) or not isinstance(info.get("files"), dict):
        raise CheckpointError(f"checkpoint {folder / 'checkpoint.json'} is damaged: it has no step or no list of files")
    own = info.pop("sha256", None)
    if own is not None and own != sha256_json(info):
        raise CheckpointError(f"checkpoint {folder / 'checkpoint.json'} has changed since it was written (sha256)")
    checkpoint = Checkpoint(folder, info)
    if verify:
        problems = damages(checkpoint)
        if problems:
            raise CheckpointError(*(f"checkpoint {folder}: {problem}" for problem in problems))
    return checkpoint


def foreign_weights(folder: Path) -> Checkpoint | None:
    """Return a folder of weights that mlkit did not write, such as a LoRA adapter, as a checkpoint at step 0.

    None for any other folder: one with checkpoint.json is opened by `open_checkpoint`.
    """
    if (folder / "checkpoint.json").exists():
        return None
    holds = any((folder / name).is_file() for name in ("adapter_config.json", "model.safetensors"))
    return Checkpoint(folder, {"step": 0, "files": {}}) if holds else None


def damages(checkpoint: Checkpoint) -> list[str]:
    """Return what is wrong with a checkpoint's files, one sentence a file; empty when it is whole.

    One without training_state.json and accelerator_state/ is whole: it was made smaller, to be handed on.
    """
    problems = []
    taken_out = not any((checkpoint.folder / name).exists() for name in (_STATE, _OPTIMIZER))
    for name, meant in checkpoint.info["files"].items():
        if taken_out and name in (_STATE, _OPTIMIZER):
            continue
        path = checkpoint.folder / name
        try:
            size = path.stat().st_size
            if size != meant["bytes"]:
                problems.append(f"{name} is truncated or grown: {size} bytes instead of {meant['bytes']}")
                continue
            with path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
        except FileNotFoundError:
            problems.append(f"{name} is missing")
            continue
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}")
            continue
        if digest != meant["sha256"]:
            problems.append(f"{name} has changed: sha256 {digest[:12]} instead of {meant['sha256'][:12]}")
    return problems


def load_weights(model: nn.Module, checkpoint: Checkpoint, *, averaged: bool) -> None:
    """Load weights in place, so that an optimizer keeps its parameters.

    Args:
        model: the network, not wrapped.
        checkpoint: where from.
        averaged: take the EMA weights where there are some.

    Raises:
        CheckpointError: for any name or shape that is missing, left over or different.
    """
    if isinstance(model, SavesOwnFiles):
        model.load_files(checkpoint.folder)
    else:
        _copy_in(whole_state(model), read_tensors(checkpoint.folder / "model.safetensors"), checkpoint.folder)
    if averaged and "ema.safetensors" in checkpoint.info["files"]:
        averages = read_tensors(checkpoint.folder / "ema.safetensors")
        # Of what was trained then; another stage may train other parts.
        tensors = (*model.named_parameters(), *model.named_buffers())
        own = {name: value.detach() for name, value in tensors if name in averages}
        _copy_in(own, averages, checkpoint.folder)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; raises CheckpointError when it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"weights {path} cannot be read: {error}") from error


def read_counters(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return training_state.json: step, samples seen, best value, seconds trained."""
    return dict(json.loads((checkpoint.folder / _STATE).read_text()))


def read_training_state(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (training_state.json, optimizer and scaler states); nothing but tensors and plain values is unpickled."""
    import torch

    state = read_counters(checkpoint)
    path = checkpoint.folder / _OPTIMIZER
    try:
        return state, torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"optimizer state {path} is damaged, or holds more than tensors and plain values, and was not loaded; "
            f"start a new run from the weights alone: mlkit train --preset NAME --init-from {checkpoint.folder}"
        ) from error


def _copy_in(into: Mapping[str, Tensor], values: Mapping[str, Tensor], folder: Path) -> None:
    import torch

    missing = [name for name in into if name not in values]
    left_over = [name for name in values if name not in into]
    reshaped = [
        f"{name} {tuple(values[name].shape)} instead of {tuple(value.shape)}"
        for name, value in into.items()
        if name in values and values[name].shape != value.shape
    ]
    problems = [
        f"{label}: {listing(names, 4)}"
        for label, names in (("missing", missing), ("not in this model", left_over), ("other shapes", reshaped))
        if names
    ]
    if problems:
        raise CheckpointError(f"the weights in {folder} are of another model; {'; '.join(problems)}")
    with torch.no_grad():
        for name, value in into.items():
            value.copy_(values[name])


# ---- a run's checkpoints -------------------------------------------------------------------------------------


def step_of(folder: Path) -> int | None:
    """Return the step in a checkpoint folder's name, or None for another name."""
    prefix, _, number = folder.name.partition("-")
    return int(number) if prefix == "ckpt" and number.isdigit() else None


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """Return a run's checkpoint folders, oldest first; nothing is opened."""
    found = [(step, path) for path in run_dir.glob("ckpt-*") if (step := step_of(path)) is not None]
    return [path for _, path in sorted(found)]


def newest_good(run_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest full checkpoint that verifies, and a sentence for each newer one that was skipped.

    Raises:
        NewerCheckpointError: on meeting one of a newer mlkit: going on from an older one would write over it.
    """
    skipped: list[str] = []
    for folder in reversed(checkpoint_folders(run_dir)):
        try:
            found = open_checkpoint(folder)
            if found.is_full:
                return found, skipped
            skipped.append(f"checkpoint {folder} holds weights only, without its training state")
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            skipped += error.problems
    return None, skipped


def write_pointer(run_dir: Path, name: str, checkpoint: Path) -> None:
    """Let `best` or `last` name a checkpoint: a small file, since links do not work on every file system."""
    write_text(run_dir / name, checkpoint.name + "\n")


def prune(
    run_dir: Path,
    *,
    keep_last: int,
    keep_best: int,
    keep_every: int | None,
    score: Callable[[Path], float | None],
    protect: Sequence[Path] = (),
) -> list[Path]:
    """Remove the checkpoints that no rule keeps; call it only after the newest one verified.

    Returns:
        what was removed; the arguments are those of `prunable`.
    """
    doomed = prunable(
        run_dir, keep_last=keep_last, keep_best=keep_best, keep_every=keep_every, score=score, protect=protect
    )
    remove_checkpoints(doomed)
    return doomed


def prunable(
    run_dir: Path,
    *,
    keep_last: int,
    keep_best: int,
    keep_every: int | None,
    score: Callable[[Path], float | None],
    protect: Sequence[Path] = (),
) -> list[Path]:
    """Return the checkpoints that no rule keeps.

    Args:
        run_dir: the run.
        keep_last: newest to keep.
        keep_best: best to keep.
        keep_every: keep steps that are multiples of this.
        score: a checkpoint's figure, higher is better; None when it has none.
        protect: checkpoints that stay in any case.
    """
    folders = checkpoint_folders(run_dir)
    kept = set(folders[-keep_last:]) | set(protect)
    scored = [(value, -(step_of(path) or 0), path) for path in folders if (value := score(path)) is not None]
    kept |= {path for _, _, path in sorted(scored, reverse=True)[:keep_best]}
    if keep_every is not None:
        kept |= {path for path in folders if (step_of(path) or 0) % keep_every == 0}
    return [path for path in folders if path not in kept]


def remove_checkpoints(folders: Sequence[Path]) -> None:
    """Remove checkpoints so that a kill on the way leaves nothing that looks like one."""
    for path in folders:
        # Rename first: a half-removed folder must not look like a checkpoint.
        doomed = path.with_name(f".partial-pruned-{path.name}")
        path.replace(doomed)
        shutil.rmtree(doomed)

"""Trainings that are killed: each runs in a process of its own, forked from a server that has torch imported."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXTRA_PRESETS = {"sr": "ftd_tiny"}
PRELOADED = (
    *("mlkit.training.trainer", "accelerate", "mlkit.presets"),
    "torch._dynamo",  # every optimizer imports it, in more than a second
    *("mlkit.tasks.sr.model", "mlkit.tasks.sr.dataset", "peft"),
    *("diffusers.models.transformers.transformer_flux", "diffusers.models.autoencoders.autoencoder_kl"),
)


@dataclass(frozen=True)
class Job:
    """What a killed and an unharmed training have in common."""

    task: str
    data: Path
    changes: Mapping[str, Any] = field(default_factory=dict)  # dotted settings keys
    preset: str = ""  # in place of the task's own tiny one, and without what makes that small
    init_from: Path | None = None  # a checkpoint whose weights a new run starts from
    breakage: str = ""  # "step seeds": train as if no update were seeded


def settings_of(job: Job) -> Any:
    """Return the settings: the task's tiny preset, or the toy's, with the job's changes."""
    from mlkit.presets import override, resolve_preset
    from mlkit.settings import RunSettings, TrainSettings

    small = {} if job.preset else small_of(job.task, job.data)
    fixed = {"train.precision": "fp32", "train.channels_last": False, **small, **job.changes}
    if job.task == "toy":
        settings = RunSettings(task="toy", train=TrainSettings(steps=1))
        nested = settings.model_dump()
        for key, value in fixed.items():
            section, _, name = key.partition(".")
            nested[section][name] = value
        return RunSettings.model_validate(nested)
    preset = resolve_preset(job.preset or preset_of(job.task), quick_test=True).settings
    return override(preset, assignments=(), flags=fixed)


def preset_of(task: str) -> str:
    """Return the name of a task's tiny preset."""
    return EXTRA_PRESETS.get(task, f"{task}_tiny")


def small_of(task: str, data: Path) -> dict[str, Any]:
    """Return what makes a task's tiny preset smaller, and no easier to resume, for the dataset of `build_sample`."""
    if task == "bvae":
        return {"model.channels": 8, "checkpoint.grid_images": 2, "eval.max_samples": 16}
    if task == "lens":
        return {"data.size": 64, "model.head_channels": 16, "eval.max_samples": 2}
    if task != "sr":
        return {}
    adapter = {"model.rank": 4, "model.alpha": 4.0, "model.dropout": 0.1}
    return {**adapter, "model.base": str(_base_beside(data)), "data.crop": 32, "eval.max_samples": 4}


def build_sample(task: str, out: Path) -> None:
    """Build a task's embedded dataset; pairs are few, and of a small base that is written beside them."""
    if task == "sr":
        from mlkit.tasks.sr.dataset import build_dataset
        from mlkit.tasks.sr.settings import SrBuild
        from srbase import save_small_base

        base = str(save_small_base(_base_beside(out)))
        build_dataset(None, out, build=SrBuild(base=base, size=64, count=16, steps=2, val_share=0.25))
    else:
        task_of(Job(task, out.parent, {"train.steps": 1})).build_dataset(None, out)


def _base_beside(data: Path) -> Path:
    return data.with_name(f"{data.name}-base")


def task_of(job: Job) -> Any:
    """Return the task of a job."""
    from mlkit.tasks import load_task

    settings = settings_of(job)
    if job.task != "toy":
        return load_task(settings)
    from toytask import ToyTask

    return ToyTask(settings)


def train(job: Job, folder: Path, die_at: int = 0) -> None:
    """Train from the newest good checkpoint to the end, in this process.

    Args:
        job: what to train.
        folder: the run.
        die_at: kill this process at its die_at-th operation on files that last (1-based); 0: never.
    """
    import torch
    from accelerate import Accelerator

    from mlkit.checkpoint import newest_good, open_checkpoint
    from mlkit.data.manifest import open_manifest
    from mlkit.files import remove_partials
    from mlkit.training import trainer

    torch.set_num_threads(1)
    # As in a process of its own: a data worker's parent is the training, whose death it sees, and not a fork server.
    multiprocessing.set_start_method("fork", force=True)
    if job.breakage == "step seeds":
        trainer.derive_seed = lambda seed, *keys: None  # type: ignore[assignment]
        trainer.seed_everything = lambda seed: None  # type: ignore[assignment]
    if die_at:
        _die_at(die_at)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    found, _ = newest_good(folder)
    trainer.fit(
        task_of(job),
        open_manifest(job.data),
        folder,
        accelerator=Accelerator(cpu=True),
        name=folder.name,
        run_id="0",
        resume=found,
        init_from=open_checkpoint(job.init_from) if job.init_from and not found else None,
    )


def _die_at(number: int) -> None:
    """Let the process die, as by power loss of it alone, just before its n-th sync, rename or removal."""
    left = [number]

    def mortal(action: Any) -> Any:
        def act(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return action(*args, **kwargs)

        return act

    os.fsync = mortal(os.fsync)
    Path.replace = mortal(Path.replace)  # type: ignore[method-assign]
    Path.write_bytes = mortal(Path.write_bytes)  # type: ignore[method-assign]
    Path.write_text = mortal(Path.write_text)  # type: ignore[method-assign]
    shutil.rmtree = mortal(shutil.rmtree)


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def run(job: Job, folder: Path, *, die_at: int = 0, kill_at_row: int | None = None, later_s: float = 0.0) -> bool:
    """Train in a process of its own; returns whether it came to its end.

    Args:
        job: what to train.
        folder: the run.
        die_at: let it kill itself before this operation on files.
        kill_at_row: kill it when metrics.jsonl has so many rows.
        later_s: and this much later.
    """
    process = _context().Process(target=train, args=(job, folder, die_at))
    process.start()
    if kill_at_row is not None:
        while process.is_alive() and _rows(folder) < kill_at_row:
            time.sleep(0.001)
        time.sleep(later_s)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise AssertionError(f"the training itself failed with exit code {process.exitcode}")
    return bool(process.exitcode == 0)


def start_command(arguments: Sequence[str], environment: Mapping[str, str], said: Path) -> Any:
    """Start `mlkit` with these arguments from the fork server, a session of its own; stderr goes to the file `said`.

    What `python -m mlkit` is, without the seconds that a task's imports take.
    """
    process = _context().Process(target=_command, args=(list(arguments), dict(environment), said))
    process.start()
    return process


def _command(arguments: list[str], environment: dict[str, str], said: Path) -> None:
    import torch

    from mlkit.__main__ import main

    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with said.open("wb") as file, Path(os.devnull).open("wb") as nowhere:
        os.dup2(file.fileno(), 2)
        os.dup2(nowhere.fileno(), 1)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    sys.argv = ["mlkit", *arguments]
    main()


def run_with_kills(job: Job, folder: Path, *, seed: int, rows: int, kills: int) -> tuple[int, int]:
    """Kill and resume at random moments, `kills` times or until the training ends.

    Moments follow the training's own progress: a clock would come too late or too early on a busy machine.

    Returns:
        how many kills hit, and how many of them left a checkpoint to resume.
    """
    moments = random.Random(seed)
    left = 0
    for hit in range(kills):
        row = moments.randint(0, min(rows, _rows(folder) + max(4, rows // kills)))
        if run(job, folder, kill_at_row=row, later_s=moments.uniform(0.0, 0.05)):
            return hit, left
        left += any(folder.glob("ckpt-*"))
    assert run(job, folder)
    return kills, left


def _rows(folder: Path) -> int:
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def fingerprint(folder: Path) -> dict[str, str]:
    """Return a hash of everything that training decides: rows, weights, averages, optimizer, counters, pictures."""
    import torch

    from mlkit.checkpoint import checkpoint_folders, open_checkpoint, read_training_state

    found = {"metrics.jsonl": _sha((folder / "metrics.jsonl").read_bytes())}
    for path in checkpoint_folders(folder):
        checkpoint = open_checkpoint(path)  # every file as it was meant
        state, optimizer = read_training_state(checkpoint)
        del state["train_s"]  # a clock
        found[f"{path.name}/state"] = repr(sorted(state.items()))
        digest = hashlib.sha256()
        for number, values in sorted(optimizer["optimizer"]["state"].items()):
            for key, value in sorted(values.items()):
                digest.update(f"{number} {key}".encode() + torch.as_tensor(value).numpy().tobytes())
        found[f"{path.name}/optimizer"] = digest.hexdigest()
        weights = list(path.rglob("*.safetensors"))
        assert weights, f"{path} holds no weights that this knows of"
        for file in weights:
            found[str(file.relative_to(folder))] = _sha(file.read_bytes())
        found[f"{path.name}/eval.json"] = _sha((path / "eval.json").read_bytes())
    for name in ("best", "last"):
        found[name] = (folder / name).read_text()
    return found


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

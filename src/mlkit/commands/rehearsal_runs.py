"""Short trainings of a rehearsal, each in a process of its own that may die: killed on purpose, or for its memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

from mlkit.checkpoint import foreign_weights, newest_good, open_checkpoint
from mlkit.data.manifest import open_manifest
from mlkit.errors import MlkitError, listing
from mlkit.files import read_json
from mlkit.settings import RunSettings

# What a training imports, in seconds: once for all of them, from which they are forked.
_PRELOADED = ("mlkit.training.trainer", "accelerate", "torch._dynamo", "mlkit.presets")
_ALSO = ("mlkit", "accelerate", "diffusers", "peft", "transformers")  # as far as they are in use here by now
PHASES = ("start", "train", "validation", "checkpoint", "grid")
_STAGES = {"evaluating": "validation", "guard": "validation", "saving": "checkpoint", "drawing": "grid", "": "train"}


@dataclass(frozen=True, slots=True)
class Planned:
    """A training to run in a process of its own.

    settings: of the run, short.
    data: the dataset's folder.
    folder: of the run; there is no such folder yet, unless `resume`.
    device: as the accelerator has it.
    init_from: weights to begin with.
    resume: whether to go on from the newest checkpoint in `folder`.
    hold_at: the save at which the process stops and waits to be killed; 0: none.
    threads: of torch.
    """

    settings: Mapping[str, Any]
    data: Path
    folder: Path
    device: str
    threads: int
    init_from: Path | None = None
    resume: bool = False
    hold_at: int = 0


@dataclass(slots=True)
class Phase:
    """What part of a training took."""

    seconds: float = 0.0
    peak_bytes: int = 0


@dataclass(slots=True)
class Ended:
    """How a training in a process of its own ended."""

    phases: dict[str, Phase] = field(default_factory=dict)
    at: str = "start"  # the phase that it was in
    problems: tuple[str, ...] = ()
    exit_code: int = 0  # of the error that ended it
    held: bool = False  # it came to where it was killed

    @property
    def done(self) -> bool:
        return not self.problems


def short_settings(
    settings: RunSettings, *, steps: int, batch_size: int | None, pictures: bool = True
) -> dict[str, Any]:
    """Return the settings of a run of few updates with a checkpoint, scores and a grid after each.

    Args:
        settings: of the real run, with all that `auto` decides decided.
        steps: optimizer updates.
        batch_size: smaller than the real one, without accumulation; None: both as they are.
        pictures: whether grids are drawn, where the settings want them; without, fewer images are scored.
    """
    short = settings.model_dump(mode="json")
    train, evaluation = short["train"], short["eval"]
    at_once = evaluation["batch_size"] or train["batch_size"]
    train |= {"steps": steps, "epochs": None}
    if batch_size is not None:
        train |= {"batch_size": batch_size, "accumulate": 1}
        at_once = min(at_once, batch_size)
    if train["ewc"] > 0:
        train |= {"ewc_samples": min(train["ewc_samples"], 2)}
    pictures = pictures and short["checkpoint"]["grid"]
    short["checkpoint"]["grid"] = pictures
    shown = short["checkpoint"]["grid_images"] if pictures else 1
    evaluation |= {"every": None, "early_stop_patience": None, "batch_size": at_once}
    evaluation |= {"max_samples": min(evaluation["max_samples"] or 10**9, max(at_once, shown))}
    short["checkpoint"] |= {"every": 1, "keep_last": 2, "keep_every": None, "strict_hooks": True}
    short["tracking"] |= {"every": 1, "tensorboard": False, "wandb": False, "mlflow": False, "trackio": False}
    short["debug"] |= {"dump_every": 0}
    return short


def run(planned: Planned, told: Callable[[str], None]) -> Ended:
    """Train in a process of its own and return how it ended; `told` hears the phase that it is in."""
    kinds = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    if "forkserver" in kinds:
        used = [name for name in sys.modules if name.partition(".")[0] in _ALSO]
        context.set_forkserver_preload([*_PRELOADED, *used])
    planned.folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(planned, theirs))
    process.start()
    theirs.close()
    ended = Ended()
    finished = False
    try:
        while True:
            try:
                what, *facts = ours.recv()
            except EOFError:
                break
            if what == "phase":
                ended.at = facts[0]
                told(facts[0])
            elif what == "took":
                name, seconds, peak = facts
                phase = ended.phases.setdefault(name, Phase())
                phase.seconds, phase.peak_bytes = phase.seconds + seconds, max(phase.peak_bytes, peak)
            elif what == "failed":
                ended.exit_code, ended.problems = facts[0], tuple(facts[1])
            elif what == "held":
                ended.held = True
                _kill(process)
            elif what == "done":
                finished = True
    finally:
        if not finished and process.is_alive():
            process.join(10 if ended.problems else 0.2)
        if process.is_alive() and not finished:
            _kill(process)
        process.join()
        ours.close()
    if not finished and not ended.held and not ended.problems:
        ended.exit_code, ended.problems = 6, (_died(process.exitcode, ended.at, planned.folder),)
    return ended


def _died(exit_code: int | None, phase: str, folder: Path) -> str:
    if exit_code == -getattr(signal, "SIGKILL", 9):
        return (
            f"the system killed the {_NOUNS[phase]}, most likely for its memory; lower --batch-size (and raise "
            f"train.accumulate to keep the same update), or eval.batch_size"
        )
    said = (folder / "said.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = said[-1] if said else f"exit code {exit_code}"
    return f"the {_NOUNS[phase]} ended its process: {last}"


_NOUNS = {
    "start": "start of the training",
    "train": "training step",
    "validation": "validation",
    "checkpoint": "saving of a checkpoint",
    "grid": "drawing of the grid",
}


def _kill(process: Any) -> None:
    """Kill a process with all that it started."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
            return
        except (ProcessLookupError, PermissionError):
            pass  # it had not made its group yet
    process.kill()


# ---- in the process of its own --------------------------------------------------------------------------------


def _train(planned: Planned, told: Connection) -> None:
    """Train, telling `told` ("phase", name), ("took", name, seconds, bytes), ("held",), ("failed", code, problems)."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the rehearsal, which then ends this process
    with (planned.folder / "said.txt").open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        _fit(planned, told)
    except MlkitError as error:
        told.send(("failed", error.exit_code, _sentences(error, planned.folder)))
    except BaseException as error:  # noqa: BLE001 - told to the rehearsal, which names it
        import traceback

        traceback.print_exc()
        told.send(("failed", 1, (f"{type(error).__name__}: {error}",)))
    else:
        told.send(("done",))
    told.close()


def _sentences(error: MlkitError, folder: Path) -> tuple[str, ...]:
    """Return what an error says, with what lies in the folder that will be gone."""
    evidence = next(iter(folder.glob("nonfinite-*.json")), None)
    if evidence is None:
        return error.problems
    found = read_json(evidence, "evidence", 1)
    bad = [name for name, value in found["values"].items() if isinstance(value, str)]
    return (f"{', '.join(bad)} not finite in update {found['step'] + 1}; its samples: {listing(found['samples'])}",)


def _fit(planned: Planned, told: Connection) -> None:
    import torch
    from accelerate import Accelerator

    from mlkit.presets import validate
    from mlkit.tasks import load_task
    from mlkit.training import trainer

    torch.set_num_threads(planned.threads)
    if sys.platform == "linux":  # data workers that see this process die
        multiprocessing.set_start_method("fork", force=True)
    accelerator = Accelerator(cpu=planned.device == "cpu", mixed_precision="no", dynamo_backend="no")
    weights = None
    if planned.init_from is not None and not planned.resume:
        weights = foreign_weights(planned.init_from) or open_checkpoint(planned.init_from)
    progress = _Phases(told, accelerator.device, planned.hold_at)
    trainer.fit(
        load_task(validate(planned.settings)),
        open_manifest(planned.data),
        planned.folder,
        accelerator=accelerator,
        name="rehearsal",
        run_id="0",
        resume=newest_good(planned.folder)[0] if planned.resume else None,
        init_from=weights,
        progress=progress,
    )
    progress.close()


class _Phases:
    """Tells the phases of a training with their time and memory, and stops in a save where it is asked to."""

    def __init__(self, told: Connection, device: Any, hold_at: int) -> None:
        from mlkit.training.memory import PeakMemory

        self._told, self._memory, self._hold_at, self._saves = told, PeakMemory(device), hold_at, 0
        self._device = device
        self._phase, self._since_s = "start", perf_counter()
        self._memory.reset()

    def _enter(self, phase: str) -> None:
        if phase == self._phase:
            return
        self.close()
        self._phase, self._since_s = phase, perf_counter()
        self._told.send(("phase", phase))

    def close(self) -> None:
        """Tell what the phase took that ends here."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        self._told.send(("took", self._phase, perf_counter() - self._since_s, self._memory.peak_bytes()))
        self._memory.reset()

    def begin(self, done: int, total: int, samples_per_step: int) -> None:
        self._enter("train")

    def update(self, step: int, values: Mapping[str, float]) -> None: ...

    def stage(self, text: str) -> None:
        phase = _STAGES.get(text.partition(" ")[0], "train")
        if phase == "checkpoint":
            self._saves += 1
            if self._saves == self._hold_at:
                # Rows of this step are written, its checkpoint is not: here a kill takes back the most.
                self._told.send(("held",))
                signal.pause() if hasattr(signal, "pause") else _wait_for_ever()
        self._enter(phase)

    def scores(self, step: int, means: Mapping[str, float], best: bool) -> None: ...

    def say(self, text: str) -> None: ...

    def end(self) -> None: ...


def _wait_for_ever() -> None:
    import time

    while True:
        time.sleep(1.0)

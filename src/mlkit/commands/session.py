"""What `train` and `resume` share: the dataset, the card, the run's log, the training, the closing words."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.checkpoint import Checkpoint
from mlkit.commands.display import duration, metric_text, print_line, scores_text
from mlkit.data.manifest import DatasetManifest, open_manifest
from mlkit.data.opening import open_dataset, refuse_unfit
from mlkit.errors import MlkitError, StoppedError
from mlkit.files import locked, remove_partials
from mlkit.presets import to_toml
from mlkit.runs.folders import read_run_json, set_status
from mlkit.settings import Places, RunSettings
from mlkit.task import SaysNext, Task

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mlkit.training.state import Outcome

log = logging.getLogger(__name__)
_SAMPLES = 2  # to be raised when an embedded sample changes within a version: a cached one must not stand for it


def say(text: str) -> None:
    """Print one line on stderr, and keep it in the run's log."""
    log.info("%s", text)
    print_line(text)


def open_accelerator(device: str) -> Accelerator:
    """Return accelerate's view of devices and processes on the device asked for; an absent one becomes the CPU."""
    from accelerate import Accelerator

    from mlkit.commands.opened import pick_device

    picked, sentence = pick_device(device)
    # Said here, or accelerate would take them from its environment variables, and a number would change unseen.
    accelerator = Accelerator(cpu=picked.type == "cpu", mixed_precision="no", dynamo_backend="no")
    if sentence and accelerator.is_main_process:
        say(sentence)
    return accelerator


def dataset_for(task: Task, data: Path | None, accelerator: Accelerator | None = None) -> DatasetManifest:
    """Return the dataset at `data` (or below MLKIT_DATA_DIR), or the embedded sample, built into the cache once.

    Raises:
        DataError: when there is none, or it is of another task.
    """
    if data is not None:
        return open_dataset(data, task.settings.task)
    folder = Places().cache_dir / "datasets" / f"{task.settings.task}-embedded-{version('mlkit')}-{_SAMPLES}"
    if not (folder / "manifest.json").is_file() and (accelerator is None or accelerator.is_main_process):
        say(f"no --data given: building the embedded sample into {folder}")
        task.build_dataset(None, folder)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    manifest = open_manifest(folder)
    refuse_unfit(manifest, task.settings.task)
    return manifest


def print_card(title: str, lines: Mapping[str, str]) -> None:
    """Print the opening card of a run."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in lines.items():
        table.add_row(Text(name, style="dim"), Text(value))
        log.info("%s: %s", name, value)
    Console(stderr=True).print(Panel(table, title=Text(title, style="bold"), title_align="left", expand=False))


@contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Write everything that is logged to the run's run.log while the block runs."""
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def new_run_json(
    name: str,
    settings: RunSettings,
    data: DatasetManifest,
    lineage: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the run.json of a run that starts now; `about` says more: what it belongs to, what set its values."""
    return {
        "id": uuid.uuid4().hex[:12],
        "name": name,
        **(about or {}),
        "task": settings.task,
        "preset": settings.preset,
        "status": "wip",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["mlkit", *sys.argv[1:]]),
        "git_commit": _git_commit(),
        "versions": {name: version(name) for name in ("mlkit", "torch", "numpy", "accelerate", "safetensors")},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "python": platform.python_version(),
        "dataset_dir": str(data.folder.resolve()),
        "dataset_sha256": data.sha256,
        "dataset_label": data.label,
        "lineage": dict(lineage),
    }


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def write_settings(folder: Path, settings: RunSettings) -> None:
    """Write the resolved settings of a run."""
    from mlkit.files import write_text

    head = f"# Resolved settings of this run, written by mlkit {version('mlkit')}.\n"
    write_text(folder / "settings.toml", head + to_toml(settings))


def train_in(
    folder: Path,
    task: Task,
    data: DatasetManifest,
    accelerator: Accelerator,
    *,
    resume: Checkpoint | None,
    init_from: Checkpoint | None,
    as_json: bool,
) -> dict[str, Any]:
    """Train in a run's folder and tell how it ended; the status of the run follows.

    Returns:
        what `--json` prints, empty in another process than the main one; with `as_json` no card is printed.

    Raises:
        StoppedError: when a signal stopped it and it was saved.
    """
    from mlkit.commands.display import progress_for
    from mlkit.training.progress import Silent
    from mlkit.training.trainer import fit

    with held_alone(folder) if accelerator.is_main_process else nullcontext():
        about = read_run_json(folder)
        main = accelerator.is_main_process
        if main:
            remove_partials(folder)
            set_status(folder, "wip")
        progress = progress_for(task.primary_metric) if main else Silent()
        try:
            outcome = fit(
                task,
                data,
                folder,
                accelerator=accelerator,
                name=about["name"],
                run_id=about["id"],
                resume=resume,
                init_from=init_from,
                progress=progress,
            )
        except BaseException as error:
            progress.end()
            if main and isinstance(error, Exception):
                log.exception("training ended")
                with suppress(MlkitError):  # a full disk must not hide why the training ended
                    set_status(folder, "failed")
            raise
        if not main:
            return {}
        if outcome.stopped_by:
            say_failures(outcome)
            raise StoppedError(
                f"stopped by {outcome.stopped_by} and saved at step {outcome.state.step}; "
                f"continue with: mlkit resume {folder}"
            )
        set_status(folder, "success")
        say_failures(outcome)
        if not as_json:
            print_closing(folder, task, outcome)
        return result_of(folder, outcome)


@contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """Hold a run for the block: two trainings in one folder would write over each other.

    Raises:
        MlkitError: when another process trains it.
    """
    with locked(folder) as held:
        if held is False:
            raise MlkitError(
                f"run {folder.name} is being trained by another process; wait for it, or stop it with Ctrl-C: "
                f"it saves and can be resumed"
            )
        yield


def say_failures(outcome: Outcome) -> None:
    """Repeat what failed without ending the training, and what the last evaluation says is wrong."""
    for failure in (*outcome.failures, *outcome.warnings):
        say(f"warning: {failure}")


def result_of(folder: Path, outcome: Outcome) -> dict[str, Any]:
    """Return what `--json` says of a training that ended."""
    from mlkit.training.validation import finite

    grid = outcome.checkpoint.folder / "grid.png"
    return {
        "run": str(folder),
        "checkpoint": str(outcome.checkpoint.folder),
        "step": outcome.state.step,
        "best_step": outcome.state.best_step,
        "stopped_early": outcome.stopped_early,
        "scores": finite(outcome.means),
        "grid": str(grid) if grid.exists() else None,
        "failures": list(outcome.failures),
        "warnings": list(outcome.warnings),
    }


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result on stdout; nothing in another process than the main one, where it is empty."""
    import json

    if result:
        print(json.dumps(result, indent=2, allow_nan=False))  # noqa: T201


def print_closing(folder: Path, task: Task, outcome: Outcome) -> None:
    """Print scores, the pictures' places and the next command."""
    grid = outcome.checkpoint.folder / "grid.png"
    lines = {"trained": f"{outcome.state.step} steps in {duration(outcome.state.train_s)}"}
    if outcome.stopped_early:
        lines["trained"] += f", stopped early: no better {task.settings.eval.early_stop_metric} for a while"
    if outcome.means:
        lines["scores"] = scores_text(outcome.means)
    if outcome.state.best is not None:
        lines["best"] = f"{metric_text(task.primary_metric, outcome.state.best)} at step {outcome.state.best_step}"
    if grid.exists():
        lines["picture"] = str(grid)
    use = task.next_command(folder) if isinstance(task, SaysNext) else ""
    use = use or f"mlkit infer {task.settings.task} FILE --checkpoint {folder}"
    lines["next"] = f"mlkit eval grid {folder}   or   {use}"
    print_card("done", lines)

"""Logs of a run: metrics.jsonl always, other trackers when asked.

metrics.jsonl holds only what is a function of settings, data and seed, so a run that was killed and resumed has the
same file, byte for byte, as one that was not. Wall-clock figures go to timing.jsonl.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.errors import SettingsError
from mlkit.files import write_error, write_text
from mlkit.settings import TrackingSettings

log = logging.getLogger(__name__)


class RowFile:
    """A file of JSON rows with a "step" each, synced row by row, cut back to a step when a run resumes."""

    def __init__(self, path: Path, start_step: int) -> None:
        self.path = path
        _cut_rows(path, start_step)
        self._handle = path.open("a", encoding="utf-8", newline="\n")

    def add(self, row: Mapping[str, Any]) -> None:
        line = json.dumps({key: _plain(value) for key, value in row.items()}, allow_nan=False) + "\n"
        with self._named():
            self._handle.write(line)
            self._handle.flush()

    def sync(self) -> None:
        """Make the rows durable; called before a checkpoint that counts on them."""
        with self._named():
            os.fsync(self._handle.fileno())

    def close(self) -> None:
        self._handle.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn a write that failed, such as on a full disk, into one sentence."""
        try:
            yield
        except OSError as error:
            raise write_error(self.path, error) from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; a half-written last row (a kill) is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _cut_rows(path: Path, start_step: int) -> None:
    if path.exists():
        kept = [row for row in read_rows(path) if row["step"] <= start_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _plain(value: Any) -> Any:
    """JSON has no NaN: a metric that is undefined becomes null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def refuse_absent_trackers(settings: TrackingSettings) -> None:
    """Raise SettingsError for a tracker whose package is not installed."""
    problems = [
        f"tracking.{package} = true needs the package {package}: pip install 'mlkit[{package}]'"
        for package in ("tensorboard", "wandb")
        if getattr(settings, package) and find_spec(package) is None
    ]
    if problems:
        raise SettingsError(*problems)


class Trackers:
    """TensorBoard and Weights & Biases, through accelerate. One that fails is logged and left out from then on.

    Args:
        settings: which ones.
        run_dir: where their files go.
        name: the run's name.
        run_id: its id; a resumed run continues under it.
        start_step: where the run (re)starts.
        values: the settings, for display.
        say: told what the user should know.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        run_dir: Path,
        *,
        name: str,
        run_id: str,
        start_step: int,
        values: Any,
        say: Callable[[str], None],
    ) -> None:
        self._trackers: dict[str, Any] = {}
        self.failed: list[str] = []  # one sentence each
        if settings.tensorboard:
            from accelerate.tracking import TensorBoardTracker

            def start_tensorboard() -> Any:
                # Hides the events of updates that a kill took back; the step that it resumes from keeps its own.
                tracker = TensorBoardTracker(name, run_dir / "tensorboard", purge_step=start_step + 1)
                tracker.start()
                return tracker

            self._start("tensorboard", start_tensorboard)
        if settings.wandb:
            if not os.environ.get("WANDB_API_KEY") and os.environ.get("WANDB_MODE") is None:
                say(f"W&B has no key (WANDB_API_KEY): offline into {run_dir / 'wandb'}; send it with: wandb sync")
                os.environ["WANDB_MODE"] = "offline"
            from accelerate.tracking import WandBTracker

            def start_wandb() -> Any:
                tracker = WandBTracker(settings.project, name=name, id=run_id, dir=str(run_dir), resume="allow")
                tracker.start()
                tracker.store_init_configuration(values)
                return tracker

            self._start("wandb", start_wandb)

    def _start(self, name: str, make: Any) -> None:
        self._guarded(name, lambda: self._trackers.__setitem__(name, make()))

    def _guarded(self, name: str, action: Any) -> None:
        try:
            action()
        except Exception as error:
            log.exception("tracker %s failed and is off from now on; training goes on", name)
            self.failed.append(f"tracker {name} failed ({type(error).__name__}: {error}); the traceback is in run.log")
            self._trackers.pop(name, None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        finite = {key: value for key, value in values.items() if isinstance(value, float | int)}
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, lambda tracker=tracker: tracker.log(finite, step=step))

    def log_image(self, key: str, image_u8: np.ndarray[Any, Any], step: int) -> None:
        for name, tracker in list(self._trackers.items()):
            images = {key: image_u8[None]} if name == "tensorboard" else {key: [image_u8]}
            extra = {"dataformats": "NHWC"} if name == "tensorboard" else {}
            self._guarded(
                name, lambda tracker=tracker, images=images, extra=extra: tracker.log_images(images, step=step, **extra)
            )

    def finish(self) -> None:
        """Close what is open; a second call does nothing."""
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, tracker.finish)
        self._trackers.clear()

"""Logs of a run: metrics.jsonl always, other trackers when asked.

metrics.jsonl holds only what is a function of settings, data and seed, so a run that was killed and resumed has the
same file, byte for byte, as one that was not. Wall-clock figures go to timing.jsonl.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.errors import SettingsError
from mlkit.files import write_error, write_text
from mlkit.metrics import METRICS
from mlkit.settings import TrackingSettings
from mlkit.training.trackers import TRACKERS, About, Tracker

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
        for package in TRACKERS
        if getattr(settings, package) and find_spec(package) is None
    ]
    if problems:
        raise SettingsError(*problems)


def named_values(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row of metrics.jsonl as trackers are told them: "train/loss", "validation/psnr"."""
    part = row.get("split", "train")
    return {
        f"{part}/{key}": value
        for key, value in row.items()
        if key not in ("step", "samples", "split") and isinstance(value, float | int) and math.isfinite(value)
    }


class Trackers:
    """TensorBoard, Weights & Biases, MLflow and trackio. One that fails is logged and left out from then on.

    Args:
        settings: which ones.
        run_dir: where the run is; its rows of metrics.jsonl are those that a tracker should have.
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
        self._trackers: dict[str, Tracker] = {}
        self.failed: list[str] = []  # one sentence each
        about = About(run_dir, name, run_id, settings.project, start_step, values, say)
        for key, start in TRACKERS.items():
            if getattr(settings, key):
                self._guarded(key, lambda key=key, start=start: self._start(key, start, about))

    def _start(self, key: str, start: Callable[[About], Tracker], about: About) -> None:
        tracker = self._trackers[key] = start(about)
        if not tracker.rewritten:
            return
        pictures = _pictures(about.run_dir / "grids", about.start_step)
        for row in read_rows(about.run_dir / "metrics.jsonl"):
            for step in [step for step in pictures if step < row["step"]]:  # no step goes back
                tracker.image("grid", _read_picture(pictures.pop(step)), step)
            tracker.log(named_values(row), row["step"])
        for step, path in pictures.items():
            tracker.image("grid", _read_picture(path), step)

    def _guarded(self, name: str, action: Any) -> None:
        try:
            action()
        except Exception as error:
            log.exception("tracker %s failed and is off from now on; training goes on", name)
            self.failed.append(f"tracker {name} failed ({type(error).__name__}: {error}); the traceback is in run.log")
            self._trackers.pop(name, None)

    def log(self, row: Mapping[str, Any]) -> None:
        """Log a row of metrics.jsonl."""
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, lambda tracker=tracker: tracker.log(named_values(row), row["step"]))

    def log_image(self, key: str, image_u8: np.ndarray[Any, Any], step: int) -> None:
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, lambda tracker=tracker: tracker.image(key, image_u8, step))

    def log_final(self, rows: Sequence[Sequence[Any]], step: int) -> None:
        """Log the table of a run that came to its end, as `final_rows` makes it."""
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, lambda tracker=tracker: tracker.table("final", FINAL_COLUMNS, rows, step))

    def finish(self) -> None:
        """Close what is open; a second call does nothing."""
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, tracker.finish)
        self._trackers.clear()


FINAL_COLUMNS = ("score", "value", "unit", "step")


def final_rows(
    means: Mapping[str, float], step: int, primary: str, best: float | None, best_step: int | None
) -> list[tuple[str, float, str, int]]:
    """Return the last scores of a run and its best one."""
    rows = [(key, value, METRICS[key].unit if key in METRICS else "", step) for key, value in means.items()]
    if best is not None and best_step is not None:
        rows.append((f"best {primary}", best, METRICS[primary].unit, best_step))
    return [row for row in rows if math.isfinite(row[1])]


def _pictures(folder: Path, last_step: int) -> dict[int, Path]:
    """Return the grids of a run up to a step, by step."""
    found = {int(path.stem.removeprefix("grid_")): path for path in sorted(folder.glob("grid_*.png"))}
    return {step: path for step, path in found.items() if step <= last_step}


def _read_picture(path: Path) -> np.ndarray[Any, Any]:
    from PIL import Image

    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))

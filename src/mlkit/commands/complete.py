"""Shell completion of names: presets, runs, metrics, and the words of an option."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mlkit.tasks import TASKS


def presets(incomplete: str) -> list[str]:
    """Return the shipped presets that start so; pydantic is not imported, since this runs at each press of Tab."""
    package = Path(__file__).parent.parent
    folders = (package / "presets", package.parent.parent / "presets")
    names = {path.stem for folder in folders for path in folder.glob("*/*.toml")}
    return sorted(name for name in names if name.startswith(incomplete))


def statuses(incomplete: str) -> list[str]:
    """Return the statuses that start so."""
    from mlkit.runs.folders import STATUSES

    return [name for name in STATUSES if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Return the tasks that start so."""
    return [name for name in TASKS if name.startswith(incomplete)]


def words(*known: str) -> Callable[[str], list[str]]:
    """Return the completion of an option that takes one of a few words."""

    def starting(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return starting


def conditions(incomplete: str) -> list[str]:
    """Return the beginnings of a condition on a metric that start so."""
    from mlkit.metrics import METRICS

    return [f"{key} < " for key in METRICS if key != "loss" and key.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Return the runs that start so, and after a run's name with a slash its checkpoints; failing those, folders."""
    folder = Path(os.environ.get("MLKIT_RUNS_DIR", "runs"))
    names = [path.parent.name for path in folder.glob("*/run.json")]
    if "/" in incomplete:
        names = [path.parent.relative_to(folder).as_posix() for path in folder.glob("*/ckpt-*/checkpoint.json")]
    found = sorted(name for name in names if name.startswith(incomplete))
    return found or _folders(incomplete)


def _folders(incomplete: str) -> list[str]:
    place = Path(incomplete)
    parent, start = (place, "") if incomplete.endswith("/") else (place.parent, place.name)
    if not parent.is_dir():
        return []
    return sorted(str(path) for path in parent.iterdir() if path.name.startswith(start) and path.is_dir())

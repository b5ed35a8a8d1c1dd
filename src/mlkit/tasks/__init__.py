"""The tasks by name. A task is a folder here with settings.py, task.py and cli.py; nothing registers itself."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mlkit.errors import MlkitError, did_you_mean, listing

if TYPE_CHECKING:
    from types import ModuleType

    from mlkit.settings import RunSettings
    from mlkit.task import Task

TASKS = ("sar", "sr", "demosaic", "lens", "bvae")


def available_tasks() -> tuple[str, ...]:
    """Return the tasks of `TASKS` that this version contains, without importing them."""
    here = Path(__file__).parent
    return tuple(name for name in TASKS if (here / name / "task.py").is_file())


def task_module(name: str, module: str) -> ModuleType:
    """Import `mlkit.tasks.<name>.<module>`.

    Raises:
        MlkitError: for an unknown task, or one that this version does not contain yet.
    """
    if name not in TASKS:
        raise MlkitError(f"unknown task '{name}'{did_you_mean(name, TASKS)}; there are {listing(TASKS)}")
    if name not in available_tasks():
        raise MlkitError(
            f"task '{name}' is not in this version of mlkit yet; this one has: {listing(available_tasks())}"
        )
    return import_module(f"mlkit.tasks.{name}.{module}")


def settings_class(name: str) -> type[RunSettings]:
    """Return the settings class of a task (no torch import)."""
    return cast("type[RunSettings]", task_module(name, "settings").SETTINGS)


def load_task(settings: RunSettings) -> Task:
    """Return the task that these settings describe."""
    return cast("Task", task_module(settings.task, "task").TASK(settings))

"""Every task that this version contains goes through the contract, and a toy one that makes resuming hard."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlkit.tasks import available_tasks
from running import Job, task_of

TASKS = ("toy", *available_tasks())


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return each task's embedded dataset, built once."""
    root = tmp_path_factory.mktemp("datasets")
    folders = {}
    for name in TASKS:
        folders[name] = root / name
        task_of(Job(name, root, {"train.steps": 1})).build_dataset(None, root / name)
    return folders

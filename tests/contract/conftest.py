"""Every task that this version contains goes through the contract, and a toy one that makes resuming hard."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlkit.tasks import available_tasks
from running import build_sample

TASKS = ("toy", *available_tasks())


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return each task's embedded dataset, built once."""
    root = tmp_path_factory.mktemp("datasets")
    folders = {}
    for name in TASKS:
        folders[name] = root / name
        build_sample(name, root / name)
    return folders

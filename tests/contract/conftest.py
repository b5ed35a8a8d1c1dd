"""Every task that this version contains goes through the contract, and a toy one that makes resuming hard."""

from __future__ import annotations

from pathlib import Path

import pytest

from running import build_sample


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return each task's embedded dataset, built once, when it is first asked for."""
    return _Datasets(tmp_path_factory.mktemp("datasets"))


class _Datasets(dict[str, Path]):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def __missing__(self, task: str) -> Path:
        build_sample(task, self._root / task)
        self[task] = self._root / task
        return self[task]

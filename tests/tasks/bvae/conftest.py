"""Small datasets and models of grids, built once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlkit.data.manifest import DatasetManifest
from mlkit.tasks.bvae.dataset import build_dataset
from mlkit.tasks.bvae.model import BetaVae
from mlkit.tasks.bvae.settings import BvaeBuild, BvaeModel, BvaeSettings
from mlkit.tasks.bvae.task import BvaeTask


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """Return 400 made grids of 16x16."""
    out = tmp_path_factory.mktemp("bvae") / "synthetic"
    return build_dataset("synthetic", out, build=BvaeBuild(grids=400)).manifest


@pytest.fixture(scope="session")
def arc(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """Return ARC-1."""
    return build_dataset(None, tmp_path_factory.mktemp("bvae") / "arc1", build=BvaeBuild()).manifest


def _task_of(**sections: Any) -> BvaeTask:
    """Return a task with a narrow network for 16x16, and the given sections."""
    model = {"side": 16, "channels": 4, "hidden": 16, "latent": 6} | sections.pop("model", {})
    return BvaeTask(BvaeSettings.model_validate({"train": {"steps": 2}, "model": model, **sections}))


@pytest.fixture
def task_of() -> Callable[..., BvaeTask]:
    return _task_of


@pytest.fixture
def net() -> BetaVae:
    torch.manual_seed(0)
    return BetaVae(BvaeModel(side=10, channels=4, hidden=16, latent=6)).eval()


@pytest.fixture
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")

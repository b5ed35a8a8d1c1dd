"""Datasets of a few small photographs, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensfiles import SMALL, photograph
from mlkit.data.manifest import DatasetManifest
from mlkit.tasks.lens.dataset import build_dataset
from mlkit.tasks.lens.settings import LensBuild


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        photograph(folder / f"p{number}.png", 150 + 8 * number, 220 - 10 * number, seed=number)
    return folder


@pytest.fixture(scope="session")
def dataset(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    out = tmp_path_factory.mktemp("lens") / "data"
    return build_dataset([photographs], out, build=LensBuild.model_validate(SMALL)).manifest

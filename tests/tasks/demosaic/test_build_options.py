"""Claims of tasks/demosaic/build_options.py: `mlkit dataset build demosaic`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from mlkit.data.manifest import open_manifest
from mlkit.errors import DataError, MlkitError
from mlkit.tasks.demosaic.build_options import dataset_build


def run(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(dataset_build)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(3):
        levels = rng.integers(0, 256, (100, 120, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / f"in/p{number}.png")
    return tmp_path / "in"


def test_options_reach_the_dataset(photos: Path, tmp_path: Path) -> None:
    mix = "real=0.5,sharp=0.3,torture=0.2"
    result = run(
        "--source", photos, "--out", tmp_path / "d", "--reduce", "1,2", "--torture", 26, "--mix", mix, "--size", 48,
        "--val-share", 0.4, "--seed", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    options = open_manifest(tmp_path / "d").details["options"]
    assert options["mix"] == {"real": 0.5, "sharp": 0.3, "torture": 0.2}
    expected = {"reduce": [1, 2], "torture": 26, "size": 48, "val_share": 0.4, "seed": 3, "teacher": "self"}
    assert {key: options[key] for key in expected} == expected
    assert f"next: mlkit train --preset demosaic_tiny --data {tmp_path / 'd'}" in result.output


def test_json_tells_what_was_built(photos: Path, tmp_path: Path) -> None:
    result = run("--source", photos, "--out", tmp_path / "d", "--size", 48, "--json")
    told, data = json.loads(result.stdout), open_manifest(tmp_path / "d")
    assert (told["sha256"], told["splits"], told["broken"]) == (data.sha256, data.splits, [])
    assert told["preprocessing"] == {"cfa": "X-Trans", "teacher": "self", "downsample": 1}


def test_broken_files_end_with_an_error_after_building(photos: Path, tmp_path: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"nothing")
    result = run("--source", photos, "--out", tmp_path / "d", "--size", 48)
    assert isinstance(result.exception, DataError) and "1 broken photograph left out" in str(result.exception)
    assert len(open_manifest(tmp_path / "d").details["photographs"]) == 3
    assert run("--source", photos, "--out", tmp_path / "e", "--size", 48, "--skip-broken").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--mix", "real:0.8"], "--mix real:0.8 is no list of shares; write it as real=0.8,sharp=0.15,torture=0.05"),
        (["--mix", "real=0.5,real=0.5"], "--mix real=0.5,real=0.5 names real twice"),
        (["--mix", "real=0.5,sharp=0.4"], "add up to 0.9; they must add up to 1"),
        (["--mix", "real=0.5,torture=0.5"], "mix has a share of torture, but torture is 0"),
        (["--mix", "reel=1"], "reel"),
        (["--reduce", "1;2"], "--reduce 1;2 is no list of whole numbers; write it as 1,2,4"),
        (["--val-share", "1.5"], "1.5"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    result = run("--out", tmp_path / "d", *arguments)
    assert isinstance(result.exception, MlkitError) and sentence in str(result.exception)
    assert not (tmp_path / "d").exists()

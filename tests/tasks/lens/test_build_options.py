"""The command's options reach the build, and what cannot be meant is told as an option."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from typer.testing import CliRunner, Result

from mlkit.errors import DataError, MlkitError
from mlkit.tasks.lens.build_options import dataset_build


def run(*words: str) -> Result:
    app = typer.Typer()
    app.command()(dataset_build)
    return CliRunner().invoke(app, list(words))


def test_what_was_built_is_told_as_json(photographs: Path, tmp_path: Path) -> None:
    options = ["--lens", "canon ef ", "--smallest", "96", "--count", "7", "--scenes", "2", "--views", "3"]
    done = run("--source", str(photographs), "--out", str(tmp_path / "d"), *options, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["splits"] == {"train": 7, "validation": 5} and told["broken"] == []
    assert told["label"] == "lensfun profiles" and any("CC BY-SA 3.0" in note for note in told["notes"])


def test_broken_photographs_are_left_out_and_a_script_notices(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    words = ["--source", str(photographs), str(tmp_path / "broken.png"), "--lens", "canon ef ", "--smallest", "96"]
    done = run(*words, "--out", str(tmp_path / "d"))
    assert isinstance(done.exception, DataError) and "1 broken file left out" in str(done.exception)
    assert (tmp_path / "d/manifest.json").exists() and "next: mlkit train --preset lens_tiny" in done.output


def test_values_that_cannot_be_meant_are_told_by_their_option(tmp_path: Path) -> None:
    done = run("--out", str(tmp_path / "d"), "--val-share", "1.5")
    assert isinstance(done.exception, MlkitError)
    assert str(done.exception) == "--val-share = 1.5: input should be less than 1"


def test_a_lens_that_is_not_there_ends_with_the_code_of_data(photographs: Path, tmp_path: Path) -> None:
    done = run("--source", str(photographs), "--out", str(tmp_path / "d"), "--lens", "Nocticon 8mm")
    assert isinstance(done.exception, DataError) and done.exception.exit_code == 4
    assert not (tmp_path / "d").exists()

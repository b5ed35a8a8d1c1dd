"""Claims of tasks/sr/build_options.py: `mlkit dataset build sr`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from mlkit.data.manifest import open_manifest
from mlkit.errors import DataError, MlkitError
from mlkit.tasks.sr import bases
from mlkit.tasks.sr.build_options import dataset_build
from srbase import LinearBase

Invoke = Callable[..., Any]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the bases by a linear one; returns with what each was opened."""
    asked: list[dict[str, Any]] = []

    def open_base(model_id: str, **options: Any) -> LinearBase:
        asked.append({"model_id": model_id} | options)
        return LinearBase()

    monkeypatch.setattr(bases, "open_base", open_base)
    return asked


@pytest.fixture
def build() -> Invoke:
    app = typer.Typer()
    app.command()(dataset_build)
    runner = CliRunner()

    def invoke(*arguments: object) -> Any:
        result = runner.invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        levels = np.random.default_rng(number).integers(0, 256, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"p{number}.png")
    return folder


def test_every_option_reaches_the_build(
    build: Invoke, opened: list[dict[str, Any]], photographs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = build(
        photographs, "--out", out, "--pairs", "from-photos", "--base", "some/base", "--base-dtype", "bf16",
        "--scale", 2, "--degradation", "real", "--size", 40, "--count", 9, "--reduce", "1,2",
        "--val-share", 0.3, "--steps", 5, "--seed", 7, "--device", "cpu",
        "--prompt-embeds", tmp_path / "prompt.safetensors",
    )  # fmt: skip
    assert result.exit_code == 0
    (asked,) = opened
    assert asked["model_id"] == "some/base"
    assert str(asked["dtype"]) == "torch.bfloat16"
    assert asked["prompt_embeds"] == tmp_path / "prompt.safetensors"
    manifest = open_manifest(out)
    assert manifest.details["options"] == {
        "pairs": "from-photos",
        "scale": 2,
        "degradation": "real",
        "size": 40,
        "count": 9,
        "reduce": [1, 2],
        "val_share": 0.3,
        "steps": 5,
        "seed": 7,
    }
    assert manifest.splits == {"train": 6, "validation": 3}
    assert f"{out}: sha256 {manifest.sha256[:12]}" in result.stdout
    assert f"next: mlkit train --preset ftd_tiny --data {out}" in result.stdout


def test_sources_may_be_options_and_arguments(
    build: Invoke, opened: list[dict[str, Any]], photographs: Path, tmp_path: Path
) -> None:
    files, out = sorted(photographs.iterdir()), tmp_path / "out"
    build("--source", files[0], "--source", files[1], files[2], "--out", out, "--pairs", "none", "--size", 32)
    assert len(open_manifest(out).details["photographs"]) == 3
    assert not opened  # photographs alone need no base


def test_json_is_all_there_is_on_stdout(
    build: Invoke, opened: list[dict[str, Any]], photographs: Path, tmp_path: Path
) -> None:
    result = build(photographs, "--out", tmp_path / "out", "--size", 32, "--json")
    told = json.loads(result.stdout)
    assert told["sha256"] == open_manifest(tmp_path / "out").sha256
    assert told["splits"]["validation"] >= 1
    assert told["broken"] == []


def test_broken_photographs_are_left_out_and_the_exit_code_says_so(
    build: Invoke, opened: list[dict[str, Any]], photographs: Path, tmp_path: Path
) -> None:
    (photographs / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n0000")
    with pytest.raises(DataError) as caught:
        build(photographs, "--out", tmp_path / "a", "--pairs", "none", "--size", 32)
    assert caught.value.exit_code == 4
    assert "cut.png" in caught.value.problems[0]
    assert "1 broken photograph left out of" in caught.value.problems[1]
    assert len(open_manifest(tmp_path / "a").details["photographs"]) == 3  # built all the same
    result = build(photographs, "--out", tmp_path / "b", "--pairs", "none", "--size", 32, "--skip-broken")
    assert result.exit_code == 0
    assert "skipped: image" in result.stdout
    assert "next: mlkit train --preset sr_flow_tiny" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--size", 100), r"^size 100 is not a multiple of 8 px; 96 would work$"),
        (("--val-share", 1), r"^--val-share = 1\.0: input should be less than 1$"),
        (("--reduce", "1,x"), r"--reduce 1,x is no list of whole numbers; write it as 1,2,4"),
        (("--reduce", "0"), r"--reduce = 0"),
        (("--reduce", "1.5"), r"--reduce 1.5 is no list of whole numbers"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(
    build: Invoke, opened: list[dict[str, Any]], tmp_path: Path, arguments: tuple[object, ...], sentence: str
) -> None:
    with pytest.raises(MlkitError) as caught:
        build("--out", tmp_path / "out", *arguments)
    assert caught.value.exit_code == 2
    assert len(caught.value.problems) == 1
    assert re.search(sentence, str(caught.value))
    assert not opened
    assert not (tmp_path / "out").exists()


def test_help_names_every_option_and_imports_no_torch() -> None:
    code = (
        "import sys, typer\n"
        "from mlkit.tasks.sr.build_options import dataset_build\n"
        "app = typer.Typer(); app.command()(dataset_build)\n"
        "try:\n    app(['--help'])\n"
        "finally:\n    assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules), 'heavy imports'\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"COLUMNS": "120"})
    assert shown.returncode == 0, shown.stderr
    for name in (
        "out",
        "source",
        "pairs",
        "base",
        "scale",
        "degradation",
        "size",
        "count",
        "reduce",
        "val-share",
        "steps",
    ):
        assert f"--{name}" in shown.stdout
    for example in re.findall(r"mlkit dataset build sr .*", shown.stdout):
        assert "--out" in example

"""The whole program in this process: `mlkit("train", ...)` with its exit code and all that it said."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.__main__ import main

SMALL = (
    *("--max-steps", "6", "--batch-size", "2"),
    *("--set", "model.base_channels=4"),
    *("--set", "checkpoint.every=3"),
    *("--set", 'train.precision="fp32"'),
    *("--set", "train.channels_last=false"),
    *("--set", "train.warmup_steps=0"),
    *("--set", "tracking.every=1"),
)
LR = 1e-3


@dataclass(frozen=True)
class Result:
    """What a call left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def card(self, title: str) -> dict[str, str]:
        """Return the lines of the card with this title, by their first word."""
        lines = self.err.splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith(f"╭─ {title} "))
        values = {}
        for line in lines[start + 1 :]:
            if line.startswith("╰"):
                return values
            key, _, value = line.strip("│ ").partition("  ")
            values[key] = value.strip()
        raise AssertionError("the card has no end")

    @property
    def lines(self) -> list[str]:
        """What was said outside of cards."""
        return [line for line in self.err.splitlines() if not line.startswith(("╭", "│", "╰"))]


Mlkit = Callable[..., Result]


def call(*arguments: object) -> Result:
    """Run the program; every way out of it is an exit code."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["mlkit", *map(str, arguments)])
        patch.setenv("COLUMNS", "500")  # the paths of a test are long: no line is to be broken
        patch.setenv("NO_COLOR", "1")
        with pytest.raises(SystemExit) as left:
            main()
    assert {number: signal.getsignal(number) for number in handlers} == handlers, "a signal handler was left behind"
    code = left.value.code
    return Result(0 if code is None else int(code), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one scene of speckle over a ramp, intensity [384, 384]."""
    path = tmp_path_factory.mktemp("sar") / "scene.npy"
    intensity = np.random.default_rng(0).gamma(4, 0.25, (384, 384)) * np.linspace(0.1, 3, 384)
    np.save(path, intensity.astype(np.float32))
    return path


@pytest.fixture(scope="session")
def build(scene: Path) -> Mlkit:
    """Return `mlkit dataset build sar` of the scene in patches of 64 px; further options win."""

    def build_at(out: Path, *more: object) -> Result:
        sizes = ("--patch", 64, "--stride", 64, "--block", 64, "--guard", 0)
        return call("dataset", "build", "sar", "--source", scene, "--out", out, *sizes, *more)

    return build_at


@pytest.fixture(scope="session")
def dataset(scene: Path, build: Mlkit) -> Path:
    """Return a small dataset with more than six validation patches; no test may change it."""
    built = build(scene.parent / "data")
    assert built.code == 0, built.err
    return scene.parent / "data"


@pytest.fixture
def dataset_copy(dataset: Path, tmp_path: Path) -> Path:
    """Return a copy of the dataset that a test may break."""
    return shutil.copytree(dataset, tmp_path / "copied")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the runs folder of this test, which does not exist yet; the cache is its own too."""
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("MLKIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLKIT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def mlkit(runs: Path) -> Mlkit:
    return call


@pytest.fixture(scope="session")
def program() -> Mlkit:
    """Return `mlkit` for what several tests share; the folders that it is to use must be set."""
    return call


@pytest.fixture
def train(runs: Path, dataset: Path) -> Mlkit:
    """Return `mlkit train` of 6 updates of a small network on the small dataset; further options win."""

    def start(*more: object, preset: object = "sar_tiny", data: Path = dataset) -> Result:
        return call("train", "--preset", preset, "--data", data, "--lr", LR, *SMALL, *more)

    return start


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Return a run "first" of 6 updates with checkpoints at 3 and 6, and what it said; no test may change it."""
    runs = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_RUNS_DIR", str(runs))
        said = call("train", "--preset", "sar_tiny", "--data", dataset, "--lr", LR, *SMALL, "--name", "first")
    assert said.code == 0, said.err
    return runs / "first", said


@pytest.fixture
def run(trained: tuple[Path, Result], runs: Path) -> Path:
    """Return a copy of the trained run, in this test's runs folder, that a test may break."""
    return shutil.copytree(trained[0], runs / "first")


@pytest.fixture
def refused() -> Callable[..., Result]:
    """Return what a refusal leaves: its exit code, nothing on stdout, a line for each sentence and nothing else."""

    def expected(code: int, *sentences: str) -> Result:
        return Result(code, "", "".join(f"mlkit: {sentence}\n" for sentence in sentences))

    return expected


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    """Return every file below a folder with its content; {} where there is no folder."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


@pytest.fixture
def edit() -> Callable[..., None]:
    """Change keys of a JSON file; a checkpoint's own hash is taken out, as if it had been written so."""

    def change(path: Path, **changes: Any) -> None:
        content = {**json.loads(path.read_text()), **changes}
        if path.name == "checkpoint.json":
            content.pop("sha256", None)
        path.write_text(json.dumps(content))

    return change

"""`mlkit train`, `resume` and `eval grid` of super-resolution: adapters from elsewhere, and what a resume refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mlkit.tasks.sr.bases import open_base
from running import build_sample

Mlkit = Callable[..., Any]
Refused = Callable[..., Any]


def started(data: Path, *more: object) -> tuple[object, ...]:
    """Return `train` of two updates of an adapter of rank 4 on the small base beside `data`; further options win."""
    fixed = {"model.base": f"{data}-base", "model.rank": 4, "model.alpha": 4.0, "data.crop": 32, "eval.max_samples": 2}
    fixed |= {"train.precision": "fp32", "train.channels_last": False, "checkpoint.every": 1, "tracking.every": 1}
    assigned = [word for key, value in fixed.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    length = ("--max-steps", 2, "--batch-size", 2)
    return ("train", "--preset", "ftd_tiny", "--quick-test", "--data", data, *length, *assigned, *more)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a few pairs, with the small base that made them beside them."""
    out = tmp_path_factory.mktemp("sr") / "data"
    build_sample("sr", out)
    return out


@pytest.fixture(scope="module")
def finished(program: Mlkit, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run "first" of two updates; no test may change it."""
    runs = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_RUNS_DIR", str(runs))
        said = program(*started(data, "--name", "first"))
    assert said.code == 0, said.err
    return runs / "first"


@pytest.fixture
def first(finished: Path, runs: Path) -> Path:
    """Return a copy of the run in this test's runs folder."""
    return shutil.copytree(finished, runs / "first")


@pytest.fixture
def foreign(data: Path, tmp_path: Path) -> Path:
    """Return a folder with an adapter of rank 4 that PEFT made by itself, on layers as people name them."""
    from peft import LoraConfig, get_peft_model

    layers = [
        name
        for name, module in open_base(f"{data}-base").transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "proj_out"
    ]
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=layers, init_lora_weights=False)
    get_peft_model(open_base(f"{data}-base").transformer, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_from_elsewhere_starts_a_run(mlkit: Mlkit, data: Path, foreign: Path, runs: Path) -> None:
    # A rate that moves no float32: what is saved is what training started from.
    said = mlkit(*started(data, "--resume-from", foreign, "--lr", 1e-30, "--name", "from_peft"))
    assert said.code == 0, said.err
    assert said.lines[0] == f"{foreign} holds weights only: a new run from them, fresh optimizer, step 0"
    assert json.loads((runs / "from_peft" / "run.json").read_text())["lineage"] == {
        "parent": str(foreign),
        "kind": "weights",
    }
    given, saved = (
        load_file(folder / "adapter_model.safetensors") for folder in (foreign, runs / "from_peft" / "ckpt-2")
    )
    assert given.keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in given.items())
    rows = [json.loads(line) for line in (runs / "from_peft" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "split" not in row] == [1, 2]


@pytest.mark.parametrize("option", ["--resume-from", "--init-from"])
def test_an_adapter_of_another_rank_is_refused_before_a_run_is_made(
    option: str, mlkit: Mlkit, data: Path, foreign: Path, runs: Path
) -> None:
    said = mlkit(*started(data, option, foreign, "--set", "model.rank=8"))
    assert (said.code, said.out) == (3, "")
    assert said.err.splitlines()[-1] == (
        f"mlkit: adapter {foreign} has rank 4 and this run has rank 8; set model.rank = 4 and model.alpha = 4"
    )
    assert not runs.exists()


def test_an_adapter_alone_cannot_be_resumed_and_says_what_can(mlkit: Mlkit, foreign: Path, refused: Refused) -> None:
    told = f"{foreign} holds weights without settings; say what they are for: "
    assert mlkit("resume", foreign) == refused(3, told + f"mlkit train --preset PRESET --resume-from {foreign}")


def test_a_resume_refuses_everything_that_makes_another_adapter_at_once(
    mlkit: Mlkit, first: Path, files: Callable[[Path], dict[str, bytes]], data: Path
) -> None:
    before = files(first)
    changes = {
        "alpha": (4.0, 8.0),
        "base": (f"{data}-base", "embedded"),
        "disable_vae_force_upcast": (False, True),
        "dropout": (0.0, 0.1),
        "gradient_checkpointing": (False, True),
        "rank": (4, 8),
    }
    assigned = [word for key, (_, now) in changes.items() for word in ("--set", f"model.{key}={json.dumps(now)}")]
    said = mlkit("resume", "first", *assigned, "--max-steps", 4)
    checkpoint = first / "ckpt-2"
    assert (said.code, said.out) == (3, "")
    assert said.err.splitlines() == [
        f"mlkit: model.{key} was {was!r} in {checkpoint} and is {now!r} now; a resume cannot change it: start a new "
        f"run with --init-from {checkpoint}"
        for key, (was, now) in changes.items()
    ]
    assert files(first) == before


def test_a_run_goes_on_and_its_checkpoint_starts_another(mlkit: Mlkit, first: Path, data: Path, runs: Path) -> None:
    on = mlkit("resume", "first", "--max-steps", 3)
    assert on.code == 0, on.err
    assert {path.name for path in (first / "ckpt-3").glob("adapter*")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    said = mlkit(*started(data, "--init-from", first / "ckpt-3", "--name", "second", "--lr", 1e-30))
    assert said.code == 0, said.err
    one, two = (run / "adapter_model.safetensors" for run in (first / "ckpt-3", runs / "second" / "ckpt-2"))
    assert one.read_bytes() == two.read_bytes()


def test_a_grid_of_the_users_own_images_of_odd_sizes_is_drawn(mlkit: Mlkit, first: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name, shape in (("a", (37, 51, 3)), ("b", (23, 41))):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(own / f"{name}.png")
    out = tmp_path / "grid.png"
    said = mlkit("eval", "grid", "first", "--images-dir", own, "--upscale", 2, "--out", out)
    assert said.code == 0, said.err
    with Image.open(out) as grid:
        assert min(grid.size) > 100

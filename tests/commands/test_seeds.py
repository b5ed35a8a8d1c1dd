"""`mlkit train --seeds` makes a run for each seed, and `mlkit compare` takes them as one."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.commands.seeds import parse_seeds
from mlkit.errors import MlkitError

Mlkit = Callable[..., Any]
MakeRun = Callable[..., Path]
Refused = Callable[..., Any]
Files = Callable[[Path], dict[str, bytes]]

SHORT = ("--max-steps", "2", "--no-wandb")


@pytest.fixture(scope="module")
def group(dataset: Path, program: Mlkit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return the runs folder with a group "pair" of two seeds, and what its training said; no test may change it."""
    runs = tmp_path_factory.mktemp("seeds")
    small = ("--batch-size", 2, "--set", "model.base_channels=4", "--set", "train.warmup_steps=0", *SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_RUNS_DIR", str(runs))
        asked = ("--preset", "sar_tiny", "--data", dataset, "--seeds", "3,1", "--name", "pair", "--json", *small)
        said = program("train", *asked)
    assert said.code == 0, said.err
    return runs, said


def about(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def test_each_seed_is_a_run_of_its_own_with_the_name_of_the_group(group: tuple[Path, Any]) -> None:
    runs, said = group
    assert sorted(path.name for path in runs.iterdir()) == ["pair-s1", "pair-s3"]
    settings = {seed: tomllib.loads((runs / f"pair-s{seed}" / "settings.toml").read_text()) for seed in (1, 3)}
    for seed, found in settings.items():
        run = runs / f"pair-s{seed}"
        assert (about(run)["group"], about(run)["name"], about(run)["status"]) == ("pair", run.name, "success")
        assert found.pop("seed") == seed
        assert (run / "ckpt-2" / "checkpoint.json").is_file()
    assert settings[1] == settings[3], "they differ in nothing but the seed, also where `auto` decides"
    result = json.loads(said.out)
    assert result["group"] == "pair"
    assert [(one["run"], one["step"]) for one in result["runs"]] == [(str(runs / f"pair-s{s}"), 2) for s in (3, 1)]


def test_a_run_of_a_group_is_the_run_of_its_seed_alone(
    group: tuple[Path, Any], train: Mlkit, runs: Path, files: Files
) -> None:
    same = ("--seed", 1, "--name", "alone", *SHORT, "--set", "checkpoint.every=2")
    decided = tomllib.loads((group[0] / "pair-s1" / "settings.toml").read_text())["train"]
    as_decided = [f"train.{key}={json.dumps(decided[key])}" for key in ("precision", "channels_last", "lr")]
    assert train(*same, *(word for one in as_decided for word in ("--set", one)), "--lr", decided["lr"]).code == 0
    weights = "ckpt-2/model.safetensors"
    assert files(runs / "alone")[weights] == files(group[0] / "pair-s1")[weights]
    assert files(runs / "alone")[weights] != files(group[0] / "pair-s3")[weights]
    assert "group" not in about(runs / "alone")


def test_a_group_is_compared_as_one(mlkit: Mlkit, group: tuple[Path, Any], runs: Path) -> None:
    shutil.copytree(group[0], runs)
    said = mlkit("compare", "pair", "pair-s3")
    assert said.code == 0, said.err
    folder = runs / "compare-pair-vs-pair-s3"
    rows = json.loads((folder / "comparison.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["pair", "pair-s3"]
    stored = {
        seed: json.loads((runs / f"pair-s{seed}" / "ckpt-2" / "eval.json").read_text())["scores"]["psnr"]
        for seed in (1, 3)
    }
    assert rows[0]["means"]["psnr"] == pytest.approx(np.mean([stored[1], stored[3]]))
    assert rows[0]["seeds"]["values"]["psnr"] == pytest.approx([np.mean(stored[1]), np.mean(stored[3])])
    assert [run["name"] for run in rows[0]["seeds"]["runs"]] == ["pair-s1", "pair-s3"]
    assert "Over seeds" in said.out and "Training" in said.out
    assert (folder / "comparison.png").is_file()


# ----------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("text", ["", "0,", "a", "0,0", "-1,2", "0.5", "0 1", "0,1,01"])
def test_what_is_no_list_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(MlkitError, match="is no list of different seeds; give whole numbers by commas: --seeds 0,1,2"):
        parse_seeds(text)


def test_seeds_are_read_in_their_order() -> None:
    assert parse_seeds("2, 0,11") == (2, 0, 11)


def test_every_name_is_checked_before_the_first_run_starts(
    train: Mlkit, make_run: MakeRun, runs: Path, refused: Refused, files: Files
) -> None:
    make_run("pair-s2")
    before = files(runs)
    told = f"a run 'pair-s2' exists in {runs}; use --name pair-s2_2, or: mlkit resume {runs / 'pair-s2'}"
    assert train("--seeds", "0,1,2", "--name", "pair") == refused(2, told)
    assert files(runs) == before


def test_a_group_and_a_run_never_share_a_name(
    train: Mlkit, make_run: MakeRun, runs: Path, refused: Refused, edit: Callable[..., None]
) -> None:
    make_run("taken")
    told = f"a run 'taken' exists in {runs}, so its name cannot be that of a group; use --name taken_seeds"
    assert train("--seeds", "0,1", "--name", "taken") == refused(2, told)
    for seed in (0, 1):
        edit(make_run(f"pair-s{seed}") / "run.json", group="pair")
    told = f"'pair' is a group of runs in {runs}: pair-s0, pair-s1; use another --name"
    assert train("--name", "pair") == refused(2, told)


@pytest.mark.parametrize("option", [("--seed", "1"), ("--resume-from", "somewhere")])
def test_seeds_exclude_one_seed_and_a_resume(option: tuple[str, str], train: Mlkit, refused: Refused) -> None:
    assert train("--seeds", "0,1", *option) == refused(2, f"give --seeds or {option[0]}, not both")


def test_a_run_that_fails_says_which_seeds_are_left(train: Mlkit, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MlkitError("the machine is tired")

    monkeypatch.setattr("mlkit.commands.starting.train_in", fail)
    said = train("--seeds", "4,5,6", "--name", "pair")
    assert said.code == 2
    assert said.lines[-2:] == [
        "not started: the other seeds; later, the same command with --seeds 5,6",
        "mlkit: the machine is tired",
    ]
    assert [path.name for path in runs.iterdir()] == ["pair-s4"]


# --------------------------------------------------------------------------------------- names of groups


def test_a_group_is_runs_of_that_name_that_say_so(
    mlkit: Mlkit, make_run: MakeRun, runs: Path, edit: Callable[..., None]
) -> None:
    for name, group in (("b-s10", "b"), ("b-s2", "b"), ("b-s3", "other"), ("b-s4_from_9", "b"), ("a", "")):
        run = make_run(name)
        if group:
            edit(run / "run.json", group=group)
    said = mlkit("compare", "a", "b", "--json", "--no-picture")
    rows = json.loads(said.out)["rows"]
    assert [run["name"] for run in rows[1]["seeds"]["runs"]] == ["b-s2", "b-s10"]  # by number, not by letter


def test_the_largest_fluctuation_of_the_loss_is_that_of_the_objective(mlkit: Mlkit, make_run: MakeRun) -> None:
    # the objective rises by a quarter of its fall; `loss` grows with the warm-up, and validation rows do not count
    objective = [2.0] * 10 + [1.0] * 10 + [1.25] * 10
    rows = [{"step": step, "loss": float(step), "objective": value} for step, value in enumerate(objective)]
    rows.insert(20, {"step": 19, "split": "validation", "loss": 1e9})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (make_run("a") / "metrics.jsonl").write_text(lines + '{"step": 30, "obj')  # a kill
    plain = "".join(json.dumps({"step": step, "loss": 3.0 - step / 10}) + "\n" for step in range(30))
    (make_run("b") / "metrics.jsonl").write_text(plain)
    make_run("c")
    said = mlkit("compare", "a", "b", "c", "--json", "--no-picture")
    assert [row["fluctuation"] for row in json.loads(said.out)["rows"]] == [pytest.approx(0.25), 0.0, None]

"""The commands of the task bvae: building, training with its guards, inference, and what each of them refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Mlkit = Callable[..., Any]
Refused = Callable[..., Any]

NARROW = (
    *("--set", "model.channels=4", "--set", "model.hidden=8", "--set", "model.latent=4"),
    *("--set", "checkpoint.every=4", "--set", "tracking.every=1", "--set", "train.warmup_steps=0"),
    *("--set", "checkpoint.grid_images=2", "--batch-size", "4"),
)


@pytest.fixture(scope="module")
def data(program: Mlkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 80 made grids; no test may change them."""
    out = tmp_path_factory.mktemp("bvae") / "data"
    built = program("dataset", "build", "bvae", "--source", "synthetic", "--grids", 80, "--out", out)
    assert built.code == 0, built.err
    return out


@pytest.fixture(scope="module")
def finished(program: Mlkit, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return a run "first" of option A whose guards look at it from update 4 on, and what it said."""
    runs = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_RUNS_DIR", str(runs))
        looks = ("--set", "loss.guard_after=4", "--set", "loss.guard_every=1", "--set", "model.side=16")
        said = program(
            *("train", "--preset", "option_a", "--data", data, "--name", "first", "--max-steps", 8, "--lr", 0.02),
            *(*NARROW, *looks),
        )
    assert said.code == 0, said.err
    return runs / "first", said


@pytest.fixture
def first(finished: tuple[Path, Any], runs: Path) -> Path:
    """Return a copy of the run in this test's runs folder."""
    return shutil.copytree(finished[0], runs / "first")


def test_a_build_prints_the_table_of_classes_and_stores_it(mlkit: Mlkit, tmp_path: Path) -> None:
    said = mlkit("dataset", "build", "bvae", "--source", "synthetic", "--grids", 80, "--out", tmp_path / "d")
    assert said.code == 0, said.err
    details = json.loads((tmp_path / "d" / "manifest.json").read_text())["details"]
    for index, (count, share) in enumerate(zip(details["class_counts"], details["class_shares"], strict=True)):
        line = next(line for line in said.out.splitlines() if line.startswith(f"    {index} "))
        weights = [details["class_weights"][method][index] for method in ("inverse", "sqrt_inverse", "balanced")]
        assert line.split()[1:4] == [f"{count:,}", f"{100 * share:.2f}", "%"]
        assert [float(text) for text in line.split()[4:7]] == pytest.approx(weights, abs=6e-4)
    assert "class_weight_method = 'sqrt_inverse' makes it" in said.out
    told = mlkit("dataset", "build", "bvae", "--source", "synthetic", "--grids", 80, "--out", tmp_path / "e", "--json")
    assert json.loads(told.out)["details"] == details


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[[0, 1], [2]]", "{path}, b: rows differ in length, row 0 has 2 cells and row 1 has 1"),
        ("[[0, 10]]", "{path}, b: class 10 at row 0, column 1 is out of range; with 10 classes labels are 0 to 9"),
        ("", "{path} is empty"),
    ],
)
def test_a_broken_grid_is_one_sentence_and_exit_4(mlkit: Mlkit, tmp_path: Path, content: str, told: str) -> None:
    folder = tmp_path / "grids"
    folder.mkdir()
    path = folder / "b.json"
    path.write_text(content)
    alone = mlkit("dataset", "build", "bvae", "--source", path, "--out", tmp_path / "alone")
    assert alone.code == 4
    expected = [told.format(path=path), "1 file cannot be used; nothing is left to build"]
    assert [line for line in alone.lines if "done" not in line] == [f"mlkit: {sentence}" for sentence in expected]
    for name in "cd":
        (folder / f"{name}.json").write_text(f"[[0, 1], [{len(name)}, {ord(name) % 10}]]")
    said = mlkit("dataset", "build", "bvae", "--source", folder, "--out", tmp_path / "data")
    assert said.code == 4 and (tmp_path / "data" / "manifest.json").is_file()
    assert f"mlkit: {told.format(path=path)}" in said.lines
    skipped = mlkit("dataset", "build", "bvae", "--source", folder, "--out", tmp_path / "again", "--skip-broken")
    assert skipped.code == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--classes", 1), "--classes = 1: input should be greater than or equal to 2"),
        (("--side", 65), "--side = 65: input should be less than or equal to 64"),
        (("--val-share", 1), "--val-share = 1.0: input should be less than 1"),
        (("--source", "arc3"), "arc3 does not exist; give arc1, arc2, synthetic, or files or folders of grids"),
        (
            ("--source", "arc1", "more"),
            "arc1 cannot be mixed with other sources; build it alone, or give files and folders",
        ),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    mlkit: Mlkit, tmp_path: Path, options: tuple[object, ...], sentence: str
) -> None:
    said = mlkit("dataset", "build", "bvae", "--out", tmp_path / "d", *options)
    assert said.code in (2, 4) and said.out == ""
    assert said.lines == [f"mlkit: {sentence}"]
    assert not (tmp_path / "d").exists()


def test_a_run_that_collapses_is_told_so_once_with_the_figure(finished: tuple[Path, Any]) -> None:
    warnings = [line for line in finished[1].lines if line.startswith("warning at step")]
    for where in (r"step \d+", "validation"):  # a training batch, and the validation part
        assert sum(bool(re.search(f"{where}: posterior collapse: 4 of 4 ", line)) for line in warnings) == 1
    assert (finished[0] / "ckpt-8" / "grid.png").is_file()
    rows = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "split" not in row]
    assert all({"reconstruction", "kl", "beta", "objective"} <= row.keys() for row in trained)
    assert all(row["beta"] == 1.0 for row in trained)


def test_each_checkpoint_has_the_pictures_that_the_specification_asks_for(finished: tuple[Path, Any]) -> None:
    run, said = finished
    best = run / (run / "best").read_text().strip()
    epochs = 0  # 8 updates of 4 grids are less than one pass over 60
    expected = {path / f"reconstructions_epoch_{epochs}.png" for path in (run / "ckpt-4", run / "ckpt-8")}
    assert {
        path for path in run.rglob("reconstructions_epoch_*.png") if path.parent.name.startswith("ckpt")
    } == expected
    assert (best / "reconstructions_best.png").is_file()
    told = {line.removeprefix("[VISUALIZATION] Saved: ") for line in said.lines if line.startswith("[VISUALIZATION]")}
    assert {str(path) for path in run.rglob("reconstructions_*.png")} <= told


def test_data_of_another_number_of_classes_is_refused_before_a_run_is_made(
    mlkit: Mlkit, runs: Path, tmp_path: Path
) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", np.random.default_rng(index).integers(0, 4, (5, 5)))
    sources = [tmp_path / f"{index}.npy" for index in range(3)]
    built = mlkit("dataset", "build", "bvae", "--source", *sources, "--classes", 4, "--out", tmp_path / "four")
    assert built.code == 0, built.err
    said = mlkit("train", "--preset", "bvae_tiny", "--data", tmp_path / "four", *NARROW)
    assert said.code == 3
    assert said.lines[-1] == (
        f"mlkit: model.classes is 10, but dataset {tmp_path / 'four'} has 4 classes; "
        f"set model.classes = 4 for a new model, or use a dataset of 10 classes"
    )
    assert not runs.exists()


def test_weights_of_another_number_of_classes_are_refused(mlkit: Mlkit, first: Path, tmp_path: Path) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", np.random.default_rng(index).integers(0, 4, (5, 5)))
    sources = [tmp_path / f"{index}.npy" for index in range(3)]
    mlkit("dataset", "build", "bvae", "--source", *sources, "--classes", 4, "--out", tmp_path / "four")
    four = ("--set", "model.classes=4", "--set", "model.side=16")
    said = mlkit(
        *("train", "--preset", "option_a", "--data", tmp_path / "four", "--init-from", first, "--name", "next"),
        *(*NARROW, *four),
    )
    assert said.code == 3
    assert len([line for line in said.lines if line.startswith("mlkit: ")]) == 1
    assert "encoder.0.weight" in said.lines[-1]
    assert said.lines[-1].endswith("; model.classes is 10 there and 4 here")


def test_grids_are_reconstructed_drawn_and_walked_through(mlkit: Mlkit, first: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text("[[0, 1, 2], [0, 0, 5]]")
    one = mlkit("infer", "bvae", path, "--checkpoint", first, "--out", tmp_path / "out")
    assert one.code == 0, one.err
    assert "g_reconstructed.json: 1 grid, accuracy" in one.out and "(all-background 50.0 %)" in one.out
    rest = mlkit("infer", "bvae", "--sample", 3, "--traverse", "--checkpoint", first, "--out", tmp_path / "out")
    assert rest.code == 0, rest.err
    assert rest.out.splitlines() == [
        f"{tmp_path / 'out' / 'samples.json'}: 3 grids from the prior, seed 0",
        f"picture: {tmp_path / 'out' / 'samples.png'}",
        f"{tmp_path / 'out' / 'traverse.json'}: 4 latent dimensions, from the middle of the prior",
        f"picture: {tmp_path / 'out' / 'traverse.png'}",
    ]
    found = {path.name for path in (tmp_path / "out").iterdir()}
    made = {f"{name}.{suffix}" for name in ("samples", "traverse") for suffix in ("json", "png")}
    assert found == made | {"g_reconstructed.json", "g_compare.png"}
    # A folder that holds results of an earlier call: they are no grids of the user's.
    again = mlkit("infer", "bvae", tmp_path / "out", "--checkpoint", first, "--out", tmp_path / "other")
    assert "g_reconstructed" not in again.out


def test_inference_refuses_in_a_sentence(mlkit: Mlkit, first: Path, refused: Refused, tmp_path: Path) -> None:
    good, large, broken = (tmp_path / f"{name}.json" for name in ("good", "large", "broken"))
    good.write_text("[[0, 1]]")
    large.write_text(json.dumps([[0] * 17]))
    broken.write_text("[[0, 11]]")

    def infer(*arguments: object) -> Any:
        return mlkit("infer", "bvae", *arguments, "--checkpoint", first)

    out = ("--out", tmp_path / "out")
    assert infer(*out) == refused(2, "there is nothing to do; give files with grids, --sample N or --traverse")
    assert infer(large, *out) == refused(4, f"{large}, large has 17 x 1 cells; this model takes up to 16 x 16")
    assert infer(broken, *out) == refused(
        4, f"{broken}, broken: class 11 at row 0, column 1 is out of range; with 10 classes labels are 0 to 9"
    )
    both = infer(broken, good, *out)
    assert both.code == 4 and "good_reconstructed.json" in both.out  # a broken file does not stop the others
    assert infer(good, "--out", good) == refused(2, f"--out {good} is a file; give a folder for the results")
    (tmp_path / "a").mkdir()
    twin = tmp_path / "a" / "good.json"
    twin.write_text("[[1]]")
    assert infer(good, twin, *out).code == 2
    assert infer(good, twin, "--traverse", *out) == refused(2, "--traverse starts from one grid; give one file, not 2")
    missing = tmp_path / "missing.json"
    assert infer(missing, *out) == refused(4, f"{missing} does not exist; give files or folders of grids")

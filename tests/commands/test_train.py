"""`mlkit train`: the run that it leaves, what it says, and everything that it refuses before a run is made."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tomllib
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mlkit.data.manifest import write_manifest
from mlkit.errors import listing
from mlkit.metrics import METRICS
from mlkit.preset_files import list_presets
from mlkit.settings import TrainSettings
from mlkit.tasks.sar.settings import SarSettings
from mlkit.tasks.sar.source import SarSource

Mlkit = Callable[..., Any]
Refused = Callable[..., Any]
Files = Callable[[Path], dict[str, bytes]]

CHECKPOINT = {
    "accelerator_state/optimizer.bin",
    "checkpoint.json",
    "eval.json",
    "grid.png",
    "model.safetensors",
    "training_state.json",
}
TRAIN_KEYS = f"train has {', '.join(sorted(TrainSettings.model_fields))}"
TOP_KEYS = f"the top level has {', '.join(sorted(SarSettings.model_fields))}"


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def scores_of(checkpoint: Path) -> dict[str, float]:
    """Return the means of a checkpoint's stored scores."""
    stored = json.loads((checkpoint / "eval.json").read_text())["scores"]
    return {key: float(np.nanmean(np.array(values, float))) for key, values in stored.items()}


# ---------------------------------------------------------------------------------- what it makes and says


def test_card_tells_what_will_be_trained(trained: tuple[Path, Any], dataset: Path) -> None:
    folder, said = trained
    card = said.card("mlkit train  first")
    splits = json.loads((dataset / "manifest.json").read_text())["splits"]
    weights = load_file(folder / "ckpt-6" / "model.safetensors")
    learned = sum(value.numel() for name, value in weights.items() if "running" not in name and "num_batch" not in name)
    assert list(card) == ["task", "data", "parameters", "model", "device", "precision", "length", "disk", "time"]
    assert card["task"] == "sar  preset sar_tiny, seed 0"
    assert card["data"] == f"{dataset}  {splits['train']} train, {splits['validation']} validation"
    assert card["parameters"] == f"{learned:,}"
    assert card["model"] == "1/16 of the values, 2 bits per pixel"
    assert card["device"] == "cpu"
    assert card["precision"] == "fp32"
    assert card["length"] == f"6 steps of 2 samples ({12 / splits['train']:.3g} epochs)"
    assert card["disk"].startswith("1.0 MB for up to 4 checkpoints (")
    assert card["time"].startswith("about ") and card["time"].endswith(" s, and evaluation")


def test_card_of_a_long_run_on_a_cpu_says_what_the_quick_test_would_take(train: Mlkit) -> None:
    said = train("--validate-only", "--max-steps", 10_000)
    assert said.card("mlkit train --validate-only")["instead"].startswith("--quick-test: 40 steps, about ")


def test_progress_without_a_terminal_is_plain_lines(trained: tuple[Path, Any]) -> None:
    folder, said = trained
    first, *_, half, last, end = said.lines
    rows = rows_of(folder)
    assert first.startswith(f"step 1/6  loss {rows[0]['loss']:.4f}  lr {rows[0]['lr']:.2e}  ")
    assert " samples/s  " in first and first.endswith(" left")
    scores = {step: scores_of(folder / f"ckpt-{step}") for step in (3, 6)}
    assert half.startswith(f"step 3/6  validation: Loss {scores[3]['loss']:.5f}  PSNR {scores[3]['psnr']:.2f} dB  ")
    assert last.startswith("step 6/6  loss ")
    assert end.startswith(f"step 6/6  validation: Loss {scores[6]['loss']:.5f}  PSNR {scores[6]['psnr']:.2f} dB  ")


def test_closing_words_hold_scores_picture_and_the_next_command(trained: tuple[Path, Any]) -> None:
    folder, said = trained
    card = said.card("done")
    assert list(card) == ["trained", "scores", "best", "picture", "next"]
    means = {step: scores_of(folder / f"ckpt-{step}") for step in (3, 6)}
    best = max(means, key=lambda step: means[step]["psnr"])
    last = means[6]
    assert card["trained"].startswith("6 steps in ")
    assert card["scores"] == (
        f"Loss {last['loss']:.5f}  PSNR {last['psnr']:.2f} dB  RMSE {last['rmse_db']:.3f} dB  "
        f"SSIM {last['ssim']:.4f}  ENL ratio {last['enl_ratio']:.2f}  EPI {last['epi']:.3f}"
    )
    assert card["best"] == f"PSNR {means[best]['psnr']:.2f} dB at step {best}"
    assert card["picture"] == str(folder / "ckpt-6" / "grid.png")
    assert card["next"] == f"mlkit eval grid {folder}   or   mlkit infer sar FILE --checkpoint {folder}"


def test_run_holds_every_file_that_it_promises(trained: tuple[Path, Any], dataset: Path, files: Files) -> None:
    folder, _ = trained
    expected = {f"ckpt-{step}/{name}" for step in (3, 6) for name in CHECKPOINT}
    expected |= {"run.json", "run.log", "settings.toml", "metrics.jsonl", "timing.jsonl", "best", "last"}
    assert set(files(folder)) == expected | {"grids/grid_00000003.png", "grids/grid_00000006.png"}
    about = json.loads((folder / "run.json").read_text())
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert about["status"] == "success"
    assert about["dataset_sha256"] == manifest["sha256"]
    assert about["lineage"] == {}
    assert [row["step"] for row in rows_of(folder)] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert "preset sar_tiny, seed 0" in (folder / "run.log").read_text()


def test_settings_file_holds_what_flags_and_assignments_said(trained: tuple[Path, Any]) -> None:
    values = tomllib.loads((trained[0] / "settings.toml").read_text())
    assert values["train"]["lr"] == 1e-3
    assert values["train"]["steps"] == 6
    assert values["train"]["batch_size"] == 2
    assert values["model"]["base_channels"] == 4
    assert values["preset"] == "sar_tiny"


def test_json_alone_goes_to_stdout(train: Mlkit, runs: Path) -> None:
    said = train("--name", "asked", "--json")
    folder = runs / "asked"
    result = json.loads(said.out)
    means = scores_of(folder / "ckpt-6")
    assert said.code == 0
    assert result.pop("scores") == {key: pytest.approx(value, abs=1e-9) for key, value in means.items()}
    best = max((3, 6), key=lambda step: scores_of(folder / f"ckpt-{step}")["psnr"])
    assert result == {
        "run": str(folder),
        "checkpoint": str(folder / "ckpt-6"),
        "step": 6,
        "best_step": best,
        "stopped_early": False,
        "grid": str(folder / "ckpt-6" / "grid.png"),
        "failures": [],
        "warnings": [],
    }
    assert "─ done " not in said.err


def test_validation_alone_writes_nothing_and_tells_the_loss_that_training_will_meet(
    train: Mlkit, runs: Path, trained: tuple[Path, Any], dataset: Path, files: Files
) -> None:
    before = files(dataset)
    said = train("--validate-only")
    assert said.code == 0
    first_loss = rows_of(trained[0])[0]["loss"]
    told = "ready: settings, data (every file's hash), disk and one step of real size are good; loss "
    assert said.lines == [f"{told}{first_loss:.4f}"]
    assert "length" in said.card("mlkit train --validate-only")
    assert not any(runs.parent.iterdir())
    assert files(dataset) == before


@pytest.mark.parametrize("step", [3, 6])
def test_validation_of_a_checkpoint_prints_the_figures_that_training_stored_with_it(
    step: int, train: Mlkit, run: Path, runs: Path, files: Files
) -> None:
    before = files(runs)
    stored = json.loads((run / f"ckpt-{step}" / "checkpoint.json").read_text())["scores"]
    said = train("--validate-only", "--init-from", f"first/ckpt-{step}")
    assert said.code == 0, said.err
    figures, ready = said.lines
    assert figures.startswith(
        f"validation of first/ckpt-{step}: Loss {stored['loss']:.5f}  PSNR {stored['psnr']:.2f} dB"
    )
    assert ready.startswith("ready: ")
    result = json.loads(train("--validate-only", "--init-from", f"first/ckpt-{step}", "--json").out)
    assert result["ready"] and np.isfinite(result["loss"]) and result["warnings"] == []
    assert result["scores"] == pytest.approx(stored)
    assert files(runs) == before


def test_validation_with_json_alone_goes_to_stdout(train: Mlkit) -> None:
    said = train("--validate-only", "--json")
    assert json.loads(said.out).keys() == {"ready", "loss"} and said.err == ""


def test_initial_weights_are_not_needed_where_a_checkpoint_overwrites_them(
    train: Mlkit, mlkit: Mlkit, run: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlkit.errors import DataError
    from mlkit.tasks.sar.task import SarTask

    def gone(self: SarTask) -> Any:
        raise DataError("the file of initial weights is not there")

    monkeypatch.setattr(SarTask, "build_bare_model", SarTask.build_model, raising=False)
    monkeypatch.setattr(SarTask, "build_model", gone)
    assert train("--name", "fresh").err == "mlkit: the file of initial weights is not there\n"
    auto = ("--set", 'train.precision="auto"', "--max-steps", 1)
    assert train("--name", "second", "--init-from", "first/ckpt-3", *auto).code == 0
    shutil.rmtree(run / "ckpt-6")
    assert mlkit("resume", "first").code == 0
    assert train("--validate-only", "--init-from", "first").code == 0
    assert mlkit("eval", "grid", "first", "--images", 1).code == 0


def test_weights_of_another_run_are_where_a_new_one_starts(train: Mlkit, run: Path, runs: Path) -> None:
    said = train("--init-from", "first/ckpt-3", "--name", "second", "--lr", 1e-12, "--max-steps", 1)
    assert said.code == 0, said.err
    old, new = (load_file(path / "model.safetensors") for path in (run / "ckpt-3", runs / "second" / "ckpt-1"))
    learned = [name for name in old if "running" not in name and "num_batch" not in name]
    assert all(torch.allclose(old[name], new[name], atol=1e-9) for name in learned)
    about = json.loads((runs / "second" / "run.json").read_text())
    assert about["lineage"] == {"parent": str(run / "ckpt-3"), "kind": "weights"}


@pytest.mark.parametrize("option", ["--init-from", "--resume-from"])
def test_weights_that_come_without_a_checkpoint_json_start_a_new_run(
    option: str, train: Mlkit, mlkit: Mlkit, run: Path, runs: Path, tmp_path: Path, refused: Refused
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    shutil.copyfile(run / "ckpt-3" / "model.safetensors", others / "model.safetensors")
    said = train(option, others, "--name", "second", "--lr", 1e-12, "--max-steps", 1)
    assert said.code == 0, said.err
    told = f"{others} holds weights only: a new run from them, fresh optimizer, step 0"
    assert (told in said.lines) == (option == "--resume-from")
    old, new = (load_file(path / "model.safetensors") for path in (others, runs / "second" / "ckpt-1"))
    learned = [name for name in old if "running" not in name and "num_batch" not in name]
    assert all(torch.allclose(old[name], new[name], atol=1e-9) for name in learned)
    about = json.loads((runs / "second" / "run.json").read_text())
    assert about["lineage"] == {"parent": str(others), "kind": "weights"}
    assert mlkit("resume", others) == refused(
        3,
        f"{others} holds weights without settings; say what they are for: "
        f"mlkit train --preset PRESET --resume-from {others}",
    )


def test_grid_shows_the_images_that_were_asked_for(train: Mlkit, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    np.save(tmp_path / "own" / "a.npy", np.full((40, 70), 0.5, np.float32))
    options = ("--checkpoint-eval-input-upscale", 2, "--checkpoint-eval-fit-multiple", 16)
    one = train("--name", "own", "--checkpoint-eval-images-dir", tmp_path / "own", *options)
    two = train("--name", "ids", "--checkpoint-eval-ids", "0,1,2,3,4")
    assert (one.code, two.code) == (0, 0)
    own, ids = ((runs / name / "ckpt-6" / "grid.png").read_bytes() for name in ("own", "ids"))
    tall = [int.from_bytes(png[20:24], "big") for png in (own, ids)]  # the height in a PNG's header
    assert tall[1] > 3 * tall[0]


def test_without_data_the_embedded_sample_is_built_once_and_said(mlkit: Mlkit, runs: Path) -> None:
    arguments = ("train", "--preset", "sar_tiny", "--quick-test", "--validate-only", "--set", 'train.precision="fp32"')
    said = mlkit(*arguments)
    assert said.code == 0, said.err
    (folder,) = (runs.parent / "cache" / "datasets").iterdir()
    card = said.card("mlkit train --validate-only")
    assert said.lines[0] == f"no --data given: building the embedded sample into {folder}"
    assert card["data"].startswith(f"{folder}  ") and card["data"].endswith("  (simulated)")
    assert card["length"].endswith(", the quick test's budget")
    assert not runs.exists()
    made = (folder / "manifest.json").stat().st_mtime_ns
    again = mlkit(*arguments)
    assert not any("building" in line for line in again.lines)
    assert (folder / "manifest.json").stat().st_mtime_ns == made


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_absent_device_becomes_the_cpu_and_is_said(train: Mlkit) -> None:
    said = train("--device", "cuda", "--validate-only")
    assert said.code == 0
    assert said.lines[0] == "no cuda device here: using the CPU"
    assert said.card("mlkit train --validate-only")["device"] == "cpu"


# ------------------------------------------------------------------------------------ names and settings


def test_taken_name_is_refused_with_the_next_free_one(
    train: Mlkit, run: Path, runs: Path, refused: Refused, files: Files
) -> None:
    (runs / "first_2").mkdir()
    before = files(runs)
    assert train("--name", "first") == refused(
        2, f"a run 'first' exists in {runs}; use --name first_3, or: mlkit resume {run}"
    )
    assert files(runs) == before


@pytest.mark.parametrize("name", ["a b", "a/b", "..", "-x", "x" * 101])
def test_name_that_is_no_folder_everywhere_is_refused(name: str, train: Mlkit, runs: Path, refused: Refused) -> None:
    told = (
        f"'{name}' cannot be a run's name: use up to 100 letters, digits, '_', '-' and '.', beginning with a letter "
        "or digit, such as residual_v1_c16"
    )
    assert train(f"--name={name}") == refused(2, told)
    assert train(f"--name={name}", "--validate-only") == refused(2, told)
    assert not runs.exists()


def test_unknown_preset_is_refused_with_the_nearest_one(train: Mlkit, runs: Path, refused: Refused) -> None:
    shipped = listing(sorted(list_presets()))
    assert train(preset="sar_tny") == refused(
        3, f"unknown preset 'sar_tny' (did you mean 'sar_tiny'?); there are {shipped}; or give a file"
    )
    assert train(preset="my.toml") == refused(3, "preset file my.toml does not exist")
    assert not runs.exists()


def test_everything_wrong_in_a_preset_file_and_on_the_command_line_is_told_at_once(
    train: Mlkit, runs: Path, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "sar_tiny"\n[train]\nlearning_rate = 1\nschedule = "linear"\n[modl]\narch = "x"\n')
    said = train("--set", "train.betas=0.9", "--set", "eval.every=0", "--epochs", "-1", preset=path)
    assert said.code == 3 and said.out == ""
    assert sorted(said.err.splitlines()) == sorted(
        refused(
            3,
            f"mine.toml: unknown key 'train.learning_rate' (did you mean 'lr'?); {TRAIN_KEYS}",
            "mine.toml: train.schedule = 'linear': input should be 'constant', 'cosine' or 'onecycle'",
            f"mine.toml: unknown key 'modl' (did you mean 'model'?); {TOP_KEYS}",
            "--set: train.betas = 0.9: input should be a list",
            "--set: eval.every = 0: input should be greater than or equal to 1",
            "flag: train.epochs = -1.0: input should be greater than 0",
        ).err.splitlines()
    )
    assert not runs.exists()


def test_file_that_is_no_toml_is_refused_with_the_line(
    train: Mlkit, runs: Path, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "sar_tiny"\n[train\n')
    assert train(preset=path) == refused(
        3,
        f"settings file {path} is not valid TOML: Expected ']' at the end of a table declaration (at line 2, column 7)",
    )
    assert not runs.exists()


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        (
            "model.arch=baseline",
            "--set model.arch=baseline is not a TOML assignment; strings want quotes: --set 'model.arch=\"baseline\"'",
        ),
        ("lr", "--set lr is not a TOML assignment; strings want quotes: --set 'train.lr=2e-4'"),
        ("", "--set '' sets nothing; give KEY=VALUE, such as --set 'train.lr=2e-4'"),
        ("train.lrs=1", f"--set: unknown key 'train.lrs' (did you mean 'lr'?); {TRAIN_KEYS}"),
        ("seed=-1", "--set: seed = -1: input should be greater than or equal to 0"),
        (
            "checkpoint.eval_input_upscale=0",
            "--set: checkpoint.eval_input_upscale = 0: input should be greater than or equal to 1",
        ),
        (
            "checkpoint.eval_fit_multiple=-2",
            "--set: checkpoint.eval_fit_multiple = -2: input should be greater than or equal to 1",
        ),
        (
            'eval.early_stop_metric="pnsr"',
            "--set: eval.early_stop_metric = 'pnsr': unknown metric (did you mean 'psnr'?); "
            f"there are {', '.join(key for key, metric in METRICS.items() if not metric.detail)}",
        ),
        (
            'data.loader="a.b"',
            "data.loader = 'a.b' is not of the form 'package.module:function'",
        ),
        (
            'data.loader="no_such_package:load"',
            "data.loader = 'no_such_package:load' cannot be imported: No module named 'no_such_package'; "
            "is its folder in PYTHONPATH?",
        ),
        (
            'eval.scorer="score"',
            "eval.scorer = 'score' is not of the form 'package.module:function'",
        ),
    ],
)
def test_assignment_that_cannot_be_meant_is_refused(
    assignment: str, told: str, train: Mlkit, runs: Path, refused: Refused
) -> None:
    assert train("--set", assignment) == refused(3, told)
    assert not runs.exists()


@pytest.mark.parametrize(
    "option", ["--checkpoint-eval-input-upscale", "--checkpoint-eval-fit-multiple", "--max-steps", "--batch-size"]
)
def test_counts_below_one_are_refused_by_their_option(option: str, train: Mlkit, runs: Path, refused: Refused) -> None:
    told = f"Invalid value for '{option}': Input should be greater than or equal to 1 (see: mlkit train --help)"
    assert train(option, 0) == refused(2, told)
    assert not runs.exists()


def test_quick_test_of_a_preset_without_one_is_refused(
    train: Mlkit, runs: Path, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "plain.toml"
    path.write_text('task = "sar"\n[train]\nsteps = 1\n')
    told = f"preset '{path}' has no [quick_test] table; give --max-steps instead"
    assert train("--quick-test", preset=path) == refused(3, told)
    assert not runs.exists()


def test_unknown_device_is_refused(train: Mlkit, runs: Path, refused: Refused) -> None:
    assert train("--device", "tpu") == refused(3, "unknown device 'tpu'; there are auto, cpu, cuda, mps")
    assert not runs.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_fp16_on_a_cpu_is_refused(train: Mlkit, runs: Path, refused: Refused) -> None:
    assert train("--set", 'train.precision="fp16"') == refused(
        3, "train.precision = 'fp16' needs a GPU; on a CPU use fp32, bf16 or auto"
    )
    assert not runs.exists()


def test_tracker_that_is_not_installed_is_refused(
    train: Mlkit, runs: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setattr("mlkit.training.tracking.find_spec", lambda name: None)
    assert train("--wandb") == refused(3, "tracking.wandb = true needs the package wandb: pip install 'mlkit[wandb]'")
    assert not runs.exists()


# --------------------------------------------------------------------------------------------------- data


def test_data_that_is_no_dataset_is_refused(train: Mlkit, runs: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    how = "build one with: mlkit dataset build TASK"
    absent, empty, file = (tmp_path / name for name in ("absent", "empty", "file"))
    assert train(data=absent) == refused(4, f"dataset {absent} does not exist; {how}")
    told = f"dataset {empty} has no manifest.json, so it is no complete dataset; {how}"
    assert train(data=empty) == refused(4, told)
    assert train(data=file) == refused(4, f"dataset {file} is a file, not a dataset folder; {how}")
    assert not runs.exists()


def test_dataset_of_another_task_is_refused(train: Mlkit, runs: Path, tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    write_manifest(folder, task="sr", label="", preprocessing={}, splits={"train": 1, "validation": 1}, details={})
    assert train(data=folder) == refused(
        4, f"dataset {folder} is for task 'sr', not 'sar'; build one with: mlkit dataset build sar"
    )
    assert not runs.exists()


def test_dataset_without_samples_is_refused(train: Mlkit, runs: Path, dataset_copy: Path, refused: Refused) -> None:
    manifest = json.loads((dataset_copy / "manifest.json").read_text())
    kept = {key: manifest[key] for key in ("task", "label", "preprocessing", "details")}
    write_manifest(dataset_copy, **kept, splits={"train": 3, "validation": 0})
    assert train(data=dataset_copy) == refused(
        4, f"dataset {dataset_copy} has no samples in: validation; build it from more or larger scenes"
    )
    assert not runs.exists()


def test_dataset_with_files_missing_cut_or_edited_is_refused(
    train: Mlkit, runs: Path, dataset_copy: Path, edit: Callable[..., None], refused: Refused
) -> None:
    scenes = dataset_copy / "scenes.npy"
    whole = scenes.stat().st_size
    (dataset_copy / "train.npy").unlink()
    os.truncate(scenes, whole - 4)
    assert train(data=dataset_copy) == refused(
        4,
        f"{scenes} has {whole - 4} bytes instead of {whole}; build the dataset again",
        f"dataset {dataset_copy} lacks train.npy; build it again",
    )
    edit(dataset_copy / "manifest.json", label="measured")
    assert train(data=dataset_copy) == refused(
        4,
        f"dataset manifest {dataset_copy / 'manifest.json'} was changed after it was written; "
        "build one with: mlkit dataset build TASK",
    )
    assert not runs.exists()


def test_validation_alone_finds_a_changed_byte_of_the_data(
    train: Mlkit, runs: Path, dataset_copy: Path, refused: Refused
) -> None:
    scenes = dataset_copy / "scenes.npy"
    scenes.write_bytes(scenes.read_bytes()[:-1] + b"\x01")
    assert train("--validate-only", data=dataset_copy) == refused(
        4, f"{scenes} differs from its hash in manifest.json; build the dataset again"
    )
    assert not runs.exists()


def test_patch_larger_than_the_data_is_refused(train: Mlkit, runs: Path, dataset: Path, refused: Refused) -> None:
    assert train("--set", "data.patch=128") == refused(
        3,
        f"data.patch is 128, but dataset {dataset} has patches of 64 px; "
        "set at most 64 or build it again with --patch 128",
    )
    assert not runs.exists()


def test_images_and_ids_for_the_grid_that_are_not_there_are_refused_before_training(
    train: Mlkit, runs: Path, tmp_path: Path, dataset: Path, refused: Refused
) -> None:
    (tmp_path / "empty").mkdir()
    absent, suffixes = tmp_path / "absent", ".npy, .png, .tif, .tiff"
    assert train("--checkpoint-eval-images-dir", absent) == refused(
        4, f"image folder {absent} does not exist; give a folder of {suffixes} files"
    )
    assert train("--checkpoint-eval-images-dir", tmp_path / "empty") == refused(
        4, f"no images in {tmp_path / 'empty'}; files that count end in {suffixes}"
    )
    table = np.load(dataset / "validation.npy")
    ids = [f"scene/y{row['y']:04d}x{row['x']:04d}" for row in table]
    like = f"ids look like {', '.join(ids[:3])} and {len(ids) - 3} more"
    assert train("--checkpoint-eval-ids", f"{ids[0]},99999,{ids[1][:-1]}") == refused(
        4,
        f"unknown sample id '99999'; {like}",
        f"unknown sample id '{ids[1][:-1]}' (did you mean '{ids[1]}'?); {like}",
    )
    assert not runs.exists()


# ------------------------------------------------------------------------------------- other checkpoints


def test_weights_that_cannot_be_started_from_are_refused(
    train: Mlkit, run: Path, runs: Path, edit: Callable[..., None], refused: Refused, files: Files
) -> None:
    before = files(runs)
    assert train("--name", "x", "--init-from", "frist") == refused(
        2, f"unknown run 'frist' (did you mean 'first'?); runs in {runs}: first"
    )
    assert train("--name", "x", "--init-from", "first/ckpt-4") == refused(
        3, "run first has no complete checkpoint 'ckpt-4'; there are: ckpt-3, ckpt-6"
    )
    said = train("--name", "x", "--init-from", "first/ckpt-3", "--set", "model.base_channels=8")
    assert (said.code, said.out) == (3, "")
    assert said.err.startswith(
        f"mlkit: the weights in {run / 'ckpt-3'} are of another model; "
        "other shapes: encoder.0.weight (4, 1, 5, 5) instead of (8, 1, 5, 5), "
    )
    assert len(said.err.splitlines()) == 1
    assert files(runs) == before
    weights = run / "ckpt-3" / "model.safetensors"
    whole = weights.stat().st_size
    os.truncate(weights, 100)
    assert train("--name", "x", "--init-from", "first/ckpt-3") == refused(
        3, f"checkpoint {run / 'ckpt-3'}: model.safetensors is truncated or grown: 100 bytes instead of {whole}"
    )
    edit(run / "ckpt-6" / "checkpoint.json", task="sr")
    assert train("--name", "x", "--init-from", "first/ckpt-6") == refused(
        3, "--init-from first/ckpt-6 is of task 'sr', this preset is of 'sar'"
    )
    assert not (runs / "x").exists()


def test_absent_run_to_start_from_never_starts_another(train: Mlkit, runs: Path, refused: Refused) -> None:
    told = (
        f"unknown run 'gone': there is no run in {runs} yet; "
        "start one with: mlkit train --preset PRESET, or set MLKIT_RUNS_DIR to where runs lie"
    )
    assert train("--init-from", "gone") == refused(2, told)
    assert train("--resume-from", "gone") == refused(2, told)
    assert not runs.exists()


@pytest.mark.parametrize("other", [("--init-from", "first"), ("--validate-only",)])
def test_resume_from_goes_with_no_other_start(
    other: tuple[str, ...], train: Mlkit, run: Path, runs: Path, refused: Refused, files: Files
) -> None:
    before = files(runs)
    assert train("--resume-from", "first", *other) == refused(2, f"give --resume-from or {other[0]}, not both")
    assert files(runs) == before


# ------------------------------------------------------------------------------------- the machine fails


def test_disk_too_small_for_the_checkpoints_is_refused(
    train: Mlkit, runs: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 123_456))
    assert train() == refused(
        4,
        f"{runs / 'sar_tiny'} needs 1.0 MB for 4 checkpoints but 0.1 MB are free; free some, "
        "lower checkpoint.keep_last, or move runs with MLKIT_RUNS_DIR",
    )
    assert not runs.exists()


def test_disk_that_fills_in_the_save_loses_nothing_and_the_run_goes_on_later(
    train: Mlkit, mlkit: Mlkit, runs: Path, trained: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, files: Files
) -> None:
    real = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "optimizer.bin" and "ckpt-6" in str(path):
            real(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        usage = namedtuple("usage", "total used free")
        patch.setattr("mlkit.files.shutil.disk_usage", lambda path: usage(10**10, 10**10, 2_000_000))
        said = train("--name", "full")
    run = runs / "full"
    assert said.code == 3
    assert said.err.splitlines()[-1] == (
        f"mlkit: cannot write {run / 'ckpt-6'}: the disk is full (2 MB free); free some space and try again; "
        f"the last good checkpoint is ckpt-3, to go on: mlkit resume {run}"
    )
    assert {path.name for path in run.iterdir() if "ckpt" in path.name} == {"ckpt-3"}
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert mlkit("resume", run).code == 0
    whole = files(trained[0])
    for name in ("metrics.jsonl", "ckpt-6/model.safetensors", "ckpt-6/eval.json"):
        assert files(run)[name] == whole[name], name


def test_runs_folder_that_cannot_be_written_is_refused(
    train: Mlkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "file"))
    assert train() == refused(2, f"{tmp_path / 'file'} is a file; set MLKIT_RUNS_DIR to a folder for runs")
    assert (tmp_path / "file").read_text() == "mine"
    real = Path.mkdir

    def forbidden(path: Path, *args: Any, **kwargs: Any) -> None:
        if "locked" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", forbidden)  # a mode of the folder would not stop root
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "locked"))
    assert train() == refused(
        4, f"cannot write {tmp_path / 'locked' / 'sar_tiny'}: Permission denied; choose a folder that you may write to"
    )


def test_nan_in_the_data_ends_the_run_before_the_update_with_its_evidence(
    train: Mlkit, mlkit: Mlkit, runs: Path, trained: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, files: Files
) -> None:
    broken: set[str] = set()
    real = SarSource.sample

    def sample(source: SarSource, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        values = real(source, index, rng)
        # From update 5 on, so that a checkpoint is there.
        if source.split == "train" and (runs / "bad" / "ckpt-3").exists() and len(rows_of(runs / "bad")) >= 5:
            broken.add(source.sample_id(index))
            values["image"][0, 3, 4] = float("nan")
        return values

    monkeypatch.setattr(SarSource, "sample", sample)
    said = train("--name", "bad")
    evidence = runs / "bad" / "nonfinite-00000004-rank0.json"
    assert said.code == 5
    assert said.err.splitlines()[-1] == (
        "mlkit: step 4: loss, mse, ssim_loss, grad_norm not finite; the weights were not updated. "
        f"Evidence (values, sample ids): {evidence}. Resuming would meet it again: look at those samples, or start a "
        "new run with a lower train.lr or train.grad_clip_norm by --init-from the last checkpoint"
    )
    found = json.loads(evidence.read_text())
    assert set(found["samples"]) == broken and len(broken) == 2
    assert found["values"]["loss"] == "nan"
    assert [row["step"] for row in rows_of(runs / "bad")] == [1, 2, 3, 3, 4]
    assert json.loads((runs / "bad" / "run.json").read_text())["status"] == "failed"
    weights = "ckpt-3/model.safetensors"
    assert files(runs / "bad")[weights] == files(trained[0])[weights]
    assert {path.name for path in (runs / "bad").iterdir() if "ckpt" in path.name} == {"ckpt-3"}


def test_validation_alone_names_the_samples_of_a_batch_with_nan(
    train: Mlkit, runs: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    seen: list[str] = []
    real = SarSource.sample

    def sample(source: SarSource, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        seen.append(source.sample_id(index))
        return {key: value * float("nan") for key, value in real(source, index, rng).items()}

    monkeypatch.setattr(SarSource, "sample", sample)
    said = train("--validate-only")
    assert said == refused(
        5, f"the loss of one batch is nan; look at its samples and the settings: {listing(seen[-2:])}"
    )
    assert not runs.exists()


def test_memory_that_does_not_suffice_is_told_with_the_way_on(
    train: Mlkit, runs: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    def too_large(*_: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("mlkit.tasks.sar.task.functional.mse_loss", too_large)
    assert train() == refused(
        6,
        "out of memory ([enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.); "
        "lower --batch-size (and raise train.accumulate to keep the same update), or use --precision bf16",
    )
    assert not runs.exists()

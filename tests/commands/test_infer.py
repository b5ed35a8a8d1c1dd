"""`mlkit infer sar`: results from a checkpoint, every refusal as the user reads it, and what is left."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import torch

from mlkit.checkpoint import save_checkpoint
from mlkit.settings import TrainSettings
from mlkit.tasks.sar.settings import SarModel, SarSettings
from mlkit.tasks.sar.task import SarTask

Mlkit = Callable[..., Any]
ACCEPTED = (
    "GeoTIFF/TIFF (.tif, .tiff), NumPy (.npy: [H,W] float or complex, [H,W,C], covariance [H,W,C,C]), 8/16-bit PNG"
)


def speckle(path: Path, height: int = 70, width: int = 90, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(seed).gamma(4.4, 0.2, (height, width)).astype(np.float32) + np.float32(1e-6))
    return path


@pytest.fixture
def run(runs: Path) -> Path:
    """Return the run "first" with the checkpoint of a small network, not trained: what it makes is not judged here."""
    torch.manual_seed(0)
    settings = SarSettings(model=SarModel(base_channels=4), train=TrainSettings(steps=6))
    info = {
        "task": "sar",
        "step": 6,
        "settings": settings.model_dump(mode="json"),
        "preprocessing": {"db_min": -20.0, "db_max": 3.0},
    }
    save_checkpoint(runs / "first" / "ckpt-6", SarTask(settings).build_model(), info=info)
    (runs / "first" / "run.json").write_text(json.dumps({"format_version": 1, "name": "first", "status": "success"}))
    return runs / "first"


@pytest.fixture
def scenes(run: Path, tmp_path: Path) -> Path:
    """Return the folder in/ of the current folder, with one scene; the run "first" lies in runs/."""
    speckle(tmp_path / "in" / "scene.npy")
    return tmp_path / "in"


def infer(mlkit: Mlkit, *arguments: object, checkpoint: object = "first", out: object = "out") -> Any:
    return mlkit("infer", "sar", *arguments, "--checkpoint", checkpoint, "--out", out)


def sentences_of(result: Any) -> list[str]:
    """Return what "mlkit: ..." lines tell of the problems, without the prefix."""
    return [line.removeprefix("mlkit: ") for line in result.err.splitlines() if line.startswith("mlkit: ")]


def refuse_nothing_written(result: Any, code: int, *sentences: str) -> None:
    assert (result.code, sentences_of(result)) == (code, list(sentences))
    assert result.out == ""
    assert not Path("out").exists()


# ---- what works -----------------------------------------------------------------------------------------------------


def test_a_scene_becomes_a_georeferenced_tiff_in_db_and_a_picture(mlkit: Mlkit, scenes: Path) -> None:
    result = infer(mlkit, "in/scene.npy")
    assert result.code == 0
    told, _, picture = result.out.splitlines()
    assert re.fullmatch(
        r"out/scene_reconstructed\.tif: 90 x 70 px in \d+\.\d s \(\d+\.\d\d MP/s\), PSNR \d+\.\d\d dB, RMSE \d+\.\d\d "
        r"dB, \d+\.\d% outside the model's dB range, 0 masked; intensity, the default for nonnegative fractions "
        r"\(--kind amplitude halves the dB range\)",
        told,
    )
    assert picture == "picture: out/scene_compare.png"
    assert sorted(path.name for path in Path("out").iterdir()) == ["scene_compare.png", "scene_reconstructed.tif"]
    values = tifffile.imread("out/scene_reconstructed.tif")
    assert values.shape == (70, 90) and values.dtype == np.float32
    assert -20 <= values.min() < values.max() <= 3


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of affine, in rasterio
def test_a_geotiff_keeps_its_place(mlkit: Mlkit, scenes: Path) -> None:
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 4e5, 0, -10, 5e6), "nodata": 0.0}
    values = np.load("in/scene.npy")
    values[:5, :7] = 0
    profile = {"driver": "GTiff", "height": 70, "width": 90, "count": 1, "dtype": "float32", **place}
    with rasterio.open("in/s1.tif", "w", **profile) as file:
        file.write(values, 1)
    assert infer(mlkit, "in/s1.tif").code == 0
    with rasterio.open("out/s1_reconstructed.tif") as made:
        assert (made.crs.to_epsg(), made.transform) == (32633, place["transform"])
        assert math.isnan(made.nodata)
        np.testing.assert_array_equal(np.isnan(made.read(1)), values == 0)


def test_a_folder_gives_all_its_scenes_but_not_the_results_in_it(mlkit: Mlkit, scenes: Path) -> None:
    speckle(scenes / "b.npy", seed=1)
    first = infer(mlkit, "in", out="in")
    assert first.code == 0 and len(first.out.splitlines()) == 6
    speckle(Path("more/c.npy"), seed=2)
    again = infer(mlkit, "in", "more", "--overwrite", out="in")
    assert again.code == 0 and "c_reconstructed.tif" in again.out and "reconstructed_reconstructed" not in again.out


def test_tiles_that_are_too_small_for_what_the_network_sees_are_enlarged_and_that_is_said(
    mlkit: Mlkit, scenes: Path
) -> None:
    speckle(scenes / "wide.npy", 40, 600)
    result = infer(mlkit, "in/wide.npy", "--tile", 64)
    assert result.code == 0
    assert result.err.splitlines()[0] == "tiles of 288 px instead of 64: neighbours share 144 px (--overlap)"
    assert "MP/s, tiles of 288 px)" in result.out
    whole = infer(mlkit, "in/wide.npy", "--tile", 1024, out="whole")
    assert "instead of" not in whole.err and "tiles of" not in whole.out
    np.testing.assert_allclose(
        tifffile.imread("out/wide_reconstructed.tif"),
        tifffile.imread("whole/wide_reconstructed.tif"),
        rtol=0,
        atol=1e-5 * 23,
    )


# ---- scenes ---------------------------------------------------------------------------------------------------------


def test_a_missing_path_stops_before_anything_is_done(mlkit: Mlkit, scenes: Path) -> None:
    result = infer(mlkit, "in/scene.npy", "in/gone.tif", "nowhere")
    told = "does not exist; give SAR images or a folder of them"
    refuse_nothing_written(result, 4, f"in/gone.tif {told}", f"nowhere {told}")


def test_an_empty_folder(mlkit: Mlkit, scenes: Path) -> None:
    Path("empty").mkdir()
    refuse_nothing_written(infer(mlkit, "empty"), 4, f"folder empty holds no SAR image; accepted are {ACCEPTED}")


def test_a_text_file(mlkit: Mlkit, scenes: Path) -> None:
    (scenes / "notes.txt").write_text("hello")
    sentence = f"in/notes.txt is of type '.txt', which is not read; accepted are {ACCEPTED}"
    refuse_nothing_written(infer(mlkit, "in/notes.txt"), 4, sentence)


def test_a_text_file_that_is_called_an_image(mlkit: Mlkit, scenes: Path) -> None:
    (scenes / "page.tif").write_text("<html>not found</html>")
    result = infer(mlkit, "in/page.tif")
    (sentence,) = sentences_of(result)
    assert sentence.startswith("in/page.tif is broken or truncated: ")
    refuse_nothing_written(result, 4, sentence)


def test_a_scene_of_nan(mlkit: Mlkit, scenes: Path) -> None:
    np.save("in/nan.npy", np.full((40, 40), np.nan, np.float32))
    refuse_nothing_written(infer(mlkit, "in/nan.npy"), 4, "in/nan.npy (nan) has no valid pixel, read as intensity")


def test_a_scene_smaller_than_a_patch_is_no_problem(mlkit: Mlkit, scenes: Path) -> None:
    speckle(scenes / "small.npy", 20, 7)
    assert infer(mlkit, "in/small.npy").code == 0
    assert tifffile.imread("out/small_reconstructed.tif").shape == (20, 7)


def test_broken_scenes_do_not_stop_the_others_and_all_are_named(mlkit: Mlkit, scenes: Path) -> None:
    (scenes / "a.npy").write_bytes(b"\x93NUMPY")
    (scenes / "z.txt").write_text("hello")
    result = infer(mlkit, "in/a.npy", "in/scene.npy", "in/z.txt")
    assert result.code == 4
    first, second = sentences_of(result)
    assert first.startswith("in/a.npy is broken or truncated: ")
    assert second.startswith("in/z.txt is of type '.txt', which is not read; ")
    assert result.out.startswith("out/scene_reconstructed.tif: ")
    assert sorted(path.name for path in Path("out").iterdir()) == ["scene_compare.png", "scene_reconstructed.tif"]


def test_two_scenes_that_would_become_one_result(mlkit: Mlkit, scenes: Path) -> None:
    speckle(Path("in2/scene.npy"), seed=1)
    refuse_nothing_written(
        infer(mlkit, "in/scene.npy", "in2/scene.npy", "--overwrite"),
        2,
        "in/scene.npy and in2/scene.npy would both become out/scene_reconstructed.tif; give each its own --out",
    )


# ---- results --------------------------------------------------------------------------------------------------------


def test_results_that_exist_are_refused_and_kept_unless_overwritten(mlkit: Mlkit, scenes: Path) -> None:
    assert infer(mlkit, "in/scene.npy").code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    speckle(scenes / "scene.npy", seed=1)
    result = infer(mlkit, "in/scene.npy")
    sentence = "out/scene_reconstructed.tif exists; give another --out, or --overwrite to replace it"
    assert (result.code, sentences_of(result), result.out) == (4, [sentence], "")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert infer(mlkit, "in/scene.npy", "--overwrite").code == 0
    after = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in after)


def test_a_place_below_a_file(mlkit: Mlkit, scenes: Path) -> None:
    result = infer(mlkit, "in/scene.npy", out="in/scene.npy/out")
    sentence = "cannot write in/scene.npy/out/scene_reconstructed.tif: Not a directory"
    refuse_nothing_written(result, 4, sentence)


def test_a_place_that_may_not_be_written(mlkit: Mlkit, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir

    def refuse(path: Any, *more: Any) -> None:  # as root every folder can be written, so the system is played
        if str(path) == "out":
            raise PermissionError(13, "Permission denied", "out")
        mkdir(path, *more)

    monkeypatch.setattr(os, "mkdir", refuse)
    sentence = "cannot write out/scene_reconstructed.tif: Permission denied; choose a folder that you may write to"
    refuse_nothing_written(infer(mlkit, "in/scene.npy"), 4, sentence)


def test_a_file_in_the_place_of_the_folder(mlkit: Mlkit, scenes: Path) -> None:
    content = Path("in/scene.npy").read_bytes()
    result = infer(mlkit, "in/scene.npy", out="in/scene.npy")
    refuse_nothing_written(result, 2, "--out in/scene.npy is a file; give a folder for the results")
    assert Path("in/scene.npy").read_bytes() == content


def test_a_folder_of_results_alone_is_not_passed_over_in_silence(mlkit: Mlkit, scenes: Path) -> None:
    assert infer(mlkit, "in/scene.npy", out="made").code == 0
    refuse_nothing_written(infer(mlkit, "made"), 2, "made holds only results of earlier calls; give scenes")


def test_a_folder_that_was_there_stays_when_nothing_could_be_done(mlkit: Mlkit, scenes: Path) -> None:
    np.save("in/nan.npy", np.full((40, 40), np.nan, np.float32))
    Path("mine").mkdir()
    assert infer(mlkit, "in/nan.npy", out="mine").code == 4
    assert list(Path("mine").iterdir()) == []


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_a_run_that_is_not_there(mlkit: Mlkit, scenes: Path) -> None:
    result = infer(mlkit, "in/scene.npy", checkpoint="second")
    refuse_nothing_written(result, 2, f"unknown run 'second'; runs in {Path('runs').absolute()}: first")


def test_a_checkpoint_of_another_task(mlkit: Mlkit, scenes: Path, run: Path) -> None:
    about = run / "ckpt-6" / "checkpoint.json"
    info = json.loads(about.read_text())
    del info["sha256"]  # as if it had been written so
    info["task"] = info["settings"]["task"] = "lens"
    about.write_text(json.dumps(info))
    result = infer(mlkit, "in/scene.npy", checkpoint=run / "ckpt-6")
    refuse_nothing_written(result, 3, f"checkpoint {run / 'ckpt-6'} is of task 'lens', not 'sar'")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("cut", r"model\.safetensors is truncated or grown: (\d+) bytes instead of (\d+)"),
        ("changed", r"model\.safetensors has changed: sha256 \w{12} instead of \w{12}"),
        ("missing", r"model\.safetensors is missing"),
    ],
)
def test_a_damaged_checkpoint(mlkit: Mlkit, scenes: Path, run: Path, damage: str, told: str) -> None:
    weights = run / "ckpt-6" / "model.safetensors"
    content = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(content[:-1])
    elif damage == "changed":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        weights.unlink()
    result = infer(mlkit, "in/scene.npy", checkpoint="first/ckpt-6")
    (sentence,) = sentences_of(result)
    assert re.fullmatch(rf"checkpoint {re.escape(str(run / 'ckpt-6'))}: {told}", sentence)
    refuse_nothing_written(result, 3, sentence)


def test_a_checkpoint_works_without_its_run_and_its_dataset(mlkit: Mlkit, scenes: Path, run: Path) -> None:
    shutil.copytree(run / "ckpt-6", "handed/ckpt-6")
    shutil.rmtree(run)
    assert infer(mlkit, "in/scene.npy", checkpoint="handed/ckpt-6").code == 0


def test_an_unknown_device(mlkit: Mlkit, scenes: Path) -> None:
    result = infer(mlkit, "in/scene.npy", "--device", "gpu")
    refuse_nothing_written(result, 3, "unknown device 'gpu'; there are auto, cpu, cuda, mps")

"""`mlkit eval grid`: what is drawn, where it is written, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mlkit.imaging import grids
from mlkit.tasks import TASKS, available_tasks

Mlkit = Callable[..., Any]
Refused = Callable[..., Any]
Files = Callable[[Path], dict[str, bytes]]


@dataclass
class Drawn:
    """What the last grid was made of."""

    rows: Sequence[Sequence[grids.Panel]] = ()
    heading: str = ""
    labels: Sequence[str] = ()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Watch the function that composes grids."""
    seen = Drawn()
    real = grids.comparison_grid

    def compose(rows: Any, *, heading: str = "", labels: Any = (), footer: str = "") -> Any:
        seen.rows, seen.heading, seen.labels = rows, heading, labels
        return real(rows, heading=heading, labels=labels, footer=footer)

    for user in ("mlkit.evaluation.evaluate", "mlkit.commands.gridding"):
        monkeypatch.setattr(f"{user}.comparison_grid", compose)
    return seen


@pytest.fixture
def ids(dataset: Path) -> list[str]:
    """Return the ids of the validation samples, from the patch table."""
    return [f"scene/y{row['y']:04d}x{row['x']:04d}" for row in np.load(dataset / "validation.npy")]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a folder with two scenes of different sizes and a file that is none."""
    folder = tmp_path / "own"
    folder.mkdir()
    values = np.random.default_rng(1)
    np.save(folder / "a.npy", values.gamma(4, 0.25, (40, 70)).astype(np.float32))
    np.save(folder / "b.npy", values.gamma(4, 0.25, (90, 64)).astype(np.float32))
    (folder / "notes.txt").write_text("none")
    return folder


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


# ------------------------------------------------------------------------------------------------ drawn


def test_run_means_its_best_checkpoint_and_the_picture_is_that_of_training(
    mlkit: Mlkit, run: Path, tmp_path: Path, drawn: Drawn, files: Files
) -> None:
    (run / "best").write_text("ckpt-3\n")
    before = files(run)
    said = mlkit("eval", "grid", "first", "--out", tmp_path / "new" / "grid.png")
    assert (said.code, said.out, said.err) == (0, "", f"written: {tmp_path / 'new' / 'grid.png'}\n")
    assert drawn.heading == "first  step 3"
    assert [panel.title for panel in drawn.rows[0]] == ["Original", "Reconstructed", "|difference|"]
    assert "PSNR " in drawn.rows[0][1].note and "ENL ratio " in drawn.rows[0][1].note
    made, trained = pixels(tmp_path / "new" / "grid.png"), pixels(run / "ckpt-3" / "grid.png")
    assert np.abs(made - trained).max() <= 2  # another batch size rounds otherwise
    assert files(run) == before


@pytest.mark.parametrize("name", ["first/ckpt-6", "first/last", "fir", "{run}", "{run}/ckpt-6"])
def test_every_way_to_name_a_checkpoint_works(name: str, mlkit: Mlkit, run: Path, drawn: Drawn) -> None:
    (run / "best").write_text("ckpt-6\n")
    said = mlkit("eval", "grid", name.format(run=run))
    assert (said.code, said.err) == (0, f"written: {run / 'ckpt-6' / 'grid.png'}\n")
    assert drawn.heading == "first  step 6"


def test_ids_choose_the_rows_in_their_order(
    mlkit: Mlkit, run: Path, tmp_path: Path, drawn: Drawn, ids: list[str]
) -> None:
    said = mlkit("eval", "grid", "first", "--ids", f"{ids[4]}, 0", "--out", tmp_path / "a.png")
    assert said.code == 0
    assert list(drawn.labels) == [ids[4], ids[0]]


def test_count_of_images_without_ids(mlkit: Mlkit, run: Path, tmp_path: Path, drawn: Drawn, ids: list[str]) -> None:
    assert mlkit("eval", "grid", "first", "--images", 2, "--out", tmp_path / "a.png").code == 0
    assert len(drawn.labels) == 2 and set(drawn.labels) < set(ids)
    assert mlkit("eval", "grid", "first", "--images", 99, "--out", tmp_path / "a.png").code == 0
    assert list(drawn.labels) == ids


def test_own_images_of_any_size_are_enlarged_and_cropped_as_asked(
    mlkit: Mlkit, run: Path, own: Path, tmp_path: Path, drawn: Drawn
) -> None:
    arguments = ("eval", "grid", "first", "--images-dir", own, "--out", tmp_path / "a.png")
    assert mlkit(*arguments).code == 0
    assert list(drawn.labels) == ["a.npy", "b.npy"]
    assert [row[1].image_hwc.shape[:2] for row in drawn.rows] == [(40, 70), (90, 64)]
    assert mlkit(*arguments, "--upscale", 2, "--fit-multiple", 16).code == 0
    assert [row[1].image_hwc.shape[:2] for row in drawn.rows] == [(80, 128), (176, 128)]


def test_own_scenes_of_every_format_and_each_of_their_channels_get_a_row(
    mlkit: Mlkit, run: Path, own: Path, tmp_path: Path, drawn: Drawn
) -> None:
    values = np.random.default_rng(2).gamma(4, 0.25, (3, 33, 47)).astype(np.float32)
    tifffile.imwrite(own / "c.tif", values[0])
    np.save(own / "deep.npy", values[1:])
    assert mlkit("eval", "grid", "first", "--images-dir", own, "--out", tmp_path / "a.png").code == 0
    assert list(drawn.labels) == ["a.npy", "b.npy", "c.tif", "deep.npy#0", "deep.npy#1"]
    assert [row[1].image_hwc.shape[:2] for row in drawn.rows[2:]] == [(33, 47)] * 3
    assert not np.array_equal(drawn.rows[3][0].image_hwc, drawn.rows[4][0].image_hwc)


def test_time_line_has_a_row_for_every_kept_checkpoint(
    mlkit: Mlkit, run: Path, tmp_path: Path, drawn: Drawn, ids: list[str]
) -> None:
    said = mlkit("eval", "grid", "first", "--checkpoints", "all")
    page = run / "grids" / "timeline" / "index.html"
    assert (said.code, said.err) == (0, f"page: {page}\nwritten: {run / 'grids' / 'timeline.png'}\n")
    text = page.read_text(encoding="utf-8")
    assert 'data-steps="3,6"' in text and "<h1>first over time</h1>" in text
    assert text.count("<figcaption>|difference| (dB) of step") == 2 * 4  # four images of each checkpoint
    assert "step 6" in text and "psnr|" in text, "with the scores of both"
    assert drawn.heading == "first: every kept checkpoint"
    assert list(drawn.labels) == ["Original", "step 3", "step 6"]
    titles = [[panel.title for panel in row] for row in drawn.rows]
    assert titles == [titles[0]] * 3 and len(titles[0]) == 4 and set(titles[0]) < set(ids)
    assert not np.array_equal(drawn.rows[1][0].image_hwc, drawn.rows[2][0].image_hwc)
    one = mlkit("eval", "grid", "first/ckpt-3", "--checkpoints", "all", "--ids", "1", "--out", tmp_path / "t.png")
    assert (one.code, one.err) == (0, f"page: {tmp_path / 't' / 'index.html'}\nwritten: {tmp_path / 't.png'}\n")
    assert [len(row) for row in drawn.rows] == [1, 1, 1]


def test_a_time_line_of_the_users_own_images_tells_scores_under_each(
    mlkit: Mlkit, run: Path, tmp_path: Path, scene: Path
) -> None:
    import tifffile

    (tmp_path / "own").mkdir()
    tifffile.imwrite(tmp_path / "own" / "one.tif", np.load(scene)[:64, :64])
    given = ("--images-dir", tmp_path / "own", "--out", tmp_path / "t.png", "--html", tmp_path / "page")
    said = mlkit("eval", "grid", "first", "--checkpoints", "all", *given)
    assert said.code == 0, said.err
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "step 3: PSNR" in text and "step 6: PSNR" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_absent_device_becomes_the_cpu_and_is_said(mlkit: Mlkit, run: Path, tmp_path: Path) -> None:
    said = mlkit("eval", "grid", "first", "--device", "cuda", "--out", tmp_path / "a.png")
    assert said.err == f"no cuda device here: using the CPU\nwritten: {tmp_path / 'a.png'}\n"


def test_moved_data_are_found_where_the_user_says(
    mlkit: Mlkit, run: Path, dataset: Path, tmp_path: Path, edit: Callable[..., None], refused: Refused
) -> None:
    edit(run / "run.json", dataset_dir=str(tmp_path / "gone"))
    arguments = ("eval", "grid", "first", "--out", tmp_path / "a.png")
    assert mlkit(*arguments) == refused(
        4, f"the dataset of run first is no longer at {tmp_path / 'gone'}; say where it lies now with --data"
    )
    assert not (tmp_path / "a.png").exists()
    assert mlkit(*arguments, "--data", dataset).code == 0


# ---------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("option", ["--upscale", "--fit-multiple", "--images"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_below_one_are_refused_by_their_option(
    option: str, value: int, mlkit: Mlkit, run: Path, own: Path, refused: Refused, files: Files
) -> None:
    before = files(run)
    said = mlkit("eval", "grid", "first", "--images-dir", own, option, value)
    told = f"Invalid value for '{option}': Input should be greater than or equal to 1 (see: mlkit eval grid --help)"
    assert said == refused(2, told)
    assert files(run) == before


def test_options_that_contradict_each_other_are_refused(
    mlkit: Mlkit, run: Path, own: Path, tmp_path: Path, refused: Refused, files: Files
) -> None:
    before = files(tmp_path)
    grid = ("eval", "grid", "first")
    assert mlkit(*grid, "--checkpoints", "some") == refused(2, "--checkpoints some is neither 'one' nor 'all'")
    assert mlkit(*grid, "--ids", "0", "--images-dir", own) == refused(2, "give --ids or --images-dir, not both")
    alone = "--upscale and --fit-multiple prepare images of your own; give --images-dir too"
    assert mlkit(*grid, "--upscale", 2) == refused(2, alone)
    assert mlkit(*grid, "--fit-multiple", 8) == refused(2, alone)
    assert mlkit(*grid, "--out", tmp_path) == refused(
        2, f"--out {tmp_path} is a folder; give the PNG to write, such as {tmp_path / 'grid.png'}"
    )
    assert mlkit(*grid, "--out", tmp_path / "a.jpg") == refused(
        2, f"--out {tmp_path / 'a.jpg'} does not end in .png; the grid is a PNG: give a.jpg.png"
    )
    assert mlkit(*grid, "--device", "tpu") == refused(3, "unknown device 'tpu'; there are auto, cpu, cuda, mps")
    assert files(tmp_path) == before


def test_unknown_samples_are_all_named(
    mlkit: Mlkit, run: Path, ids: list[str], tmp_path: Path, refused: Refused
) -> None:
    like = f"ids look like {', '.join(ids[:3])} and {len(ids) - 3} more"
    assert mlkit("eval", "grid", "first", "--ids", f"no,{ids[0]}0,0", "--out", tmp_path / "a.png") == refused(
        4,
        f"unknown sample id 'no'; {like}",
        f"unknown sample id '{ids[0]}0' (did you mean '{ids[0]}'?); {like}",
    )
    assert not (tmp_path / "a.png").exists()


def test_folders_without_images_are_refused(mlkit: Mlkit, run: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "empty").mkdir()
    grid, suffixes = ("eval", "grid", "first", "--images-dir"), ".npy, .png, .tif, .tiff"
    assert mlkit(*grid, tmp_path / "absent") == refused(
        4, f"image folder {tmp_path / 'absent'} does not exist; give a folder of {suffixes} files"
    )
    assert mlkit(*grid, tmp_path / "empty") == refused(
        4, f"no images in {tmp_path / 'empty'}; files that count end in {suffixes}"
    )


def test_own_scenes_that_cannot_be_drawn_are_named(
    mlkit: Mlkit, run: Path, own: Path, tmp_path: Path, refused: Refused, files: Files
) -> None:
    before = files(run)
    grid = ("eval", "grid", "first", "--images-dir", own, "--out", tmp_path / "a.png")
    assert mlkit(*grid, "--fit-multiple", 64) == refused(
        4,
        f"{own / 'a.npy'}: an image of 70 x 40 px has no part whose sides are multiples of 64 px; "
        "give 40 or less, or a larger image",
    )
    np.save(own / "a.npy", np.full((20, 30), np.nan))
    assert mlkit(*grid) == refused(
        4, f"{own / 'a.npy'} (a) has no valid pixel: 0 no-data, 600 NaN and 0 negative values, read as intensity"
    )
    (own / "a.npy").write_bytes(b"not an array")
    assert mlkit(*grid) == refused(4, f"{own / 'a.npy'} is broken or truncated: it does not start as a NumPy file does")
    assert not (tmp_path / "a.png").exists() and files(run) == before


def test_place_that_may_not_be_written_is_refused(
    mlkit: Mlkit, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, files: Files
) -> None:
    before = files(tmp_path)
    place = tmp_path / "kept.png"

    def replace(self: Path, target: Path) -> Path:  # as root every folder can be written, so the system is played
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "replace", replace)
    told = f"cannot write {place}: Permission denied; choose a folder that you may write to"
    assert mlkit("eval", "grid", "first", "--out", place) == refused(4, told)
    assert files(tmp_path) == before


def test_checkpoint_of_a_task_that_is_not_here_is_refused(
    mlkit: Mlkit, run: Path, tmp_path: Path, edit: Callable[..., None], refused: Refused
) -> None:
    here = available_tasks()
    absent = next((task for task in TASKS if task not in here), None)
    if absent is None:
        pytest.skip("every task is here")
    about = run / "ckpt-6" / "checkpoint.json"
    edit(about, task=absent, settings={**json.loads(about.read_text())["settings"], "task": absent})
    told = f"task '{absent}' is not in this version of mlkit yet; this one has: {', '.join(here)}"
    assert mlkit("eval", "grid", "first/ckpt-6", "--out", tmp_path / "a.png") == refused(
        3, f"checkpoint {run / 'ckpt-6'} cannot be used: {told}"
    )


def test_checkpoint_handed_on_without_its_run_needs_the_data_named(
    mlkit: Mlkit, run: Path, dataset: Path, tmp_path: Path, refused: Refused
) -> None:
    handed = shutil.copytree(run / "ckpt-3", tmp_path / "handed" / "ckpt-3")
    shutil.rmtree(run)
    assert mlkit("eval", "grid", handed) == refused(
        4, f"checkpoint {handed} lies outside a run, so its dataset is unknown; give --data"
    )
    assert mlkit("eval", "grid", handed, "--data", dataset).code == 0
    assert mlkit("eval", "grid", handed, "--data", tmp_path / "gone") == refused(
        4, f"dataset {tmp_path / 'gone'} does not exist; build one with: mlkit dataset build TASK"
    )


def test_absent_runs_and_checkpoints_are_refused(mlkit: Mlkit, run: Path, runs: Path, refused: Refused) -> None:
    assert mlkit("eval", "grid", "frist") == refused(
        2, f"unknown run 'frist' (did you mean 'first'?); runs in {runs}: first"
    )
    assert mlkit("eval", "grid", "first/ckpt-4") == refused(
        3, "run first has no complete checkpoint 'ckpt-4'; there are: ckpt-3, ckpt-6"
    )
    for step in (3, 6):
        shutil.rmtree(run / f"ckpt-{step}")
    told = f"run {run} has no complete checkpoint yet; wait for the first one, or train it again"
    assert mlkit("eval", "grid", "first") == refused(3, told)
    assert mlkit("eval", "grid", "first", "--checkpoints", "all") == refused(3, told)


def test_damaged_checkpoint_is_named(mlkit: Mlkit, run: Path, tmp_path: Path, refused: Refused) -> None:
    weights = run / "ckpt-6" / "model.safetensors"
    size = weights.stat().st_size
    os.truncate(weights, 7)
    told = f"checkpoint {run / 'ckpt-6'}: model.safetensors is truncated or grown: 7 bytes instead of {size}"
    out = ("--out", tmp_path / "a.png")
    also = "; the run also has ckpt-3"
    assert mlkit("eval", "grid", "first/ckpt-6", *out) == refused(3, told + also)
    assert mlkit("eval", "grid", "first", "--checkpoints", "all", *out) == refused(3, told + also)
    shutil.rmtree(run / "ckpt-3")
    assert mlkit("eval", "grid", "first", *out) == refused(3, told)
    (run / "ckpt-6" / "checkpoint.json").write_text("{")
    assert mlkit("eval", "grid", "first", *out) == refused(
        3,
        f"checkpoint {run / 'ckpt-6' / 'checkpoint.json'} is damaged: "
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    )
    assert not (tmp_path / "a.png").exists()


def test_data_of_another_hash_are_refused(
    mlkit: Mlkit, build: Mlkit, run: Path, dataset: Path, tmp_path: Path, refused: Refused
) -> None:
    assert build(tmp_path / "other", "--stride", 32).code == 0
    now, meant = (
        json.loads((folder / "manifest.json").read_text())["sha256"][:12] for folder in (tmp_path / "other", dataset)
    )
    assert mlkit("eval", "grid", "first/ckpt-3", "--data", tmp_path / "other") == refused(
        4,
        f"dataset {tmp_path / 'other'} has sha256 {now}, but {run / 'ckpt-3'} was trained on {meant}; "
        "give the right one with --data",
    )

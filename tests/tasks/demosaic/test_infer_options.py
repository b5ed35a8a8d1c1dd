"""`mlkit infer demosaic` as the user gives it: names, folders, what is skipped, every refusal."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mlkit.__main__ import main
from mlkit.checkpoint import save_checkpoint
from mlkit.errors import DataError, MlkitError
from mlkit.tasks.demosaic.dng import write_cfa_dng
from mlkit.tasks.demosaic.infer_inputs import Options, find_jobs, options_of
from mlkit.tasks.demosaic.model import XTransNet
from mlkit.tasks.demosaic.settings import DemosaicModel
from mlkit.tasks.demosaic.xtrans import colors

BAYER = np.array([[0, 1], [1, 2]], np.uint8)


@dataclass(frozen=True)
class Result:
    """What a call left."""

    code: int
    out: str
    err: str


Infer = Callable[..., Result]


def write_model(folder: Path, task: str = "demosaic", broken: bool = False) -> Path:
    torch.manual_seed(0)
    net = XTransNet(DemosaicModel(channels=8, blocks=1))
    if broken:
        with torch.no_grad():
            net.tail.weight[3] = torch.nan
    settings = {"task": task, "model": {"channels": 8, "blocks": 1}}
    save_checkpoint(folder, net, info={"step": 1, "task": task, "settings": settings})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "ckpt-1")


@pytest.fixture
def infer(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Infer:
    """Return `mlkit infer demosaic` with a tiny network, in an empty folder with a RAW file in in/."""
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.chdir(tmp_path)
    save(Path("in/a.dng"))

    def call(*arguments: object, checkpoint: object = checkpoint) -> Result:
        out, err = io.StringIO(), io.StringIO()
        named = () if checkpoint is None else ("--checkpoint", checkpoint)
        monkeypatch.setattr(sys, "argv", ["mlkit", "infer", "demosaic", *map(str, (*arguments, *named))])
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
            main()
        return Result(int(left.value.code or 0), out.getvalue(), err.getvalue())

    return call


def save(path: Path, pattern: np.ndarray | None = None, height: int = 36, width: int = 48) -> Path:
    """Write noise as a RAW file; X-Trans, unless another pattern is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(0).integers(2000, 50000, (height, width)).astype(np.uint16)
    write_cfa_dng(path, levels, colors(6, 6, (2, 1)) if pattern is None else pattern, make="Test", model="Camera")
    return path


def files(folder: str = "results") -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


# ---- what works -------------------------------------------------------------------------------------------------


def test_a_raw_file_becomes_a_picture(infer: Infer) -> None:
    result = infer("in/a.dng")
    assert (result.code, files()) == (0, ["a_rgb.tif"]), result.err
    assert tifffile.imread("results/a_rgb.tif").shape == (36, 48, 3)
    first, second = result.out.splitlines()
    assert first == "results/a_rgb.tif: 48 x 36 px, Test Camera"
    assert re.fullmatch(r"a\.dng: \d+\.\d s \(\d+\.\d\d MP/s, in one piece\)", second)


@pytest.mark.parametrize("name", ["tif", "dng", "png", "jpg"])
def test_every_format_can_be_chosen(name: str, infer: Infer) -> None:
    result = infer("in", "--format", name, "--compare")
    assert result.code == 0, result.err
    assert files() == sorted([f"a_rgb.{name}", "a_rgb_compare.png"])
    assert "comparison: results/a_rgb_compare.png" in result.out


def test_folders_keep_their_structure_and_globs_are_taken(infer: Infer) -> None:
    save(Path("in/x/y z/b\u00e4.dng"))
    save(Path("more/c.DNG"))
    Path("in/notes.txt").write_text("no photo")
    Image.new("RGB", (20, 20)).save("in/preview.jpg")
    assert infer("in", "more/*.DNG").code == 0
    assert files() == ["a_rgb.tif", "c_rgb.tif", "x/y z/b\u00e4_rgb.tif"]


def test_what_exists_is_skipped_until_overwrite(infer: Infer) -> None:
    assert infer("in").code == 0
    Path("results/a_rgb.tif").write_bytes(b"mine")
    save(Path("in/b.dng"))
    result = infer("in")
    assert result.code == 0
    assert result.out.splitlines()[0] == "1 photo skipped: results exist in results; --overwrite makes them again"
    assert Path("results/a_rgb.tif").read_bytes() == b"mine"
    assert files() == ["a_rgb.tif", "b_rgb.tif"]
    assert infer("in", "--overwrite").code == 0
    assert Path("results/a_rgb.tif").read_bytes() != b"mine"


def test_nothing_left_to_do_opens_no_model(infer: Infer) -> None:
    assert infer("in").code == 0
    assert infer("in", checkpoint="absent").code == 0


def test_linear_dng_files_in_a_folder_of_photos_are_not_taken_for_photos(infer: Infer) -> None:
    assert infer("in", "--format", "dng", "--out", "in").code == 0
    assert files("in") == ["a.dng", "a_rgb.dng"]
    save(Path("in/b.dng"))
    assert infer("in", "--format", "dng", "--out", "in").code == 0
    assert files("in") == ["a.dng", "a_rgb.dng", "b.dng", "b_rgb.dng"]


def test_an_image_is_mosaicked_when_asked_and_scored(infer: Infer) -> None:
    y, x = np.mgrid[0:60, 0:72]
    Image.fromarray(np.stack([2 * x, 3 * y, 200 - x], axis=2).astype(np.uint8)).save("truth.png")
    result = infer("truth.png", "--mosaic", "--format", "png", "--compare")
    assert result.code == 0, result.err
    assert files() == ["truth_rgb.png", "truth_rgb_compare.png"]
    told = re.search(
        r"PSNR: (\d+\.\d\d) dB, LibRaw (\d+\.\d\d) dB \(8-bit sRGB, without a border of 8 px\)", result.out
    )
    assert told and float(told[1]) > 30 and float(told[2]) > 30


def test_json_tells_results_and_errors(infer: Infer) -> None:
    Path("in/b.dng").write_bytes(b"")
    result = infer("in", "--json")
    assert result.code == 4
    told = json.loads(result.out)
    assert [(row["input"], row["image"], row["width"], row["height"]) for row in told["results"]] == [
        ("in/a.dng", "results/a_rgb.tif", 48, 36)
    ]
    assert told["skipped"] == []
    assert len(told["errors"]) == 1 and "b.dng" in told["errors"][0]
    assert "tile" in told["results"][0] and told["results"][0]["psnr_db"] is None


def test_a_run_is_named_instead_of_its_checkpoint(infer: Infer, checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    shutil.copytree(checkpoint, run / "ckpt-1")
    (run / "run.json").write_text(json.dumps({"format_version": 1, "name": "mine", "task": "demosaic"}))
    assert infer("in", checkpoint="mine").code == 0
    assert files() == ["a_rgb.tif"]


# ---- broken and unfit files ---------------------------------------------------------------------------------------


def test_broken_files_do_not_stop_the_others_and_are_told_at_the_end(infer: Infer) -> None:
    whole = Path("in/a.dng").read_bytes()
    Path("in/0text.raf").write_text("this is no photo")
    Path("in/cut.dng").write_bytes(whole[:1000])
    Path("in/empty.dng").write_bytes(b"")
    save(Path("in/bayer.dng"), BAYER)
    result = infer("in")
    assert result.code == 4
    assert files() == ["a_rgb.tif"]
    lines = result.err.splitlines()
    assert [re.search(r"in/\w+\.\w+", line)[0] for line in lines] == [  # type: ignore[index]
        "in/0text.raf",
        "in/bayer.dng",
        "in/cut.dng",
        "in/empty.dng",
    ]
    assert all(line.startswith("mlkit: ") for line in lines)
    assert "is a Bayer file (Test Camera, 2 x 2 filter), and this model is for X-Trans; " in lines[1]


def test_rgb_images_are_refused_unless_they_are_to_be_mosaicked(infer: Infer) -> None:
    Image.new("RGB", (20, 20)).save("b.png")
    assert infer("b.png") == Result(
        4,
        "",
        "mlkit: b.png is an RGB image, no RAW file; --mosaic makes a mosaic of it first, to see what is lost\n",
    )
    assert infer("in/a.dng", "--mosaic") == Result(
        4, "", "mlkit: in/a.dng is a RAW file, a mosaic already; leave --mosaic out\n"
    )


def test_files_that_would_become_one_are_refused(infer: Infer) -> None:
    save(Path("other/a.dng"))
    assert infer("in/a.dng", "other/a.dng") == Result(
        2,
        "",
        "mlkit: in/a.dng and other/a.dng would both become results/a_rgb.tif; give each its own --out\n",
    )


def test_a_folder_without_raw_files_is_refused(infer: Infer) -> None:
    Path("none").mkdir()
    result = infer("none")
    assert result.code == 4
    assert "mlkit: no images in none; files that count end in .3fr, .arw, " in result.err


def test_a_file_as_out_is_refused(infer: Infer) -> None:
    Path("results").write_text("")
    assert infer("in") == Result(2, "", "mlkit: --out results is a file; give a folder for the results\n")


# ---- models -------------------------------------------------------------------------------------------------------


def test_a_model_that_is_unfit_is_refused_before_anything_is_written(infer: Infer, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", task="sr")
    assert infer("in", checkpoint=other) == Result(
        3, "", f"mlkit: checkpoint {other} is of task 'sr', not 'demosaic'\n"
    )
    nan = write_model(tmp_path / "nan", broken=True)
    assert infer("in", checkpoint=nan) == Result(
        5,
        "",
        f"mlkit: checkpoint {nan} has NaN or infinity in tail.weight, so it is unusable; give another --checkpoint\n",
    )
    assert infer("in", checkpoint="absent").code == 2
    assert not Path("results").exists()


# ---- options ------------------------------------------------------------------------------------------------------

GIVEN = {
    "file_format": "tif",
    "linear": False,
    "highlights": "clip",
    "exposure_stops": 0.0,
    "compare": False,
    "mosaic": False,
    "strict": False,
}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"linear": True, "file_format": "jpg"},
            "--linear does not suit --format jpg, whose values are sRGB; tif or dng hold linear light",
        ),
        ({"exposure_stops": 40.0}, "--exposure 40 is not within 16 stops; 1 is twice as bright"),
        ({"exposure_stops": float("nan")}, "--exposure nan is not within 16 stops; 1 is twice as bright"),
        (
            {"mosaic": True, "file_format": "dng"},
            "--mosaic makes no DNG, since RGB images have no camera; give --format tif, png or jpg",
        ),
        (
            {"mosaic": True, "exposure_stops": 1.0},
            "--exposure would change what --mosaic compares with the truth; leave one of them out",
        ),
        (
            {"file_format": "dng", "highlights": "blend"},
            "a DNG holds what the sensor measured, without --exposure and --highlights; leave them to the program that "
            "opens it",
        ),
    ],
)
def test_options_that_cannot_be_meant(changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(MlkitError) as refused:
        options_of(**GIVEN | changed)  # type: ignore[arg-type]
    assert refused.value.problems == (sentence,)


def test_all_problems_are_told_at_once() -> None:
    changed = {"linear": True, "file_format": "png", "mosaic": True, "exposure_stops": 99.0}
    with pytest.raises(MlkitError) as refused:
        options_of(**GIVEN | changed)  # type: ignore[arg-type]
    assert len(refused.value.problems) == 3


def test_a_dng_is_always_linear() -> None:
    assert options_of(**GIVEN | {"file_format": "dng"}).linear  # type: ignore[arg-type]


def test_only_results_of_earlier_calls_are_no_input(tmp_path: Path) -> None:
    (tmp_path / "a_rgb.dng").write_bytes(b"")
    with pytest.raises(DataError, match="holds only results of earlier calls; give images"):
        find_jobs([str(tmp_path)], tmp_path / "out", Options())


def test_a_tile_below_the_margin_is_refused(infer: Infer) -> None:
    result = infer("in", "--tile", 9)
    assert result.code == 2
    assert re.fullmatch(r"mlkit: --tile 9 is too small: \d+ px on each side are margin; give \d+ or more\n", result.err)
    assert not Path("results").exists()

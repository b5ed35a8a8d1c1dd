"""`mlkit infer sr` as the user gives it: names, lists and ranges, folders, what is skipped, every refusal."""

from __future__ import annotations

import functools
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms
from safetensors.torch import load_file, save_file

from mlkit.__main__ import main
from mlkit.errors import DataError, MlkitError
from mlkit.tasks.sr.infer_inputs import find_jobs, options_of, parse_sr_scales
from sradapter import write_adapter


@dataclass(frozen=True)
class Result:
    """What a call left."""

    code: int
    out: str
    err: str


Infer = Callable[..., Result]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("sr"))


@pytest.fixture
def infer(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Infer:
    """Return `mlkit infer sr` with the tiny adapter, in an empty folder with photographs in in/."""
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "a.png", 12, 20)

    def call(*arguments: object, checkpoint: object = adapter) -> Result:
        out, err = io.StringIO(), io.StringIO()
        named = () if checkpoint is None else ("--checkpoint", checkpoint)
        monkeypatch.setattr(sys, "argv", ["mlkit", "infer", "sr", *map(str, (*arguments, *named))])
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
            main()
        return Result(int(left.value.code or 0), out.getvalue(), err.getvalue())

    return call


def save(path: Path, height: int = 12, width: int = 20, mode: str = "RGB", seed: int = 0) -> Path:
    """Write smooth noise as an image of 8 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(Image.new(mode, (1, 1)).getbands())
    small = np.random.default_rng(seed).integers(40, 216, (4, 4, channels)).astype(np.uint8)
    Image.fromarray(small.squeeze(), mode).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def files(folder: str = "results") -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


# ---- what works -------------------------------------------------------------------------------------------------


def test_an_image_is_enlarged_and_restored(infer: Infer) -> None:
    result = infer("in/a.png")
    assert (result.code, files()) == (0, ["a_sr.png"]), result.err
    assert pixels(Path("results/a_sr.png")).shape == (48, 80, 3)
    assert result.out.splitlines()[0] == "results/a_sr.png: 80 x 48 px"
    assert re.fullmatch(r"a\.png: \d+\.\d s \(\d+\.\d\d MP/s, in one piece\)", result.out.splitlines()[1])


def test_sr_scale_0_of_an_enlarged_image_is_nearly_that_image(infer: Infer) -> None:
    # only nearly: the autoencoder leaves some colour out
    save(Path("large.png"), 40, 56)
    assert infer("large.png", "--scale", 1, "--sr-scale", 0).code == 0
    difference = pixels(Path("large.png")).astype(int) - pixels(Path("results/large_sr.png"))
    assert np.abs(difference).max() <= 6
    assert infer("large.png", "--scale", 1, "--sr-scale", 1, "--out", "other").code == 0
    assert np.abs(pixels(Path("large.png")).astype(int) - pixels(Path("other/large_sr.png"))).max() > 6


def test_a_range_of_sr_scales_gives_a_file_each_and_a_strip(infer: Infer) -> None:
    result = infer("in/a.png", "--sr-scale", "0:1:0.5", "--scale", 2)
    assert result.code == 0, result.err
    assert files() == ["a_sr0.5.png", "a_sr0.png", "a_sr1.png", "a_sr_strip.png"]
    assert "strip: results/a_sr_strip.png" in result.out
    none, half, whole = (pixels(Path(f"results/a_sr{name}.png")).astype(float) for name in ("0", "0.5", "1"))
    inside = (none > 0) & (none < 255) & (whole > 0) & (whole < 255)
    assert np.abs(whole - none).max() > 10
    assert np.abs(half - (none + whole) / 2)[inside].max() <= 1.01  # z0 is linear in sr_scale


def test_a_comparison_shows_input_bicubic_base_and_lora(infer: Infer) -> None:
    save(Path("b.png"), 100, 160)
    result = infer("b.png", "--compare", "--scale", 2)
    assert result.code == 0, result.err
    assert files() == ["b_sr.png", "b_sr_compare.png"]
    assert "comparison: results/b_sr_compare.png" in result.out
    height, width = pixels(Path("results/b_sr_compare.png")).shape[:2]
    assert width > 4 * 192 and height > 2 * 96  # four columns, and a row of details


def test_folders_keep_their_structure_and_globs_are_taken(infer: Infer) -> None:
    save(Path("in/x/b.jpg"))
    save(Path("in/x/y z/\u00e4\u20ac.webp"))
    save(Path("more/c.png"))
    assert infer("in", "more/*.png", "--scale", 1).code == 0
    assert files() == ["a_sr.png", "c_sr.png", "x/b_sr.jpg", "x/y z/\u00e4\u20ac_sr.webp"]


def test_what_exists_is_skipped_until_overwrite(infer: Infer) -> None:
    assert infer("in", "--scale", 1).code == 0
    before = Path("results/a_sr.png").read_bytes()
    Path("results/a_sr.png").write_bytes(b"mine")
    save(Path("in/b.png"))
    result = infer("in", "--scale", 1)
    assert result.code == 0
    assert result.out.splitlines()[0] == ("1 image skipped: results exist in results; --overwrite makes them again")
    assert Path("results/a_sr.png").read_bytes() == b"mine"
    assert files() == ["a_sr.png", "b_sr.png"]
    assert infer("in", "--scale", 1, "--overwrite").code == 0
    assert Path("results/a_sr.png").read_bytes() == before


def test_nothing_left_to_do_opens_no_model(infer: Infer) -> None:
    assert infer("in", "--scale", 1).code == 0
    result = infer("in", "--scale", 1, checkpoint="nowhere")
    assert result.code == 0 and "skipped" in result.out


def test_results_within_the_folder_of_inputs_are_no_inputs(infer: Infer) -> None:
    for _ in range(2):
        assert infer("in", "--out", "in", "--scale", 1, "--compare", "--sr-scale", "0,1").code == 0
        assert infer("in", "--out", "in/results", "--scale", 1).code == 0
    assert files("in") == [
        "a.png", "a_sr0.png", "a_sr1.png", "a_sr_compare.png", "a_sr_strip.png", "results/a_sr.png",
    ]  # fmt: skip
    assert infer("in/a_sr1.png", "--scale", 1).code == 0  # named, it is one
    assert files() == ["a_sr1_sr.png"]


def test_json_is_all_that_stdout_gets(infer: Infer) -> None:
    save(Path("in/b.png"), 30, 40)
    assert infer("in/a.png", "--scale", 2).code == 0
    Path("in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    result = infer("in", "--scale", 2, "--json", "--tile", 32, "--overlap", 8, "--batch", 2, "--compare", "--overwrite")
    told = json.loads(result.out)
    assert result.code == 4
    assert [entry["input"] for entry in told["results"]] == ["in/a.png", "in/b.png"]
    last = told["results"][1]
    assert (last["width"], last["height"], last["images"]) == (80, 60, ["results/b_sr.png"])
    assert (last["tile"], last["overlap"], last["batch"], last["strip"]) == (32, 8, 2, None)
    assert last["compare"] == "results/b_sr_compare.png"
    assert last["mp_per_s"] == pytest.approx(80 * 60 / 1e6 / last["seconds"], rel=0.1, abs=1e-3)
    assert len(told["errors"]) == 1 and "in/broken.png" in told["errors"][0]


def test_a_broken_file_does_not_stop_the_others_and_makes_the_exit_code_4(infer: Infer) -> None:
    Path("in/0.png").write_bytes(b"")
    Path("in/1.jpg").write_bytes(Path("in/a.png").read_bytes()[:60])
    result = infer("in", "--scale", 1)
    assert result.code == 4
    assert files() == ["a_sr.png"]
    lines = [line for line in result.err.splitlines() if line.startswith("mlkit: ")]
    assert len(lines) == 2 and "in/0.png" in lines[0] and "in/1.jpg" in lines[1]


def test_another_format_is_chosen_by_name(infer: Infer) -> None:
    assert infer("in", "--format", "tiff", "--scale", 1).code == 0
    assert infer("in", "--format", "jpeg", "--scale", 1).code == 0
    assert files() == ["a_sr.jpg", "a_sr.tif"]
    with Image.open("results/a_sr.tif") as image:
        assert (image.format, image.mode) == ("TIFF", "RGB")


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_grey_stays_grey_and_alpha_stays(infer: Infer, mode: str) -> None:
    save(Path("m.png"), 20, 24, mode)
    result = infer("m.png", "--scale", 2)
    assert result.code == 0, result.err
    with Image.open("m.png") as given, Image.open("results/m_sr.png") as made:
        assert (made.mode, made.size) == (mode, (48, 40))
        if mode != "L":
            expected = given.getchannel("A").resize(made.size, Image.Resampling.BICUBIC)
            assert np.abs(np.asarray(made.getchannel("A")).astype(int) - np.asarray(expected)).max() <= 1


@functools.cache  # it has a time stamp
def profile() -> bytes:
    """Return an sRGB profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_16_bits_profile_and_resolution_are_kept(infer: Infer) -> None:
    levels = np.linspace(10_000, 50_000, 20 * 24 * 3).astype(np.uint16).reshape(20, 24, 3)
    about = {"resolution": (300, 300), "resolutionunit": 2, "iccprofile": profile(), "photometric": "rgb"}
    tifffile.imwrite("deep.tif", levels, **about)
    assert infer("deep.tif", "--scale", 2).code == 0
    assert infer("deep.tif", "--scale", 2, "--format", "png").code == 0
    with tifffile.TiffFile("results/deep_sr.tif") as tiff:
        made = tiff.asarray()
        assert (made.dtype, made.shape) == (np.uint16, (40, 48, 3))
        assert len(np.unique(made % 257)) > 100  # no 8 bits in disguise
        assert tiff.pages[0].tags["InterColorProfile"].value == profile()
        assert tiff.pages[0].tags["XResolution"].value == (300, 1)
    as_png = imagecodecs.png_decode(Path("results/deep_sr.png").read_bytes())
    np.testing.assert_array_equal(as_png, made)


def test_exif_is_kept_and_the_image_lies_as_it_is_seen(infer: Infer) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6  # to be turned by 90 degrees
    with Image.open("in/a.png") as image:
        image.save("turned.jpg", exif=exif, quality=95)
    assert infer("turned.jpg", "--scale", 2).code == 0
    with Image.open("results/turned_sr.jpg") as made:
        assert made.size == (24, 40)
        assert (made.getexif()[0x010F], made.getexif()[0x0112]) == ("Maker", 1)


def test_what_a_format_cannot_hold_is_said_and_an_error_under_strict(infer: Infer) -> None:
    save(Path("clear.png"), 16, 16, "RGBA")
    result = infer("clear.png", "--scale", 1, "--format", "jpeg", "--sr-scale", "0,1")
    assert result.code == 0
    assert len([line for line in result.err.splitlines() if "does not hold transparency" in line]) == 2  # two files
    strict = infer("clear.png", "--scale", 1, "--format", "jpeg", "--strict", "--out", "strict")
    assert strict.code == 4
    assert "transparency (laid over white)" in strict.err and "(--strict)" in strict.err
    assert not Path("strict/clear_sr.jpg").exists()
    assert infer("clear.png", "--scale", 1, "--strict").code == 0


def test_a_suffix_that_cannot_be_written_becomes_png(infer: Infer) -> None:
    Path("in/a.png").rename("photo.dat")
    assert infer("photo.dat", "--scale", 1).code == 0
    assert files() == ["photo_sr.png"]


@pytest.mark.parametrize("more", [(), ("--color-fix", "adain"), ("--color-fix", "wavelet"), ("--compare",)])
def test_tiles_and_bands_make_one_image(infer: Infer, more: tuple[str, ...]) -> None:
    # no tile sees another: with sr_scale 0 the result is the round trip of 4 x 4 px squares
    save(Path("large.png"), 150, 90)
    arguments = ("large.png", "--scale", 2, "--sr-scale", 0, *more)
    assert infer(*arguments, "--out", "tiled", "--tile", 32, "--batch", 3).code == 0
    assert infer(*arguments, "--out", "whole", "--tile", 512).code == 0
    tiled, whole = (pixels(Path(folder) / "large_sr.png").astype(int) for folder in ("tiled", "whole"))
    assert np.abs(tiled - whole).max() <= 1


def test_short_memory_is_said_and_the_result_is_whole(infer: Infer, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlkit.tasks.sr import restorer

    called = restorer.Restorer.__call__

    def limited(self: Any, tiles: np.ndarray, **options: Any) -> np.ndarray:
        if tiles[:, 0].size > 32 * 32:
            raise MemoryError
        return called(self, tiles, **options)

    assert infer("in/a.png", "--out", "expected", "--tile", 32, "--overlap", 8, "--sr-scale", 0).code == 0
    monkeypatch.setattr(restorer.Restorer, "__call__", limited)
    result = infer("in/a.png", "--tile", 64, "--sr-scale", 0, "--batch", 1)
    assert result.code == 0
    assert result.err.splitlines()[-1] == "out of memory with 1 tiles of 64 px at once, trying 1 of 32 px"
    assert files() == ["a_sr.png"]
    difference = pixels(Path("results/a_sr.png")).astype(int) - pixels(Path("expected/a_sr.png"))
    assert np.abs(difference).max() <= 1


def test_color_fix_steps_and_shifts_reach_the_model(infer: Infer) -> None:
    for number, more in enumerate(
        [(), ("--steps", 3), ("--color-fix", "wavelet"), ("--color-fix", "adain"), ("--shifts", 2)]
    ):
        assert infer("in/a.png", "--out", f"o{number}", "--sr-scale", 3, *more).code == 0
    made = [pixels(Path(f"o{number}/a_sr.png")).astype(int) for number in range(5)]
    for other in made[1:]:
        assert np.abs(made[0] - other).max() > 0


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("in", "--sr-scale", "-1"), 2, "--sr-scale '-1': -1 is not 0 or more; 0 restores nothing, 1 as trained"),
        (("in", "--scale", "0.5"), 2, "--scale 0.5 would reduce the image; give 1 (already enlarged) or more"),
        (("in", "--scale", "nan"), 2, "--scale nan would reduce the image; give 1 (already enlarged) or more"),
        (
            ("in", "--tile", "64", "--overlap", "40"),
            2,
            "--overlap 40 is more than half of tiles of 64 px; give 32 or less",
        ),
        (("nothing.png",), 4, None),
        (("empty",), 4, None),
        (("in", "--out", "in/a.png"), 2, "--out in/a.png is a file; give a folder for the results"),
        (("in", "--device", "tpu"), 3, "unknown device 'tpu'; there are auto, cpu, cuda, mps"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_and_writes_nothing(
    infer: Infer, arguments: tuple[str, ...], code: int, sentence: str | None
) -> None:
    Path("empty").mkdir()
    result = infer(*arguments)
    told = [line.removeprefix("mlkit: ") for line in result.err.splitlines() if line.startswith("mlkit: ")]
    assert (result.code, len(told)) == (code, 1), result.err
    assert sentence is None or told == [sentence]
    assert sentence is not None or arguments[0] in told[0]
    assert result.out == "" and not Path("results").exists()


def test_two_wrong_options_are_told_together(infer: Infer) -> None:
    result = infer("in", "--scale", "0", "--sr-scale", "much")
    assert result.code == 2
    assert "--scale 0 would reduce" in result.err and "--sr-scale 'much' is neither a number" in result.err


def test_two_images_that_would_become_one_file_are_refused(infer: Infer) -> None:
    save(Path("other/a.png"))
    result = infer("in/a.png", "other/a.png")
    assert result.code == 2
    assert "in/a.png and other/a.png would both become results/a_sr.png; give each its own --out" in result.err


def test_weights_that_give_nan_are_an_error(infer: Infer, adapter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "nan"
    broken.mkdir()
    (broken / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    save_file(weights | {name: torch.full_like(weights[name], float("nan"))}, broken / "adapter_model.safetensors")
    result = infer("in", checkpoint=broken)
    assert result.code == 5
    assert "gives values that are not finite" in result.err
    assert not Path("results/a_sr.png").exists()


def test_a_black_result_is_an_error_but_a_black_input_is_not(infer: Infer, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlkit.tasks.sr import restorer

    def black(self: Any, tiles: np.ndarray, **_: Any) -> np.ndarray:
        return np.zeros_like(tiles)

    monkeypatch.setattr(restorer.Restorer, "__call__", black)
    Image.new("RGB", (16, 16)).save("black.png")
    result = infer("in/a.png", "black.png", "--scale", 1)
    assert result.code == 5
    assert "in/a.png" in result.err and "black.png" not in result.err.replace("in/a.png", "")
    assert files() == ["black_sr.png"]


# ---- parts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1.2", (1.2,)),
        ("0.5,1, 1.5", (0.5, 1.0, 1.5)),
        ("0.5:1.5:0.25", (0.5, 0.75, 1.0, 1.25, 1.5)),
        ("0:1:0.3", (0.0, 0.3, 0.6, 0.9)),
        ("0.1:0.3:0.1,0.3,2", (0.1, 0.2, 0.3, 2.0)),  # no 0.30000000000000004, and each once
        ("1:1:1", (1.0,)),
    ],
)
def test_values_of_sr_scale(text: str, values: tuple[float, ...]) -> None:
    assert parse_sr_scales(text) == values


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is neither a number such as 1.2, nor a list such as 0.5,1, nor a range such as 0.5:1.5:0.25"),
        ("1;2", "is neither a number"),
        ("nan", "nan is not 0 or more"),
        ("inf", "inf is not 0 or more"),
        ("0:1", "a range is FIRST:LAST:STEP"),
        ("1:0:0.5", "a range goes from a smaller to a larger value in steps above 0"),
        ("0:1:0", "a range goes from a smaller to a larger value in steps above 0"),
        ("0:1:0.0001", "is 33 values; 32 are the most"),
    ],
)
def test_what_is_no_sr_scale(text: str, sentence: str) -> None:
    with pytest.raises(MlkitError, match=re.escape(sentence)):
        parse_sr_scales(text)


def test_a_folder_of_results_alone_is_said(tmp_path: Path) -> None:
    save(tmp_path / "a_sr.png")
    save(tmp_path / "a_sr1.25.png")
    save(tmp_path / "a_sr_strip.png")
    options = options_of(scale=4, sr_scale="1", steps=1, color_fix="none", compare=False, strict=False)
    with pytest.raises(DataError, match="holds only results of earlier calls; give images"):
        find_jobs([str(tmp_path)], tmp_path / "out", None, options)
    save(tmp_path / "_sr.png")
    save(tmp_path / "usr.png")
    assert {job.path.name for job in find_jobs([str(tmp_path)], tmp_path / "out", None, options)} == {
        "_sr.png",
        "usr.png",
    }


def test_options_are_read_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['mlkit', 'infer', 'sr', '--help']\n"
        "from mlkit.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print('torch' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False False"
    assert "--sr-scale" in done.stdout

"""RAW files to pictures: colours, orientation, formats, metadata, comparisons; expected values by hand or by others."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rawpy
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps
from skimage.metrics import peak_signal_noise_ratio

from mlkit.errors import DataError, MemoryShortError, MlkitError
from mlkit.imaging.profiles import linear_profile
from mlkit.tasks.demosaic import infer_files
from mlkit.tasks.demosaic.dng import LINEAR_BLACK, LINEAR_WHITE, write_cfa_dng
from mlkit.tasks.demosaic.infer import Plan, plan_for, restored_rows
from mlkit.tasks.demosaic.infer_files import FileResult, restore_file
from mlkit.tasks.demosaic.infer_inputs import Job, Options
from mlkit.tasks.demosaic.model import XTransNet
from mlkit.tasks.demosaic.raw import read_raw
from mlkit.tasks.demosaic.restorer import Restorer
from mlkit.tasks.demosaic.settings import DemosaicModel
from mlkit.tasks.demosaic.xtrans import Phase, colors, mosaic

BLACK, WHITE = 1024, 16383
PHASE: Phase = (1, 4)

Developed = Callable[..., tuple[FileResult, Path]]


@pytest.fixture(scope="module")
def net() -> XTransNet:
    torch.manual_seed(0)
    net = XTransNet(DemosaicModel(channels=8, blocks=1))
    with torch.no_grad():
        net.tail.weight.mul_(0.2)
    return net


@pytest.fixture
def develop(net: XTransNet, tmp_path: Path) -> Developed:
    """Return what becomes of a file, and where."""
    restorer = Restorer(net, device=torch.device("cpu"), precision="fp32", name="it")

    def run(path: Path, plan: Plan | None = None, **chosen: object) -> tuple[FileResult, Path]:
        options = Options(**chosen)  # type: ignore[arg-type]
        compare = tmp_path / "compare.png" if options.compare else None
        job = Job(path, tmp_path / f"made.{options.file_format}", compare)
        return restore_file(restorer, job, plan or Plan(), options)[0], job.image

    return run


def write_photo(
    path: Path, camera_rgb: np.ndarray, *, wb: tuple[float, float, float] = (1.0, 1.0, 1.0), orientation: int = 1
) -> Path:
    """Write what an X-Trans camera, whose RGB is linear sRGB, would write of an image in linear light."""
    height, width = camera_rgb.shape[:2]
    values = mosaic(camera_rgb.astype(np.float32), PHASE)
    levels = np.round(values * (WHITE - BLACK) + BLACK).astype(np.uint16)
    write_cfa_dng(
        path,
        levels,
        colors(6, 6, PHASE),
        black=BLACK,
        white=WHITE,
        wb=wb,
        orientation=orientation,
        make="Test",  # LibRaw has matrices of its own for cameras that it knows
        model="Camera",
    )
    assert levels.shape == (height, width)
    return path


def flat(color: tuple[float, float, float], height: int = 48, width: int = 60) -> np.ndarray:
    return np.broadcast_to(np.array(color), (height, width, 3))


def encoded(light: np.ndarray | float) -> np.ndarray:
    """Return sRGB values of linear light, as IEC 61966-2-1 defines them."""
    light = np.asarray(light, dtype=np.float64)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)


def ramps(height: int = 72, width: int = 90) -> np.ndarray:
    """Return an image without symmetry that any interpolation gives back nearly exactly."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([0.1 + 0.8 * x / width, 0.2 + 0.6 * y / height, 0.7 - 0.5 * x / width], axis=2)


# ---- colours ----------------------------------------------------------------------------------------------------


def test_a_flat_color_is_developed_with_the_cameras_white_balance(develop: Developed, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.dng", flat((0.2, 0.4, 0.25)), wb=(2.0, 1.0, 1.5))
    result, path = develop(photo)
    made = tifffile.imread(path)
    assert (result.width, result.height, result.camera) == (60, 48, "Test Camera")
    assert made.dtype == np.uint16
    expected = encoded(np.array([0.4, 0.4, 0.375])) * 65535
    np.testing.assert_allclose(made.reshape(-1, 3), np.broadcast_to(expected, (48 * 60, 3)), atol=60)


def test_linear_is_linear_and_says_so(develop: Developed, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.dng", flat((0.2, 0.4, 0.25)))
    _, path = develop(photo, linear=True)
    np.testing.assert_allclose(tifffile.imread(path)[20, 20] / 65535, [0.2, 0.4, 0.25], atol=5e-4)
    with Image.open(path) as image:
        profile = image.info["icc_profile"]
    assert profile == linear_profile()
    # By Pillow's colour management: 0.25 of linear light is 0.537 in sRGB.
    grey = Image.new("RGB", (1, 1), (64, 64, 64))
    shown = ImageCms.profileToProfile(
        grey, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    assert shown is not None
    assert shown.getpixel((0, 0)) == pytest.approx((137, 137, 137), abs=1)
    assert round(float(encoded(64 / 255)) * 255) == 137


def test_exposure_doubles_a_stop(develop: Developed, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.dng", flat((0.1, 0.2, 0.15)))
    _, path = develop(photo, linear=True, exposure_stops=1.0)
    np.testing.assert_allclose(tifffile.imread(path)[20, 20] / 65535, [0.2, 0.4, 0.3], atol=1e-3)


@pytest.mark.parametrize("highlights", ["clip", "blend"])
def test_what_is_saturated_is_white(highlights: str, develop: Developed, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.dng", flat((1.0, 1.0, 1.0)), wb=(2.0, 1.0, 1.5))
    _, path = develop(photo, highlights=highlights)
    np.testing.assert_array_equal(tifffile.imread(path), 65535)


# ---- orientation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation: int, develop: Developed, tmp_path: Path) -> None:
    lying = ramps()
    result, path = develop(write_photo(tmp_path / "a.dng", lying, orientation=orientation))
    as_stored = Image.fromarray(np.rint(encoded(lying) * 255).astype(np.uint8))
    as_stored.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(as_stored)).astype(float)
    made = tifffile.imread(path) / 257.0
    assert made.shape == expected.shape == (result.height, result.width, 3)
    assert np.abs(made - expected)[6:-6, 6:-6].max() < 2.0
    with Image.open(path) as image:
        assert image.getexif().get(274, 1) == 1


# ---- formats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bits"), [("tif", 16), ("png", 16), ("jpg", 8)])
def test_a_result_carries_exif_and_a_profile(name: str, bits: int, develop: Developed, tmp_path: Path) -> None:
    result, path = develop(write_photo(tmp_path / "a.dng", ramps(), orientation=6), file_format=name)
    with Image.open(path) as image:
        exif = image.getexif()
        assert (exif[271], exif[272], exif.get(274, 1)) == ("Test", "Camera", 1)
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
        assert image.size == (result.width, result.height) == (72, 90)
    assert result.notes == ()
    if name == "png":
        assert path.read_bytes()[24] == bits  # IHDR's bit depth
    if name == "tif":
        assert tifffile.imread(path).dtype == np.dtype(f"u{bits // 8}")


def test_strict_refuses_eight_bits_before_anything_is_written(develop: Developed, tmp_path: Path) -> None:
    photo = write_photo(tmp_path / "a.dng", ramps())
    with pytest.raises(DataError, match=r"made\.jpg does not hold 16-bit pixels .*\(--strict\)"):
        develop(photo, file_format="jpg", strict=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dng"]


def test_a_linear_dng_is_what_libraw_develops_to_the_same_picture(develop: Developed, tmp_path: Path) -> None:
    light = ramps(96, 120) * 0.45  # nothing saturated under this white balance
    photo = write_photo(tmp_path / "a.dng", light, wb=(1.8, 1.0, 1.4))
    _, dng = develop(photo, file_format="dng", linear=True)
    _, tif = develop(photo, file_format="tif", linear=True)
    with rawpy.imread(str(dng)) as raw:
        np.testing.assert_allclose(raw.camera_whitebalance[:3], [1.8, 1.0, 1.4], rtol=1e-3)
        theirs = raw.postprocess(
            use_camera_wb=True, no_auto_bright=True, output_bps=16, gamma=(1, 1), adjust_maximum_thr=0.0
        )
    ours = tifffile.imread(tif)
    assert theirs.shape == ours.shape
    # Of three channels LibRaw subtracts black from the values but not from white, so it shows them a little too dark.
    too_dark = LINEAR_WHITE / (LINEAR_WHITE - LINEAR_BLACK)
    assert 1 <= too_dark < 1.01
    assert np.abs(theirs / 65535.0 * too_dark - ours / 65535.0).max() < 1e-3


def test_a_dng_of_a_turned_photo_lies_upright(develop: Developed, tmp_path: Path) -> None:
    _, dng = develop(write_photo(tmp_path / "a.dng", ramps(), orientation=8), file_format="dng", linear=True)
    with rawpy.imread(str(dng)) as raw:
        assert (raw.sizes.height, raw.sizes.width, raw.sizes.flip) == (90, 72, 0)


# ---- tiles and memory ---------------------------------------------------------------------------------------------


def test_tiles_do_not_change_a_picture(develop: Developed, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((200, 150, 3))
    photo = write_photo(tmp_path / "a.dng", noise)
    whole_result, path = develop(photo)
    whole = tifffile.imread(path).astype(int)
    tiled_result, path = develop(photo, Plan(72))
    assert (whole_result.is_tiled, tiled_result.is_tiled) == (False, True)
    assert np.abs(tifffile.imread(path).astype(int) - whole).max() <= 12  # of 65535, by rounding


def test_smaller_tiles_are_tried_when_memory_is_short(
    develop: Developed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = write_photo(tmp_path / "a.dng", ramps(420, 30))
    real, tried = infer_files.restored_rows, []

    def short(restorer: Restorer, frame: object, plan: Plan, progress: object) -> object:
        tried.append(plan.tile)
        if plan.tile > 250:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return real(restorer, frame, plan, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(infer_files, "restored_rows", short)
    result, path = develop(photo)
    assert tried == [1152, 210]
    assert result.plan == Plan(210)
    assert path.is_file()


def test_memory_that_does_not_suffice_is_one_sentence(
    develop: Developed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = write_photo(tmp_path / "a.dng", ramps(60, 60))

    def short(*given: object) -> object:
        raise MemoryError

    monkeypatch.setattr(infer_files, "restored_rows", short)
    with pytest.raises(MemoryShortError) as refused:
        develop(photo)
    told = "out of memory with tiles of 1152 px, for a picture of 60 x 60 px; free some memory"
    assert refused.value.problems == (told,)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dng"]


def test_a_tile_that_would_be_all_margin_is_refused(net: XTransNet) -> None:
    restorer = Restorer(net, device=torch.device("cpu"), name="it")
    assert plan_for(restorer, 3 * restorer.radius) == Plan(3 * restorer.radius)
    with pytest.raises(MlkitError) as refused:
        plan_for(restorer, 10)
    told = f"--tile 10 is too small: {net.reach} px on each side are margin; give {3 * net.reach} or more"
    assert refused.value.problems == (told,)


# ---- RGB images ---------------------------------------------------------------------------------------------------


def test_a_mosaicked_image_is_scored_against_itself(develop: Developed, tmp_path: Path) -> None:
    from skimage import data

    truth = data.astronaut()[100:228, 180:330]
    Image.fromarray(truth).save(tmp_path / "truth.png")
    result, path = develop(tmp_path / "truth.png", mosaic=True, file_format="png", compare=True)
    made = np.asarray(Image.open(path))
    inner = (slice(8, -8), slice(8, -8))
    assert result.psnr_db == pytest.approx(peak_signal_noise_ratio(truth[inner], made[inner]), abs=1e-6)
    assert result.psnr_db > 20
    assert result.libraw_psnr_db is not None and result.libraw_psnr_db > 28  # Markesteijn's on a photograph
    assert result.camera == ""


def test_an_image_that_is_smaller_than_the_pattern_is_refused(develop: Developed, tmp_path: Path) -> None:
    Image.new("RGB", (4, 40)).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=r"thin\.png of 4 x 40 px is smaller than the pattern of 6 x 6"):
        develop(tmp_path / "thin.png", mosaic=True)


def test_transparency_that_is_left_out_is_told(develop: Developed, tmp_path: Path) -> None:
    Image.new("RGBA", (40, 40), (90, 120, 40, 128)).save(tmp_path / "a.png")
    result, _ = develop(tmp_path / "a.png", mosaic=True)
    assert result.notes == (f"{tmp_path / 'made.tif'} does not hold transparency (left out)",)


# ---- comparison ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 6])
def test_libraw_beside_it_lies_as_it_does(
    orientation: int, develop: Developed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large frame goes through LibRaw's own reading of the file, turned like the result."""
    drawn = {}

    def keep(self: infer_files.Comparison, path: Path, heading: str) -> None:
        drawn.update(libraw=self.libraw, made=self.made, heading=heading)

    monkeypatch.setattr(infer_files.Comparison, "draw", keep)
    photo = write_photo(tmp_path / "a.dng", ramps(660, 720), orientation=orientation)
    develop(photo, compare=True)
    assert drawn["heading"] == "a.dng  Test Camera"
    difference = np.abs(drawn["libraw"].astype(int) - drawn["made"])
    assert np.median(difference) == 0
    assert difference[20:-20, 20:-20].max() <= 2


def test_a_comparison_is_drawn_whole_and_in_detail(develop: Developed, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((300, 330, 3)) * 0.5
    develop(write_photo(tmp_path / "a.dng", noise), compare=True, file_format="jpg")
    with Image.open(tmp_path / "compare.png") as image:
        width, height = image.size
    assert width > 3 * 300 and height > 300 + 256  # LibRaw, mlkit and the difference; the square below


def test_the_network_gets_a_balanced_mosaic(net: XTransNet, tmp_path: Path) -> None:
    """So that what it makes of a grey scene does not depend on the sensor's own colours."""
    scene = np.repeat(np.random.default_rng(0).random((48, 60, 1), dtype=np.float32), 3, axis=2)
    restorer = Restorer(net, device=torch.device("cpu"), precision="fp32", name="test")
    made = []
    for wb in ((1.0, 1.0, 1.0), (2.0, 1.0, 1.6)):
        path = tmp_path / f"{wb[0]}.dng"
        raw = mosaic((scene / np.asarray(wb, np.float32)), (0, 0))
        write_cfa_dng(path, np.round(raw * 65535).astype(np.uint16), colors(6, 6), wb=wb)
        frame = read_raw(path)
        rows = np.concatenate([rows for _, rows in restored_rows(restorer, frame, plan_for(restorer))])
        made.append(rows * np.asarray(frame.wb, np.float32))
    np.testing.assert_allclose(made[1], made[0], atol=2e-3)

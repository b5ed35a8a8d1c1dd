"""RAW files are read as they were measured: levels, phase, colours, orientation; unfit ones are told in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.color import colorconv

from mlkit.errors import DataError
from mlkit.tasks.demosaic import xtrans
from mlkit.tasks.demosaic.develop import develop_rows
from mlkit.tasks.demosaic.raw import libraw_mosaic, libraw_rgb, read_raw
from rawfiles import (
    BAYER,
    BLACK,
    CAMERA,
    WB,
    WHITE,
    XTRANS,
    mosaicked,
    raw_levels,
    smooth_picture,
    write_dng,
    write_raf,
)

rawpy = pytest.importorskip("rawpy")

SIDE_PX = 660


def noise(height: int, width: int, low: int = 900, high: int = 16383) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high, (height, width)).astype(np.uint16)


def linear_of_libraw(path: Path) -> np.ndarray:
    """LibRaw's own linear sRGB with the camera's white balance, 1 is white."""
    with rawpy.imread(str(path)) as raw:
        made = raw.postprocess(
            use_camera_wb=True, gamma=(1, 1), output_bps=16, no_auto_bright=True, adjust_maximum_thr=0.0, user_flip=0,
            demosaic_algorithm=rawpy.DemosaicAlgorithm.LINEAR,
        )  # fmt: skip
    return made / 65535.0


# ---- what is measured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [(row, column) for row in range(3) for column in range(6)])
def test_every_phase_is_found_where_the_visible_area_begins(tmp_path: Path, phase: tuple[int, int]) -> None:
    pattern = np.roll(XTRANS, (-phase[0], -phase[1]), (0, 1))
    levels = noise(60, 72)
    frame = read_raw(write_dng(tmp_path / "a.dng", levels, pattern, active_area=(5, 2, 53, 69), make="Other"))
    assert frame.phase == phase
    assert np.array_equal(frame.pattern, pattern)
    expected = (levels[5:53, 2:69].astype(np.float64) - BLACK) / (WHITE - BLACK)
    np.testing.assert_allclose(frame.mosaic_hw, expected, atol=1e-6)


@pytest.mark.parametrize("corner", [(0, 0), (6, 6), (6, 12), (14, 13), (5, 2), (1, 4)])
def test_margins_of_any_width_leave_the_phase_right(tmp_path: Path, corner: tuple[int, int]) -> None:
    """LibRaw's Python interface reads past its table of the pattern where margins are above 6.

    And of Fujifilm's own DNGs LibRaw rounds the margins up to 6, and forgets the pattern where it had to.
    """
    top, left = corner
    height, width = 60, 72
    colors = np.roll(np.tile(XTRANS, (30, 30)), corner, (0, 1))[: top + height, : left + width]
    levels = (BLACK + 1000 * (1.0 + colors)).astype(np.uint16)
    path = write_dng(tmp_path / "a.dng", levels, active_area=(top, left, top + height, left + width))
    for make in ("FUJIFILM", "Other"):
        write_dng(path, levels, active_area=(top, left, top + height, left + width), make=make)
        frame = read_raw(path)
        rows, columns = frame.mosaic_hw.shape
        expected = 1000 * (1.0 + xtrans.colors(rows, columns, frame.phase)) / (WHITE - BLACK)
        np.testing.assert_allclose(frame.mosaic_hw, expected, atol=1e-6)
        assert height - 6 < rows <= height


def test_values_below_black_and_above_white_are_kept(tmp_path: Path) -> None:
    levels = noise(60, 72)
    levels[7, 9], levels[8, 9] = 24, 32743  # a thousand below black, and twice as far above it as white
    frame = read_raw(write_dng(tmp_path / "a.dng", levels))
    assert frame.mosaic_hw[7, 9] == pytest.approx(-1000 / (WHITE - BLACK))
    assert frame.mosaic_hw[8, 9] == pytest.approx((32743 - BLACK) / (WHITE - BLACK))
    assert frame.mosaic_hw.dtype == np.float32


def test_black_levels_that_repeat_over_the_pattern_are_subtracted_site_by_site(tmp_path: Path) -> None:
    black = 1000 + np.arange(36).reshape(6, 6)
    levels = np.tile(black, (10, 12)).astype(np.uint16)
    levels[30:36, 30:36] += 700
    path = write_dng(tmp_path / "a.dng", levels, black=tuple(black.ravel().tolist()), black_shape=(6, 6))
    expected = np.zeros((60, 72))
    expected[30:36, 30:36] = 700 / (WHITE - black.mean())
    np.testing.assert_allclose(read_raw(path).mosaic_hw, expected, atol=1e-7)


def test_a_bayer_file_has_its_four_black_levels_and_no_phase(tmp_path: Path) -> None:
    levels = np.tile(np.array([[100, 200], [300, 400]], np.uint16), (30, 36))
    path = write_dng(
        tmp_path / "a.dng", levels, BAYER, black=(100, 200, 300, 400), black_shape=(2, 2), make="NIKON", model="D750"
    )
    frame = read_raw(path)
    assert not frame.mosaic_hw.any()
    assert np.array_equal(frame.pattern, BAYER)
    with pytest.raises(
        DataError, match=r"a\.dng is a Bayer file \(NIKON D750, 2 x 2 filter\), and this model is for X-T"
    ):
        _ = frame.phase


def test_a_raf_is_read_as_the_cameras(tmp_path: Path) -> None:
    black = np.full((6, 6), 1022)
    black[1::2] = 1025
    levels = noise(60, 72)
    frame = read_raw(write_raf(tmp_path / "a.RAF", levels, black=black, orientation=8))
    assert frame.camera == "FUJIFILM X-T2"
    assert frame.phase == (0, 0)
    assert frame.orientation == 8
    assert frame.wb == pytest.approx(WB, abs=2e-3)
    expected = (levels - np.tile(black, (10, 12))) / (16383 - black.mean())
    np.testing.assert_allclose(frame.mosaic_hw, expected, atol=1e-6)
    assert frame.exif is not None
    assert frame.exif[:2] in (b"II", b"MM")
    assert b"FUJIFILM" in frame.exif
    assert frame.notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_told_and_not_applied(tmp_path: Path, orientation: int) -> None:
    frame = read_raw(write_dng(tmp_path / "a.dng", noise(60, 72), orientation=orientation))
    assert frame.orientation == orientation
    assert frame.mosaic_hw.shape == (60, 72)


def test_camera_is_named_once(tmp_path: Path) -> None:
    path = write_dng(tmp_path / "a.dng", noise(60, 72), make="NIKON CORPORATION", model="NIKON D750")
    assert read_raw(path).camera == "NIKON D750"


# ---- colours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["FUJIFILM", "Other"])  # of the first LibRaw has a matrix in its table
def test_camera_matrix_is_that_of_the_definition(tmp_path: Path, make: str) -> None:
    """A camera's RGB of linear sRGB's primaries, each row scaled to white, inverted (dcraw's way)."""
    frame = read_raw(write_dng(tmp_path / "a.dng", noise(60, 72), make=make))
    from_srgb = CAMERA @ colorconv.xyz_from_rgb
    expected = np.linalg.inv(from_srgb / from_srgb.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(frame.camera_to_srgb, expected, atol=2e-4)
    np.testing.assert_allclose(frame.camera_to_srgb.sum(axis=1), 1, atol=1e-12)
    assert frame.wb == pytest.approx(WB, abs=1e-5)
    # Of XYZ of white a camera gives what daylight's multipliers make grey.
    grey = frame.xyz_to_camera @ [0.95047, 1.0, 1.08883] * np.array(frame.daylight)
    np.testing.assert_allclose(grey / grey[1], 1, atol=2e-4)
    np.testing.assert_allclose(frame.xyz_to_camera / frame.xyz_to_camera[1, 1] * CAMERA[1, 1], CAMERA, atol=1e-3)


@pytest.mark.parametrize("kind", ["dng", "raf"])
def test_developed_colours_are_those_of_libraw(tmp_path: Path, kind: str) -> None:
    image = smooth_picture(SIDE_PX, SIDE_PX + 12) * [0.45, 0.9, 0.55]
    levels = raw_levels(mosaicked(image, XTRANS))
    if kind == "dng":
        path = write_dng(tmp_path / "a.dng", levels)
    else:
        path = write_raf(tmp_path / "a.raf", levels, black=np.full((6, 6), BLACK))
    made = develop_rows(libraw_rgb(path, "linear"), read_raw(path), linear=True)
    expected = linear_of_libraw(path)
    unclipped = (expected > 0.001) & (expected < 0.98)
    assert unclipped.mean() > 0.9
    assert np.abs(made - expected)[unclipped].max() < 1e-3


def test_what_a_file_lacks_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    frame = read_raw(write_dng(tmp_path / "a.dng", noise(60, 72), wb=None, matrix=None, make="Other"))
    assert frame.wb == (1.0, 1.0, 1.0)
    assert np.array_equal(frame.camera_to_srgb, np.eye(3))
    assert len(frame.notes) == 2
    assert "white balance" in " ".join(frame.notes)
    assert "matrix" in " ".join(frame.notes)


# ---- LibRaw's interpolation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["linear", "vng", "1-pass", "3-pass"])
def test_libraws_interpolation_has_the_scale_of_the_mosaic(tmp_path: Path, algorithm: str) -> None:
    image = smooth_picture(SIDE_PX, SIDE_PX) * 1.6  # up to 1.12: highlights are kept
    made = libraw_rgb(write_dng(tmp_path / "a.dng", raw_levels(mosaicked(image, XTRANS))), algorithm)  # type: ignore[arg-type]
    assert made.shape == (SIDE_PX, SIDE_PX, 3)
    assert np.abs(made - image)[8:-8, 8:-8].max() < 0.012
    assert made.max() > 1.05


def test_libraws_interpolation_begins_at_the_same_black_as_the_mosaic(tmp_path: Path) -> None:
    """Of levels that repeat over the pattern LibRaw itself takes off only the lowest."""
    black = 1000 + 20 * np.arange(36).reshape(6, 6)
    path = write_dng(
        tmp_path / "a.dng", noise(SIDE_PX, SIDE_PX), black=tuple(black.ravel().tolist()), black_shape=(6, 6)
    )
    measured, made = read_raw(path).mosaic_hw, libraw_rgb(path, "linear")
    error = np.abs(mosaicked(made, XTRANS) - np.maximum(measured, 0))[1:-1, 1:-1]
    assert error.max() < 2e-5  # interpolation leaves what was measured, to 16 bits


@pytest.mark.parametrize("kind", ["file", "mosaic"])
def test_libraw_interpolates_what_is_white_balanced(tmp_path: Path, kind: str) -> None:
    """A grey scene through a camera of strong multipliers is interpolated as well as without them."""
    wb, side = (2.1, 1.0, 1.7), SIDE_PX
    grey = smooth_picture(side, side).mean(axis=2, keepdims=True).repeat(3, axis=2)
    grey *= 0.4 + 0.6 * (np.random.default_rng(0).random((side, side, 1)) < 0.5)  # detail
    given = mosaicked(grey, XTRANS)
    seen = given / np.array(wb)[XTRANS[np.ix_(np.arange(side) % 6, np.arange(side) % 6)]]
    plain = libraw_mosaic(given.astype(np.float32), XTRANS)
    if kind == "file":
        made = libraw_rgb(write_dng(tmp_path / "a.dng", raw_levels(seen), wb=wb)) * wb
    else:
        made = libraw_mosaic(seen.astype(np.float32), XTRANS, wb=wb) * wb
    expected, found = (float(np.square(one - grey)[8:-8, 8:-8].mean()) for one in (plain, made))
    assert found < 1.05 * expected


def test_libraws_interpolation_knows_the_phase_of_a_cropped_frame(tmp_path: Path) -> None:
    image = smooth_picture(SIDE_PX, SIDE_PX)
    pattern = np.roll(XTRANS, (-1, -2), (0, 1))
    levels = np.zeros((SIDE_PX + 9, SIDE_PX + 8), np.uint16)
    levels[5 : 5 + SIDE_PX, 2 : 2 + SIDE_PX] = raw_levels(mosaicked(image, pattern))
    path = write_dng(tmp_path / "a.dng", levels, pattern, active_area=(5, 2, 5 + SIDE_PX, 2 + SIDE_PX), make="Other")
    assert np.abs(libraw_rgb(path) - image)[8:-8, 8:-8].max() < 0.01


def test_a_filter_that_libraw_forgets_is_interpolated_all_the_same(tmp_path: Path) -> None:
    """Of a Fujifilm's DNG whose margins LibRaw rounds to 6 x 6."""
    image = smooth_picture(SIDE_PX, SIDE_PX)
    levels = np.zeros((SIDE_PX + 5, SIDE_PX + 2), np.uint16)
    levels[5:, 2:] = raw_levels(mosaicked(image, XTRANS))
    path = write_dng(tmp_path / "a.dng", levels, active_area=(5, 2, SIDE_PX + 5, SIDE_PX + 2))
    made = libraw_rgb(path)
    assert made.shape == (SIDE_PX - 1, SIDE_PX - 4, 3)
    assert np.abs(made - image[1:, 4:])[8:-8, 8:-8].max() < 0.01


@pytest.mark.parametrize(("height", "width"), [(6, 7), (61, 200), (640, 90), (641, 650)])
@pytest.mark.parametrize("phase", [(0, 0), (1, 4), (2, 3)])
def test_mosaics_of_any_size_and_phase_go_through_libraw(height: int, width: int, phase: tuple[int, int]) -> None:
    image = smooth_picture(height, width).astype(np.float32)
    pattern = np.roll(XTRANS, (-phase[0], -phase[1]), (0, 1))
    mosaic = mosaicked(image, pattern).astype(np.float32)
    made = libraw_mosaic(mosaic, pattern, "linear")
    assert made.shape == (height, width, 3)
    # At measured sites linear interpolation gives what was measured, but at the border, which LibRaw fills otherwise.
    assert np.abs(mosaicked(made, pattern) - mosaic)[1:, 1:].max() < 2e-5
    assert np.abs(made - image)[1:, 1:].max() < (0.5 if height < 10 else 0.05)


def test_mirroring_out_changes_nothing_inside() -> None:
    """The same picture, small and as a corner of a large one."""
    image = smooth_picture(700, 700).astype(np.float32) + np.random.default_rng(0).normal(0, 0.02, (700, 700, 3))
    mosaic = mosaicked(image, XTRANS).astype(np.float32)
    whole, corner = libraw_mosaic(mosaic, XTRANS), libraw_mosaic(mosaic[:120, :150], XTRANS)
    assert np.abs(whole[:100, :130] - corner[:100, :130]).max() < 1e-6


def test_highlights_go_through_libraw_uncut() -> None:
    image = smooth_picture(80, 90).astype(np.float32) * 2.5
    mosaic = mosaicked(image, XTRANS).astype(np.float32)
    made = libraw_mosaic(mosaic, XTRANS)
    assert image.max() > 1.5
    assert np.abs(made - image)[4:-4, 4:-4].max() < 0.05


def test_a_frame_that_libraw_does_not_interpolate_is_told(tmp_path: Path) -> None:
    path = write_dng(tmp_path / "a.dng", noise(60, 700))
    with pytest.raises(DataError, match=r"does not interpolate .*a\.dng of 700 x 60 px; it takes 640 px"):
        libraw_rgb(path)


# ---- unfit files ------------------------------------------------------------------------------------------------


def test_no_raw_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notes.RAF"
    path.write_text("not a picture\n" * 100)
    with pytest.raises(DataError, match=r"notes\.RAF is no RAW file that LibRaw \S+ knows; RAW files end in .*\.raf"):
        read_raw(path)


def test_missing_empty_and_folder_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty.RAF").touch()
    with pytest.raises(DataError, match=r"empty\.RAF is empty \(0 bytes\)"):
        read_raw(tmp_path / "empty.RAF")
    with pytest.raises(DataError, match=r"none\.RAF does not exist"):
        read_raw(tmp_path / "none.RAF")
    with pytest.raises(DataError, match="is a folder"):
        read_raw(tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["dng", "raf"])
def test_files_that_were_cut_off_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, share: float
) -> None:
    if kind == "dng":
        path = write_dng(tmp_path / "a.dng", noise(300, 300))
    else:
        path = write_raf(tmp_path / "a.raf", noise(300, 300), black=np.full((6, 6), BLACK))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for read in (read_raw, libraw_rgb):
        with pytest.raises(DataError, match=r"is cut off at byte [\d,]+.*; copy it from the camera again"):
            read(path)
    assert capfd.readouterr().err == ""  # LibRaw's own words are not seen


def test_a_file_of_all_colours_in_every_pixel_is_told(tmp_path: Path) -> None:
    from mlkit.tasks.demosaic.dng import write_linear_dng

    write_linear_dng(tmp_path / "linear.dng", smooth_picture(60, 72), wb=WB, color_matrix=CAMERA)
    with pytest.raises(DataError, match=r"linear\.dng has no colour filter \(every pixel holds all colours\)"):
        read_raw(tmp_path / "linear.dng")


def test_levels_that_cannot_be_are_told(tmp_path: Path) -> None:
    path = write_dng(tmp_path / "a.dng", noise(60, 72), black=(2000,), white=1500)
    with pytest.raises(DataError, match="white level 1500 is not above its black level 2000"):
        read_raw(path)


def test_a_filter_that_is_no_xtrans_is_told(tmp_path: Path) -> None:
    pattern = XTRANS.copy()
    pattern[0, 0], pattern[0, 1] = pattern[0, 1], pattern[0, 0]
    frame = read_raw(write_dng(tmp_path / "a.dng", noise(60, 72), pattern))
    with pytest.raises(DataError, match=r"a\.dng \(FUJIFILM X-T2\): a 6 x 6 colour filter .* is no X-Trans pattern"):
        _ = frame.phase


def test_the_pattern_of_the_tests_is_that_of_the_task() -> None:
    assert np.array_equal(xtrans.PATTERN, XTRANS)

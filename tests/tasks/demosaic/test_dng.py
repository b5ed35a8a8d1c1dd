"""DNGs are read back by LibRaw and tifffile as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from mlkit.imaging.ifd import EXIF_DIRECTORY, Directory, Entry, read_directory, write_block
from mlkit.tasks.demosaic.dng import linear_dng, write_cfa_dng, write_linear_dng
from mlkit.tasks.demosaic.raw import read_raw
from rawfiles import BAYER, CAMERA, WB, XTRANS, smooth_picture

rawpy = pytest.importorskip("rawpy")


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 65536, (height, width)).astype(np.uint16)


@pytest.mark.parametrize("pattern", [XTRANS, np.roll(XTRANS, (2, 5), (0, 1)), BAYER])
def test_libraw_reads_a_mosaic_bit_for_bit(tmp_path: Path, pattern: np.ndarray) -> None:
    mosaic = noise(66, 72)
    write_cfa_dng(tmp_path / "a.dng", mosaic, pattern, black=512, white=60000, wb=WB, color_matrix=CAMERA)
    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        assert np.array_equal(raw.raw_image_visible, mosaic)
        colors = np.array([0, 1, 2, 1])[raw.raw_colors_visible[:6, :6]]  # Bayer's second green has a number of its own
        assert np.array_equal(colors, np.tile(pattern, (6 // len(pattern), 6 // len(pattern))))
        assert raw.black_level_per_channel == [512] * 4
        assert raw.white_level == 60000
        assert raw.camera_whitebalance[:3] == pytest.approx(WB, abs=1e-5)


def test_all_that_is_written_is_read(tmp_path: Path) -> None:
    mosaic = noise(66, 72)
    black = np.arange(100.0, 136.0).reshape(6, 6)
    path = tmp_path / "a.dng"
    write_cfa_dng(
        path, mosaic, XTRANS, black=black, white=60000, wb=WB, color_matrix=CAMERA, orientation=6, make="Maker",
        model="One", active_area=(6, 12, 60, 66),
    )  # fmt: skip
    frame = read_raw(path)
    assert (frame.camera, frame.orientation, frame.white, frame.black) == ("Maker One", 6, 60000, black.mean())
    assert frame.wb == pytest.approx(WB, abs=1e-5)
    np.testing.assert_allclose(frame.xyz_to_camera / frame.xyz_to_camera[1, 1], CAMERA / CAMERA[1, 1], atol=1e-5)
    expected = (mosaic[6:60, 12:66] - np.tile(black, (9, 9))) / (60000 - black.mean())
    np.testing.assert_allclose(frame.mosaic_hw, expected, atol=1e-6)


def test_a_file_without_white_balance_and_matrix_has_none(tmp_path: Path) -> None:
    write_cfa_dng(tmp_path / "a.dng", noise(66, 72), XTRANS, wb=None, color_matrix=None)
    with tifffile.TiffFile(tmp_path / "a.dng") as tiff:
        tags = {tag.code for tag in tiff.pages[0].tags}
    assert not tags & {50721, 50728, 50778}


def test_linear_rgb_is_read_by_libraw_with_shadows_and_highlights(tmp_path: Path) -> None:
    image = smooth_picture(60, 72) * 2.4 - 0.25
    image[0, :3] = [[-0.005, 0, 0.5], [1, 1.5, 1.9], [-9, 9, 0]]
    assert image.max() > 1.3
    write_linear_dng(tmp_path / "a.dng", image, wb=WB, color_matrix=CAMERA, orientation=8)
    expected = np.clip(image, -256 / 32768, (65535 - 256) / 32768)
    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        levels = raw.raw_image_visible[..., :3].astype(np.float64)
        np.testing.assert_allclose((levels - 256) / 32768, expected, atol=1e-5 + 0.5 / 32768)
        assert raw.black_level_per_channel[:3] == [256] * 3
        assert raw.white_level == 33024
        assert raw.camera_whitebalance[:3] == pytest.approx(WB, abs=1e-5)
        assert raw.sizes.flip == 5  # EXIF's 8
        made = raw.postprocess(
            user_wb=[1] * 4, output_color=rawpy.ColorSpace.raw, gamma=(1, 1), output_bps=16, no_auto_bright=True,
            no_auto_scale=True, user_flip=0, adjust_maximum_thr=0.0,
        )  # fmt: skip
    np.testing.assert_allclose(made / 32768, np.maximum(expected, 0), atol=1e-5 + 0.5 / 32768)


def test_a_linear_file_made_of_a_frame_is_developed_as_the_frame(tmp_path: Path) -> None:
    """Any raw converter sees the same colours: LibRaw's of the linear file against our own of the RAW file."""
    from mlkit.tasks.demosaic.develop import develop_rows
    from rawfiles import mosaicked, raw_levels, write_raf

    image = (smooth_picture(660, 672) * [0.45, 0.9, 0.55]).astype(np.float32)
    levels = raw_levels(mosaicked(image, XTRANS))
    frame = read_raw(write_raf(tmp_path / "a.raf", levels, black=np.full((6, 6), 1024)))
    path = tmp_path / "linear.dng"
    write_linear_dng(path, image, wb=frame.wb, color_matrix=frame.xyz_to_camera, make="mlkit", model=frame.camera)
    with rawpy.imread(str(path)) as raw:
        made = raw.postprocess(use_camera_wb=True, gamma=(1, 1), output_bps=16, no_auto_bright=True, user_flip=0,
                               adjust_maximum_thr=0.0) / 65535  # fmt: skip
    made *= 33024 / 32768  # LibRaw does not take the black level off white here
    expected = develop_rows(image, frame, linear=True)
    unclipped = (made > 0.001) & (made < 0.98)
    assert unclipped.mean() > 0.9
    assert np.abs(made - expected)[unclipped].max() < 1e-3


def test_rows_as_they_come_make_the_same_file(tmp_path: Path) -> None:
    image = smooth_picture(61, 40)
    write_linear_dng(tmp_path / "whole.dng", image, wb=WB, color_matrix=CAMERA)
    with linear_dng(tmp_path / "rows.dng", 61, 40, wb=WB, color_matrix=CAMERA) as rows:
        for top in range(0, 61, 17):
            rows(image[top : top + 17])
    assert (tmp_path / "whole.dng").read_bytes() == (tmp_path / "rows.dng").read_bytes()


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="stop"),
        linear_dng(tmp_path / "a.dng", 61, 40, wb=WB, color_matrix=CAMERA) as rows,
    ):
        rows(smooth_picture(30, 40))
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_exif_is_carried_and_says_what_the_file_says(tmp_path: Path) -> None:
    iso = Entry(3, 1, b"\x90\x01")
    about = {
        306: Entry(2, 5, b"1969\0"),
        274: Entry(3, 1, b"\3\0"),
        271: Entry(2, 6, b"Other\0"),
        256: Entry(4, 1, b"\1\0\0\0"),
    }
    exif = write_block(Directory(about, {EXIF_DIRECTORY: Directory({34855: iso})}))
    write_linear_dng(
        tmp_path / "a.dng", smooth_picture(60, 72), wb=WB, color_matrix=CAMERA, orientation=6, make="M", exif=exif
    )
    directory = read_directory((tmp_path / "a.dng").read_bytes())
    assert directory.entries[306].data == b"1969\0"
    assert directory.entries[274].data == b"\6\0"
    assert directory.entries[271].data == b"M\0"
    assert directory.children[EXIF_DIRECTORY].entries[34855] == iso
    with tifffile.TiffFile(tmp_path / "a.dng") as tiff:
        assert tiff.pages[0].imagewidth == 72
        assert tiff.pages[0].photometric == 34892
        assert tiff.pages[0].tags[34665].value["ISOSpeedRatings"] == 400

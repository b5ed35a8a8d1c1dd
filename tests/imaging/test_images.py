"""Images are read at full depth, and every file that is not one is named."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from mlkit.errors import DataError
from mlkit.imaging.images import list_images, read_image, write_png16


def ramp_u16(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (20, 31, channels), dtype=np.uint16)


def test_16_bit_png_and_tiff_keep_their_16_bits(tmp_path: Path) -> None:
    values = ramp_u16()
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    tifffile.imwrite(tmp_path / "planar.tif", np.moveaxis(values, 2, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "lzw.tif", values, photometric="rgb", compression="zlib", predictor=True)
    for name in ("a.png", "a.tif", "planar.tif", "lzw.tif"):
        image = read_image(tmp_path / name)
        assert image.dtype == np.float32 and image.shape == (20, 31, 3)
        np.testing.assert_allclose(image, values / 65535.0, atol=1e-7)
        assert np.array_equal(np.rint(image * 65535).astype(np.uint16), values)  # nothing lost


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_8_bit_images_agree_with_pillow(tmp_path: Path, suffix: str) -> None:
    values = (ramp_u16() >> 8).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path, lossless=True) if suffix == "webp" else Image.fromarray(values).save(path)
    np.testing.assert_allclose(read_image(path), values / 255.0, atol=1e-7)


def test_jpeg_is_turned_upright(tmp_path: Path) -> None:
    values = np.zeros((16, 32, 3), np.uint8)
    values[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn by 90 degrees clockwise to view
    Image.fromarray(values).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (32, 16, 3) and image[:14].min() > 0.9 and image[18:].max() < 0.1


def test_gray_alpha_palette_and_one_bit_are_one_or_three_channels(tmp_path: Path) -> None:
    gray = (ramp_u16(1)[..., 0] >> 8).astype(np.uint8)
    for mode, channels in (("L", 1), ("LA", 1), ("1", 1), ("RGBA", 3), ("P", 3)):
        Image.fromarray(gray).convert("RGB").convert(mode).save(tmp_path / "a.png")
        image = read_image(tmp_path / "a.png")
        assert image.shape == (20, 31, channels), mode
        expected = np.asarray(Image.open(tmp_path / "a.png").convert("L" if channels == 1 else "RGB")) / 255
        np.testing.assert_allclose(image[..., 0], expected if channels == 1 else expected[..., 0], atol=1e-6)


def test_what_a_name_claims_does_not_matter(tmp_path: Path) -> None:
    values = ramp_u16()
    (tmp_path / "a.jpg").write_bytes(imagecodecs.png_encode(values))
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg"), values / 65535.0, atol=1e-7)


def test_write_png16_can_be_read_by_others(tmp_path: Path) -> None:
    for channels in (1, 3):
        image = ramp_u16(channels) / 65535.0
        write_png16(tmp_path / "out" / "a.png", image)
        decoded = imagecodecs.png_decode((tmp_path / "out" / "a.png").read_bytes())
        assert decoded.dtype == np.uint16 and np.array_equal(decoded.reshape(image.shape), ramp_u16(channels))


def test_float_tiff_is_read_in_range_and_refused_beyond(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((8, 9, 3), dtype=np.float32)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "a.tif"), image)
    for bad in (image * 300, np.full_like(image, np.nan)):
        tifffile.imwrite(tmp_path / "b.tif", bad, photometric="rgb")
        with pytest.raises(DataError, match=r"b\.tif has float values from .* display values in \[0, 1\] work"):
            read_image(tmp_path / "b.tif")


def test_missing_empty_broken_and_strange_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image .*none\.png does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_image(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.png is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not an image at all")
    with pytest.raises(DataError, match=r"text\.png cannot be decoded"):
        read_image(tmp_path / "text.png")
    tifffile.imwrite(tmp_path / "int.tif", np.zeros((8, 8), np.int32))
    with pytest.raises(DataError, match=r"pixels of type int32; 8- and 16-bit integers work"):
        read_image(tmp_path / "int.tif")
    tifffile.imwrite(tmp_path / "many.tif", np.zeros((8, 9, 7), np.uint8), planarconfig="contig", photometric="rgb")
    with pytest.raises(DataError, match=r"shape \(8, 9, 7\); one or three channels"):
        read_image(tmp_path / "many.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, kept: float) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    Image.fromarray((np.random.default_rng(0).random((64, 64, 3)) * 255).astype(np.uint8)).save(whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=rf"image .*cut\.{suffix} cannot be decoded"):
        read_image(cut)


def test_list_images_is_sorted_recursive_and_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.JPG", "a/b.tiff", "z.txt", ".hidden.png", ".cache/x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == ["a/b.tiff", "a/c.JPG", "b.png"]


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image folder .*none does not exist; give a folder"):
        list_images(tmp_path / "none")
    with pytest.raises(DataError, match=r"no images in .*; files that count end in \.jpeg, \.jpg, \.png"):
        list_images(tmp_path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.png is a file; give the folder that it is in"):
        list_images(tmp_path / "a.png")

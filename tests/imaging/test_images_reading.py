"""Pixels come upright, straight and in [0, 1] from files of every kind, and what cannot be an image is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps

from imagefiles import SIGNATURE, XMP, chunk, exif, levels, png_with, profile
from mlkit.errors import DataError
from mlkit.imaging.images import open_image, read_image, write_image


def turned_by_pillow(values: np.ndarray, orientation: int) -> np.ndarray:
    picture = Pillow.fromarray(values)
    picture.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_all_eight_orientations_are_turned_upright_and_the_tag_says_so(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    values = np.kron(levels(3, np.uint8, 5, 7), np.ones((8, 8, 1), np.uint8))
    source, written = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    how = {".webp": {"lossless": True, "exact": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    prefix = b"Exif\0\0" if suffix == ".jpg" else b""
    Pillow.fromarray(values).save(source, exif=prefix + exif(orientation, 56, 40), dpi=(300, 150), **how)
    image = open_image(source)
    upright = turned_by_pillow(values, orientation)
    assert image.pixels.shape == upright.shape and image.pixels.flags.c_contiguous
    if suffix == ".jpg":
        with Pillow.open(source) as picture:
            upright = np.asarray(ImageOps.exif_transpose(picture))
    assert np.array_equal(np.rint(image.pixels * 255), upright)
    assert suffix == ".webp" or image.metadata.dpi == pytest.approx(
        (150, 300) if orientation >= 5 else (300, 150), abs=0.0127
    )
    write_image(written, image)
    with Pillow.open(written) as picture:
        tags = picture.getexif()
        assert tags[0x0112] == 1 and tags[0x010F] == "Camera AG"
        inner = tags.get_ifd(0x8769)
        assert (inner[0xA002], inner[0xA003]) == picture.size == upright.shape[1::-1]
        assert inner[0x927C] == b"MAKER\0\1\2\xff" * 5
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(Pillow.open(written)).convert("RGB")).shape, upright.shape)


def test_xmp_that_was_turned_says_upright_too(tmp_path: Path) -> None:
    turned = XMP.replace(b'tiff:Orientation="1"', b'tiff:Orientation="6"')
    values = levels(3, np.uint8)
    Pillow.fromarray(values).save(tmp_path / "both.webp", exif=exif(6), xmp=turned, lossless=True)
    Pillow.fromarray(values).save(tmp_path / "alone.webp", xmp=turned, lossless=True)  # as Pillow understands it
    for name in ("both.webp", "alone.webp"):
        image = open_image(tmp_path / name)
        assert image.pixels.shape == (31, 20, 3) and image.metadata.xmp == XMP


def test_a_preview_that_lies_on_its_side_is_cut_off_and_all_else_stays(tmp_path: Path) -> None:
    def block(orientation: int, preview_at: int) -> bytes:
        first = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + struct.pack("<I", preview_at)
        second = struct.pack("<HHHII", 1, 0x0201, 4, 1, 44) + b"\0\0\0\0"
        return b"II*\0\x08\0\0\0" + first + second + b"\xff\xd8preview\xff\xd9"

    for turn, preview_at in ((6, 0), (1, 26)):
        before = b"Exif\0\0" + block(turn, 26)
        Pillow.fromarray(levels(3, np.uint8)).save(tmp_path / "a.jpg", exif=before)
        write_image(tmp_path / "b.jpg", open_image(tmp_path / "a.jpg"))
        with Pillow.open(tmp_path / "b.jpg") as picture:
            assert picture.info["exif"] == b"Exif\0\0" + block(1, preview_at)


# ---- CMYK -------------------------------------------------------------------------------------------------------


def cmyk_profile() -> bytes:
    """Return a press whose inks multiply: a table of 2^4 corners from CMYK to Lab (ICC.1:2001, section 6.5.8)."""
    paper = np.array([95.0, 1.0, -3.0])
    inks = {0: (75, -37, -50), 1: (70, 74, -3), 2: (92, -5, 93), 3: (40, 0, 0)}  # no deep black
    table = b""
    for corner in range(16):
        lab = paper.copy()
        for ink, solid in inks.items():
            if corner >> (3 - ink) & 1:
                share = np.array(solid, float)
                lab = np.array([lab[0] * share[0] / 95.0, lab[1] * 0.5 + share[1], lab[2] * 0.5 + share[2]])
        coded = [lab[0] * 652.8, (np.clip(lab[1], -120, 120) + 128) * 256, (np.clip(lab[2], -120, 120) + 128) * 256]
        table += struct.pack(">3H", *(round(value) for value in coded))
    line = struct.pack(">2H", 0, 65535)
    identity = struct.pack(">9i", *(0x10000 if index % 4 == 0 else 0 for index in range(9)))
    a2b = b"mft2\0\0\0\0" + struct.pack(">4B", 4, 3, 2, 0) + identity + struct.pack(">2H", 2, 2)
    a2b += line * 4 + table + line * 3
    words = b"desc\0\0\0\0" + struct.pack(">I", 6) + b"press\0" + b"\0" * 78
    rights = b"text\0\0\0\0free\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags, data, place = b"", b"", 128 + 4 + 12 * 4
    for name, body in ((b"A2B0", a2b), (b"desc", words), (b"cprt", rights), (b"wtpt", white)):
        body += b"\0" * (-len(body) % 4)
        tags += name + struct.pack(">II", place + len(data), len(body))
        data += body
    head = struct.pack(">I4sI4s4s4s", place + len(data), b"\0\0\0\0", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", 4) + tags + data


def test_cmyk_jpeg_becomes_srgb_by_its_profile(tmp_path: Path) -> None:
    inks = np.kron(levels(4, np.uint8, 4, 6), np.ones((8, 8, 1), np.uint8))
    Pillow.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0, icc_profile=cmyk_profile())
    image = open_image(tmp_path / "a.jpg")
    with Pillow.open(tmp_path / "a.jpg") as picture:
        by_pillow = ImageCms.profileToProfile(
            picture, ImageCms.ImageCmsProfile(io.BytesIO(cmyk_profile())), ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    assert np.abs(image.pixels - np.asarray(by_pillow) / 255).max() < 2 / 255
    assert np.abs(image.pixels - read_image(tmp_path / "a.jpg")).max() > 0.1  # not what comes without the profile
    assert image.losses == ("CMYK (converted to sRGB by its profile)",)
    assert image.metadata.icc is not None and image.metadata.icc[16:20] == b"RGB "
    (told,) = write_image(tmp_path / "b.png", image)
    assert "does not hold CMYK (converted to sRGB by its profile)" in told


@pytest.mark.parametrize("damaged", [None, b"no profile", cmyk_profile()[:300]])
def test_cmyk_without_a_profile_that_works_is_converted_plainly_and_that_is_said(
    tmp_path: Path, damaged: bytes | None
) -> None:
    inks = np.full((16, 16, 4), 40, np.uint8)
    how = {} if damaged is None else {"icc_profile": damaged}
    Pillow.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=100, **how)
    image = open_image(tmp_path / "a.jpg")
    with Pillow.open(tmp_path / "a.jpg") as picture:
        assert np.abs(image.pixels - np.asarray(picture.convert("RGB")) / 255).max() <= 1 / 255
    assert image.losses[0].startswith("CMYK (converted to RGB plainly, since ") and image.metadata.icc is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_tiff_is_no_rgb_with_alpha(tmp_path: Path, dtype: type) -> None:
    inks = levels(4, dtype)
    tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated", metadata=None)
    ink = inks / np.iinfo(dtype).max
    expected = (1 - ink[..., :3]) * (1 - ink[..., 3:])
    for pixels in (open_image(tmp_path / "a.tif").pixels, read_image(tmp_path / "a.tif")):
        assert np.abs(pixels - expected).max() <= 0.51 / np.iinfo(dtype).max
    assert open_image(tmp_path / "a.tif").alpha is None


# ---- colour profiles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["RGB", "GRAY"])
def test_pixels_are_converted_to_srgb_only_when_that_is_asked_for(tmp_path: Path, space: str) -> None:
    values = levels(3 if space == "RGB" else 1, np.uint8)
    picture = Pillow.fromarray(values if space == "RGB" else values[..., 0])
    picture.save(tmp_path / "a.png", icc_profile=profile(space))
    kept = open_image(tmp_path / "a.png")
    assert np.array_equal(np.rint(kept.pixels * 255), values) and kept.metadata.icc == profile(space)
    converted = open_image(tmp_path / "a.png", to_srgb=True)
    by_pillow = ImageCms.profileToProfile(
        picture, ImageCms.ImageCmsProfile(io.BytesIO(profile(space))), ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    assert converted.pixels.shape == values.shape
    assert np.abs(converted.pixels - np.asarray(by_pillow)[..., : values.shape[2]] / 255).max() < 2 / 255
    assert np.abs(converted.pixels - kept.pixels).max() > 0.02
    assert write_image(tmp_path / "b.png", converted) == []
    again = open_image(tmp_path / "b.png", to_srgb=True)
    assert np.abs(again.pixels - converted.pixels).max() <= 1.5 / 255


def test_a_profile_that_cannot_be_used_is_an_error_only_when_it_is_needed(tmp_path: Path) -> None:
    Pillow.fromarray(levels(3, np.uint8)).save(tmp_path / "a.png", icc_profile=b"nonsense" * 40)
    assert open_image(tmp_path / "a.png").pixels.shape == (20, 31, 3)
    with pytest.raises(DataError, match=r"a\.png cannot be converted to sRGB: the profile is of nothing"):
        open_image(tmp_path / "a.png", to_srgb=True)
    (told,) = write_image(tmp_path / "b.png", open_image(tmp_path / "a.png"))
    assert "the colour profile (it is of nothing, the pixels are RGB)" in told


def test_colours_told_by_chunks_of_png_are_named_unless_they_mean_srgb(tmp_path: Path) -> None:
    content = imagecodecs.png_encode(levels(3, np.uint8))
    chrm = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    for chunks, told in (
        ([chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"cHRM", chrm)], False),
        ([chunk(b"gAMA", struct.pack(">I", 100000))], True),
        ([chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"sRGB", b"\0")], False),
        ([chunk(b"cICP", bytes([9, 16, 0, 1]))], True),
    ):
        (tmp_path / "a.png").write_bytes(png_with(content, *chunks))
        assert bool(open_image(tmp_path / "a.png").losses) == told


# ---- alpha ------------------------------------------------------------------------------------------------------


def test_weighted_colours_come_straight_and_go_back_as_they_were(tmp_path: Path) -> None:
    alpha = np.array([[0, 1, 128, 65535]], np.uint16)
    weighted = np.dstack([alpha // 2] * 3 + [alpha])
    tifffile.imwrite(tmp_path / "a.tif", weighted, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    image = open_image(tmp_path / "a.tif")
    np.testing.assert_allclose(image.pixels[0, :, 0], [0, 0, 0.5, 0.5], atol=1e-5)
    assert image.losses == () and image.associated
    write_image(tmp_path / "b.tif", image)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert np.array_equal(tiff.pages[0].asarray(), weighted)
        assert tiff.pages[0].extrasamples == (tifffile.EXTRASAMPLE.ASSOCALPHA,)
    weighted[0, 2, 0] = 60000
    tifffile.imwrite(tmp_path / "c.tif", weighted, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    assert open_image(tmp_path / "c.tif").losses == ("colours brighter than their transparency allows (cut)",)


def test_a_transparent_colour_of_png_becomes_alpha(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 4, 3, 16, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        SIGNATURE + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", 15000))
        + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )  # fmt: skip
    image = open_image(tmp_path / "a.png")
    assert image.alpha is not None and np.array_equal(image.alpha == 0, values == 15000)


# ---- kinds of TIFF ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 4, 12])
def test_tiff_of_odd_depths_reaches_white(tmp_path: Path, bits: int) -> None:
    values = np.arange(2**bits, dtype=np.uint16 if bits > 8 else np.uint8)[None].repeat(8, 0)
    stored = values.astype(bool) if bits == 1 else values
    tifffile.imwrite(tmp_path / "a.tif", stored, bitspersample=bits, photometric="minisblack", metadata=None)
    image = open_image(tmp_path / "a.tif")
    np.testing.assert_allclose(image.pixels[..., 0], values / (2**bits - 1), atol=1e-7)
    assert image.depth == (16 if bits > 8 else 8)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), image.pixels)


@pytest.mark.parametrize("compression", ["jpeg", "lzw", "zstd", "packbits"])
def test_tiff_of_any_compression_agrees_with_other_readers(tmp_path: Path, compression: str) -> None:
    from imagefiles import gdal_pixels

    values = np.kron(levels(3, np.uint8, 4, 4), np.ones((16, 16, 1), np.uint8))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", compression=compression, metadata=None)
    if compression == "jpeg":  # GDAL enlarges the colours of 2 x 2 pixels in another way
        with Pillow.open(tmp_path / "a.tif") as picture:
            expected = np.asarray(picture)
    else:
        expected = gdal_pixels(tmp_path / "a.tif")
    assert np.array_equal(np.rint(open_image(tmp_path / "a.tif").pixels * 255), expected)


def test_white_is_zero_and_big_and_half_floats(tmp_path: Path) -> None:
    grey = levels(1)[..., 0]
    tifffile.imwrite(tmp_path / "white.tif", grey, photometric="miniswhite", metadata=None, bigtiff=True)
    np.testing.assert_allclose(open_image(tmp_path / "white.tif").pixels[..., 0], 1 - grey / 65535, atol=1e-7)
    half = np.random.default_rng(0).random((8, 9, 3)).astype(np.float16)
    tifffile.imwrite(tmp_path / "half.tif", half, photometric="rgb", metadata=None)
    assert np.array_equal(open_image(tmp_path / "half.tif").pixels, half.astype(np.float32))
    assert open_image(tmp_path / "half.tif").depth == 32


def test_previews_in_a_tiff_are_no_second_picture(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(levels(3, np.uint8), photometric="rgb", metadata=None)
        tiff.write(levels(3, np.uint8, 10, 15), photometric="rgb", subfiletype=1, metadata=None)
    assert open_image(tmp_path / "a.tif").pixels.shape == (20, 31, 3)


# ---- what is refused --------------------------------------------------------------------------------------------


def test_animations_and_several_pages_are_refused_where_one_image_is_meant(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(levels(3, np.uint8, 8 + 0 * index, 8)) for index in range(3)]
    frames[1] = frames[1].transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
    for suffix in (".webp", ".png", ".tif"):
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=rf"a\{suffix} holds [23] (pictures, an animation|pages); save the one"):
            open_image(tmp_path / f"a{suffix}")
        assert read_image(tmp_path / f"a{suffix}").shape == (8, 8, 3)  # which takes the first


def test_pixels_that_mean_no_colour_are_refused(tmp_path: Path) -> None:
    for name, values, how, told in (
        ("lab", levels(3, np.uint8), {"photometric": "cielab"}, "pixels of kind CIELAB"),
        ("ycbcr", levels(3, np.uint8), {"photometric": "ycbcr"}, "pixels of kind YCBCR"),
        ("raw", levels(1)[..., 0], {"photometric": 32803, "extratags": [(33421, 3, 2, (2, 2), True)]}, "kind CFA"),
        ("inks", levels(5, np.uint8), {"photometric": "separated"}, r"has the shape \(20, 31, 5\)"),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, metadata=None, **how)
        with pytest.raises(DataError, match=told):
            open_image(tmp_path / f"{name}.tif")


def test_damaged_metadata_does_not_lose_the_picture_and_is_named(tmp_path: Path) -> None:
    content = imagecodecs.png_encode(levels(3, np.uint8))
    for chunks, told in (
        ([chunk(b"iCCP", b"name\0\0not deflate")], "metadata (damaged)"),
        ([chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")], "EXIF (damaged)"),
        ([chunk(b"eXIf", b"?")], "EXIF (damaged)"),
    ):
        (tmp_path / "a.png").write_bytes(png_with(content, *chunks))
        image = open_image(tmp_path / "a.png")
        assert image.pixels.shape == (20, 31, 3) and image.losses == (told,)
        assert write_image(tmp_path / "b.png", image) == [f"{tmp_path / 'b.png'} does not hold {told}"]


@pytest.mark.parametrize("per_metre", [1, 2**31 - 1])
def test_a_resolution_that_no_picture_has_is_none(tmp_path: Path, per_metre: int) -> None:
    content = imagecodecs.png_encode(levels(3, np.uint8))
    (tmp_path / "a.png").write_bytes(png_with(content, chunk(b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1))))
    image = open_image(tmp_path / "a.png")
    assert image.metadata.dpi is None and image.losses == ()
    for suffix in (".png", ".tif", ".jpg", ".webp", ".bmp"):
        write_image(tmp_path / f"b{suffix}", image)


def test_names_in_any_script_and_with_spaces_work(tmp_path: Path) -> None:
    path = tmp_path / "Фото 写真 📷 [1] #%" / "Größe, 'a' b.tif"
    write_image(path.parent / "x.png", open_image(_written(path)))
    assert open_image(path.parent / "x.png").pixels.shape == (20, 31, 3)


def _written(path: Path) -> Path:
    path.parent.mkdir()
    tifffile.imwrite(path, levels(3), photometric="rgb", metadata=None)
    return path

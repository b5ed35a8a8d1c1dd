"""Files are written from rows in little memory, and no file is there that is not whole."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from imagefiles import IPTC, exif, gdal_pixels, levels, profile
from mlkit.errors import DataError, MlkitError, NonFiniteError
from mlkit.imaging.images import Image, open_image, write_image
from mlkit.imaging.metadata import Metadata
from mlkit.imaging.writing import Form, lost, writing

FLAT = Image(np.full((20, 31, 3), 0.5, np.float32))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 40),
    channels=st.integers(1, 4),
    deep=st.booleans(),
    suffix=st.sampled_from([".png", ".tif"]),
    cuts=st.lists(st.integers(0, 150), max_size=4),
    smooth=st.booleans(),
)
def test_rows_in_pieces_of_any_size_are_read_by_gdal_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, height, width, channels, deep, suffix, cuts, smooth
) -> None:
    path = tmp_path_factory.mktemp("rows") / f"a{suffix}"
    dtype = np.uint16 if deep else np.uint8
    values = levels(channels, dtype, height, width) if width > 1 else np.full((height, 1, channels), 7, dtype)
    if smooth:  # so that other filters win
        values = np.cumsum(values >> (8 * dtype().itemsize - 3), axis=0, dtype=dtype)
    has_alpha = channels in (2, 4)
    form = Form(channels=1 if channels < 3 else 3, depth=16 if deep else 8, alpha=has_alpha, opaque=not has_alpha)
    edges = sorted({0, height, *(cut for cut in cuts if cut < height)})
    with writing(path, form, height=height, width=width) as writer:
        for top, bottom in pairwise(edges):
            band = values[top:bottom]
            writer.write(*((band[..., :-1], band[..., -1]) if has_alpha else (band,)))
    assert writer.warnings == []
    assert np.array_equal(gdal_pixels(path), values)
    if suffix == ".png":
        with Pillow.open(path) as picture:
            picture.load()  # checks the sums
            assert picture.size == (width, height)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".bmp"])
def test_rows_of_floats_are_rounded_and_cut_as_a_whole_image_is(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).normal(0.5, 0.5, (100, 31, 3)).astype(np.float32)
    write_image(tmp_path / f"whole{suffix}", Image(pixels, source="jpeg"))
    with writing(tmp_path / f"rows{suffix}", Form(3, source="jpeg"), height=100, width=31) as writer:
        for top in range(0, 100, 7):
            writer.write(pixels[top : top + 7])
    assert (tmp_path / f"rows{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    if suffix != ".jpg":
        with Pillow.open(tmp_path / f"rows{suffix}") as picture:
            assert np.array_equal(np.asarray(picture), np.rint(np.clip(pixels, 0, 1) * 255))


def test_three_channels_for_a_grey_form_are_averaged_and_equal_ones_stay(tmp_path: Path) -> None:
    grey = (levels(1) / 65535).astype(np.float32)
    with writing(tmp_path / "a.png", Form(1, 16), height=20, width=31) as writer:
        writer.write(np.repeat(grey, 3, axis=2))
    assert np.array_equal(gdal_pixels(tmp_path / "a.png"), levels(1))
    with writing(tmp_path / "b.tif", Form(1, 32), height=20, width=31) as writer:
        writer.write(np.repeat(grey, 3, axis=2))
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), grey[..., 0])


def test_transparency_is_laid_over_white_where_it_cannot_be_held(tmp_path: Path) -> None:
    pixels, alpha = np.full((8, 8, 3), 0.2, np.float32), np.full((8, 8), 0.25, np.float32)
    write_image(tmp_path / "a.bmp", Image(pixels, alpha))
    with Pillow.open(tmp_path / "a.bmp") as picture:
        assert np.array_equal(np.asarray(picture), np.full((8, 8, 3), round(255 * (0.25 * 0.2 + 0.75))))
    opaque = Image(pixels, np.ones_like(alpha), source="jpeg")
    assert write_image(tmp_path / "b.jpg", opaque, strict=True) == []  # nothing shows that it had any


# ---- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "depth"), [(".png", 16), (".tif", 16), (".tif", 32), (".jpg", 8)])
def test_a_large_image_is_written_with_little_more_than_itself(tmp_path: Path, suffix: str, depth: int) -> None:
    height, width = 1500, 1000
    pixels = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    image = Image(pixels, depth=depth, source="jpeg")
    tracemalloc.start()
    try:
        write_image(tmp_path / f"a{suffix}", image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # JPEG's levels, and Pillow's, are held; of the others some rows
    assert peak < (0.7 if suffix == ".jpg" else 0.2) * pixels.nbytes + 4e6


def test_a_large_image_is_read_with_little_more_than_itself(tmp_path: Path) -> None:
    values = levels(3, np.uint16, 1200, 1000)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", metadata=None)
    tracemalloc.start()
    try:
        open_image(tmp_path / "a.tif")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * values.nbytes + 1.1 * 2 * values.nbytes  # as stored, and as float


def test_tiff_beyond_4_gb_has_64_bit_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlkit.imaging.tiff._LARGEST_CLASSIC", 1000)
    metadata = Metadata(profile("RGB"), exif(), b"<x/>", IPTC, (300.0, 300.0))
    image = Image((levels(3) / 65535).astype(np.float32), depth=16, metadata=metadata)
    write_image(tmp_path / "a.tif", image)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_bigtiff and np.array_equal(tiff.pages[0].asarray(), levels(3))
        tags = tiff.pages[0].tags
        assert tags["StripOffsets"].dtype == tags["StripByteCounts"].dtype == tifffile.DATATYPE.LONG8
        assert tags["Make"].value == "Camera AG" and tags["ExifTag"].value["DateTimeOriginal"] == "2020:01:02 03:04:05"
        assert tags["GPSTag"].value["GPSLatitude"] == (48, 1, 8, 1, 23, 2)
    assert np.array_equal(gdal_pixels(tmp_path / "a.tif"), levels(3))
    again = open_image(tmp_path / "a.tif")
    assert replace(again.metadata, exif=None) == replace(metadata, exif=None) and again.losses == ()


# ---- what goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".bmp"])
def test_nan_is_never_written_and_an_earlier_file_stays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"earlier")
    for bad in (np.nan, np.inf):
        pixels = FLAT.pixels.copy()
        pixels[17, 3, 1] = bad
        with pytest.raises(NonFiniteError, match=r"a\.\w+ is not written: its pixels are NaN or infinite"):
            write_image(path, replace(FLAT, pixels=pixels))
    assert [each.name for each in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"earlier"


def test_rows_that_are_missing_or_too_many_leave_no_file(tmp_path: Path) -> None:
    for rows in (19, 21):
        with pytest.raises(AssertionError), writing(tmp_path / "a.png", FLAT.form(), height=20, width=31) as writer:
            writer.write(np.zeros((rows, 31, 3), np.float32))
    with pytest.raises(KeyError), writing(tmp_path / "a.png", FLAT.form(), height=20, width=31):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_before_any_row_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.gif cannot be written: its suffix is '\.gif'; \.png, \.tif, .* work"):
        lost(tmp_path / "a.gif", FLAT.form())
    for suffix, side in ((".webp", 16_383), (".jpg", 65_500)):
        with (
            pytest.raises(DataError, match=f"{side + 1} x 5 px are more than the {side} px .*; .png or .tif would"),
            writing(tmp_path / f"a{suffix}", FLAT.form(), height=5, width=side + 1),
        ):
            raise AssertionError
    for quality in (0, 101):
        with pytest.raises(MlkitError, match=f"quality {quality} is not between 1 and 100"):
            write_image(tmp_path / "a.jpg", FLAT, quality=quality)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot write"):
        write_image(tmp_path / "file" / "a.png", FLAT)
    assert lost(tmp_path / "a.jpg", FLAT.form()) == [
        f"{tmp_path / 'a.jpg'} does not hold exact pixels (compressed at quality 95); .png or .tif would"
    ]


def test_the_longest_sides_can_be_written(tmp_path: Path) -> None:
    for suffix, side in ((".webp", 16_383), (".jpg", 65_500)):
        write_image(tmp_path / f"a{suffix}", Image(np.full((2, side, 3), 0.5, np.float32)))
        with Pillow.open(tmp_path / f"a{suffix}") as picture:
            assert picture.size == (side, 2)


def test_blocks_that_jpeg_cannot_hold_are_named_and_the_largest_are_held(tmp_path: Path) -> None:
    long_exif = exif() + b"\0" * (65_500 - len(exif()))
    cases = [
        ({"exif": long_exif}, True),
        ({"exif": long_exif + b"\0"}, False),
        ({"xmp": b"x" * 65_500}, True),
        ({"xmp": b"x" * 65_501}, False),
        ({"iptc": IPTC * 6_550}, True),
        ({"iptc": IPTC * 6_551}, False),
    ]
    for data, fits in cases:
        image = replace(FLAT, metadata=Metadata(**data), source="jpeg")
        told = write_image(tmp_path / "a.jpg", image)
        assert (told == []) == fits, told
        (name,) = data
        assert fits or f"{name.upper()} ({len(data[name]):,} bytes; 65,500 are the most)" in told[0]
        again = open_image(tmp_path / "a.jpg").metadata
        assert getattr(again, name) == (data[name] if fits else None)
    large_profile = profile("RGB") + b"\0" * 200_000  # goes over several segments
    write_image(tmp_path / "a.jpg", replace(FLAT, metadata=Metadata(icc=large_profile)))
    assert open_image(tmp_path / "a.jpg").metadata.icc == large_profile


def test_a_resolution_that_jpeg_rounds_is_named(tmp_path: Path) -> None:
    for dpi, told in (((72.5, 72.5), True), ((299.9994, 150.0124), False), ((70_000.0, 72.0), True)):
        image = replace(FLAT, metadata=Metadata(dpi=dpi), source="jpeg")
        assert any("the resolution of" in sentence for sentence in lost(tmp_path / "a.jpg", image.form())) == told


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_iptc_and_text_go_where_they_can(tmp_path: Path, suffix: str) -> None:
    text = (("Title", "Grüße"), ("Comment", "写真 with any letters"))
    image = replace(FLAT, metadata=Metadata(iptc=IPTC, text=text))
    (*told,) = write_image(tmp_path / f"a{suffix}", image)
    again = open_image(tmp_path / f"a{suffix}").metadata
    assert again.iptc == (None if suffix == ".webp" else IPTC)
    assert again.text == {".png": text, ".jpg": text[1:]}.get(suffix, ())
    assert ("IPTC" in "".join(told)) == (suffix == ".webp")
    if suffix == ".jpg":
        from PIL import IptcImagePlugin

        with Pillow.open(tmp_path / "a.jpg") as picture:
            assert IptcImagePlugin.getiptcinfo(picture) == {(2, 5): b"title"}
            assert picture.info["comment"].decode() == "写真 with any letters"
    if suffix == ".png":
        with Pillow.open(tmp_path / "a.png") as picture:
            assert (picture.text["Title"], picture.text["Comment"]) == ("Grüße", "写真 with any letters")

"""EXIF is changed only where it must be, and directories of any byte order are carried over as Pillow reads them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from imagefiles import IPTC, exif
from mlkit.imaging.ifd import Directory, Entry, read_directory, write_block
from mlkit.imaging.metadata import (
    exif_dpi,
    exif_with_dpi,
    icc_space,
    iptc_of,
    is_exif,
    orientation,
    photoshop_of,
    sized_exif,
    upright_exif,
    upright_xmp,
)


def in_motorola_order(block: bytes) -> bytes:
    """Return Pillow's EXIF with the other byte order."""
    tags = Pillow.Exif()
    tags.load(block)
    tags.endian = ">"
    return tags.tobytes().removeprefix(b"Exif\0\0")


def as_pillow_reads(block: bytes) -> dict[str, object]:
    tags = Pillow.Exif()
    tags.load(block)
    first = {tag: value for tag, value in tags.items() if tag not in (0x8769, 0x8825)}
    return {"first": first, "exif": dict(tags.get_ifd(0x8769)), "place": dict(tags.get_ifd(0x8825))}


BLOCKS = [exif(6), in_motorola_order(exif(6))]


@pytest.mark.parametrize("block", BLOCKS, ids=["II", "MM"])
def test_upright_changes_one_value_and_no_byte_moves(block: bytes) -> None:
    assert block[:2] in (b"II", b"MM") and orientation(block) == 6
    upright = upright_exif(block)
    assert len(upright) == len(block) and sum(a != b for a, b in zip(block, upright, strict=True)) == 1
    before, after = as_pillow_reads(block), as_pillow_reads(upright)
    assert before.pop("first") | {0x0112: 1} == after.pop("first") and before == after  # type: ignore[operator]
    assert upright_exif(upright) is upright


@pytest.mark.parametrize("block", BLOCKS, ids=["II", "MM"])
def test_the_size_is_told_anew(block: bytes) -> None:
    sized = as_pillow_reads(sized_exif(block, 4000, 6000))
    assert (sized["exif"][0xA002], sized["exif"][0xA003]) == (6000, 4000)  # type: ignore[index]
    assert as_pillow_reads(sized_exif(block, 20, 31)) == as_pillow_reads(block)


@pytest.mark.parametrize("block", BLOCKS, ids=["II", "MM"])
def test_a_resolution_is_added_and_everything_else_stays_where_it_was(block: bytes) -> None:
    assert exif_dpi(block) is None
    told = exif_with_dpi(block, (299.9994, 72.0))
    assert told[8 : len(block)] == block[8:]  # only the pointer to the first directory differs
    before, after = as_pillow_reads(block), as_pillow_reads(told)
    added = {tag: after["first"].pop(tag) for tag in (282, 283, 296)}  # type: ignore[attr-defined]
    assert (float(added[282]), added[283], added[296]) == (pytest.approx(299.9994), 72, 2) and before == after
    assert exif_dpi(told) == pytest.approx((299.9994, 72.0))
    assert exif_with_dpi(told, (300.0, 72.0)) is told  # to a px per metre
    changed = exif_with_dpi(told, (600.0, 600.0))
    assert exif_dpi(changed) == (600.0, 600.0) and as_pillow_reads(changed)["exif"] == before["exif"]
    assert exif_dpi(exif_with_dpi(None, (1e6, 0.1))) == pytest.approx((1e6, 0.1))


@pytest.mark.parametrize("block", BLOCKS, ids=["II", "MM"])
def test_a_block_that_is_taken_apart_and_put_together_reads_the_same(block: bytes) -> None:
    again = write_block(read_directory(block))
    assert as_pillow_reads(again) == as_pillow_reads(block)
    assert write_block(read_directory(again)) == again


@given(st.dictionaries(st.integers(1, 0x8000), st.binary(min_size=1, max_size=40), max_size=20))
def test_entries_of_any_length_come_back(values: dict[int, bytes]) -> None:
    directory = Directory({tag: Entry(7, len(data), data) for tag, data in values.items()})
    assert read_directory(write_block(directory)) == directory


@given(st.binary(max_size=80), st.booleans())
def test_no_bytes_break_the_readers(noise: bytes, begins_right: bool) -> None:
    block = (b"II*\0\x08\0\0\0" if begins_right else b"") + noise
    if is_exif(block):
        upright_exif(block)
        write_block(read_directory(block))
        exif_with_dpi(block, (300.0, 300.0))
    orientation(block)
    exif_dpi(block)
    sized_exif(block, 5, 6)
    iptc_of(noise)
    icc_space(noise)


@given(st.integers(0, 400), st.integers(0, 255))
def test_no_changed_byte_breaks_the_readers(place: int, value: int) -> None:
    block = bytearray(exif(6))
    block[place % len(block)] = value
    test_no_bytes_break_the_readers.hypothesis.inner_test(bytes(block), False)


def test_a_directory_that_points_to_itself_ends() -> None:
    loop = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + b"\0\0\0\0"
    assert read_directory(loop).children


def test_xmp_says_upright_in_either_way_of_writing_it() -> None:
    for before in (
        b'<a tiff:Orientation="8"/>',
        b"<tiff:Orientation>8</tiff:Orientation>",
        b"<a tiff:Orientation = '8'>",
    ):
        assert orientation(None, before) == 8
        assert upright_xmp(before) == before.replace(b"8", b"1") and orientation(None, upright_xmp(before)) == 1
    assert orientation(exif(3), b'<a tiff:Orientation="8"/>') == 3  # EXIF first
    assert orientation(None, b"<a/>") == orientation(None, None) == 1


def test_an_orientation_that_cannot_be_set_upright_is_not_heeded() -> None:
    for kind, count, value in ((1, 1, 6), (3, 2, 6), (3, 1, 9), (3, 1, 0)):
        block = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0112, kind, count, value, value) + b"\0\0\0\0"
        assert orientation(block) == 1 and upright_exif(block) == block


def test_iptc_is_found_among_resources_of_photoshop() -> None:
    other = b"8BIM\x03\xed\x04name\0" + struct.pack(">I", 3) + b"abc\0"
    assert iptc_of(b"Photoshop 3.0\0" + other + photoshop_of(IPTC)) == IPTC
    assert iptc_of(other) is None and iptc_of(b"8BIM\x04\x04\0\0\0") is None and iptc_of(b"") is None


def test_the_space_of_a_profile() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert icc_space(profile) == "RGB" and icc_space(b"x" * 200) == icc_space(b"") == ""

"""What an image file carries besides its pixels: colour profile, EXIF, XMP, resolution and text.

EXIF is held as the block that cameras write, and changed in place, so that what nobody understands (maker notes with
absolute offsets) stays as it was.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from fractions import Fraction

from mlkit.imaging.ifd import (
    EXIF_DIRECTORY,
    LONG,
    RATIONAL,
    SHORT,
    Directory,
    byte_order,
    entry,
    first_directory,
    is_big,
    numbers,
    places,
    read_directory,
    write_block,
)

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
CM_PER_INCH = 2.54
DPI_STEP = 0.0127  # half of the step between whole pixels per metre, which PNG has
_IPTC_RESOURCE = 0x0404
_WIDTHS, _HEIGHTS = (256, 0xA002), (257, 0xA003)  # in the first directory, and in that of EXIF
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)([1-8])")

Dpi = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is carried over from a read to a written file.

    icc: the colour profile's bytes; None: untagged, taken as sRGB.
    exif: a block that begins with "II*\\0" or "MM\\0*", without the "Exif\\0\\0" of JPEG; it says upright.
    xmp: the packet's bytes; it says upright.
    iptc: the records of IPTC-IIM, beginning with byte 0x1C.
    dpi: horizontal and vertical pixels per inch.
    text: pairs of keyword and text, as in PNG; the comment of a JPEG is ("Comment", text).
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: Dpi | None = None
    text: tuple[tuple[str, str], ...] = ()


NOTHING = Metadata()


def icc_space(icc: bytes) -> str:
    """Return the colour space of a profile: "RGB", "GRAY", "CMYK"; the empty string when it is none."""
    return icc[16:20].decode("latin-1").strip() if len(icc) >= 128 and icc[36:40] == b"acsp" else ""


def without_prefix(exif: bytes) -> bytes:
    """Return an EXIF block without what JPEG puts before it."""
    return exif.removeprefix(b"Exif\0\0")


def iptc_of(photoshop: bytes) -> bytes | None:
    """Return the IPTC records among Photoshop's image resources, None where there are none.

    The other resources are Photoshop's own: print settings, a preview, the resolution once more.
    """
    block, place = photoshop.removeprefix(b"Photoshop 3.0\0"), 0
    while block[place : place + 4] == b"8BIM" and place + 12 <= len(block):
        number = struct.unpack_from(">H", block, place + 4)[0]
        name_size = (block[place + 6] + 2) // 2 * 2  # its length and letters, together even
        begin = place + 6 + name_size + 4
        if begin > len(block):
            return None
        size = struct.unpack_from(">I", block, begin - 4)[0]
        if number == _IPTC_RESOURCE:
            return bytes(block[begin : begin + size]) or None
        place = begin + size + size % 2
    return None


def photoshop_of(iptc: bytes) -> bytes:
    """Return IPTC records as the one image resource of Photoshop."""
    return b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)


def orientation(exif: bytes | None, xmp: bytes | None = None) -> int:
    """Return how the pixels lie, 1 (upright) to 8, as EXIF says, or XMP where EXIF does not; 1 when neither does."""
    if exif is not None:
        try:
            found = read_directory(exif).entries.get(ORIENTATION)
        except ValueError:
            found = None
        if found is not None:  # of another type, it could not be set upright in place, and nobody heeds it
            turn = numbers(found)[0] if found.kind in (SHORT, LONG) and found.count == 1 else 1
            return turn if 1 <= turn <= 8 else 1
    said = _XMP_ORIENTATION.search(xmp) if xmp is not None else None
    return int(said[2]) if said else 1


def upright_exif(exif: bytes) -> bytes:
    """Return the block with orientation 1, and without the preview, which still lies as the pixels did."""
    if orientation(exif) == 1:
        return exif
    block, order, first = bytearray(exif), byte_order(exif), first_directory(exif)
    _put(block, first, {ORIENTATION: 1})
    count = struct.unpack_from(f"{order}H", block, first)[0]
    with_next = first + 2 + 12 * count
    if with_next + 4 <= len(block):
        struct.pack_into(f"{order}I", block, with_next, 0)
    return bytes(block)


def upright_xmp(xmp: bytes) -> bytes:
    """Return the packet with orientation 1."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def sized_exif(exif: bytes, height: int, width: int) -> bytes:
    """Return the block with the size in px where it tells one; a damaged block as it is."""
    block = bytearray(exif)
    try:
        first = first_directory(exif)
        sizes = dict.fromkeys(_WIDTHS, width) | dict.fromkeys(_HEIGHTS, height)
        _put(block, first, sizes)
        order = byte_order(exif)
        for tag, _, _, place in places(exif, first):
            if tag == EXIF_DIRECTORY:
                _put(block, struct.unpack_from(f"{order}I", exif, place)[0], sizes)
    except ValueError:
        return exif
    return bytes(block)


def is_exif(exif: bytes) -> bool:
    """Return whether a block can be taken apart."""
    try:
        read_directory(exif)
    except ValueError:
        return False
    return not is_big(exif)


def exif_dpi(exif: bytes | None) -> Dpi | None:
    """Return the resolution that EXIF tells."""
    if exif is None:
        return None
    try:
        return directory_dpi(read_directory(exif))
    except ValueError:
        return None


def directory_dpi(directory: Directory) -> Dpi | None:
    """Return the resolution of a TIFF's or EXIF's first directory in px per inch; None when it tells none."""
    unit = directory.entries.get(RESOLUTION_UNIT)
    per_inch = {2: 1.0, 3: CM_PER_INCH}.get((numbers(unit) or [0])[0] if unit else 2)
    values = []
    for tag in (X_RESOLUTION, Y_RESOLUTION):
        found = directory.entries.get(tag)
        words = numbers(found) if found else []
        if per_inch is None or len(words) < 2 or not (words[0] and words[1]):
            return None
        values.append(words[0] / words[1] * per_inch)
    return values[0], values[1]


def dpi_directory(dpi: Dpi) -> Directory:
    """Return the three entries that tell a resolution."""
    ratios = [Fraction(value).limit_denominator(min(10_000, int(4e9 / value))) for value in dpi]
    tags = (X_RESOLUTION, Y_RESOLUTION)
    entries = {tag: entry(RATIONAL, *ratio.as_integer_ratio()) for tag, ratio in zip(tags, ratios, strict=True)}
    return Directory({**entries, RESOLUTION_UNIT: entry(SHORT, 2)})


def exif_with_dpi(exif: bytes | None, dpi: Dpi) -> bytes:
    """Return the block with a resolution: the same block where it tells it already.

    A new first directory is put at the end; nothing else moves, so absolute offsets stay right.
    """
    known = exif_dpi(exif)
    if exif is None or not is_exif(exif):
        return write_block(dpi_directory(dpi))
    if known is not None and all(abs(a - b) <= DPI_STEP for a, b in zip(known, dpi, strict=True)):
        return exif
    order, first = byte_order(exif), first_directory(exif)
    block = bytearray(exif) + b"\0" * (len(exif) % 2)
    found = list(places(exif, first))
    rows = {tag: bytes(exif[place - 8 : place + 4]) for tag, _, _, place in found}
    following = exif[first + 2 + 12 * len(found) :][:4].ljust(4, b"\0")
    for tag, value in dpi_directory(dpi).entries.items():
        words = numbers(value)
        if value.kind == RATIONAL:
            rows[tag] = struct.pack(f"{order}HHII", tag, RATIONAL, 1, len(block))
            block += struct.pack(f"{order}II", *words)
        else:
            rows[tag] = struct.pack(f"{order}HHIHH", tag, SHORT, 1, words[0], 0)
    struct.pack_into(f"{order}I", block, 4, len(block))
    block += struct.pack(f"{order}H", len(rows)) + b"".join(rows[tag] for tag in sorted(rows)) + following
    return bytes(block)


def _put(block: bytearray, directory: int, values: dict[int, int]) -> None:
    """Write integers over those of a directory, where it has them and they fit."""
    order = byte_order(bytes(block[:4]))
    for tag, kind, count, place in list(places(bytes(block), directory)):
        if tag in values and count == 1 and kind in (SHORT, LONG) and values[tag] < (65536 if kind == SHORT else 2**32):
            struct.pack_into(f"{order}{'H' if kind == SHORT else 'I'}", block, place, values[tag])

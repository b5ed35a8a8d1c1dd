"""What a RAW file's own structure says: camera, EXIF, black levels, and whether the file is whole.

LibRaw's Python interface tells neither the camera nor a black level that repeats over more than two sites, and fills up
what a file that was cut off lacks. TIFF-like files (DNG, NEF, ARW, CR2, PEF ...) and Fujifilm's RAF are understood.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError, counted
from mlkit.imaging.ifd import (
    EXIF_DIRECTORY,
    GPS_DIRECTORY,
    RATIONAL,
    SRATIONAL,
    Directory,
    Entry,
    byte_order,
    first_directory,
    is_big,
    numbers,
    read_directory,
    write_block,
)
from mlkit.imaging.light import D65_LIGHT

RAF_SIGNATURE = b"FUJIFILMCCD-RAW "
_RAF_HEADER_BYTES = 108
_CFA, _PREVIEW = 32803, 1
_MAKE, _MODEL, _UNIQUE_MODEL, _MAKER_NOTE = 271, 272, 50708, 37500
# Of a RAW file's first directory what a developed picture keeps: description, maker, model, orientation, program, date,
# artist, copyright.
_KEPT = (270, _MAKE, _MODEL, 274, 305, 306, 315, 33432)
_MOST_DIRECTORIES = 64


@dataclass(frozen=True, slots=True)
class RawFile:
    """What the structure of a file tells.

    camera: maker and model, "" where unknown.
    exif: an EXIF block, or None.
    black: levels that repeat from the top-left visible pixel on, [rows, columns]; None where the file has none.
    color_matrix: of a DNG, [3, 3] from XYZ to camera RGB, for D65 if there is one.
    pattern: the 6 x 6 colour filter from the sensor's top-left site on, R 0, G 1, B 2; None where the file has none.
    """

    camera: str = ""
    exif: bytes | None = None
    black: NDArray[np.float64] | None = None
    pattern: NDArray[np.uint8] | None = None
    color_matrix: NDArray[np.float64] | None = None


def examine(path: Path) -> RawFile:
    """Return what a RAW file says of itself; of a structure that is not known nothing.

    Raises:
        DataError: when it is missing, empty, or ends before its picture does.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise DataError(f"{path} is a folder, not a RAW file")
        if size == 0:
            raise DataError(f"RAW file {path} is empty (0 bytes); copy it from the camera again")
        with (
            path.open("rb") as handle,
            mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            if bytes(view[:16]) == RAF_SIGNATURE:
                return _examine_raf(path, view)
            try:
                byte_order(view)
            except ValueError:
                return RawFile()
            return _examine_tiff(path, view)
    except FileNotFoundError:
        raise DataError(f"RAW file {path} does not exist") from None
    except OSError as error:
        raise DataError(f"RAW file {path} cannot be read: {error.strerror or error}") from error


def exif_of_jpeg(jpeg: bytes | memoryview) -> bytes | None:
    """Return the EXIF block of a JPEG, None where there is none."""
    place = 2
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF:
        marker, size = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        begin = place + 4
        if marker == 0xE1 and bytes(jpeg[begin : begin + 6]) == b"Exif\0\0":
            return bytes(jpeg[begin + 6 : place + 2 + size])
        if marker == 0xDA:
            return None
        place += 2 + size
    return None


def camera_of_exif(exif: bytes | None) -> str:
    """Return maker and model as an EXIF block tells them, "" where it does not."""
    try:
        return _camera(read_directory(exif)) if exif is not None else ""
    except ValueError:
        return ""


# ---- Fujifilm ---------------------------------------------------------------------------------------------------


def _examine_raf(path: Path, view: memoryview) -> RawFile:
    """A RAF's header says where three parts lie: a JPEG with EXIF, a table, and a TIFF that holds the mosaic."""
    if len(view) < _RAF_HEADER_BYTES:
        raise _cut_off(path, _RAF_HEADER_BYTES, len(view))
    jpeg, jpeg_bytes, table, table_bytes, cfa, cfa_bytes = struct.unpack_from(">6I", view, 84)
    needed = max(jpeg + jpeg_bytes, table + table_bytes, cfa + cfa_bytes)
    if needed > len(view):
        raise _cut_off(path, needed, len(view))
    black = None
    try:
        with view[cfa:] as block:
            entries = read_directory(block).entries
            pointer = numbers(entries[0xF000])[0]
            black = _square(numbers(read_directory(block, pointer).entries[0xF00A]))
    except (ValueError, KeyError, IndexError):
        pass  # older cameras have no such directory; LibRaw knows their levels
    model = bytes(view[28:60]).split(b"\0")[0].decode("latin-1").strip()
    exif = exif_of_jpeg(view[jpeg : jpeg + jpeg_bytes])
    return RawFile(f"FUJIFILM {model}".strip(), exif, black, _raf_pattern(view[table : table + table_bytes]))


def _raf_pattern(table: memoryview) -> NDArray[np.uint8] | None:
    """Return the filter's layout, which stands in the table from its last site to its first."""
    place = 4
    while place + 4 <= len(table):
        tag, size = struct.unpack_from(">HH", table, place)
        place += 4
        if tag == 0x0131 and size == 36 and place + size <= len(table):
            return _pattern(bytes(table[place : place + size])[::-1])
        place += size
    return None


def _pattern(colors: bytes) -> NDArray[np.uint8] | None:
    return np.frombuffer(colors, np.uint8).reshape(6, 6) if len(colors) == 36 and max(colors) <= 2 else None


def _square(levels: list[int]) -> NDArray[np.float64] | None:
    side = math.isqrt(len(levels))
    return np.array(levels, np.float64).reshape(side, side) if side and side * side == len(levels) else None


# ---- TIFF -------------------------------------------------------------------------------------------------------


def _examine_tiff(path: Path, view: memoryview) -> RawFile:
    try:
        directories = list(_directories(view, first_directory(view)))
    except (ValueError, struct.error):
        raise _cut_off(path, None, len(view)) from None
    black = pattern = None
    for directory in directories:
        entries = directory.entries
        if numbers(entries[254])[:1] == [_PREVIEW] if 254 in entries else False:
            continue
        for offset_tag, size_tag in ((273, 279), (324, 325)):
            if offset_tag in entries and size_tag in entries:
                ends = [a + b for a, b in zip(numbers(entries[offset_tag]), numbers(entries[size_tag]), strict=False)]
                if max(ends, default=0) > len(view):
                    raise _cut_off(path, max(ends), len(view))
        if 262 in entries and numbers(entries[262])[:1] == [_CFA]:
            black = _dng_black(entries) if 50714 in entries else None
            if 33422 in entries:
                # It begins at the active area, whose top-left corner need not be the sensor's.
                pattern = _pattern(entries[33422].data)
                top, left = (numbers(entries[50829]) if 50829 in entries else [0, 0])[:2]
                pattern = np.roll(pattern, (top, left), (0, 1)) if pattern is not None else None
    first = directories[0]
    return RawFile(_camera(first), _exif(first), black, pattern, _dng_matrix(first.entries))


def _directories(view: memoryview, offset: int) -> Iterator[Directory]:
    """Yield the directories of a TIFF: those in line, and those that hang below each (SubIFDs)."""
    order, big, waiting, seen = byte_order(view), is_big(view), [offset], set[int]()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        offset = waiting.pop(0)
        if offset in seen:
            continue
        seen.add(offset)
        directory = read_directory(view, offset)
        yield directory
        below = directory.entries.get(330)
        waiting += numbers(below) if below is not None else []
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", view, offset)
        after = offset + 8 + 20 * count if big else offset + 2 + 12 * count
        (following,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", view, after)
        waiting += [following] if following else []


def _dng_black(entries: dict[int, Entry]) -> NDArray[np.float64] | None:
    """Return the black levels of a DNG as they repeat (tags BlackLevelRepeatDim and BlackLevel)."""
    levels = entries[50714]
    words = np.array(numbers(levels), np.float64)
    if levels.kind == RATIONAL:
        words = words[::2] / np.maximum(words[1::2], 1)
    rows, columns = (numbers(entries[50713]) if 50713 in entries else [1, 1])[:2]
    return words.reshape(rows, columns) if rows * columns == len(words) > 0 else None


def _dng_matrix(entries: dict[int, Entry]) -> NDArray[np.float64] | None:
    """Return the colour matrix of a DNG (tags ColorMatrix1 and 2), of two that for D65."""
    second = 50722 in entries and 50779 in entries and numbers(entries[50779])[:1] == [D65_LIGHT]
    found = entries.get(50722 if second else 50721)
    if found is None or found.kind != SRATIONAL or found.count != 9:
        return None
    words = np.frombuffer(found.data, "<i4").astype(np.float64)
    return (words[::2] / np.maximum(words[1::2], 1)).reshape(3, 3)


def _exif(first: Directory) -> bytes | None:
    """Return what a developed picture keeps of a TIFF's first directory.

    Without the maker's notes: their offsets point into the whole file, of which only this is left.
    """
    entries = {tag: first.entries[tag] for tag in _KEPT if tag in first.entries}
    children = {tag: first.children[tag] for tag in (EXIF_DIRECTORY, GPS_DIRECTORY) if tag in first.children}
    if EXIF_DIRECTORY in children:
        children[EXIF_DIRECTORY].entries.pop(_MAKER_NOTE, None)
    return write_block(Directory(entries, children)) if entries or children else None


def _camera(first: Directory) -> str:
    make, model, unique = (_text(first.entries.get(tag)) for tag in (_MAKE, _MODEL, _UNIQUE_MODEL))
    if not model:
        return unique or make
    # "NIKON CORPORATION", "NIKON D750" and "Canon", "Canon EOS R" say the maker twice.
    return model if not make or model.lower().startswith(make.split()[0].lower()) else f"{make} {model}"


def _text(value: Entry | None) -> str:
    return value.data.split(b"\0")[0].decode("utf-8", "replace").strip() if value is not None else ""


def _cut_off(path: Path, needed: int | None, size: int) -> DataError:
    missing = "" if needed is None else f", {counted(needed - size, 'byte')} before the end of its picture"
    return DataError(f"RAW file {path} is cut off at byte {size:,}{missing}; copy it from the camera again")

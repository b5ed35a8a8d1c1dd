"""Image file directories, of which TIFF files and EXIF blocks are made (TIFF 6.0, section 2; BigTIFF).

Values are held as little-endian bytes, so that what is not understood can still be carried over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SRATIONAL, LONG8 = 1, 2, 3, 4, 5, 7, 10, 16
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # bytes
_WORDS = {**SIZES, 5: 4, 10: 4}  # bytes that change places between byte orders; a rational is two words

EXIF_DIRECTORY, GPS_DIRECTORY, INTEROP_DIRECTORY = 0x8769, 0x8825, 0xA005
_DIRECTORIES = (EXIF_DIRECTORY, GPS_DIRECTORY, INTEROP_DIRECTORY)

Block = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Entry:
    """One value: type and count as in TIFF, the bytes in little-endian order."""

    kind: int
    count: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """Entries by tag, and the directories that tags point to."""

    entries: dict[int, Entry] = field(default_factory=dict)
    children: dict[int, Directory] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.entries or self.children)


def entry(kind: int, *values: int) -> Entry:
    """Return an entry of integers; a rational takes two for each value."""
    words = {BYTE: "B", SHORT: "H", LONG: "I", RATIONAL: "I", LONG8: "Q"}[kind]
    count = len(values) // (2 if kind == RATIONAL else 1)
    return Entry(kind, count, struct.pack(f"<{len(values)}{words}", *values))


def numbers(value: Entry) -> list[int]:
    """Return the integers of an entry; of rationals numerators and denominators in turn; of other types none."""
    words = {1: "u1", 3: "u2", 4: "u4", 5: "u4", 13: "u4", 16: "u8", 18: "u8"}.get(value.kind)
    return [] if words is None else [int(word) for word in np.frombuffer(value.data, f"<{words}")]


def byte_order(block: Block) -> str:
    """Return "<" or ">".

    Raises:
        ValueError: when the block begins like no TIFF.
    """
    start = bytes(block[:4])
    for order, mark in (("<", b"II"), (">", b"MM")):
        if len(start) == 4 and start[:2] == mark and struct.unpack(f"{order}H", start[2:])[0] in (42, 43):
            return order
    raise ValueError("it does not begin like a TIFF")


def is_big(block: Block) -> bool:
    """Return whether offsets have 64 bits."""
    return bytes(block[2:4]) in (b"+\0", b"\0+")


def first_directory(block: Block) -> int:
    """Return where the first directory of a TIFF or EXIF block begins."""
    order = byte_order(block)
    return _unpack(f"{order}Q", block, 8) if is_big(block) else _unpack(f"{order}I", block, 4)


def places(block: Block, offset: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (tag, type, count, where its value or the pointer to it lies) for a directory.

    Raises:
        ValueError: when the directory reaches beyond the block.
    """
    order, big = byte_order(block), is_big(block)
    count = _unpack(f"{order}{'Q' if big else 'H'}", block, offset)
    size, begin = (20, offset + 8) if big else (12, offset + 2)
    if not 0 < begin <= begin + size * count <= len(block):
        raise ValueError(f"{count} entries at byte {offset} reach beyond its end")
    for place in range(begin, begin + size * count, size):
        tag, kind = struct.unpack_from(f"{order}HH", block, place)
        yield tag, kind, _unpack(f"{order}{'Q' if big else 'I'}", block, place + 4), place + (12 if big else 8)


def read_directory(block: Block, offset: int | None = None, *, depth: int = 0) -> Directory:
    """Return a directory and those that it points to; entries whose values lie outside the block are left out.

    Args:
        block: a whole TIFF file or EXIF block.
        offset: where it begins; None is the first one.
        depth: of pointers that were followed so far.

    Raises:
        ValueError: when the block is no TIFF, or the directory reaches beyond it.
    """
    order, big = byte_order(block), is_big(block)
    directory = Directory()
    for tag, kind, count, place in places(block, first_directory(block) if offset is None else offset):
        size = SIZES.get(kind, 0) * count
        pointed = size > (8 if big else 4)
        start = _unpack(f"{order}{'Q' if big else 'I'}", block, place) if pointed else place
        if not size or start + size > len(block):
            continue
        data = bytes(block[start : start + size])
        if order == ">":
            data = np.frombuffer(data, f">u{_WORDS[kind]}").astype(f"<u{_WORDS[kind]}").tobytes()
        found = Entry(kind, count, data)
        if tag in _DIRECTORIES:
            pointer = numbers(found)
            if pointer and depth < 2:
                try:
                    directory.children[tag] = read_directory(block, pointer[0], depth=depth + 1)
                except ValueError:
                    continue  # a pointer to nowhere
        else:
            directory.entries[tag] = found
    return directory


def write_directory(directory: Directory, offset: int, *, big: bool = False) -> bytes:
    """Return a directory, its values and its children as little-endian bytes that begin at byte `offset` of a file."""
    word, size, inline = ("Q", 20, 8) if big else ("I", 12, 4)
    tags = sorted({*directory.entries, *directory.children})
    head = struct.calcsize("<Q" if big else "<H") + size * len(tags) + inline
    table, values = [struct.pack("<Q" if big else "<H", len(tags))], bytearray()
    for tag in tags:
        if tag in directory.children:
            values += b"\0" * (len(values) % 2)
            start = offset + head + len(values)
            values += write_directory(directory.children[tag], start, big=big)
            value = entry(LONG8 if big else LONG, start)
        else:
            value = directory.entries[tag]
        field_bytes = value.data
        if len(field_bytes) > inline:
            values += b"\0" * (len(values) % 2)
            field_bytes = struct.pack(f"<{word}", offset + head + len(values))
            values += value.data
        table.append(struct.pack(f"<HH{word}", tag, value.kind, value.count) + field_bytes.ljust(inline, b"\0"))
    return b"".join(table) + b"\0" * inline + bytes(values)


def write_block(directory: Directory) -> bytes:
    """Return an EXIF block, little-endian, that holds a directory."""
    return b"II*\0\x08\0\0\0" + write_directory(directory, 8)


def without(directory: Directory, tags: Iterable[int]) -> Directory:
    """Return the directory without the entries of some tags."""
    gone = set(tags)
    return Directory({tag: value for tag, value in directory.entries.items() if tag not in gone}, directory.children)


def _unpack(form: str, block: Block, place: int) -> int:
    try:
        return int(struct.unpack_from(form, block, place)[0])
    except struct.error as error:
        raise ValueError(f"it ends before byte {place}") from error

"""TIFF: read at full depth with its metadata, and written strip by strip in constant memory (TIFF 6.0, BigTIFF)."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import listing
from mlkit.imaging.ifd import (
    BYTE,
    LONG,
    LONG8,
    SHORT,
    UNDEFINED,
    Directory,
    Entry,
    entry,
    read_directory,
    write_block,
    write_directory,
)
from mlkit.imaging.metadata import Metadata, directory_dpi, dpi_directory, iptc_of
from mlkit.imaging.stored import Stored, quiet, three_axes

TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

# Tags of a first directory that are about the picture and not about how its pixels lie in the file; EXIF's own, from
# 33434, belong into its directory but are found here too.
_ABOUT_PICTURE = frozenset(
    [269, 270, 271, 272, 274, 285, 305, 306, 315, 316, 18246, 18249, 33432, 33434, 33437, *range(34850, 34868),
     *range(36864, 42038), *range(40091, 40096), 50341, 59932]
)  # fmt: skip
_XMP, _IPTC, _PHOTOSHOP, _ICC = 700, 33723, 34377, 34675
# Tags that others have found a place for, or that say how pixels lie.
_KNOWN = frozenset([*range(254, 348), *range(512, 533), *range(32995, 32998), _XMP, _IPTC, _PHOTOSHOP, _ICC])
_NOT_ABOUT_PICTURE = _KNOWN - _ABOUT_PICTURE


def read_tiff(path: Path) -> Stored:
    """Return the first page."""
    import tifffile

    quiet("tifffile")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        values = np.asarray(page.asarray())
        if values.ndim == 3 and page.axes.startswith("S"):
            values = np.moveaxis(values, 0, 2)
        photometric, bits = page.photometric, page.bitspersample
        extra = tuple(page.extrasamples)
        colormap = page.colormap if photometric == tifffile.PHOTOMETRIC.PALETTE else None
        # A page marked as a reduced copy (a preview) or a mask is no second picture.
        num_pictures = sum(not (page.subfiletype or 0) & 0b101 for page in tiff.pages) if len(tiff.pages) > 1 else 1
        offset = page.offset
    kinds = tifffile.PHOTOMETRIC
    values = three_axes(values)
    if colormap is not None:
        spread = next((factor for factor in (257, 256) if not (colormap % factor).any()), 0)  # of 8 bits over 16
        colors_3n = (colormap // spread).astype(np.uint8) if spread else colormap
        values, bits = np.moveaxis(colors_3n[:, values[..., 0]], 0, 2), 8 if spread else 16
    elif photometric == kinds.MINISWHITE:
        if values.dtype.kind == "u":
            values = (2**bits - 1) - values
        elif values.dtype == np.bool_:
            values = ~values
    elif photometric not in (kinds.MINISBLACK, kinds.RGB, kinds.SEPARATED) and not (
        photometric == kinds.YCBCR and values.shape[2] == 3 and page.compression in (6, 7, 34933)
    ):  # tifffile gives RGB of YCbCr in JPEG only
        raise ValueError(f"pixels of kind {getattr(photometric, 'name', photometric)}")
    colors = 4 if photometric == kinds.SEPARATED else (1 if values.shape[2] <= 2 and photometric != kinds.RGB else 3)
    stored = Stored("tiff", values, colors=colors, num_pictures=num_pictures)
    if values.dtype.kind == "u":
        stored.top = float(2**bits - 1) if bits not in (8, 16) else float(np.iinfo(values.dtype).max)
        stored.depth = 8 if bits <= 8 else 16
    elif values.dtype.kind == "f":
        stored.depth = 32
        if values.dtype.itemsize > 4:
            stored.losses.append("64-bit float pixels (32 bits are kept)")
    if values.shape[2] == colors + 1:
        stored.alpha = "associated" if extra[:1] == (1,) else "straight"
        if extra[:1] not in ((1,), (2,)):
            stored.losses.append("a fourth channel of no stated meaning (taken as alpha)")
    try:
        with (
            path.open("rb") as handle,
            mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            _read_metadata(read_directory(view, offset), stored)
    except (ValueError, IndexError, struct.error):
        stored.losses.append("metadata (damaged)")
    return stored


def _read_metadata(directory: Directory, stored: Stored) -> None:
    """Take metadata out of the first directory; EXIF is there spread over the directory itself."""
    entries = directory.entries
    about = {tag: value for tag, value in entries.items() if tag in _ABOUT_PICTURE}
    iptc = entries[_IPTC].data if _IPTC in entries else None
    if iptc is not None and iptc[:1] != b"\x1c" and iptc[3:4] == b"\x1c" and len(iptc) % 4 == 0:
        iptc = np.frombuffer(iptc, ">u4").astype("<u4").tobytes()  # bytes, but often written as integers
    if iptc is None and _PHOTOSHOP in entries:
        iptc = iptc_of(entries[_PHOTOSHOP].data)
    stored.metadata = Metadata(
        icc=entries[_ICC].data if _ICC in entries else None,
        exif=write_block(Directory(about, directory.children)) if about or directory.children else None,
        xmp=entries[_XMP].data if _XMP in entries else None,
        iptc=iptc,
        dpi=directory_dpi(directory),
    )
    others = sorted({*entries} - {*about} - _KNOWN)
    if others:
        stored.losses.append(f"TIFF tags {listing([str(tag) for tag in others])}")


# ---- writing ----------------------------------------------------------------------------------------------------

_STRIP_BYTES = 1 << 20
_LARGEST_CLASSIC = 4_000_000_000  # bytes of pixels; beyond, offsets need 64 bits


class TiffWriter:
    """Writes a TIFF from rows of uint8, uint16 or float32, in constant memory.

    Integers are differenced and deflated, which every reader knows; floats, which hardly shrink, are left as they are.

    Args:
        handle: a new file.
        shape: [H, W, S]; S is 1 (grey), 2 (grey and alpha), 3 or 4.
        dtype: uint8, uint16 or float32.
        metadata: all but text can be held.
        associated: the colours are weighted by alpha.
    """

    def __init__(
        self,
        handle: BinaryIO,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        metadata: Metadata,
        *,
        associated: bool = False,
    ) -> None:
        self._handle, self._shape, self._dtype = handle, shape, dtype.newbyteorder("<")
        self._metadata, self._associated = metadata, associated
        height, width, samples = shape
        row_bytes = width * samples * dtype.itemsize
        self._big = height * row_bytes > _LARGEST_CLASSIC
        self._rows_per_strip = min(height, max(1, _STRIP_BYTES // row_bytes))
        self._strip = np.empty((self._rows_per_strip, width, samples), dtype=self._dtype)
        self._filled = 0
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        handle.write(b"\0" * 16)  # the header, when it is known

    def rows(self, levels: NDArray[Any]) -> None:
        """Write the next rows, [n, W, S]."""
        while len(levels):
            taken = levels[: self._rows_per_strip - self._filled]
            self._strip[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            levels = levels[len(taken) :]
            if self._filled == self._rows_per_strip:
                self._flush()

    def finish(self) -> None:
        """Write what ends the file, then its header."""
        if self._filled:
            self._flush()
        if self._handle.tell() % 2:
            self._handle.write(b"\0")
        offset = self._handle.tell()
        self._handle.write(write_directory(self._directory(), offset, big=self._big))
        self._handle.seek(0)
        header = (
            struct.pack("<2sHHHQ", b"II", 43, 8, 0, offset) if self._big else struct.pack("<2sHI", b"II", 42, offset)
        )
        self._handle.write(header)

    def _flush(self) -> None:
        import imagecodecs

        strip = self._strip[: self._filled]
        if self._dtype.kind == "u":
            differences = strip.copy()
            differences[:, 1:] -= strip[:, :-1]
            packed = imagecodecs.deflate_encode(differences.tobytes(), level=6, raw=False)
        else:
            packed = strip.tobytes()
        self._offsets.append(self._handle.tell())
        self._sizes.append(len(packed))
        self._handle.write(packed)
        self._filled = 0

    def _directory(self) -> Directory:
        height, width, samples = self._shape
        is_int, metadata = self._dtype.kind == "u", self._metadata
        place = LONG8 if self._big else LONG
        own = {
            256: entry(LONG, width),
            257: entry(LONG, height),
            258: entry(SHORT, *[self._dtype.itemsize * 8] * samples),
            259: entry(SHORT, 8 if is_int else 1),  # deflate
            262: entry(SHORT, 1 if samples <= 2 else 2),
            273: entry(place, *self._offsets),
            277: entry(SHORT, samples),
            278: entry(LONG, self._rows_per_strip),
            279: entry(place, *self._sizes),
            284: entry(SHORT, 1),
            317: entry(SHORT, 2 if is_int else 1),  # horizontal differences
            339: entry(SHORT, *[1 if is_int else 3] * samples),
        }
        if samples in (2, 4):
            own[338] = entry(SHORT, 1 if self._associated else 2)
        about = read_directory(metadata.exif) if metadata.exif is not None else Directory()
        carried = {tag: value for tag, value in about.entries.items() if tag not in _NOT_ABOUT_PICTURE}
        for tag, kind, data in (
            (_XMP, BYTE, metadata.xmp),
            (_IPTC, UNDEFINED, metadata.iptc),
            (_ICC, UNDEFINED, metadata.icc),
        ):
            if data is not None:
                carried[tag] = Entry(kind, len(data), data)
        if metadata.dpi is not None:
            carried |= dpi_directory(metadata.dpi).entries
        return Directory(carried | own, about.children)

"""PNG: read at full depth with its metadata, and written row by row in constant memory (ISO/IEC 15948)."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mlkit.imaging.metadata import Metadata, iptc_of, photoshop_of, without_prefix
from mlkit.imaging.stored import METRES_PER_INCH, Stored, quiet, three_axes

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST_UNPACKED = 1 << 26  # bytes of a profile or text
_RAW_PROFILE = re.compile(r"Raw profile type (exif|APP1|iptc)")
_XMP_KEYWORD = "XML:com.adobe.xmp"
_SRGB_CHRM = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def png_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield (name, data) for each chunk that is whole; the decoder complains of what is not."""
    view, place = memoryview(content), len(PNG_SIGNATURE)
    while place + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        if place + 12 + length > len(content):
            return
        yield name, view[place + 8 : place + 8 + length]
        place += 12 + length


def read_png(path: Path) -> Stored:
    """Return a PNG: palette and colour keys become RGB and alpha, less than 8 bits become 8."""
    import imagecodecs

    quiet("imagecodecs")
    content = path.read_bytes()
    values = three_axes(np.asarray(imagecodecs.png_decode(content)))
    channels = values.shape[2]
    stored = Stored(
        "png",
        values,
        colors=3 if channels >= 3 else 1,
        alpha="straight" if channels in (2, 4) else "none",
        top=float(np.iinfo(values.dtype).max),
        depth=values.dtype.itemsize * 8,
    )
    try:
        _read_metadata(content, stored)
    except (ValueError, IndexError, struct.error):
        stored.losses.append("metadata (damaged)")
    return stored


def _read_metadata(content: bytes, stored: Stored) -> None:
    found: dict[str, bytes] = {}
    dpi = None
    text: list[tuple[str, str]] = []
    names = set()
    for name, data in png_chunks(content):
        names.add(name)
        if name == b"iCCP":
            found["icc"] = _unpacked(bytes(data).split(b"\0", 1)[1][1:])
        elif name == b"eXIf":
            found["exif"] = without_prefix(bytes(data))
        elif name == b"pHYs":
            per_metre_x, per_metre_y, unit = struct.unpack(">IIB", data)
            if unit == 1 and per_metre_x and per_metre_y:
                dpi = (per_metre_x * METRES_PER_INCH, per_metre_y * METRES_PER_INCH)
        elif name == b"acTL":
            stored.num_pictures = max(1, struct.unpack_from(">I", data)[0])
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, value = _text(name, bytes(data))
            raw = _RAW_PROFILE.fullmatch(keyword)  # how ImageMagick wrote them before PNG had chunks for it
            if keyword == _XMP_KEYWORD:
                found["xmp"] = value.encode("utf-8")
            elif raw and raw[1] == "iptc":
                found |= _named(iptc=iptc_of(_from_hex(value)))
            elif raw:
                found.setdefault("exif", without_prefix(_from_hex(value)))
            else:
                text.append((keyword, value))
    stored.metadata = Metadata(**found, dpi=dpi, text=tuple(text))
    tells_color = b"cICP" in names or (names & {b"gAMA", b"cHRM"} and not names & {b"iCCP", b"sRGB"})
    if tells_color and not _says_srgb(content):
        stored.losses.append("the colours that the chunks gAMA, cHRM or cICP tell (taken as sRGB)")


def _named(**values: bytes | None) -> dict[str, bytes]:
    return {name: value for name, value in values.items() if value is not None}


def _from_hex(raw_profile: str) -> bytes:
    """Return the bytes of "\\nNAME\\n LENGTH\\n" and lines of hex."""
    return bytes.fromhex("".join(raw_profile.split("\n")[3:]))


def _says_srgb(content: bytes) -> bool:
    """Return whether the colour chunks mean sRGB."""
    for name, data in png_chunks(content):
        if name == b"gAMA" and abs(struct.unpack(">I", data)[0] - 45455) > 500:
            return False
        if name == b"cHRM" and any(
            abs(a - b) > 200 for a, b in zip(struct.unpack(">8I", data), _SRGB_CHRM, strict=True)
        ):
            return False
        if name == b"cICP" and bytes(data) != b"\x01\x0d\x00\x01":
            return False
    return True


def _text(name: bytes, data: bytes) -> tuple[str, str]:
    """Return keyword and text of a text chunk; the language of an international one is left out."""
    keyword, rest = data.split(b"\0", 1)
    if name == b"tEXt":
        value, encoding = rest, "latin-1"
    elif name == b"zTXt":
        value, encoding = _unpacked(rest[1:]), "latin-1"
    else:
        packed = rest[:1] == b"\1"
        value = rest[2:].split(b"\0", 2)[2]
        value, encoding = (_unpacked(value) if packed else value), "utf-8"
    return keyword.decode("latin-1"), value.decode(encoding)


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _LARGEST_UNPACKED)
    except zlib.error as error:
        raise ValueError(f"a compressed chunk is damaged ({error})") from error


# ---- writing ----------------------------------------------------------------------------------------------------

_LEVEL = 4  # of zlib: half the time of 6 for 1 to 7 % more bytes
_BAND_BYTES = 1 << 17  # what is filtered at once; some fifteen times as much is held meanwhile


class PngWriter:
    """Writes a PNG from rows of uint8 or uint16, in constant memory.

    Args:
        handle: a new file.
        shape: [H, W, S]; S is 1 (grey), 2 (grey and alpha), 3 or 4.
        dtype: uint8 or uint16.
        metadata: all of it can be held.
    """

    def __init__(self, handle: BinaryIO, shape: tuple[int, int, int], dtype: np.dtype[Any], metadata: Metadata) -> None:
        height, width, samples = shape
        color_type = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
        self._handle = handle
        self._px_bytes = samples * dtype.itemsize
        self._above = np.zeros(width * self._px_bytes, np.uint8)
        self._packer = zlib.compressobj(_LEVEL)
        handle.write(PNG_SIGNATURE)
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, dtype.itemsize * 8, color_type, 0, 0, 0))
        self._write_metadata(metadata)

    def rows(self, levels: NDArray[Any]) -> None:
        """Write the next rows, [n, W, S]."""
        num_rows = max(1, _BAND_BYTES // len(self._above))
        for first in range(0, len(levels), num_rows):
            band = levels[first : first + num_rows]
            raw = np.ascontiguousarray(band, dtype=band.dtype.newbyteorder(">")).view(np.uint8)
            raw = raw.reshape(len(band), -1)
            packed = self._packer.compress(_filtered(raw, self._above, self._px_bytes))
            self._above = raw[-1].copy()
            if packed:
                self._chunk(b"IDAT", packed)

    def finish(self) -> None:
        """Write what ends the file."""
        self._chunk(b"IDAT", self._packer.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._handle.write(struct.pack(">I", len(data)) + name)
        self._handle.write(data)
        self._handle.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))

    def _write_metadata(self, metadata: Metadata) -> None:
        if metadata.icc is not None:
            self._chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc))
        if metadata.dpi is not None:
            self._chunk(b"pHYs", struct.pack(">IIB", *(round(dpi / METRES_PER_INCH) for dpi in metadata.dpi), 1))
        if metadata.exif is not None:
            self._chunk(b"eXIf", metadata.exif)
        if metadata.xmp is not None:
            self._chunk(b"iTXt", _XMP_KEYWORD.encode() + b"\0\0\0\0\0" + metadata.xmp)
        if metadata.iptc is not None:
            wrapped = photoshop_of(metadata.iptc)
            digits = wrapped.hex()
            lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
            raw = f"\niptc\n{len(wrapped):8}\n{lines}\n".encode()
            self._chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(raw))
        for keyword, text in metadata.text:
            name = keyword.encode("latin-1", "replace")[:79] or b"Text"
            try:
                self._chunk(b"tEXt", name + b"\0" + text.encode("latin-1"))
            except UnicodeEncodeError:
                self._chunk(b"iTXt", name + b"\0\0\0\0\0" + text.encode("utf-8"))


def _filtered(raw: NDArray[np.uint8], above: NDArray[np.uint8], px_bytes: int) -> bytes:
    """Return rows of bytes with the filter before each whose sum of absolute values is least (section 12.8)."""
    up = np.concatenate([above[None], raw[:-1]])
    left, corner = np.zeros_like(raw), np.zeros_like(raw)
    left[:, px_bytes:] = raw[:, :-px_bytes]
    corner[:, px_bytes:] = up[:, :-px_bytes]
    from_left = np.abs(up.astype(np.int16) - corner)
    from_up = np.abs(left.astype(np.int16) - corner)
    from_corner = np.abs(left.astype(np.int16) + up - 2 * corner.astype(np.int16))
    nearest = np.where((from_left <= from_up) & (from_left <= from_corner), left, up)
    nearest = np.where((from_corner < from_left) & (from_corner < from_up), corner, nearest)
    mean = ((left.astype(np.uint16) + up) >> 1).astype(np.uint8)
    candidates = [raw, raw - left, raw - up, raw - mean, raw - nearest]  # none, Sub, Up, Average, Paeth
    costs = np.stack([np.abs(each.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64) for each in candidates])
    best = costs.argmin(axis=0)
    result = np.empty((len(raw), raw.shape[1] + 1), np.uint8)
    result[:, 0] = best
    for index, each in enumerate(candidates):
        result[best == index, 1:] = each[best == index]
    return result.tobytes()

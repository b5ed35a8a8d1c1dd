"""DNG files: mosaics as a camera writes them, and linear RGB that is yet to be developed (Adobe DNG 1.4).

Of a linear DNG any raw converter chooses white balance, exposure and curve as of a camera's file; only the demosaicing
is done.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mlkit.files import atomic_file
from mlkit.imaging.ifd import (
    ASCII,
    BYTE,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    Directory,
    Entry,
    entry,
    read_directory,
    write_directory,
)
from mlkit.imaging.light import D65_LIGHT, XYZ_TO_SRGB

_CFA, _LINEAR_RAW = 32803, 34892
_HEADER_BYTES = 8
_STEP = 1_000_000  # of rationals
_CARRIED = (270, 305, 306, 315, 33432)  # of EXIF's first directory; what its children hold is carried as a whole

# Levels of linear RGB: noise below black is kept, and one stop above white. LibRaw forgets to take black off white in
# such files, so it shows them darker by 256 / 33024, 0.01 stops.
LINEAR_BLACK, LINEAR_WHITE = 256, 256 + 32768

Matrix = NDArray[np.float64]


def write_cfa_dng(
    path: Path,
    mosaic_u16: NDArray[np.uint16],
    pattern: NDArray[np.uint8],
    *,
    black: float | NDArray[np.float64] = 0.0,
    white: int = 65535,
    wb: Sequence[float] | None = (1.0, 1.0, 1.0),
    color_matrix: Matrix | None = XYZ_TO_SRGB,
    orientation: int = 1,
    make: str = "mlkit",
    model: str = "mosaic",
    active_area: tuple[int, int, int, int] | None = None,
    exif: bytes | None = None,
) -> None:
    """Write a mosaic as a DNG that LibRaw reads as a camera's file, bit for bit.

    Args:
        path: the file, written atomically.
        mosaic_u16: [H, W] raw values.
        pattern: the colour filter, from the top-left pixel of the active area on; R 0, G 1, B 2.
        black: a level, or [rows, columns] of levels that repeat from the same pixel on.
        white: the level of saturation.
        wb: the camera's multipliers of R, G and B; None: the file has no white balance.
        color_matrix: [3, 3] from XYZ to camera RGB under D65; None: the file has none. The default's RGB
            is linear sRGB.
        orientation: EXIF's, 1 to 8.
        make, model: the camera.
        active_area: top, left, bottom, right of the visible pixels; None: all.
        exif: an EXIF block to carry.
    """
    levels = np.atleast_2d(np.asarray(black, np.float64))
    tags = {
        33421: entry(SHORT, *pattern.shape),
        33422: entry(BYTE, *(int(color) for color in pattern.ravel())),
        50710: entry(BYTE, 0, 1, 2),
        50711: entry(SHORT, 1),
        50713: entry(SHORT, *levels.shape),
        50714: _rationals(levels.ravel()),
    }
    if active_area is not None:
        tags[50829] = entry(LONG, *active_area)
    tags |= _camera_tags(white, wb, color_matrix, orientation, make, model, samples=1)
    height, width = mosaic_u16.shape
    with atomic_file(path) as partial, partial.open("wb") as handle:
        writer = _Writer(handle, (height, width, 1), _CFA, tags, exif)
        writer.rows(mosaic_u16[..., None])
        writer.finish()


def write_linear_dng(
    path: Path,
    rgb_hwc: NDArray[np.floating],
    *,
    wb: Sequence[float] | None,
    color_matrix: Matrix | None,
    orientation: int = 1,
    make: str = "mlkit",
    model: str = "linear",
    exif: bytes | None = None,
) -> None:
    """Write linear camera RGB, 1 is saturation, as a DNG of 16 bits that is demosaiced already; see `linear_dng`."""
    height, width, _ = rgb_hwc.shape
    options: dict[str, Any] = {"orientation": orientation, "make": make, "model": model, "exif": exif}
    with linear_dng(path, height, width, wb=wb, color_matrix=color_matrix, **options) as rows:
        rows(rgb_hwc)


@contextmanager
def linear_dng(
    path: Path,
    height: int,
    width: int,
    *,
    wb: Sequence[float] | None,
    color_matrix: Matrix | None,
    orientation: int = 1,
    make: str = "mlkit",
    model: str = "linear",
    exif: bytes | None = None,
) -> Iterator[Callable[[NDArray[np.floating]], None]]:
    """Yield a function that takes the next rows of linear camera RGB, before white balance, as they come.

    Level 256 is black and 33024 saturation, so values from -0.007 to 1.99 are kept; others are cut. The file is there
    when the block ends well, and not at all when it does not.

    Args:
        path, wb, color_matrix, orientation, make, model, exif: as of `write_cfa_dng`.
        height, width: of the whole picture, as the sensor lies; `orientation` says how it is to be turned.
    """
    tags = {50713: entry(SHORT, 1, 1), 50714: entry(SHORT, *[LINEAR_BLACK] * 3)}
    tags |= _camera_tags(LINEAR_WHITE, wb, color_matrix, orientation, make, model, samples=3)
    with atomic_file(path) as partial, partial.open("wb") as handle:
        writer = _Writer(handle, (height, width, 3), _LINEAR_RAW, tags, exif)

        def rows(rgb_hwc: NDArray[np.floating]) -> None:
            levels = np.round(rgb_hwc * np.float32(LINEAR_WHITE - LINEAR_BLACK)) + np.float32(LINEAR_BLACK)
            writer.rows(np.clip(levels, 0, 65535).astype(np.uint16))

        yield rows
        writer.finish()


# ---- the file ---------------------------------------------------------------------------------------------------


class _Writer:
    """Writes a TIFF of one uncompressed strip, which any reader knows, from rows as they come."""

    def __init__(
        self,
        handle: BinaryIO,
        shape: tuple[int, int, int],
        photometric: int,
        tags: dict[int, Entry],
        exif: bytes | None,
    ) -> None:
        self._handle, self._shape, self._written = handle, shape, 0
        height, width, samples = shape
        about = read_directory(exif) if exif is not None else Directory()
        own = {
            254: entry(LONG, 0),
            256: entry(LONG, width),
            257: entry(LONG, height),
            258: entry(SHORT, *[16] * samples),
            259: entry(SHORT, 1),
            262: entry(SHORT, photometric),
            273: entry(LONG, _HEADER_BYTES),
            277: entry(SHORT, samples),
            278: entry(LONG, height),
            279: entry(LONG, height * width * samples * 2),
            284: entry(SHORT, 1),
            50706: entry(BYTE, 1, 4, 0, 0),
            50707: entry(BYTE, 1, 1, 0, 0),
        }
        carried = {tag: about.entries[tag] for tag in _CARRIED if tag in about.entries}
        self._directory = Directory(carried | own | tags, about.children)
        handle.write(struct.pack("<2sHI", b"II", 42, 0))  # the directory's place, when it is known

    def rows(self, levels: NDArray[np.uint16]) -> None:
        """Write the next rows, [n, W, S]."""
        assert levels.shape[1:] == self._shape[1:], f"rows of {levels.shape} in a picture of {self._shape}"
        self._handle.write(np.ascontiguousarray(levels, "<u2").data)
        self._written += len(levels)

    def finish(self) -> None:
        """Write the directory, and where it lies."""
        assert self._written == self._shape[0], f"{self._written} of {self._shape[0]} rows were written"
        offset = self._handle.tell()
        self._handle.write(write_directory(self._directory, offset))
        self._handle.seek(4)
        self._handle.write(struct.pack("<I", offset))


def _camera_tags(
    white: int,
    wb: Sequence[float] | None,
    color_matrix: Matrix | None,
    orientation: int,
    make: str,
    model: str,
    *,
    samples: int,
) -> dict[int, Entry]:
    tags = {
        271: _ascii(make),
        272: _ascii(model),
        274: entry(SHORT, orientation),
        50708: _ascii(f"{make} {model}"),
        50717: entry(SHORT, *[white] * samples),
    }
    if wb is not None:  # what a grey thing is in camera RGB
        tags[50728] = _rationals(1.0 / np.asarray(wb, np.float64))
    if color_matrix is not None:
        words = [word for value in np.asarray(color_matrix).ravel() for word in (round(float(value) * _STEP), _STEP)]
        tags[50721] = Entry(SRATIONAL, 9, struct.pack("<18i", *words))
        tags[50778] = entry(SHORT, D65_LIGHT)
    return tags


def _rationals(values: NDArray[np.float64]) -> Entry:
    step = 10_000 if values.max() > 2**32 / _STEP else _STEP
    return entry(RATIONAL, *(word for value in values for word in (round(float(value) * step), step)))


def _ascii(text: str) -> Entry:
    data = text.encode("ascii", "replace") + b"\0"
    return Entry(ASCII, len(data), data)

"""What a result is compared with: LibRaw's interpolation of the same mosaic, and the truth where it is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlkit.imaging.detail import block_means, busiest_of
from mlkit.imaging.grids import Panel, comparison_grid, image_to_u8, write_png
from mlkit.tasks.demosaic.infer import developed
from mlkit.tasks.demosaic.infer_inputs import Options
from mlkit.tasks.demosaic.raw import SMALLEST_PX, RawFrame, libraw_mosaic, libraw_rgb
from mlkit.tasks.demosaic.xtrans import transformed

Floats = NDArray[np.float32]
Levels = NDArray[np.uint8]

BORDER_PX = 8  # left out of scores, as where LibRaw's are published
GAIN = 8  # of differences
_BAND_ROWS = 256
_DETAIL_PX = 256
_DETAIL_GAIN = 2
_WHOLE_PX = 640


@dataclass(slots=True)
class Comparison:
    """8-bit sRGB pictures [H, W, 3] of one mosaic: all that is kept of them.

    truth: of an image that was mosaicked.
    libraw: where it was asked for.
    made: filled by `add`; kept where something is drawn.
    """

    height: int
    width: int
    truth: Levels | None = None
    libraw: Levels | None = None
    made: Levels | None = None
    _error_sum: float = field(default=0.0, init=False)
    _error_count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.libraw is not None:
            self.made = np.empty((self.height, self.width, 3), np.uint8)

    @property
    def is_needed(self) -> bool:
        """Whether rows are to be added."""
        return self.truth is not None or self.made is not None

    def add(self, top: int, shown: Floats) -> None:
        """Take rows of the result, sRGB in [0, 1]."""
        rows = image_to_u8(shown)
        if self.made is not None:
            self.made[top : top + len(rows)] = rows
        if self.truth is not None:
            first, last = max(top, BORDER_PX), min(top + len(rows), self.height - BORDER_PX)
            error = _inner(rows[first - top : max(first, last) - top], self.truth[first : max(first, last)])
            self._error_sum += float(np.square(error).sum())
            self._error_count += error.size

    def psnr_db(self) -> float | None:
        """Return the result's PSNR against the truth: over all channels of 8-bit sRGB, without a border of 8 px."""
        if self.truth is None or not self._error_count:
            return None
        return _decibels(self._error_sum, self._error_count)

    def libraw_psnr_db(self) -> float | None:
        """Return the same of LibRaw's picture."""
        if self.truth is None or self.libraw is None or not self._error_count:
            return None
        rows = slice(BORDER_PX, self.height - BORDER_PX)
        error = _inner(self.libraw[rows], self.truth[rows])
        return _decibels(float(np.square(error).sum()), error.size)

    def draw(self, path: Path, heading: str) -> None:
        """Write the pictures side by side: whole, and below the square in which they differ most at full size."""
        assert self.libraw is not None and self.made is not None
        reference = self.libraw if self.truth is None else self.truth
        change = _difference(self.made, reference)
        columns: list[tuple[str, Levels, float | None]] = [
            ("LibRaw", self.libraw, self.libraw_psnr_db()),
            ("mlkit", self.made, self.psnr_db()),
        ]
        if self.truth is None:
            columns += [(f"|difference| x{GAIN}", change, None)]
        else:
            columns = [("truth", self.truth, None), *columns]
            columns += [(f"|LibRaw - truth| x{GAIN}", _difference(self.libraw, self.truth), None)]
            columns += [(f"|mlkit - truth| x{GAIN}", change, None)]
        notes = ["" if psnr is None else f"{psnr:.2f} dB" for _, _, psnr in columns]
        panels = [
            Panel(title, _unit(_whole(image)), note) for (title, image, _), note in zip(columns, notes, strict=True)
        ]
        rows = [panels]
        if max(self.height, self.width) > _DETAIL_PX:
            between = change if self.truth is None else _difference(self.made, self.libraw)
            top, left = _busiest(between)
            square = (slice(top, top + _DETAIL_PX), slice(left, left + _DETAIL_PX))
            rows.append([Panel(title, _unit(_enlarged(image[square]))) for title, image, _ in columns])
        labels = ["whole", f"where they\ndiffer most,\nx{_DETAIL_GAIN}"][: len(rows)]
        write_png(path, comparison_grid(rows, heading=heading, labels=labels))


def libraw_shown(frame: RawFrame, symmetry: int, options: Options, *, is_file: bool) -> Levels:
    """Return LibRaw's picture of a frame, developed as the result is, [H, W, 3].

    Args:
        frame: upright.
        symmetry: that made it upright.
        options: how it is developed.
        is_file: `frame.path` is a RAW file, which LibRaw reads itself; else it is given the mosaic.

    Raises:
        DataError: when LibRaw cannot read the file.
    """
    if is_file and min(frame.mosaic_hw.shape) >= SMALLEST_PX:
        camera_rgb = transformed(libraw_rgb(frame.path), symmetry)
    else:
        camera_rgb = libraw_mosaic(frame.mosaic_hw, frame.pattern, wb=frame.wb)
    assert camera_rgb.shape == (*frame.mosaic_hw.shape, 3), f"{camera_rgb.shape} of {frame.mosaic_hw.shape}"
    shown = np.empty(camera_rgb.shape, np.uint8)
    for top in range(0, len(shown), _BAND_ROWS):
        band = np.ascontiguousarray(camera_rgb[top : top + _BAND_ROWS])
        shown[top : top + _BAND_ROWS] = image_to_u8(developed(band, frame, options))
    return shown


def _inner(a: Levels, b: Levels) -> NDArray[np.float64]:
    """Return a - b without the border's columns, in levels."""
    columns = slice(BORDER_PX, a.shape[1] - BORDER_PX)
    return a[:, columns].astype(np.float64) - b[:, columns]


def _decibels(square_sum: float, count: int) -> float:
    return float("inf") if square_sum == 0 else 10.0 * float(np.log10(255.0**2 * count / square_sum))


def _difference(a: Levels, b: Levels) -> Levels:
    """Return |a - b| times the gain, in levels."""
    size = np.maximum(a, b) - np.minimum(a, b)
    return np.where(size > 255 // GAIN, np.uint8(255), size * np.uint8(GAIN)).astype(np.uint8)


def _busiest(change: Levels) -> tuple[int, int]:
    """Return top and left of the square with the largest mean of differences."""
    bands = [block_means(change[top : top + _BAND_ROWS]) for top in range(0, len(change), _BAND_ROWS)]
    top, left = busiest_of(np.concatenate(bands), _DETAIL_PX)
    return top, left


def _enlarged(image: Levels) -> Levels:
    """Return each pixel as a square, so that what single pixels do is seen."""
    return image.repeat(_DETAIL_GAIN, axis=0).repeat(_DETAIL_GAIN, axis=1)


def _whole(image: Levels) -> Levels:
    """Return the image reduced to a thumbnail by means over squares."""
    factor = -(-max(image.shape[:2]) // _WHOLE_PX)
    return image if factor == 1 else np.asarray(Image.fromarray(image).reduce(factor))


def _unit(image: Levels) -> Floats:
    return image.astype(np.float32) / np.float32(255)

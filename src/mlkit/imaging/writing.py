"""Writing images of any format from rows, with what the format can hold of all that they carry; the rest is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError, MlkitError, NonFiniteError, listing
from mlkit.files import atomic_file
from mlkit.imaging.alpha import over_white, weighted_by_alpha
from mlkit.imaging.metadata import DPI_STEP, NOTHING, Metadata, icc_space, sized_exif
from mlkit.imaging.png import PngWriter
from mlkit.imaging.tiff import TiffWriter

Floats = NDArray[np.float32]

_BAND_ROWS = 64
_TYPES: dict[int, np.dtype[Any]] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.float32)}


@dataclass(frozen=True, slots=True)
class Form:
    """What a written image is besides its pixels; fields as in `images.Image`.

    opaque: no pixel shows what is behind it, so that nothing is lost without alpha.
    """

    channels: int
    depth: int = 8
    alpha: bool = False
    opaque: bool = True
    associated: bool = False
    source: str = ""
    metadata: Metadata = NOTHING
    losses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """What files of a format can hold."""

    name: str
    suffixes: tuple[str, ...]
    depths: tuple[int, ...] = (8,)
    alpha: bool = False
    associated: bool = False
    grey: bool = True
    exact: bool = True
    icc: bool = True
    exif: bool = True  # and XMP
    iptc: bool = True
    text: tuple[str, ...] | None = ()  # keywords; None: any
    largest_block: int | None = None  # bytes of EXIF, XMP or IPTC
    longest_px: int = 2**31 - 1


PNG = Format("PNG", (".png",), (8, 16), alpha=True, text=None)
TIFF = Format("TIFF", (".tif", ".tiff"), (8, 16, 32), alpha=True, associated=True)
JPEG = Format(
    "JPEG", (".jpg", ".jpeg"), exact=False, text=("Comment",), largest_block=65_500, longest_px=65_500
)  # a block is a segment of at most 64 kB
WEBP = Format("WebP", (".webp",), alpha=True, grey=False, iptc=False, longest_px=16_383)
BMP = Format("BMP", (".bmp",), icc=False, exif=False, iptc=False)
FORMATS = (PNG, TIFF, JPEG, WEBP, BMP)


class Encoder(Protocol):
    """Takes rows of levels from top to bottom."""

    def rows(self, levels: NDArray[Any]) -> None: ...

    def finish(self) -> None: ...


def format_of(path: Path) -> Format:
    """Return the format that a suffix stands for.

    Raises:
        DataError: when it stands for none that can be written.
    """
    for known in FORMATS:
        if path.suffix.lower() in known.suffixes:
            return known
    works = ", ".join(suffix for known in FORMATS for suffix in known.suffixes)
    raise DataError(f"{path} cannot be written: its suffix is '{path.suffix}'; {works} work")


def fitted(form: Form, target: Format, quality: int = 95) -> tuple[Form, list[str]]:
    """Return the part of a form that a format can hold, and what it cannot, as noun phrases."""
    given, losses = form.metadata, list(form.losses)
    depth = max((depth for depth in target.depths if depth <= form.depth), default=target.depths[0])
    if form.depth not in target.depths:
        kind = "float" if form.depth == 32 else f"{form.depth}-bit"
        losses.append(f"{kind} pixels (rounded to {depth} bits)")
    if form.alpha and not target.alpha and not form.opaque:
        losses.append("transparency (laid over white)")
    channels = form.channels
    if channels == 1 and not target.grey:
        channels = 3
        losses.append("grey (three equal channels)")
    if not target.exact and form.source != target.name.lower():
        losses.append(f"exact pixels (compressed at quality {quality})")
    kept: dict[str, bytes] = {}
    if given.icc is not None:
        space, own = icc_space(given.icc), "GRAY" if channels == 1 else "RGB"
        if not target.icc:
            losses.append("the colour profile")
        elif space != own:
            losses.append(f"the colour profile (it is of {space or 'nothing'}, the pixels are {own})")
        else:
            kept["icc"] = given.icc
    for name, holds in (("exif", target.exif), ("xmp", target.exif), ("iptc", target.iptc)):
        block: bytes | None = getattr(given, name)
        if block is None:
            continue
        if not holds:
            losses.append(name.upper())
        elif target.largest_block is not None and len(block) > target.largest_block:
            losses.append(f"{name.upper()} ({len(block):,} bytes; {target.largest_block:,} are the most)")
        else:
            kept[name] = block
    text = tuple((key, value) for key, value in given.text if target.text is None or key in target.text)
    if text != given.text:
        losses.append(f"text ({listing([key for key, _ in given.text if (key, _) not in text])})")
    dpi = given.dpi
    if target is JPEG and dpi is not None:  # which has whole numbers below 2^16
        whole = (float(round(dpi[0])), float(round(dpi[1])))
        holds = min(whole) >= 1 and max(whole) < 2**16
        if not holds or max(abs(a - b) for a, b in zip(whole, dpi, strict=True)) > DPI_STEP:
            losses.append(f"the resolution of {dpi[0]:g} x {dpi[1]:g} dpi{' (rounded)' if holds else ''}")
        dpi = whole if holds else None
    fitting = replace(
        form,
        channels=channels,
        depth=depth,
        alpha=form.alpha and target.alpha,
        associated=form.associated and target.associated,
        metadata=Metadata(**kept, dpi=dpi, text=text),
        losses=(),
    )
    return fitting, losses


def lost(path: Path, form: Form, quality: int = 95) -> list[str]:
    """Return one sentence that names what a file of this name would not hold; none when it holds everything.

    Raises:
        DataError: when no image can be written under the name.
    """
    target = format_of(path)
    losses = fitted(form, target, quality)[1]
    if not losses:
        return []
    better = [known.suffixes[0] for known in (PNG, TIFF) if known is not target and not fitted(form, known)[1]]
    return [f"{path} does not hold {', '.join(losses)}" + (f"; {' or '.join(better)} would" if better else "")]


class ImageWriter:
    """Takes the rows of an image from top to bottom; made by `writing`.

    warnings: one sentence that names what the file does not hold, or none.
    """

    def __init__(self, path: Path, given: Form, fitting: Form, encoder: Encoder, height: int, width: int) -> None:
        self._path, self._given, self._fitting, self._encoder = path, given, fitting, encoder
        self._height, self._width = height, width
        self._done = 0
        self.warnings: list[str] = []

    def write(self, pixels: NDArray[Any], alpha: NDArray[Any] | None = None) -> None:
        """Write the next rows.

        Args:
            pixels: [n, W, C] of the form's channels; three for a grey form are averaged. Float in [0, 1], values
                outside are cut; or uint8 or uint16, taken as they are where the file has the same depth.
            alpha: [n, W], of the same type, when the form has alpha.

        Raises:
            NonFiniteError: when a value is NaN or infinite.
        """
        rows, width, channels = pixels.shape
        assert width == self._width and channels in (self._given.channels, 3), f"rows {pixels.shape}"
        assert (alpha is not None) == self._given.alpha, "the form says whether there is alpha"
        assert alpha is None or alpha.shape == (rows, width), f"alpha {alpha.shape} for rows {pixels.shape}"
        assert self._done + rows <= self._height, f"more than {self._height} rows"
        for first in range(0, rows, _BAND_ROWS):
            band = slice(first, first + _BAND_ROWS)
            self._encoder.rows(self._levels(pixels[band], None if alpha is None else alpha[band]))
        self._done += rows

    def finish(self) -> None:
        """Write what ends the file."""
        assert self._done == self._height, f"{self._done} of {self._height} rows were written"
        self._encoder.finish()

    def _levels(self, pixels: NDArray[Any], alpha: NDArray[Any] | None) -> NDArray[Any]:
        """Return [n, W, S] as it is stored."""
        fitting, dtype = self._fitting, _TYPES[self._fitting.depth]
        straight = not fitting.associated and (alpha is None or fitting.alpha or fitting.opaque)
        kept_alpha = alpha if fitting.alpha else None
        if pixels.dtype == dtype and dtype.kind == "u" and straight and pixels.shape[2] == fitting.channels:
            return pixels if kept_alpha is None else np.concatenate([pixels, kept_alpha[..., None]], axis=2)
        colors, shows = self._floats(pixels), None if alpha is None else self._floats(alpha)
        if colors.shape[2] > fitting.channels:
            # summed in float64, so that the mean of equal values is that value
            colors = colors.mean(axis=2, keepdims=True, dtype=np.float64).astype(np.float32)
        elif colors.shape[2] < fitting.channels:
            colors = np.broadcast_to(colors, (*colors.shape[:2], fitting.channels))
        if shows is not None and fitting.associated:
            colors = weighted_by_alpha(colors, shows)
        elif shows is not None and not fitting.alpha and not fitting.opaque:
            colors = over_white(colors, shows)
        stored = colors if shows is None or not fitting.alpha else np.concatenate([colors, shows[..., None]], axis=2)
        if dtype.kind == "f":
            return stored
        return np.asarray(np.rint(stored * np.float32(np.iinfo(dtype).max)).astype(dtype))

    def _floats(self, values: NDArray[Any]) -> Floats:
        """Return values as float32 in [0, 1]."""
        if values.dtype in (np.uint8, np.uint16):
            return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
        assert values.dtype.kind == "f", f"pixels of type {values.dtype}"
        if not np.isfinite(values).all():
            raise NonFiniteError(f"{self._path} is not written: its pixels are NaN or infinite; try another precision")
        return np.asarray(np.clip(values, 0.0, 1.0), dtype=np.float32)


@contextmanager
def writing(
    path: Path, form: Form, *, height: int, width: int, strict: bool = False, quality: int = 95
) -> Iterator[ImageWriter]:
    """Yield a writer of rows; the file is there, whole, when the block ends well.

    PNG and TIFF are written while rows come, in constant memory; of JPEG, WebP and BMP, 8 bits a value are held.

    Args:
        path: its suffix tells the format.
        form: of the image, as `Image.form` returns it.
        height, width: of the image in px, in place of what EXIF tells.
        strict: raise when the format cannot hold everything, before anything is written.
        quality: of JPEG, 1 to 100.

    Raises:
        MlkitError: for a quality that is none.
        DataError: when the format is unknown or cannot hold the size, the place cannot be written, or under `strict`.
    """
    from mlkit.imaging.whole import WholeWriter

    target = format_of(path)
    if not 1 <= quality <= 100:
        raise MlkitError(f"quality {quality} is not between 1 and 100; 95 is usual")
    if max(height, width) > target.longest_px:
        raise DataError(
            f"{path} cannot be written: {width} x {height} px are more than the {target.longest_px} px that a side "
            f"of a {target.name} may have; .png or .tif would do"
        )
    fitting, _ = fitted(form, target, quality)
    warnings = lost(path, form, quality)
    if strict and warnings:
        raise DataError(f"{warnings[0]} (--strict)")
    metadata = fitting.metadata
    if metadata.exif is not None:
        metadata = replace(metadata, exif=sized_exif(metadata.exif, height, width))
    shape = (height, width, fitting.channels + fitting.alpha)
    dtype = _TYPES[fitting.depth]
    with atomic_file(path) as partial, partial.open("wb") as handle:
        encoder: Encoder
        if target is PNG:
            encoder = PngWriter(handle, shape, dtype, metadata)
        elif target is TIFF:
            encoder = TiffWriter(handle, shape, dtype, metadata, associated=fitting.associated)
        else:
            encoder = WholeWriter(handle, shape, metadata, target.name, quality)
        writer = ImageWriter(path, form, fitting, encoder, height, width)
        writer.warnings = warnings
        yield writer
        writer.finish()

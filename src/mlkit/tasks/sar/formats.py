"""The values of SAR image files as they are stored, channel by channel: TIFF, NumPy and PNG."""

from __future__ import annotations

import logging
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError

ACCEPTED = (".tif", ".tiff", ".npy", ".png")
ACCEPTED_TEXT = (
    "GeoTIFF/TIFF (.tif, .tiff), NumPy (.npy: [H,W] float or complex, [H,W,C], covariance [H,W,C,C]), 8/16-bit PNG"
)
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42113)  # GeoTIFF 1.1 section 7, and GDAL's no-data value
MAX_CHANNELS = 8
_NPY_START = b"\x93NUMPY"
_GDAL_METADATA, _GDAL_NODATA = 42112, 42113
# What NumPy, tifffile and the codecs raise on damaged files.
_BROKEN = (OSError, ValueError, TypeError, IndexError, KeyError, RuntimeError, EOFError, struct.error, zlib.error)

GeoTag = tuple[int, int, int, Any]  # code, TIFF data type, count, value: what tifffile takes as an extra tag


@dataclass(frozen=True, slots=True)
class RawImage:
    """One file, undecoded where it is mapped."""

    channels_hw: list[NDArray[Any]]
    is_covariance: bool = False
    nodata: float | None = None
    geotags: tuple[GeoTag, ...] | None = None
    hint_text: str = ""  # where the kind of values may be named
    note: str = ""  # what was decided while reading, for the sentence of the scene


def load_raw(path: Path) -> RawImage:
    """Return the stored values of a file.

    Raises:
        DataError: when it is missing, of another type, broken or of a shape that is no image.
    """
    loaders = {".tif": _load_tiff, ".tiff": _load_tiff, ".npy": _load_npy, ".png": _load_png}
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{path} {'is no file' if path.exists() else 'does not exist'}; give a SAR image")
    if suffix not in loaders:
        raise DataError(f"{path} is of type '{suffix or 'none'}', which is not read; accepted are {ACCEPTED_TEXT}")
    try:
        raw = loaders[suffix](path)
    except _BROKEN as error:
        raise DataError(
            f"{path} is broken or truncated: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    for values_hw in raw.channels_hw:
        if values_hw.dtype.kind not in "uifc":
            raise DataError(f"{path} holds {values_hw.dtype} values; accepted are integers, floats and complex numbers")
        if not values_hw.size:
            raise DataError(f"{path} has shape {values_hw.shape}: it holds no pixel")
    return raw


def _load_tiff(path: Path) -> RawImage:
    import tifffile

    # What it logs of a damaged file would come on stderr beside our one sentence, unless somebody set logging up.
    if not logging.getLogger("tifffile").handlers:
        logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with tifffile.TiffFile(path) as tiff:
        if not len(tiff.pages):
            raise DataError(f"{path} is broken or truncated: it holds no image")
        page = tiff.pages[0]
        size = path.stat().st_size
        # before decoding: codecs name a cut file in their own ways
        end = max((at + count for at, count in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
        if end > size:
            raise DataError(f"{path} is truncated: it has {size} bytes, its image ends at byte {end}")
        tags = {tag.code: tag for tag in page.tags}
        geotags = tuple((c, int(tags[c].dtype), tags[c].count, tags[c].value) for c in GEO_TAGS if c in tags)
        nodata = _number(tags[_GDAL_NODATA].value) if _GDAL_NODATA in tags else None
        about = str(tags[_GDAL_METADATA].value) if _GDAL_METADATA in tags else ""
        values = tifffile.memmap(path, page=0, mode="r") if page.is_memmappable else page.asarray()
        others = sum(1 for other in tiff.pages[1:] if not other.is_reduced and not other.is_mask)
    note = f"; {others} more pages are not read" if others else ""
    georeferenced = any(code != _GDAL_NODATA for code, *_ in geotags)
    return RawImage(
        _split_channels(path, values),
        nodata=nodata,
        geotags=geotags if georeferenced else None,
        hint_text=f"{path.stem} {about}",
        note=note,
    )


def _load_npy(path: Path) -> RawImage:
    with path.open("rb") as handle:
        start = handle.read(len(_NPY_START))
    if start != _NPY_START[: len(start)]:  # a shorter one is a cut file
        raise ValueError("it does not start as a NumPy file does")
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.ndim == 4 and values.shape[2] == values.shape[3] <= MAX_CHANNELS:
        diagonal = [values[:, :, c, c].real for c in range(values.shape[2])]
        return RawImage(diagonal, is_covariance=True, hint_text=path.stem)
    return RawImage(_split_channels(path, values), hint_text=path.stem)


def _load_png(path: Path) -> RawImage:
    # Not Pillow: it reads 16-bit colour PNG as 8 bit and says nothing.
    import imagecodecs

    values = imagecodecs.png_decode(path.read_bytes())
    note = ""
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values[values[..., -1] == 0] = 0  # transparent: no data
        values = values[..., :-1]
        note += "; transparent pixels are no-data"
    if values.ndim == 3 and values.shape[2] == 3:
        if not (np.array_equal(values[..., 0], values[..., 1]) and np.array_equal(values[..., 0], values[..., 2])):
            raise DataError(f"{path} is a colour PNG, which is no SAR amplitude; give a grey one, 8 or 16 bit")
        note += "; its three equal colours are one channel"
    return RawImage([values if values.ndim == 2 else values[..., 0]], hint_text=path.stem, note=note)


def _split_channels(path: Path, values: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the channels of [H,W], [H,W,C] or [C,H,W]."""
    if values.ndim == 2:
        return [values]
    if values.ndim == 3 and values.shape[2] <= MAX_CHANNELS:
        return [values[:, :, c] for c in range(values.shape[2])]
    if values.ndim == 3 and values.shape[0] <= MAX_CHANNELS:
        return list(values)
    raise DataError(
        f"{path} has shape {values.shape}; accepted are [H,W], [H,W,C], [C,H,W] (up to {MAX_CHANNELS} channels) and "
        "covariance [H,W,C,C]"
    )


def _number(text: Any) -> float | None:
    """Return GDAL's no-data text as a number; None where it is not one."""
    try:
        return float(str(text).strip("\x00 "))
    except ValueError:
        return None

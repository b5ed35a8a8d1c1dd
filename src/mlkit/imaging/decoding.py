"""Image files as they are stored: values of every kind that is understood, and all that lies beside them.

Pillow turns 16-bit RGB into 8 bit without a word, so PNG goes through imagecodecs and TIFF through tifffile.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.errors import DataError
from mlkit.imaging.metadata import CM_PER_INCH, Dpi, Metadata, exif_dpi, is_exif, orientation, without_prefix
from mlkit.imaging.png import PNG_SIGNATURE, read_png
from mlkit.imaging.stored import Stored, three_axes
from mlkit.imaging.tiff import TIFF_SIGNATURES, read_tiff

LEAST_DPI, MOST_DPI = 0.1, 1e6
# What decoders raise at damaged files. tifffile, struct and zlib have errors of their own.
DECODER_ERRORS = (OSError, RuntimeError, ValueError, SyntaxError, KeyError, IndexError, TypeError, struct.error)


def decode(path: Path) -> Stored:
    """Return what is in an image file; the format is told from the content, not from the name.

    Raises:
        DataError: when the file is missing, empty, or cannot be decoded.
    """
    try:
        with path.open("rb") as handle:
            start = handle.read(8)
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist") from None
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error.strerror}") from error
    if not start:
        raise DataError(f"image {path} is empty (0 bytes); copy it again")
    try:
        if start == PNG_SIGNATURE:
            decoded = read_png(path)
        elif start[:4] in TIFF_SIGNATURES:
            decoded = read_tiff(path)
        else:
            decoded = _decode_with_pillow(path)
    except DECODER_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"image {path} cannot be decoded: {reason}; PNG, TIFF, JPEG and WebP work") from error
    values = decoded.values
    if values.ndim != 3 or values.shape[2] - decoded.colors not in (0, 1) or values.shape[2] > 4 or not values.size:
        raise DataError(f"image {path} has the shape {values.shape}; one or three channels (and alpha) work")
    metadata = decoded.metadata
    if metadata.exif is not None and not is_exif(metadata.exif):
        decoded.losses.append("EXIF (damaged)")
        metadata = replace(metadata, exif=None)
    if metadata.dpi is None:
        metadata = replace(metadata, dpi=exif_dpi(metadata.exif))
    if metadata.dpi is not None and not LEAST_DPI <= min(metadata.dpi) <= max(metadata.dpi) <= MOST_DPI:
        metadata = replace(metadata, dpi=None)  # of no picture
    decoded.metadata = metadata
    decoded.orientation = orientation(metadata.exif, metadata.xmp)
    return decoded


def _decode_with_pillow(path: Path) -> Stored:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an image, large as it is
            with Image.open(path) as image:
                stored = _pillow_values(image)
                info: dict[str, Any] = {str(key): value for key, value in image.info.items()}
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    exif, xmp, comment = info.get("exif"), info.get("xmp"), info.get("comment")
    if isinstance(comment, bytes):
        comment = comment.decode("utf-8", "replace")
    stored.metadata = Metadata(
        icc=info.get("icc_profile") or None,
        exif=without_prefix(exif) if exif else None,
        xmp=xmp if isinstance(xmp, bytes) else None,
        iptc=info.get("photoshop", {}).get(0x0404) or None,
        dpi=_pillow_dpi(info, stored.source),
        text=(("Comment", str(comment)),) if comment else (),
    )
    return stored


def _pillow_dpi(info: dict[str, Any], source: str) -> Dpi | None:
    if source == "jpeg":  # whose "dpi" is 72 where Pillow knows none
        per_inch = {1: 1.0, 2: CM_PER_INCH}.get(info.get("jfif_unit", 0))
        x, y = info.get("jfif_density", (0, 0))
        return (x * per_inch, y * per_inch) if per_inch and x and y else None
    x, y = info.get("dpi", (0, 0))
    return (float(x), float(y)) if x and y else None


def _pillow_values(image: Any) -> Stored:
    source = {"MPO": "jpeg"}.get(image.format, str(image.format).lower())
    num_pictures = getattr(image, "n_frames", 1)
    losses = []
    if image.format == "MPO" and num_pictures > 1:  # of a camera: a preview, a depth or gain map behind the JPEG
        num_pictures, losses = 1, ["pictures behind the first (MPO)"]
    mode = image.mode
    if mode in ("P", "PA"):
        mode = "RGBA" if mode == "PA" or "transparency" in image.info else "RGB"
    elif mode == "1":
        mode = "L"
    elif mode == "YCbCr":
        mode = "RGB"
    elif mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        raise ValueError(f"pixels of kind {mode}")
    values = three_axes(np.asarray(image if mode == image.mode else image.convert(mode)))
    return Stored(
        source,
        values,
        colors={"L": 1, "LA": 1, "CMYK": 4}.get(mode, 3),
        alpha="straight" if mode in ("LA", "RGBA") else "none",
        top=255.0,
        num_pictures=num_pictures,
        losses=losses,
    )

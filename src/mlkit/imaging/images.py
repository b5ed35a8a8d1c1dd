"""Reading and writing photographs: 8 and 16 bit without loss, every broken file named.

Pillow turns 16-bit RGB into 8 bit without a word, so PNG goes through imagecodecs and TIFF through tifffile.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def list_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the images in a folder and its subfolders, sorted by path; hidden files and folders are left out.

    Args:
        folder: where to look.
        suffixes: in lower case, with the dot.

    Raises:
        DataError: when the folder does not exist or holds no image.
    """
    if not folder.exists():
        raise DataError(f"image folder {folder} does not exist; give a folder of {', '.join(suffixes)} files")
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; give the folder that it is in")
    images = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not images:
        raise DataError(f"no images in {folder}; files that count end in {', '.join(suffixes)}")
    return images


def read_image(path: Path) -> NDArray[np.float32]:
    """Return an image as float32 [H, W, C] in [0, 1], display-referred sRGB; C is 1 or 3, an alpha channel is dropped.

    8- and 16-bit integers are divided by 255 and 65535; a JPEG's orientation is applied. The format is told from the
    content, not from the name. Colour profiles other than sRGB are not converted.

    Raises:
        DataError: when the file is missing, empty, broken, or neither 8- nor 16-bit nor float in [0, 1].
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
            values = _decode_png(path)
        elif start[:4] in TIFF_SIGNATURES:
            values = _decode_tiff(path)
        else:
            values = _decode_with_pillow(path)
    except (
        OSError,
        RuntimeError,
        ValueError,
        SyntaxError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:  # what decoders raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"image {path} cannot be decoded: {reason}; PNG, TIFF, JPEG and WebP work") from error
    return _to_unit_range(path, _channels_last(path, values))


def write_png16(path: Path, image_hwc: NDArray[np.floating]) -> None:
    """Write an image of [0, 1], [H, W, 1 or 3], as 16-bit PNG, rounded and atomically; values outside are cut.

    Raises:
        DataError: when the place cannot be written.
    """
    import imagecodecs

    from mlkit.files import atomic_file

    levels = np.rint(np.clip(image_hwc, 0.0, 1.0) * 65535.0).astype(np.uint16)
    with atomic_file(path) as partial:
        partial.write_bytes(imagecodecs.png_encode(levels[..., 0] if levels.shape[2] == 1 else levels))


def _decode_png(path: Path) -> NDArray[Any]:
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(path.read_bytes()))


def _decode_tiff(path: Path) -> NDArray[Any]:
    """Return the first page, its channels last."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        values = np.asarray(page.asarray())
        planar = values.ndim == 3 and page.axes.startswith("S")
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind == "u":
            values = np.iinfo(values.dtype).max - values
        elif page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            values, planar = page.colormap[:, values], True
    return np.moveaxis(values, 0, 2) if planar else values


def _decode_with_pillow(path: Path) -> NDArray[Any]:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode in ("L", "1"):
                return np.asarray(ImageOps.exif_transpose(image).convert("L"))
            if image.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            raise ValueError(f"pixels of kind {image.mode}")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def _channels_last(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """Return [H, W, 1 or 3] of what a decoder gave."""
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4) or min(values.shape) == 0:
        raise DataError(f"image {path} has the shape {values.shape}; one or three channels (and alpha) work")
    return values[..., : 3 if values.shape[2] >= 3 else 1]


def _to_unit_range(path: Path, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return values as float32 in [0, 1]; 1 is the largest integer of the type."""
    if values.dtype in (np.uint8, np.uint16):
        # divided in float32: 255/255 and 65535/65535 are exactly 1, and 16 bits fit into its 24
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    if values.dtype == np.bool_:
        return values.astype(np.float32)
    if values.dtype.kind != "f":
        raise DataError(f"image {path} has pixels of type {values.dtype}; 8- and 16-bit integers work")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):  # also for NaN
        raise DataError(f"image {path} has float values from {low:g} to {high:g}; display values in [0, 1] work")
    return values.astype(np.float32)

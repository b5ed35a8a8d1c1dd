"""Reading and writing photographs: every kind of pixel, nothing lost without a word, every broken file named.

    image = open_image(path)                                        # float32 in [0, 1], upright, straight alpha
    warnings = write_image(target, replace(image, pixels=made))     # its depth, alpha, profile, EXIF ... with it

Results that should never lie in memory as a whole go through `writing.writing`, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError
from mlkit.imaging.alpha import unweighted_by_alpha
from mlkit.imaging.decoding import decode
from mlkit.imaging.metadata import NOTHING, Metadata, upright_exif, upright_xmp
from mlkit.imaging.profiles import plain_rgb, srgb_profile
from mlkit.imaging.profiles import to_srgb as profile_to_srgb
from mlkit.imaging.writing import Form, writing

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Image:
    """An image with all that a file of it should carry.

    pixels: [H, W, 1 or 3] float32 in [0, 1], display-referred, upright; straight, not weighted by alpha.
    alpha: [H, W] float32 in [0, 1], 1 is opaque; None: the file has none.
    depth: bits of a value to write: 8, 16, or 32 for float.
    source: what it was read from: "png", "tiff", "jpeg", "webp", "bmp" ...
    associated: the file's colours were weighted by alpha, as a TIFF's may be.
    losses: what of the file is in no written one, as noun phrases; `write_image` names them.
    """

    pixels: Floats
    alpha: Floats | None = None
    depth: int = 8
    source: str = ""
    metadata: Metadata = NOTHING
    associated: bool = False
    losses: tuple[str, ...] = ()

    def form(self) -> Form:
        """Return what a written image is besides its pixels."""
        return Form(
            channels=self.pixels.shape[2],
            depth=self.depth,
            alpha=self.alpha is not None,
            opaque=self.alpha is None or bool(self.alpha.min() >= 1),
            associated=self.associated,
            source=self.source,
            metadata=self.metadata,
            losses=self.losses,
        )


def open_image(path: Path, *, to_srgb: bool = False) -> Image:
    """Return an image with all that its file carries.

    Grey stays grey, a palette becomes RGB, CMYK becomes sRGB by its profile (without one plainly, and either is
    named in `losses`). Other profiles are kept, and the pixels are as in the file.

    Args:
        path: PNG, TIFF, JPEG, WebP or BMP, told from the content.
        to_srgb: convert the colours to sRGB by the file's profile, where it has one.

    Raises:
        DataError: when the file is missing, empty, broken, animated or of several pages; when its values are neither 8
            nor 16-bit nor float in [0, 1]; with `to_srgb` when its profile is of no use.
    """
    stored = decode(path)
    if stored.num_pictures > 1:
        what = "pages" if stored.source == "tiff" else "pictures, an animation"
        raise DataError(f"image {path} holds {stored.num_pictures} {what}; save the one that is meant to its own file")
    values, colors = _turned(stored.values, stored.orientation), stored.colors
    metadata, losses = _upright(stored.metadata, stored.orientation), list(stored.losses)
    if colors == 4:
        pixels, metadata = _rgb_of_cmyk(path, values, metadata, losses)
    else:
        pixels = _to_unit_range(path, values[..., :colors], stored.top)
    alpha = None if stored.alpha == "none" else _to_unit_range(path, values[..., colors], stored.top)
    del values, stored.values
    if alpha is not None and stored.alpha == "associated":
        if (pixels > alpha[..., None]).any():
            losses.append("colours brighter than their transparency allows (cut)")
        pixels = unweighted_by_alpha(pixels, alpha)
    if to_srgb and metadata.icc is not None and colors != 4:
        try:
            converted: Floats = profile_to_srgb(pixels, metadata.icc)
        except ValueError as error:
            raise DataError(f"image {path} cannot be converted to sRGB: {error}") from error
        is_grey = colors == 1
        pixels = converted.mean(axis=2, keepdims=True) if is_grey else converted
        metadata = replace(metadata, icc=None if is_grey else srgb_profile())
    return Image(pixels, alpha, stored.depth, stored.source, metadata, stored.alpha == "associated", tuple(losses))


def write_image(path: Path, image: Image, *, strict: bool = False, quality: int = 95) -> list[str]:
    """Write an image atomically, in the format of the suffix; return one sentence when something is lost, else none.

    Args:
        path: .png, .tif, .tiff, .jpg, .jpeg, .webp or .bmp.
        image: values outside [0, 1] are cut.
        strict: raise in place of the sentence, before anything is written.
        quality: of JPEG, 1 to 100; WebP is written without loss.

    Raises:
        DataError: when the place cannot be written, the format cannot hold the size, or under `strict`.
        NonFiniteError: when a value is NaN or infinite.
    """
    height, width = image.pixels.shape[:2]
    with writing(path, image.form(), height=height, width=width, strict=strict, quality=quality) as writer:
        writer.write(image.pixels, image.alpha)
    return writer.warnings


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


def read_image(path: Path) -> Floats:
    """Return an image as float32 [H, W, C] in [0, 1], display-referred sRGB; C is 1 or 3, an alpha channel is dropped.

    8- and 16-bit integers are divided by 255 and 65535; a JPEG's orientation is applied, and of several pictures the
    first is taken. The format is told from the content, not from the name. Colour profiles are not used.

    Raises:
        DataError: when the file is missing, empty, broken, or neither 8- nor 16-bit nor float in [0, 1].
    """
    stored = decode(path)
    values = stored.values[..., : stored.colors]
    if stored.source not in ("png", "tiff"):
        values = _turned(values, stored.orientation)
    if stored.colors == 4:
        values = plain_rgb(_as_integers(path, values))
    return _to_unit_range(path, values, stored.top)


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


def _turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return a view of [H, W, ...] as it is to be seen; `orientation` as in EXIF, 1 to 8."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)  # rows and columns; what is left are flips
    flips_rows, flips_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return values[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]


def _upright(metadata: Metadata, orientation: int) -> Metadata:
    """Return what belongs to an image that was turned upright."""
    if orientation == 1:
        return metadata
    dpi = metadata.dpi[::-1] if metadata.dpi is not None and orientation >= 5 else metadata.dpi
    return replace(
        metadata,
        exif=None if metadata.exif is None else upright_exif(metadata.exif),
        xmp=None if metadata.xmp is None else upright_xmp(metadata.xmp),
        dpi=dpi,
    )


def _rgb_of_cmyk(path: Path, values: NDArray[Any], metadata: Metadata, losses: list[str]) -> tuple[Floats, Metadata]:
    """Return pixels and metadata of CMYK as sRGB."""
    values = _as_integers(path, values)
    if values.dtype == np.uint8:
        values = values.astype(np.uint16) * np.uint16(257)  # so that the conversion rounds finer than 8 bits
    try:
        if metadata.icc is None:
            raise ValueError("it has no profile")
        rgb = profile_to_srgb(values, metadata.icc)
        losses.append("CMYK (converted to sRGB by its profile)")
        metadata = replace(metadata, icc=srgb_profile())
    except ValueError as error:
        rgb = plain_rgb(values)
        losses.append(f"CMYK (converted to RGB plainly, since {error})")
        metadata = replace(metadata, icc=None)
    return _to_unit_range(path, rgb, 65535.0), metadata


def _as_integers(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype not in (np.uint8, np.uint16):
        raise DataError(f"image {path} has CMYK pixels of type {values.dtype}; 8- and 16-bit integers work")
    return values


def _to_unit_range(path: Path, values: NDArray[Any], top: float) -> Floats:
    """Return values as float32 in [0, 1]; of integers `top` is 1."""
    if values.dtype in (np.uint8, np.uint16, np.bool_):
        pixels = values.astype(np.float32, order="C")
        if values.dtype != np.bool_:
            # divided in float32: 255/255 and 65535/65535 are exactly 1, and 16 bits fit into its 24
            pixels /= np.float32(top)
        return pixels
    if values.dtype.kind != "f":
        raise DataError(f"image {path} has pixels of type {values.dtype}; 8- and 16-bit integers work")
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):  # also for NaN
        raise DataError(f"image {path} has float values from {low:g} to {high:g}; display values in [0, 1] work")
    return values.astype(np.float32, order="C")

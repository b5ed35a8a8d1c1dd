"""What LibRaw tells of an open RAW file: sites, levels, colours; and its errors in one sentence each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError, MemoryShortError
from mlkit.imaging.light import XYZ_TO_SRGB
from mlkit.tasks.demosaic.rawfile import RawFile, exif_of_jpeg
from mlkit.tasks.demosaic.xtrans import PERIOD

if TYPE_CHECKING:
    import rawpy

RAW_SUFFIXES = (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
Multipliers = tuple[float, float, float]


@contextmanager
def opened(path: Path) -> Iterator[rawpy.RawPy]:
    """Yield an open file; what LibRaw raises in the block becomes one sentence."""
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            yield raw
    except rawpy.LibRawUnsufficientMemoryError:
        raise MemoryShortError(
            f"not enough memory to read {path}; close other programs, or use a smaller file"
        ) from None
    except (rawpy.LibRawFileUnsupportedError, rawpy.LibRawRequestForNonexistentImageError):
        version = ".".join(map(str, rawpy.libraw_version))
        raise DataError(
            f"{path} is no RAW file that LibRaw {version} knows; RAW files end in {', '.join(RAW_SUFFIXES)}"
        ) from None
    except rawpy.LibRawIOError:
        raise DataError(
            f"RAW file {path} is cut off or damaged (LibRaw: Input/output error); copy it from the camera again"
        ) from None
    except (rawpy.LibRawError, rawpy.NotSupportedError) as error:
        said = error.args[0] if error.args else type(error).__name__
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise DataError(f"RAW file {path} cannot be read (LibRaw: {text}); it may be damaged") from None


def sites(path: Path, raw: rawpy.RawPy, file: RawFile) -> tuple[NDArray[np.uint8], bool]:
    """Return LibRaw's numbers of colours from the top-left visible pixel on, [k, k], and whether it knows them.

    Of a DNG of a Fujifilm camera LibRaw forgets the filter where margins are not multiples of 6; then it is as the file
    says. `raw_pattern` and `raw_colors_visible` are wrong where margins are above 6.
    """
    import rawpy

    if raw.raw_type != rawpy.RawType.Flat or raw.num_colors == 1:
        kind = "every pixel holds all colours" if raw.num_colors > 1 else "it is monochrome"
        raise DataError(f"{path} has no colour filter ({kind}), so there is nothing to demosaic; open it as a picture")
    letters = raw.color_desc.decode("latin-1")
    if raw.num_colors != 3 or set(letters[:3]) != set("RGB"):
        raise DataError(f"{path} has a colour filter of {letters}; only filters of red, green and blue can be read")
    size = raw.sizes
    if size.height < PERIOD or size.width < PERIOD:
        raise DataError(
            f"{path} is a picture of {size.width} x {size.height} px; it must have {PERIOD} x {PERIOD} px or more"
        )
    around = range(4 * PERIOD)
    told = np.array([[raw.raw_color(size.top_margin + y, size.left_margin + x) for x in around] for y in around])
    for side in (2, PERIOD):
        corner = told[:side, :side]
        repeats = np.array_equal(told, np.tile(corner, (len(told) // side, len(told) // side)))
        if repeats and len(np.unique(corner)) >= 3:
            return corner.astype(np.uint8), True
    if file.pattern is not None:
        return np.roll(file.pattern, (-size.top_margin, -size.left_margin), (0, 1)), False
    raise DataError(f"{path} has a colour filter that repeats neither over 2 x 2 nor over 6 x 6 sites")


def levels(path: Path, raw: rawpy.RawPy, sites: NDArray[np.uint8], file: RawFile) -> tuple[Matrix, float, float]:
    """Return the black levels of sites as they repeat from the top-left visible pixel on, their mean, and white."""
    told = np.array(raw.black_level_per_channel, np.float64)
    black_hw = told[sites]
    levels = file.black
    # Of levels that differ LibRaw may tell the lowest only; where it tells another, it knows better than the file.
    if levels is not None and abs(levels.min() - told[np.unique(sites)].min()) < 1:
        rows, columns = (math.lcm(len(sites), size) for size in levels.shape)
        black_hw = np.tile(levels, (rows // levels.shape[0], columns // levels.shape[1]))
    black, white = float(black_hw.mean()), float(raw.white_level)
    if not white > black:
        raise DataError(f"RAW file {path} is damaged: its white level {white:g} is not above its black level {black:g}")
    return black_hw, black, white


def colors(raw: rawpy.RawPy, file: RawFile, notes: list[str]) -> tuple[Matrix, Multipliers]:
    """Return the matrix from white-balanced camera RGB to linear sRGB, and the multipliers of light of 6500 K.

    As dcraw derives it: a camera matrix maps XYZ to camera RGB; its product with that from sRGB to XYZ, rows scaled
    so that white becomes (1, 1, 1), is inverted. Where the file has none, `notes` gets a phrase.
    """
    made, xyz_to_camera = np.array(raw.color_matrix[:, :3], np.float64), file.color_matrix
    if xyz_to_camera is None or not made.any():
        # From LibRaw's table of cameras; a DNG's own comes first, and is `made` with its calibration.
        xyz_to_camera = np.array(raw.rgb_xyz_matrix[:3], np.float64)
        made = _inverted(xyz_to_camera) if xyz_to_camera.any() else made
    if not made.any() or not np.isfinite(made).all():
        notes.append("no colour matrix of the camera (its colours are taken as sRGB)")
        return np.eye(3), (1.0, 1.0, 1.0)
    white = xyz_to_camera @ np.linalg.inv(XYZ_TO_SRGB).sum(axis=1)
    return made / made.sum(axis=1, keepdims=True), multipliers(1 / white if white.all() else white) or (1.0, 1.0, 1.0)


def _inverted(xyz_to_camera: Matrix) -> Matrix:
    from_srgb = xyz_to_camera @ np.linalg.inv(XYZ_TO_SRGB)
    inverted: Matrix = np.linalg.inv(from_srgb / from_srgb.sum(axis=1, keepdims=True))
    return inverted


def multipliers(told: Sequence[float] | Vector) -> Multipliers | None:
    """Return multipliers of R, G and B with G = 1, None where they are not known."""
    red, green, blue = (float(value) for value in told[:3])
    known = all(math.isfinite(value) and value > 0 for value in (red, green, blue))
    return (red / green, 1.0, blue / green) if known else None


def exif_of_preview(raw: rawpy.RawPy) -> bytes | None:
    """Return the EXIF block of the preview that most cameras put into a RAW file."""
    import rawpy

    try:
        preview = raw.extract_thumb()
    except (rawpy.LibRawError, rawpy.NotSupportedError):
        return None
    return exif_of_jpeg(preview.data) if isinstance(preview.data, bytes) else None

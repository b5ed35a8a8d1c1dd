"""RAW files made for tests by means that are not mlkit's: DNGs by tifffile, and Fujifilm's RAF by hand.

LibRaw reads a RAF as here written as an X-T2's: the colour matrix is then from its own table.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

G, R, B = 1, 0, 2
XTRANS = np.array(
    [
        [G, R, G, G, B, G],
        [B, G, B, R, G, R],
        [G, R, G, G, B, G],
        [G, B, G, G, R, G],
        [R, G, R, B, G, B],
        [G, B, G, G, R, G],
    ],
    np.uint8,
)
BAYER = np.array([[R, G], [G, B]], np.uint8)
# From XYZ to the RGB of an invented camera, near those of real ones.
CAMERA = np.array([[0.90, -0.30, -0.10], [-0.40, 1.20, 0.22], [-0.05, 0.15, 0.60]])
BLACK, WHITE = 1024, 16383
WB = (2.0, 1.0, 1.6)


def sites(pattern: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the colour of each site, [height, width], by tiling."""
    rows, columns = pattern.shape
    return np.tile(pattern, (height // rows + 1, width // columns + 1))[:height, :width]


def mosaicked(image_hwc: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Return [H, W]: of each pixel the colour that its site measures."""
    colors = sites(pattern, *image_hwc.shape[:2])
    return np.select([colors == color for color in range(3)], [image_hwc[..., color] for color in range(3)])


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return [H, W, 3] in 0.1..0.7 without fine detail, so that any interpolation is near the truth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [0.4 + 0.15 * np.sin(6 * x + shift) + 0.15 * np.cos(5 * y + 2 * shift) for shift in rng.uniform(0, 6, 3)]
    return np.stack(waves, axis=2)


def raw_levels(image: np.ndarray, black: float = BLACK, white: int = WHITE) -> np.ndarray:
    """Return values of which 1 is white as raw levels."""
    return np.clip(np.round(image * (white - black) + black), 0, 65535).astype(np.uint16)


def write_dng(
    path: Path,
    mosaic: np.ndarray,
    pattern: np.ndarray = XTRANS,
    *,
    black: Sequence[int] = (BLACK,),
    black_shape: tuple[int, int] = (1, 1),
    white: int = WHITE,
    wb: Sequence[float] | None = WB,
    matrix: np.ndarray | None = CAMERA,
    orientation: int = 1,
    active_area: tuple[int, int, int, int] | None = None,
    make: str = "FUJIFILM",
    model: str = "X-T2",
    photometric: int = 32803,
) -> Path:
    """Write a mosaic as a DNG; the pattern begins at the active area, as the format has it."""

    def ratios(values: Sequence[float]) -> tuple[int, ...]:
        return tuple(part for value in values for part in (round(float(value) * 1_000_000), 1_000_000))

    tags: list[tuple] = [
        (274, "H", 1, orientation, True),
        (271, "s", 0, make, True),
        (272, "s", 0, model, True),
        (33421, "H", 2, pattern.shape, True),
        (33422, "B", pattern.size, bytes(pattern.ravel().tolist()), True),
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),
        (50707, "B", 4, bytes([1, 1, 0, 0]), True),
        (50708, "s", 0, f"{make} {model}", True),
        (50710, "B", 3, bytes([0, 1, 2]), True),
        (50711, "H", 1, 1, True),
        (50713, "H", 2, black_shape, True),
        (50714, "H", len(black), tuple(black) if len(black) > 1 else black[0], True),
        (50717, "H", 1, white, True),
        (50778, "H", 1, 21, True),
    ]
    if wb is not None:
        tags.append((50728, "2I", 3, ratios([1 / value for value in wb]), True))
    if matrix is not None:
        tags.append((50721, "2i", 9, ratios(matrix.ravel()), True))
    if active_area is not None:
        tags.append((50829, "I", 4, active_area, True))
    tifffile.imwrite(path, mosaic, photometric=photometric, extratags=tags, compression=None, metadata=None)
    return path


def write_raf(
    path: Path,
    mosaic: np.ndarray,
    *,
    black: np.ndarray,
    wb: Sequence[float] = WB,
    orientation: int = 1,
    pattern: np.ndarray = XTRANS,
) -> Path:
    """Write an uncompressed RAF of 14 bits: a header, a JPEG with EXIF, a table, and a TIFF that holds the mosaic."""
    height, width = mosaic.shape
    exif = Image.Exif()
    exif[271], exif[272], exif[274] = "FUJIFILM", "X-T2", orientation
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "JPEG", exif=exif)
    jpeg = buffer.getvalue()[:2] + buffer.getvalue()[20:]  # a camera's begins with EXIF, without JFIF's header
    green = 302
    levels = (green, round(wb[0] * green), green, round(wb[2] * green))
    size = struct.pack(">HH", height, width)
    parts = [
        (0x0100, size),
        (0x0110, bytes(4)),
        (0x0111, size),
        (0x0121, size),
        (0x0130, b"\x0c\x0c\0\0"),
        (0x0131, bytes(pattern.ravel()[::-1].tolist())),
        (0x2FF0, struct.pack(">4H", *levels)),
    ]
    table = struct.pack(">I", len(parts))
    table += b"".join(struct.pack(">HH", tag, len(data)) + data for tag, data in parts)
    data = mosaic.astype(">u2").tobytes()
    inner, levels_at = 26, 26 + 2 + 6 * 12 + 4
    data_at = levels_at + 4 * black.size
    words = [
        (0xF001, 1, width),
        (0xF002, 1, height),
        (0xF003, 1, 14),
        (0xF007, 1, data_at),
        (0xF008, 1, len(data)),
        (0xF00A, black.size, levels_at),
    ]
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0xF000, 13, 1, inner, 0)
    tiff += struct.pack("<H", len(words)) + b"".join(struct.pack("<HHII", tag, 4, *rest) for tag, *rest in words)
    tiff += bytes(4) + struct.pack(f"<{black.size}I", *black.ravel().tolist()) + data
    header = bytearray(160)
    header[:28] = b"FUJIFILMCCD-RAW 0201FF159501"
    header[28:32] = b"X-T2"
    table_at = len(header) + len(jpeg)
    tiff_at = table_at + len(table)
    struct.pack_into(">6I", header, 84, len(header), len(jpeg), table_at, len(table), tiff_at, len(tiff))
    path.write_bytes(bytes(header) + jpeg + table + tiff)
    return path

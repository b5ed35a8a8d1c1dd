"""Pictures of a page: as they are while they fit into it, else smaller ones in it and the exact files beside it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlkit.files import atomic_file
from mlkit.imaging.grids import apply_scale, heat, image_to_u8

# Base64 makes 4 bytes of 3, and a page of 10 MB has text too.
BUDGET_BYTES = 7_000_000
MOST_PIXELS = 1024 * 1024 * 21 // 20  # "a megapixel", of either kind; a larger picture lies beside the page
ERROR_GAIN = 8
FOLDER = "images"
_OWN = re.compile(r"\d{3}-(given|made|errors)-\d+\.png")  # how the page names its files
_QUALITIES = (95, 90, 80, 70, 55, 40)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as it was made: a lossless PNG."""

    png: bytes
    width: int
    height: int

    @property
    def is_large(self) -> bool:
        return self.width * self.height > MOST_PIXELS


@dataclass(frozen=True, slots=True)
class Packed:
    """Where each picture of a page is."""

    sources: dict[str, str]  # by key: a data URI, or a path beside the page
    files: dict[str, bytes]  # what lies beside the page, by path
    quality: int | None  # of WebP in the page; None where its pictures are exact
    exact: dict[str, str]  # path of the exact file, where the page shows another


def picture(image_hwc: NDArray[np.floating]) -> Picture:
    """Return an image of [0, 1], [H, W, 3] sRGB, as a picture."""
    from PIL import Image

    encoded = io.BytesIO()
    image_u8 = image_to_u8(image_hwc)
    Image.fromarray(np.ascontiguousarray(image_u8)).save(encoded, format="PNG")
    return Picture(encoded.getvalue(), image_u8.shape[1], image_u8.shape[0])


def error_map(made_hwc: NDArray[np.floating], truth_hwc: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return |made - truth| x8 in colours, [H, W, 3]: the largest of the channels, of what is displayed."""
    error = np.abs(made_hwc.astype(np.float32) - truth_hwc.astype(np.float32)).max(axis=2)
    return apply_scale(error * ERROR_GAIN, heat("", 0.0, 1.0))


def pack(pictures: dict[str, Picture], budget_bytes: int = BUDGET_BYTES) -> Packed:
    """Return pictures for a page whose own ones take at most `budget_bytes`.

    Exact while they fit. Then WebP of the best quality that fits, with the exact PNG beside the page. Large pictures,
    and those that do not fit at the lowest quality, are files alone.
    """
    within = {key: one for key, one in pictures.items() if not one.is_large}
    paths = {key: f"{FOLDER}/{key}.png" for key in pictures}
    beside = [key for key in pictures if key not in within]
    quality = None
    shown = {key: ("png", one.png) for key, one in within.items()}
    if _total(shown) > budget_bytes:
        quality = _best_quality(list(within.values()), budget_bytes)
        shown = {key: ("webp", _webp(one, quality)) for key, one in within.items()}
        while shown and _total(shown) > budget_bytes:  # the last ones matter least
            beside.append(shown.popitem()[0])
    exact = {key: paths[key] for key in shown} if quality is not None else {}
    sources = {key: _data_uri(kind, content) for key, (kind, content) in shown.items()}
    sources |= {key: paths[key] for key in beside}
    files = {paths[key]: pictures[key].png for key in (*beside, *exact)}
    return Packed(sources, files, quality, exact)


def _total(shown: dict[str, tuple[str, bytes]]) -> int:
    return sum(len(content) for _, content in shown.values())


def _best_quality(pictures: Sequence[Picture], budget_bytes: int) -> int:
    """Return the best quality at which a share of the pictures promises that all fit, else the lowest."""
    share = pictures[:: max(1, len(pictures) // 8)]
    largest = budget_bytes * sum(len(one.png) for one in share) / sum(len(one.png) for one in pictures)
    for quality in _QUALITIES:
        if sum(len(_webp(one, quality)) for one in share) < 0.93 * largest:
            return quality
    return _QUALITIES[-1]


def _webp(one: Picture, quality: int) -> bytes:
    from PIL import Image

    encoded = io.BytesIO()
    with Image.open(io.BytesIO(one.png)) as image:
        image.save(encoded, format="WEBP", quality=quality, method=2)
    return encoded.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def write_files(folder: Path, packed: Packed) -> None:
    """Write what lies beside a page, and remove what an older page left there; other files are not touched."""
    for stale in (folder / FOLDER).glob("*.png"):
        if _OWN.fullmatch(stale.name) and f"{FOLDER}/{stale.name}" not in packed.files:
            stale.unlink()
    for path, content in packed.files.items():
        with atomic_file(folder / path) as partial:
            partial.write_bytes(content)

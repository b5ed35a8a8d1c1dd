"""JPEG, WebP and BMP: formats whose encoders want the whole image, in 8 bits."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mlkit.imaging.metadata import Metadata, exif_with_dpi, photoshop_of


class WholeWriter:
    """Collects rows of uint8 and encodes them at the end.

    Args:
        handle: a new file.
        shape: [H, W, S]; S is 1 (grey), 3 or 4.
        metadata: what the format can hold.
        name: "JPEG", "WebP" or "BMP".
        quality: of JPEG.
    """

    def __init__(
        self, handle: BinaryIO, shape: tuple[int, int, int], metadata: Metadata, name: str, quality: int
    ) -> None:
        self._handle, self._metadata, self._name, self._quality = handle, metadata, name, quality
        self._levels = np.empty(shape, dtype=np.uint8)
        self._done = 0

    def rows(self, levels: NDArray[Any]) -> None:
        """Take the next rows, [n, W, S]."""
        self._levels[self._done : self._done + len(levels)] = levels
        self._done += len(levels)

    def finish(self) -> None:
        """Encode and write."""
        from PIL import Image

        levels = self._levels[..., 0] if self._levels.shape[2] == 1 else self._levels
        Image.fromarray(levels).save(self._handle, self._name.upper(), **self._options())

    def _options(self) -> dict[str, Any]:
        metadata = self._metadata
        options: dict[str, Any] = {}
        if metadata.icc is not None:
            options["icc_profile"] = metadata.icc
        if metadata.xmp is not None:
            options["xmp"] = metadata.xmp
        exif = metadata.exif
        if self._name == "WebP":
            # which has no other place for a resolution
            exif = exif_with_dpi(exif, metadata.dpi) if metadata.dpi is not None else exif
            options |= {"lossless": True, "exact": True, "method": 4, "quality": 50}  # the colours under alpha 0 too
        elif metadata.dpi is not None:
            options["dpi"] = metadata.dpi
        elif self._name == "BMP":
            options["dpi"] = (0, 0)  # none; Pillow's own is 96
        if exif is not None:
            options["exif"] = b"Exif\0\0" + exif if self._name == "JPEG" else exif
        if self._name == "JPEG":
            options |= {"quality": self._quality, "subsampling": 0}
            if metadata.text:
                options["comment"] = metadata.text[0][1].encode()
            if metadata.iptc is not None:
                data = b"Photoshop 3.0\0" + photoshop_of(metadata.iptc)
                options["extra"] = b"\xff\xed" + struct.pack(">H", len(data) + 2) + data
        return options

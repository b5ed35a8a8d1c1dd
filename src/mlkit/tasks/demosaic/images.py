"""The user's own images as samples, for grids of checkpoints: photographs seen through the filter, and RAW files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlkit.errors import DataError
from mlkit.imaging.images import open_image
from mlkit.tasks.demosaic import xtrans
from mlkit.tasks.demosaic.raw import RAW_SUFFIXES, read_raw
from mlkit.tasks.demosaic.source import as_sample

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_SIDE_PX = 1024  # a picture in a grid; larger images are cut from the middle


class ImagesSource:
    """Samples of any sizes, so batches hold one: {"mosaic", "phase", "image", "encoded"}, of RAW files without "image".

    Args:
        paths: images, whose mosaic is made with phase (0, 0), or X-Trans RAW files, whose mosaic is upright and
            white-balanced.
        encoded: mosaic images as sRGB instead of in linear light; RAW files always are in linear light.
        upscale: only 1, since a demosaicer keeps the size.
        fit_multiple: cut images to multiples of it.

    Raises:
        DataError: for another `upscale`, or `fit_multiple` below 1.
    """

    def __init__(
        self, paths: Sequence[Path], *, encoded: bool = False, upscale: int = 1, fit_multiple: int = 1
    ) -> None:
        if upscale != 1:
            raise DataError(f"upscale {upscale} is of no use here: demosaicing keeps the size; leave it at 1")
        if fit_multiple < 1:
            raise DataError(f"fit multiple {fit_multiple} must be 1 or more")
        self._paths = list(paths)
        self._encoded, self._multiple = encoded, fit_multiple

    def __len__(self) -> int:
        return len(self._paths)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return image `index`; nothing about it is random.

        Raises:
            DataError: when the file is broken, smaller than the pattern, or a RAW file of a Bayer camera.
        """
        from mlkit.imaging.light import srgb_to_linear
        from mlkit.tasks.demosaic.infer import upright

        path = self._paths[index]
        if path.suffix.lower() in RAW_SUFFIXES:
            frame = upright(read_raw(path))
            phase = frame.phase
            rows, columns = self._middle(path, *frame.mosaic_hw.shape)
            phase = xtrans.moved(phase, rows.start, columns.start)
            mosaic = frame.mosaic_hw[rows, columns]
            multipliers = np.asarray(frame.wb, np.float32)[xtrans.colors(mosaic.shape[0], mosaic.shape[1], phase)]
            return as_sample(mosaic * multipliers, None, phase, encoded=False)
        pixels = open_image(path, to_srgb=True).pixels
        rows, columns = self._middle(path, *pixels.shape[:2])
        pixels = pixels[rows, columns]
        image = np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.float32)
        if not self._encoded:
            image = np.asarray(srgb_to_linear(image), dtype=np.float32)
        return as_sample(xtrans.mosaic(image), image, (0, 0), encoded=self._encoded)

    def sample_id(self, index: int) -> str:
        """Return the file's name without its folder."""
        return self._paths[index].name

    def _middle(self, path: Path, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns that are used."""
        cut = []
        for side in (height, width):
            used = min(side, LARGEST_SIDE_PX) // self._multiple * self._multiple
            if used < xtrans.PERIOD:
                raise DataError(
                    f"{path} is {width} x {height} px, too small for the pattern of {xtrans.PERIOD} x {xtrans.PERIOD} "
                    f"px in multiples of {self._multiple}"
                )
            cut.append(slice((side - used) // 2, (side - used) // 2 + used))
        return cut[0], cut[1]

"""The user's own images as samples: for grids of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlkit.errors import DataError, MlkitError
from mlkit.imaging.images import read_image
from mlkit.imaging.resize import resize_to_multiple, upscale

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_SIDE_PX = 1024  # a picture in a grid, enlarged; larger images are cut from the middle


class ImagesSource:
    """Samples {"lr_up": [3, H, W] float32 in [0, 1]} of any sizes, so batches hold one.

    Args:
        paths: images.
        upscale: enlarge them so many times (bicubic) first.
        fit_multiple: crop them to multiples of it.
    """

    def __init__(self, paths: Sequence[Path], *, upscale: int = 1, fit_multiple: int = 1) -> None:
        if upscale < 1 or fit_multiple < 1:
            raise DataError(f"upscale {upscale} and fit multiple {fit_multiple} must be 1 or more")
        self._paths = list(paths)
        self._upscale, self._fit_multiple = upscale, fit_multiple

    def __len__(self) -> int:
        return len(self._paths)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return image `index`; nothing about it is random."""
        import torch

        path = self._paths[index]
        image_hwc = read_image(path)
        largest = max(1, LARGEST_SIDE_PX // self._upscale)
        top, left = (max(0, (side - largest) // 2) for side in image_hwc.shape[:2])
        try:
            enlarged = upscale(image_hwc[top : top + largest, left : left + largest], self._upscale)
            fitting = resize_to_multiple(enlarged, self._fit_multiple)
        except MlkitError as error:
            raise DataError(f"{path}: {error}") from error
        image = np.moveaxis(np.broadcast_to(fitting, (*fitting.shape[:2], 3)), 2, 0)
        return {"lr_up": torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))}

    def sample_id(self, index: int) -> str:
        """Return the file's name without its folder."""
        return self._paths[index].name

"""The user's own photographs as samples, for grids of checkpoints: there is no truth beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlkit.errors import DataError
from mlkit.imaging.images import open_image
from mlkit.imaging.resize import resize_to_multiple
from mlkit.tasks.lens.inputs import as_levels, as_network_input, refuse_tiny, said_by_lines

if TYPE_CHECKING:
    from torch import Tensor


class ImagesSource:
    """Samples {"image", "frame"} of files of any size; with `sure` also those of `said_by_lines`.

    Args:
        paths: photographs.
        size: of the square that they are squeezed to.
        sure: of `lens_of_lines`; None: lines are not looked for.
        upscale: only 1, since a correction keeps the size.
        fit_multiple: cut photographs to multiples of it.

    Raises:
        DataError: for another `upscale`, or `fit_multiple` below 1.
    """

    def __init__(
        self, paths: Sequence[Path], size: int, *, sure: float | None = None, upscale: int = 1, fit_multiple: int = 1
    ) -> None:
        if upscale != 1:
            raise DataError(f"upscale {upscale} is of no use here: a correction keeps the size; leave it at 1")
        if fit_multiple < 1:
            raise DataError(f"fit multiple {fit_multiple} must be 1 or more")
        self._paths, self._size, self._sure, self._multiple = list(paths), size, sure, fit_multiple

    def __len__(self) -> int:
        return len(self._paths)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return photograph `index`; nothing about it is random.

        Raises:
            DataError: when the file is broken or tiny.
        """
        import torch

        from mlkit.tasks.lens.geometry import frame_of

        pixels = open_image(self._paths[index], to_srgb=True).pixels
        refuse_tiny(self._paths[index], pixels)
        levels = as_levels(resize_to_multiple(pixels, self._multiple))
        frame = torch.tensor(frame_of(*levels.shape[:2]), dtype=torch.float32)
        sample = {"image": as_network_input(levels, self._size), "frame": frame}
        return sample if self._sure is None else sample | said_by_lines(levels, frame, self._sure)

    def sample_id(self, index: int) -> str:
        """Return the file's name without its folder."""
        return self._paths[index].name

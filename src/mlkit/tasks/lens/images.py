"""The user's own photographs: what the network sees of them, and as samples for grids of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlkit.errors import DataError
from mlkit.imaging.images import open_image
from mlkit.imaging.resize import resize_to_multiple
from mlkit.tasks.lens.pairs import squeezed

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_PX = 32
LINES_PX = 640  # longer side of what lines are found in: of larger pictures they tell no more


class ImagesSource:
    """Samples {"image", "frame"} of files of any size; with `sure` also what lines say, "lines_params" and
    "lines_facts" of `lens_of_lines`.

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
        from mlkit.tasks.lens.lines import lens_of_lines

        pixels = open_image(self._paths[index], to_srgb=True).pixels
        height, width = pixels.shape[:2]
        if min(height, width) < SMALLEST_PX:
            raise DataError(f"{self._paths[index]} is {width} x {height} px; a side of {SMALLEST_PX} px is the least")
        levels = as_levels(resize_to_multiple(pixels, self._multiple))
        frame = torch.tensor(frame_of(*levels.shape[:2]), dtype=torch.float32)
        sample = {"image": as_network_input(levels, self._size), "frame": frame}
        if self._sure is not None:
            params, facts = lens_of_lines(as_lines_input(levels)[None], frame[None], self._sure)
            sample |= {"lines_params": params[0], "lines_facts": facts[0]}
        return sample

    def sample_id(self, index: int) -> str:
        """Return the file's name without its folder."""
        return self._paths[index].name


def as_levels(pixels: np.ndarray) -> np.ndarray:
    """Return a picture [H, W, 1 or 3] in [0, 1] as 8-bit RGB [H, W, 3]."""
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return np.repeat(levels, 3, axis=2) if levels.shape[2] == 1 else levels


def as_network_input(levels: np.ndarray, size: int) -> Tensor:
    """Return what the network sees of a picture [H, W, 3]: [3, size, size] in [0, 1]."""
    return _resized(levels, size, size)


def as_lines_input(levels: np.ndarray) -> Tensor:
    """Return what lines are found in of a picture [H, W, 3]: [3, h, w] in [0, 1], in its own shape, never enlarged."""
    share = min(1.0, LINES_PX / max(levels.shape[:2]))
    height, width = (max(1, round(side * share)) for side in levels.shape[:2])
    return _resized(levels, height, width)


def _resized(levels: np.ndarray, height: int, width: int) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(squeezed(levels, height, width), 2, 0)))

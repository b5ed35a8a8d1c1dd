"""The user's own scenes as samples, prepared as the training data were: for grids of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlkit.data.manifest import DatasetManifest
from mlkit.errors import DataError, MlkitError
from mlkit.imaging.resize import resize_to_multiple, upscale
from mlkit.tasks.sar.readers import open_scenes
from mlkit.tasks.sar.source import to_unit

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_SIDE_PX = 1024  # a picture in a grid; larger scenes are cut from the middle


class ImagesSource:
    """Samples {"image": [1, H, W] float32 in [0, 1], "db_range": [2]} of any sizes, so batches hold one.

    Args:
        manifest: the dataset whose dB limits are used.
        paths: scenes.
        upscale: enlarge them so many times (bicubic) first.
        fit_multiple: crop them to multiples of it.
    """

    def __init__(
        self, manifest: DatasetManifest, paths: Sequence[Path], *, upscale: int = 1, fit_multiple: int = 1
    ) -> None:
        if upscale < 1 or fit_multiple < 1:
            raise DataError(f"upscale {upscale} and fit multiple {fit_multiple} must be 1 or more")
        self._scenes = [scene for path in paths for scene in open_scenes(path)]  # one for each polarisation
        self._db_min = float(manifest.preprocessing["db_min"])
        self._db_max = float(manifest.preprocessing["db_max"])
        self._upscale, self._fit_multiple = upscale, fit_multiple

    def __len__(self) -> int:
        return len(self._scenes)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return scene `index`; nothing about it is random."""
        import torch

        db_hw = self._scenes[index].read().db_hw
        top, left = (max(0, (side - LARGEST_SIDE_PX) // 2) for side in db_hw.shape)
        unit = to_unit(db_hw[top : top + LARGEST_SIDE_PX, left : left + LARGEST_SIDE_PX], self._db_min, self._db_max)
        try:
            image_hwc = resize_to_multiple(upscale(unit[..., None], self._upscale), self._fit_multiple)
        except MlkitError as error:
            raise DataError(f"{self._scenes[index].path}: {error}") from error
        image = np.ascontiguousarray(image_hwc[..., 0], dtype=np.float32)[None]
        return {"image": torch.from_numpy(image), "db_range": torch.tensor([self._db_min, self._db_max])}

    def sample_id(self, index: int) -> str:
        """Return the file's name without its folder; `name.npy#1` for its channel 1."""
        scene = self._scenes[index]
        return scene.path.name + scene.name.removeprefix(scene.path.stem)

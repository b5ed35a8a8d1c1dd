"""Grids of a built dataset, or of the user's files, as samples: padded to one side, turned and recoloured by `rng`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlkit.data.manifest import DatasetManifest
from mlkit.data.store import Store, open_array
from mlkit.errors import DataError, SettingsError, counted
from mlkit.tasks.bvae.readers import Grid, Labels, free_name, read_grids
from mlkit.tasks.bvae.settings import BvaeLoss, BvaeModel
from mlkit.tasks.bvae.weights import class_weights

if TYPE_CHECKING:
    from torch import Tensor

GRIDS = "grids"
Split = Literal["train", "validation"]


def seen_counts(manifest: DatasetManifest, permute_colors: bool) -> NDArray[np.float64]:
    """Return how often training sees each class, [C]: where colours are exchanged, all but the background equally."""
    counts = np.asarray(manifest.details["class_counts"], np.float64)
    if permute_colors:
        others = np.arange(len(counts)) != int(manifest.preprocessing["background"])
        counts[others] = counts[others].mean()
    return counts


def padded(labels_hw: Labels, side: int, padding: int) -> Labels:
    """Return [side, side] with the grid at the top left and the class `padding` around it."""
    canvas = np.full((side, side), padding, dtype=np.uint8)
    canvas[: labels_hw.shape[0], : labels_hw.shape[1]] = labels_hw
    return canvas


class Preparation:
    """What turns a grid into a sample; equal for training, validation and the user's own grids.

    Samples are {"labels": uint8 [S, S], padding being class C; "class_weights": float32 [C]; "background": int64 []}.

    Raises:
        SettingsError: when the model and the dataset differ in their number of classes.
    """

    def __init__(self, manifest: DatasetManifest, model: BvaeModel, loss: BvaeLoss, permute_colors: bool) -> None:
        if manifest.task != "bvae":
            raise DataError(f"dataset {manifest.folder} is of task {manifest.task}, not bvae; build one for bvae")
        classes = int(manifest.preprocessing["classes"])
        if classes != model.classes:
            raise SettingsError(
                f"model.classes is {model.classes}, but dataset {manifest.folder} has {classes} classes; "
                f"set model.classes = {classes} for a new model, or use a dataset of {model.classes} classes"
            )
        self.classes, self.side = classes, model.side
        self.background = int(manifest.preprocessing["background"])
        self.weights: NDArray[np.float32] | None = None
        if loss.use_class_weights:
            counts = seen_counts(manifest, permute_colors)
            self.weights = class_weights(counts, loss.class_weight_method, normalize=loss.normalize_weights).astype(
                np.float32
            )

    def sample(self, labels_hw: Labels) -> dict[str, Tensor]:
        import torch

        weights = np.ones(self.classes, np.float32) if self.weights is None else self.weights
        return {
            "labels": torch.from_numpy(padded(labels_hw, self.side, self.classes)),
            "class_weights": torch.from_numpy(weights),
            "background": torch.tensor(self.background),
        }


class GridSource:
    """The grids of a dataset that are no larger than the model's side.

    Args:
        manifest: of a dataset that `build_dataset` made.
        split: train or validation.
        preparation: of the samples.
        symmetries: turn and mirror by the eight symmetries of the square; training only.
        permute_colors: exchange the classes but the background; training only.
        noise: latent dimensions to draw noise for, as "noise" [D]; 0: none. In the sample, so that it depends on the
            sample alone and neither on the batch nor on the number of processes.

    Raises:
        DataError: when the dataset is damaged, or no grid is small enough.
    """

    def __init__(
        self,
        manifest: DatasetManifest,
        split: Split,
        preparation: Preparation,
        *,
        symmetries: bool = False,
        permute_colors: bool = False,
        noise: int = 0,
    ) -> None:
        self.folder, self.split = manifest.folder, split
        self.preparation = preparation
        self.symmetries, self.permute_colors, self.noise = symmetries, permute_colors, noise
        self._open()
        if not len(self._chosen):
            raise DataError(
                f"no {split} grid of dataset {manifest.folder} fits into model.side = {preparation.side}; "
                f"set model.side = {manifest.preprocessing['side']}"
            )

    def _open(self) -> None:
        self._grids = Store(self.folder, GRIDS)
        self._names = open_array(self.folder / "names.npy", "table of names")
        chosen = open_array(self.folder / f"{self.split}.npy", "table of grids")
        side = self.preparation.side
        self._chosen = np.array([index for index in chosen.tolist() if max(self._grids.shape(index)) <= side], np.int64)
        self.num_larger = len(chosen) - len(self._chosen)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_grids", "_names", "_chosen")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._chosen)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return grid `index`; all randomness comes from `rng`, and none is used where nothing is augmented."""
        import torch

        labels_hw = self._grids[int(self._chosen[index])]
        if self.symmetries:
            turn = int(rng.integers(8))
            labels_hw = np.rot90(labels_hw[:, ::-1] if turn & 4 else labels_hw, turn & 3)
        if self.permute_colors:
            labels_hw = self._recolored(rng)[labels_hw]
        sample = self.preparation.sample(labels_hw)
        if self.noise:
            sample["noise"] = torch.from_numpy(rng.standard_normal(self.noise, dtype=np.float32))
        return sample

    def _recolored(self, rng: np.random.Generator) -> Labels:
        """Return what each class becomes, [C]: the background itself, the others one another."""
        table = np.arange(self.preparation.classes, dtype=np.uint8)
        others = np.flatnonzero(table != self.preparation.background)
        table[others] = rng.permutation(others)
        return table

    def sample_id(self, index: int) -> str:
        """Return task and place of a grid, such as "007bbfb7/train0.input"."""
        name: str = self._names[int(self._chosen[index])].decode()
        return name


class FileSource:
    """The grids of the user's own files, for pictures beside checkpoints.

    Args:
        paths: files as `read_grids` takes them; grids larger than the model's side are refused.
        preparation: of the samples.
        upscale: repeat each cell so many times in both directions.
        fit_multiple: cut the sides to multiples of it.
    """

    def __init__(
        self, paths: Sequence[Path], preparation: Preparation, *, upscale: int = 1, fit_multiple: int = 1
    ) -> None:
        if upscale < 1 or fit_multiple < 1:
            raise DataError(f"upscale {upscale} and fit multiple {fit_multiple} must be 1 or more")
        self._preparation = preparation
        self._grids: list[Grid] = []
        for path in paths:
            for grid in read_grids(path, preparation.classes):
                labels_hw = grid.labels_hw.repeat(upscale, axis=0).repeat(upscale, axis=1)
                height, width = (length // fit_multiple * fit_multiple for length in labels_hw.shape)
                if not height or not width:
                    raise DataError(f"{path}, {grid.name} is smaller than the multiple {fit_multiple} to fit")
                name = free_name(grid.name, {grid.name for grid in self._grids})
                self._grids.append(Grid(grid.task, name, _fitting(labels_hw[:height, :width], path, preparation)))

    def __len__(self) -> int:
        return len(self._grids)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return grid `index`; nothing about it is random."""
        return self._preparation.sample(self._grids[index].labels_hw)

    def sample_id(self, index: int) -> str:
        """Return the grid's name within its file."""
        return self._grids[index].name


def _fitting(labels_hw: Labels, path: Path, preparation: Preparation) -> Labels:
    if max(labels_hw.shape) > preparation.side:
        height, width = labels_hw.shape
        raise DataError(f"{path}: a grid of {width} x {height} cells is larger than the model's {preparation.side}")
    return labels_hw


def larger_left_out(source: GridSource) -> str:
    """Return a sentence on grids that do not fit into the model, or the empty string."""
    if not source.num_larger:
        return ""
    told = counted(source.num_larger, f"{source.split} grid")
    return f"{told} larger than model.side = {source.preparation.side} left out"

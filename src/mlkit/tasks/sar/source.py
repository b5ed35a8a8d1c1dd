"""Patches of a built SAR dataset as training and validation samples: one slice of a mapped file each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlkit.data.manifest import DatasetManifest
from mlkit.data.store import Store, open_array
from mlkit.errors import DataError, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

SCENES, TRUTH = "scenes", "truth"
Split = Literal["train", "validation"]


def to_unit(db: NDArray[np.float32], db_min: float, db_max: float) -> NDArray[np.float32]:
    """Return dB values as float32 in [0, 1], db_min and db_max being the ends; masked (NaN) pixels become 0."""
    unit: NDArray[np.float32] = db - np.float32(db_min)
    unit *= np.float32(1.0 / (db_max - db_min))
    np.clip(unit, np.float32(0), np.float32(1), out=unit)  # twice as fast as fmax and minimum, but it keeps NaN
    flat = unit.ravel()
    if np.isnan(np.dot(flat, flat)):
        unit[np.isnan(unit)] = 0
    return unit


class SarSource:
    """Samples {"image": [1, p, p] float32 in [0, 1], "db_range": [2]}, and "truth" without speckle where simulated.

    Args:
        manifest: of a dataset that `build_dataset` made.
        split: train or validation.
        patch: side of the crops in px; None: the dataset's own. A smaller one is cut out of the patch: at a random
            place where `augment`, else from its centre; a validation patch gives all the crops that fit into it.
        augment: shift within the training area, flip, turn by 90 degrees. Validation patches are never augmented.

    Raises:
        SettingsError: when `patch` is larger than the dataset's.
        DataError: when the dataset is of another task or damaged.
    """

    def __init__(
        self, manifest: DatasetManifest, split: Split, patch: int | None = None, augment: bool = False
    ) -> None:
        if manifest.task != "sar":
            raise DataError(f"dataset {manifest.folder} is of task {manifest.task}, not sar; build one for sar")
        self.built_patch = int(manifest.details["patch"])
        self.patch = self.built_patch if patch is None else patch
        if self.patch > self.built_patch:
            raise SettingsError(
                f"data.patch is {patch}, but dataset {manifest.folder} has patches of {self.built_patch} px; "
                f"set at most {self.built_patch} or build it again with --patch {patch}"
            )
        self.manifest = manifest
        self.split = split
        self.augment = augment and split == "train"
        # A smaller patch must not mean less validation: each built patch gives all that fit into it.
        self._parts = self.built_patch // self.patch if split == "validation" else 1
        self.db_min = float(manifest.preprocessing["db_min"])
        self.db_max = float(manifest.preprocessing["db_max"])
        self._names = [str(scene["name"]) for scene in manifest.details["scenes"]]
        self._open()

    def _open(self) -> None:
        folder = self.manifest.folder
        self._table = open_array(folder / f"{self.split}.npy", "patch table")
        self._scenes = Store(folder, SCENES)
        self._truth = Store(folder, TRUTH) if f"{TRUTH}.npy" in self.manifest.files else None

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array would be pickled with all its values; a data worker maps the files again instead.
        return {key: value for key, value in self.__dict__.items() if key not in ("_table", "_scenes", "_truth")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._table) * self._parts**2

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return patch `index`; all randomness comes from `rng`, and none is used where nothing is augmented."""
        import torch

        scene, y, x, up, down, left, right = self._table[index // self._parts**2].item()
        if self.augment:
            spare = self.built_patch - self.patch
            y += int(rng.integers(-up, down + spare, endpoint=True))
            x += int(rng.integers(-left, right + spare, endpoint=True))
            turn = int(rng.integers(8))  # the eight symmetries of the square
        else:
            y, x = self._placed(index, y, x)
            turn = 0
        sample = {
            "image": torch.from_numpy(self._crop(self._scenes, scene, y, x, turn)),
            "db_range": torch.tensor([self.db_min, self.db_max]),
        }
        if self._truth is not None:
            sample["truth"] = torch.from_numpy(self._crop(self._truth, scene, y, x, turn))
        return sample

    def sample_id(self, index: int) -> str:
        """Return scene and place of a patch, such as "sentinel1_VV_db/y0256x0128"."""
        scene, y, x = self._table[index // self._parts**2].item()[:3]
        y, x = self._placed(index, y, x)
        return f"{self._names[scene]}/y{y:04d}x{x:04d}"

    def _placed(self, index: int, y: int, x: int) -> tuple[int, int]:
        """Return where crop `index` lies in a patch that starts at (y, x): one of the parts, all of them centred."""
        row, column = divmod(index % self._parts**2, self._parts)
        margin = (self.built_patch - self._parts * self.patch) // 2
        return int(y + margin + row * self.patch), int(x + margin + column * self.patch)

    def _crop(self, store: Store, scene: int, y: int, x: int, turn: int) -> NDArray[np.float32]:
        unit = to_unit(store[scene][y : y + self.patch, x : x + self.patch], self.db_min, self.db_max)
        if turn & 4:
            unit = unit[:, ::-1]
        return np.ascontiguousarray(np.rot90(unit, turn & 3))[None]

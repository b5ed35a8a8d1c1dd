"""Samples of super-resolution: pairs with their latents, or crops of photographs, read from mapped files.

"image" [3, H, W]: the high-resolution image; "lr_up": the low-resolution one, enlarged to the same size; both float32
in [0, 1]. "eps", "z0", "z_lr" [C, h, w] float32: noise, and the latents of the two images.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mlkit.data.manifest import DatasetManifest
from mlkit.data.photos import PHOTOGRAPHS, Item, grid
from mlkit.data.store import Store
from mlkit.errors import DataError, SettingsError
from mlkit.imaging.images import read_image
from mlkit.tasks.sr.images import ImagesSource
from mlkit.tasks.sr.settings import EMBEDDED, LoraModel, SrSettings

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit.data.source import Source

__all__ = ["ImagesSource", "PairSource", "PhotoSource", "pair_id", "refuse_other_base", "source_of"]

Split = Literal["train", "validation"]
TRIPLES, IMAGES, ENLARGED = "triples", "x0", "lr_up"  # a store, and two folders of pictures
PHOTO_CROP = 128  # px, where nothing is said


def pair_id(number: int) -> str:
    """Return the name of a pair, such as "000123"."""
    return f"{number:06d}"


def source_of(data: DatasetManifest, split: Split, settings: SrSettings) -> Source:
    """Return the samples that a stage reads from a dataset: an adapter needs pairs, the others take images of either.

    Raises:
        DataError: when the dataset is of another task; when an adapter is to be trained, and the dataset holds
            photographs alone or pairs of another base than the settings name.
        SettingsError: when `data.crop` does not fit.
    """
    _refuse_other_task(data)
    has_pairs = data.preprocessing["pairs"] != "none"
    model = settings.model
    if isinstance(model, LoraModel):
        if not has_pairs:
            raise DataError(
                f"dataset {data.folder} holds photographs alone, and an adapter is trained on pairs; build them with: "
                f"mlkit dataset build sr --pairs from-photos"
            )
        refuse_other_base(data, model.base)
    return (PairSource if has_pairs else PhotoSource)(data, split, settings.data.crop)


def refuse_other_base(data: DatasetManifest, model_id: str) -> None:
    """Raise when pairs were made with another base: their latents would mean something else.

    Args:
        data: a dataset of pairs.
        model_id: the base to train on: "embedded", a folder or a hub id. Of the hub only the name is compared.

    Raises:
        DataError: naming both.
    """
    made = data.preprocessing["base"]
    fingerprint = _fingerprint(model_id)
    differs = made["name"] not in ("", model_id) if fingerprint is None else made["fingerprint"] != fingerprint
    if differs:
        name = made["name"] or f"of the family {made['family']}"
        found = f" ({fingerprint[:12]})" if fingerprint else ""
        raise DataError(
            f"the pairs in {data.folder} were made with a base {name} ({made['fingerprint'][:12]}), not with {model_id}"
            f"{found}; train on that base, or build pairs with: mlkit dataset build sr --base {model_id}"
        )


def _fingerprint(model_id: str) -> str | None:
    """Return which base lies in a folder, without opening it; None where there is none to look into."""
    from mlkit.tasks.sr.bases import embedded_base_folder, fingerprint_of
    from mlkit.tasks.sr.bases.files import find_model

    folder = embedded_base_folder() if model_id == EMBEDDED else Path(model_id).expanduser()
    if not folder.is_dir():
        return None
    return fingerprint_of(find_model(folder, ("", "base"), "model_index.json", f"base {model_id}"))


class PairSource:
    """Samples {"image", "lr_up", "eps", "z0", "z_lr"} of one pair each, cut out together.

    Args:
        data: a dataset of pairs.
        split: train or validation.
        crop: side of the crops in px, a multiple of what the base needs; None: whole pairs. Training crops lie at
            random places, validation crops in the middle. Nothing is flipped or turned: latents would not follow.

    Raises:
        DataError: when the dataset is of another task, holds photographs alone, or is damaged.
        SettingsError: when `crop` does not fit.
    """

    def __init__(self, data: DatasetManifest, split: Split, crop: int | None = None) -> None:
        _refuse_other_task(data)
        if data.preprocessing["pairs"] == "none":
            raise DataError(f"dataset {data.folder} holds photographs alone, no pairs")
        base = data.preprocessing["base"]
        self.size = int(data.details["size"])
        self._factor, self._multiple = int(base["factor"]), int(base["multiple"])
        self.crop = self.size if crop is None else crop
        if self.crop > self.size or self.crop % self._multiple:
            raise SettingsError(
                f"data.crop is {crop}, but the pairs in {data.folder} have {self.size} px and are cut in steps of "
                f"{self._multiple} px; set a multiple of {self._multiple} up to {self.size}"
            )
        self.folder = data.folder
        self.split = split
        self._count = data.splits[split]
        self._first = 0 if split == "validation" else data.splits["validation"]  # validation pairs come first
        self._triples = Store(data.folder, TRIPLES)
        self._check(sum(data.splits.values()), int(base["latent_channels"]))

    def _check(self, total: int, channels: int) -> None:
        side = self.size // self._factor
        shape = (3, channels, side, side)
        found = self._triples.shape(0) if len(self._triples) else ()
        if len(self._triples) != total or found != shape:
            raise DataError(
                f"dataset {self.folder} is damaged: {len(self._triples)} triples of shape {found} instead of "
                f"{total} of shape {shape}; build it again"
            )

    def __len__(self) -> int:
        return self._count

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return pair `index`; `rng` places the crop of a training pair."""
        import torch

        number = self._first + index
        spare = (self.size - self.crop) // self._multiple
        if spare and self.split == "train":
            y, x = (int(rng.integers(spare, endpoint=True)) * self._multiple for _ in range(2))
        else:
            y = x = spare // 2 * self._multiple
        cells = self.crop // self._factor
        top, left = y // self._factor, x // self._factor
        triple = self._triples[number][:, :, top : top + cells, left : left + cells].astype(np.float32)
        sample = {key: torch.from_numpy(latent) for key, latent in zip(("eps", "z0", "z_lr"), triple, strict=True)}
        for key, name in (("image", IMAGES), ("lr_up", ENLARGED)):
            sample[key] = torch.from_numpy(self._picture(name, number)[:, y : y + self.crop, x : x + self.crop].copy())
        return sample

    def sample_id(self, index: int) -> str:
        """Return the pair's number in the dataset, such as "000123"."""
        return pair_id(self._first + index)

    def _picture(self, name: str, number: int) -> NDArray[np.float32]:
        path = self.folder / name / f"{pair_id(number)}.png"
        picture = read_image(path)
        if picture.shape != (self.size, self.size, 3):
            height, width = picture.shape[:2]
            raise DataError(f"{path} is {width} x {height} px instead of {self.size} x {self.size}; build it again")
        return np.moveaxis(picture, 2, 0)


class PhotoSource:
    """Samples {"image"}: squares of photographs.

    Args:
        data: a dataset of photographs alone.
        split: train or validation.
        crop: side in px; None: 128, or what the dataset was built for where that is less. Training crops lie anywhere
            in a photograph and are flipped and turned; validation crops lie side by side and are not.

    Raises:
        DataError: when the dataset is of another task, holds pairs, or is damaged.
        SettingsError: when a photograph is smaller than `crop`.
    """

    def __init__(self, data: DatasetManifest, split: Split, crop: int | None = None) -> None:
        _refuse_other_task(data)
        if data.preprocessing["pairs"] != "none":
            raise DataError(f"dataset {data.folder} holds pairs, no photographs")
        self.size = int(data.details["size"])
        self.crop = min(PHOTO_CROP, self.size) if crop is None else crop
        self.split = split
        self._store = Store(data.folder, PHOTOGRAPHS)
        self._ids: list[str] = []
        self._table: list[tuple[int, int, int]] = []  # item, y, x of a square of `size`
        small: tuple[int, str] | None = None
        for photo in data.details["photographs"]:
            for item in (Item(**value) for value in photo["items"]):
                side = min(item.height, item.width)
                if side < self.crop and (small is None or side < small[0]):
                    small = side, f"{photo['name']} at reduction {item.reduction}"
                if photo["split"] != split:
                    continue
                for y, x in grid(item.height, item.width, self.size):
                    self._table.append((item.number, y, x))
                    self._ids.append(f"{photo['name']}/r{item.reduction}/y{y:04d}x{x:04d}")
        if small:
            raise SettingsError(
                f"data.crop is {self.crop}, but {small[1]} has only {small[0]} px; set at most {small[0]}, or build "
                f"{data.folder} again with --size {self.crop}"
            )

    def __len__(self) -> int:
        return len(self._table)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return a crop; for training it lies anywhere in the photograph of square `index`, by `rng`."""
        import torch

        number, y, x = self._table[index]
        height, width = self._store.shape(number)[:2]
        turn = 0
        if self.split == "train":
            y, x = (int(rng.integers(side - self.crop, endpoint=True)) for side in (height, width))
            turn = int(rng.integers(8))  # the eight symmetries of the square
        else:  # the middle of the square, as far as the photograph reaches
            y, x = (
                min(max(0, start + (self.size - self.crop) // 2), side - self.crop)
                for start, side in ((y, height), (x, width))
            )
        levels = self._store[number][y : y + self.crop, x : x + self.crop]
        if turn & 4:
            levels = levels[:, ::-1]
        levels = np.rot90(levels, turn & 3)
        image = np.moveaxis(levels, 2, 0).astype(np.float32, order="C") / np.float32(255.0)
        return {"image": torch.from_numpy(image)}

    def sample_id(self, index: int) -> str:
        """Return photograph, reduction and place of a square, such as "chelsea/r1/y0022x0033"."""
        return self._ids[index]


def _refuse_other_task(data: DatasetManifest) -> None:
    if data.task != "sr":
        raise DataError(f"dataset {data.folder} is of task {data.task}, not sr; build one for sr")

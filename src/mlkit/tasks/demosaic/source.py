"""Samples of demosaicing: crops of pictures seen through the colour filter, read from mapped files.

"mosaic" [1, H, W] float32: one colour a pixel, 0 black and 1 white, not clipped; "phase" [2] int64: where in the
pattern its top-left pixel lies; "image" [3, H, W] float32: the truth; "encoded" [] float32: 1 where values are sRGB, 0
where they are linear light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlkit.data.manifest import DatasetManifest
from mlkit.data.photos import grid
from mlkit.data.store import Store, open_array
from mlkit.errors import DataError, SettingsError
from mlkit.tasks.demosaic import xtrans
from mlkit.tasks.demosaic.items import LINEAR, REAL, SENSOR, SHARP, TORTURE, Entry, Split
from mlkit.tasks.demosaic.sensor import blurred, noise_levels, other_colors, with_noise
from mlkit.tasks.demosaic.settings import DemosaicData

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MosaicSource", "as_sample", "encoded_values", "entry_of"]

Floats = NDArray[np.float32]
Square = tuple[int, int, int]  # entry, y, x
_PHASES = [(row, column) for row in range(xtrans.CELL) for column in range(xtrans.PERIOD)]  # the different ones


class MosaicSource:
    """Samples {"mosaic", "phase", "image", "encoded"}.

    Training crops have `settings.crop` px, lie anywhere in their picture, and everything that `settings` names is done
    to them. Where the dataset has a mix, the group of a sample is drawn with its shares, and an epoch is once through
    the squares of photographs. Validation squares lie side by side, each at a phase of its own, and nothing is done to
    them; they are encoded as sRGB only where all training samples are.

    Args:
        data: a dataset of task demosaic.
        split: train or validation.
        settings: how samples are read.

    Raises:
        DataError: when the dataset is of another task, or damaged.
        SettingsError: when a picture is smaller than the training crop.
    """

    def __init__(self, data: DatasetManifest, split: Split, settings: DemosaicData) -> None:
        from mlkit.imaging.light import srgb_to_linear

        if data.task != "demosaic":
            raise DataError(f"dataset {data.folder} is of task {data.task}, not demosaic; build one for demosaic")
        self.folder, self.split, self.settings = data.folder, split, settings
        self.size = int(data.details["size"])
        self.crop = settings.crop if split == "train" else self.size
        self._entries = [entry_of(values) for values in data.details["items"]]
        self._stores = {name: Store(data.folder, name) for name in sorted({entry.store for entry in self._entries})}
        if SENSOR in self._stores:
            self._stores.setdefault(LINEAR, Store(data.folder, LINEAR))
        self._linear_of_8_bit = np.asarray(srgb_to_linear(np.arange(256) / 255.0), dtype=np.float32)
        self._refuse_small()
        by_group: dict[str, list[Square]] = {REAL: [], TORTURE: []}
        for place, entry in enumerate(self._entries):
            if entry.split == split:
                squares = grid(entry.height, entry.width, self.size)
                by_group[entry.group] += [(place, y, x) for y, x in squares]
        self._torture = by_group[TORTURE]
        shares: dict[str, float] = data.details["options"]["mix"] if split == "train" else {}
        self._shares = {group: shares.get(group, 0.0) for group in ("sharp", TORTURE)} if shares else {}
        self._sharp = self._open_sharp() if self._shares.get("sharp", 0) > 0 else np.zeros((0, 3), np.int32)
        mixed = by_group[REAL] or by_group[TORTURE]
        self._squares = mixed if self._shares else by_group[REAL] + by_group[TORTURE]
        self._has_real = bool(by_group[REAL])

    def __len__(self) -> int:
        return len(self._squares)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return square `index`; for training the mix is that of the dataset, and `rng` draws all that is random."""
        return self.sample_at(index, rng, self.settings.mix_ramp)

    def sample_at(self, index: int, rng: np.random.Generator, seen: int) -> dict[str, Tensor]:
        """Return a sample of a run that has seen `seen` samples before: the mix comes in over `settings.mix_ramp`."""
        if self.split == "validation":
            return self._validation(index)
        crop = self.crop
        place, y, x = self._squares[index]
        group = self._group(rng, seen)
        if group == "sharp":
            place, y, x = (int(value) for value in self._sharp[rng.integers(len(self._sharp))])
            shift = self.size - crop  # the crop within the square, or the square within the crop
            y, x = (start + int(rng.integers(min(0, shift), max(0, shift), endpoint=True)) for start in (y, x))
        elif group == TORTURE:
            place, y, x = self._torture[rng.integers(len(self._torture))]
        entry = self._entries[place]
        if group == "sharp":
            y, x = (min(max(0, at), side - crop) for at, side in ((y, entry.height), (x, entry.width)))
        else:
            y, x = (int(rng.integers(side - crop, endpoint=True)) for side in (entry.height, entry.width))
        return self._training(entry, y, x, rng)

    def sample_id(self, index: int) -> str:
        """Return picture, reduction and place of a square as "chelsea/r1/y0022x0033", or "torture/julia/000012"."""
        place, y, x = self._squares[index]
        entry = self._entries[place]
        return entry.name if entry.group == TORTURE else f"{entry.name}/r{entry.reduction}/y{y:04d}x{x:04d}"

    def family(self, index: int) -> str:
        """Return the family of a synthetic pattern, or "real"."""
        return self._entries[self._squares[index][0]].family or REAL

    def _group(self, rng: np.random.Generator, seen: int) -> str:
        """Return "sharp", "torture" or "", which is the square that was asked for."""
        if not self._shares or not self._has_real:
            return ""
        ramp = self.settings.mix_ramp
        come_in = min(1.0, seen / ramp) if ramp else 1.0
        drawn = rng.random()
        for group, share in self._shares.items():
            drawn -= share * come_in
            if drawn < 0:
                return group
        return ""

    def _training(self, entry: Entry, y: int, x: int, rng: np.random.Generator) -> dict[str, Tensor]:
        settings, crop = self.settings, self.crop
        symmetry = int(rng.integers(xtrans.SYMMETRIES)) if settings.flips else 0
        encoded = settings.light == "srgb" or (settings.light == "both" and rng.random() < 0.5)
        gain = np.float32(2.0 ** rng.uniform(*settings.gain_stops))
        noise = noise_levels(rng, settings.noise) if settings.noise[1] > 0 else None
        if entry.store == SENSOR:
            mosaic, image = self._measured(entry, y, x, crop)
            phase = xtrans.transformed_phase(xtrans.moved(entry.phase, y, x), crop, crop, symmetry)
            mosaic, image = xtrans.transformed(mosaic, symmetry) * gain, xtrans.transformed(image, symmetry) * gain
        else:
            phase = _PHASES[rng.integers(len(_PHASES))]
            recolored = settings.colors > 0 and rng.random() < settings.colors
            if encoded and entry.store != LINEAR and gain == 1 and not (recolored or settings.blur or noise):
                image = xtrans.transformed(self._display(entry, y, x, crop), symmetry)
                return as_sample(xtrans.mosaic(image, phase), image, self._told(phase), encoded=True)
            image = xtrans.transformed(self._light(entry, y, x, crop), symmetry) * gain
            image = other_colors(image, rng) if recolored else image
            image = blurred(image, settings.blur) if settings.blur else image
            mosaic = xtrans.mosaic(image, phase)
        mosaic = with_noise(mosaic, rng, *noise) if noise else mosaic
        if encoded:
            mosaic, image = encoded_values(mosaic), encoded_values(image)
        return as_sample(mosaic, image, self._told(phase), encoded=encoded)

    def _validation(self, index: int) -> dict[str, Tensor]:
        place, y, x = self._squares[index]
        entry = self._entries[place]
        encoded = self.settings.light == "srgb"
        if entry.store == SENSOR:
            mosaic, image = self._measured(entry, y, x, self.size)
            phase = xtrans.moved(entry.phase, y, x)
            if encoded:
                mosaic, image = encoded_values(mosaic), encoded_values(image)
            return as_sample(mosaic, image, phase, encoded=encoded)
        # Neighbours, and also every 18th square, get different ones.
        phase = _PHASES[(7 * index + index // len(_PHASES)) % len(_PHASES)]
        if encoded and entry.store != LINEAR:
            image = self._display(entry, y, x, self.size)
        else:
            image = self._light(entry, y, x, self.size)
            image = encoded_values(image) if encoded else image
        return as_sample(xtrans.mosaic(image, phase), image, phase, encoded=encoded)

    def _levels(self, entry: Entry, y: int, x: int, side: int) -> NDArray[np.uint8]:
        levels: NDArray[np.uint8] = self._stores[entry.store][entry.number][y : y + side, x : x + side]
        return levels

    def _display(self, entry: Entry, y: int, x: int, side: int) -> Floats:
        """Return a square of 8 bit as sRGB values, not changed by way of linear light."""
        return np.divide(self._levels(entry, y, x, side), np.float32(255.0), dtype=np.float32)

    def _light(self, entry: Entry, y: int, x: int, side: int) -> Floats:
        """Return a square in linear light."""
        if entry.store == LINEAR:
            return self._stores[LINEAR][entry.number][y : y + side, x : x + side].astype(np.float32)
        return self._linear_of_8_bit[self._levels(entry, y, x, side)]

    def _measured(self, entry: Entry, y: int, x: int, side: int) -> tuple[Floats, Floats]:
        """Return a square of a camera's own mosaic, white-balanced, and its target."""
        raw = self._stores[SENSOR][entry.number][y : y + side, x : x + side].astype(np.float32)
        levels = (raw - np.float32(entry.black)) / np.float32(entry.white - entry.black)
        multipliers = np.asarray(entry.wb, np.float32)[xtrans.colors(side, side, xtrans.moved(entry.phase, y, x))]
        target = self._stores[LINEAR][entry.target][y : y + side, x : x + side].astype(np.float32)
        return levels * multipliers, target

    def _told(self, phase: xtrans.Phase) -> xtrans.Phase:
        """Return the phase that the network is told, wrong where that is to be tried."""
        rows, columns = self.settings.phase_error
        return (phase[0] + rows) % xtrans.PERIOD, (phase[1] + columns) % xtrans.PERIOD

    def _open_sharp(self) -> NDArray[np.int32]:
        squares: NDArray[np.int32] = open_array(self.folder / SHARP, "list of sharp squares")
        if squares.ndim != 2 or squares.shape[1] != 3 or not len(squares) or squares.max() >= 2**31 - 1:
            raise DataError(f"{self.folder / SHARP} is damaged: shape {squares.shape}; build the dataset again")
        return squares

    def _refuse_small(self) -> None:
        fitting = [entry for entry in self._entries if entry.split == self.split]
        if not fitting:
            return
        least = min(fitting, key=lambda entry: min(entry.height, entry.width))
        side = min(least.height, least.width)
        if side < self.crop:
            raise SettingsError(
                f"data.crop is {self.crop}, but {least.name} at reduction {least.reduction} has only {side} px; set at "
                f"most {side}, or build {self.folder} again with --size {self.crop}"
            )


def as_sample(mosaic: Floats, image_hwc: Floats | None, phase: xtrans.Phase, *, encoded: bool) -> dict[str, Tensor]:
    """Return a sample's tensors; without a truth it has no "image"."""
    import torch

    sample = {
        "mosaic": torch.from_numpy(np.ascontiguousarray(mosaic[None], dtype=np.float32)),
        "phase": torch.tensor(phase, dtype=torch.int64),
        "encoded": torch.tensor(float(encoded)),
    }
    if image_hwc is not None:
        image = np.ascontiguousarray(np.moveaxis(image_hwc, 2, 0), dtype=np.float32)
        sample["image"] = torch.from_numpy(image)
    return sample


def encoded_values(values: Floats) -> Floats:
    """Return linear light as sRGB values, cut off at white as pictures are."""
    from mlkit.imaging.light import linear_to_srgb

    return np.minimum(linear_to_srgb(values), 1.0).astype(np.float32)


def entry_of(values: dict[str, object]) -> Entry:
    """Return an entry as it was before JSON made lists of its tuples."""
    return Entry(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})  # type: ignore[arg-type]

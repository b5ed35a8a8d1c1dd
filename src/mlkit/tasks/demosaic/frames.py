"""The part of a dataset that 8 bits cannot hold: deep images and RAW files, in linear light.

linear.npy, linear.index.npy    float16 [H, W, 3]: deep images, and white-balanced camera RGB; highlights exceed 1
sensor.npy, sensor.index.npy    uint16 [H, W]: a camera's mosaic as it was written, where it is trained on as it is
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlkit.data.photos import Item, Photo, Stored
from mlkit.data.store import StoreWriter, index_path, values_path
from mlkit.errors import DataError, counted, listing
from mlkit.files import sha256_file
from mlkit.imaging.images import open_image
from mlkit.tasks.demosaic.items import LINEAR, REAL, SENSOR, Entry
from mlkit.tasks.demosaic.raw import RAW_SUFFIXES, RawFrame, libraw_rgb, read_raw
from mlkit.tasks.demosaic.settings import DemosaicBuild
from mlkit.tasks.demosaic.xtrans import CELL, PERIOD, phase_of

__all__ = ["FrameStore", "binned", "reduced"]

Floats = NDArray[np.float32]


class FrameStore:
    """Writes deep images and RAW files into the stores of a dataset folder.

    Args:
        folder: of the dataset.
        options: of the build.
        say: told what was decided.
    """

    def __init__(self, folder: Path, options: DemosaicBuild, say: Callable[[str], None]) -> None:
        self.photos: list[Photo] = []
        self.entries: list[Entry] = []  # their split is still empty
        self._folder, self._options, self._say = folder, options, say
        self._linear = StoreWriter(folder, LINEAR, np.float16)
        self._sensor = StoreWriter(folder, SENSOR, np.uint16)
        self._num_deep, self._num_xtrans, self._num_other = 0, 0, 0
        self._small: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for writer in (self._linear, self._sensor):
            writer.close()
            if not len(writer):
                for path in (values_path(self._folder, writer.name), index_path(self._folder, writer.name)):
                    path.unlink()  # an empty file cannot be mapped

    def read(self, path: Path) -> Floats | None:
        """Return an 8-bit image in [0, 1], by its profile in sRGB; None for what was stored here.

        Raises:
            DataError: when the file is broken, or does not suit the teacher.
        """
        if path.suffix.lower() in RAW_SUFFIXES:
            self._add_raw(path)
            return None
        image = open_image(path, to_srgb=True)
        if image.depth == 8:
            return image.pixels
        from mlkit.imaging.light import srgb_to_linear

        light = np.asarray(srgb_to_linear(image.pixels), dtype=np.float32)
        self._add(path, np.broadcast_to(light, (*light.shape[:2], 3)), None)
        self._num_deep += 1
        return None

    def refuse_small(self, stored: Stored) -> None:
        """Raise when nothing was large enough, and nothing is broken either."""
        if self._small and not stored.photos and not stored.broken:
            raise DataError(
                f"all images are smaller than {self._options.size} px: {listing(self._small, 4)}; use a smaller --size "
                f"or --downsample"
            )

    def lines(self) -> list[str]:
        """Return what the user should know of the files here."""
        options, lines = self._options, []
        if self._num_deep:
            lines.append(f"{counted(self._num_deep, 'deep image')} in linear light, as float16")
        if self._num_xtrans + self._num_other and options.teacher == "binned":
            lines.append(
                "teacher: binned, means of each colour over whole cells of the filter (6 x 6, of Bayer 2 x 2); no "
                "interpolation is in it"
            )
        elif self._num_xtrans:
            lines.append(
                "teacher: LibRaw, whose X-Trans interpolation is Markesteijn's 3-pass (DHT, AHD and default are the "
                "same for X-Trans)"
            )
        if self._num_other and options.teacher == "libraw":
            lines.append("teacher of Bayer files: LibRaw's AHD, made smaller")
        if options.teacher == "libraw" and len(self._sensor):
            lines.append(
                "training on the cameras' own mosaics: scores there are agreement with LibRaw, not with a truth; "
                "--downsample 4 or --teacher binned have one"
            )
        return lines

    def _add_raw(self, path: Path) -> None:
        teacher = self._options.teacher
        if teacher == "self":
            raise DataError(
                f"{path} is a RAW file, and --teacher self is for images that are RGB already; use --teacher binned, "
                f"or --teacher libraw --downsample 4"
            )
        frame = read_raw(path)
        for note in frame.notes:
            self._say(f"{path.name}: {note}")
        wb = np.asarray(frame.wb, np.float32)
        if teacher == "binned":
            light = binned(frame.mosaic_hw, frame.pattern) * wb
        else:
            if not frame.is_xtrans and self._options.downsample == 1:
                raise DataError(
                    f"{path} is a Bayer file ({frame.camera}), whose mosaic is no X-Trans one; with --downsample 4 or "
                    f"--teacher binned its colours are used"
                )
            light = libraw_rgb(path) * wb
            if light.shape[:2] != frame.mosaic_hw.shape:
                raise DataError(f"{path}: LibRaw's picture {light.shape[:2]} is not of the mosaic's size")
        self._add(path, light, frame)
        if frame.is_xtrans:
            self._num_xtrans += 1
        else:
            self._num_other += 1

    def _add(self, path: Path, light: Floats, frame: RawFrame | None) -> None:
        """Store a picture in linear light at each reduction."""
        options = self._options
        height, width = light.shape[:2]
        photo = Photo(self._free_name(path.name), sha256_file(path), height, width)
        too_small = []
        for reduction in sorted({options.downsample * factor for factor in options.reduce}):
            if min(height, width) // reduction < options.size:
                too_small.append(reduction)
                continue
            made = reduced(light, reduction)
            item = Item(self._linear.add(made.astype(np.float16)), reduction, made.shape[0], made.shape[1])
            photo.items.append(item)
            is_measured = frame is not None and options.teacher == "libraw" and reduction == 1
            self.entries.append(self._measured(photo, item, frame) if frame and is_measured else _linear(photo, item))
        if photo.items:
            self.photos.append(photo)
        else:
            self._small.append(f"{photo.name} ({width} x {height} px)")
        if too_small:
            at = listing([str(reduction) for reduction in too_small])
            what = f"not used at reduction {at}" if photo.items else "left out"
            self._say(f"{photo.name}: {width} x {height} px, {what}: smaller than {options.size} px")

    def _measured(self, photo: Photo, target: Item, frame: RawFrame) -> Entry:
        # exact where all sites have one black level; else they are moved to the mean of it, by less than half a step
        levels = np.rint(frame.mosaic_hw.astype(np.float64) * (frame.white - frame.black) + frame.black)
        return Entry(
            photo.name,
            REAL,
            "",
            "",
            SENSOR,
            self._sensor.add(np.clip(levels, 0, 65535).astype(np.uint16)),
            target.height,
            target.width,
            phase=frame.phase,
            target=target.number,
            black=frame.black,
            white=frame.white,
            wb=frame.wb,
        )

    def _free_name(self, name: str) -> str:
        taken = {photo.name for photo in self.photos}
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free


def reduced(light: Floats, factor: int) -> Floats:
    """Return means over squares of `factor` px; what is left over at the right and bottom is cut off."""
    if factor == 1:
        return light
    height, width = (side - side % factor for side in light.shape[:2])
    cells = light[:height, :width].reshape(height // factor, factor, width // factor, factor, -1)
    means: Floats = cells.mean(axis=(1, 3), dtype=np.float32)
    return means


def binned(mosaic_hw: Floats, pattern: NDArray[np.uint8]) -> Floats:
    """Return [h, w, 3]: the mean of each colour's sites in each whole cell of the filter, at 1/6 or 1/2 of the size.

    Of X-Trans up to two rows and columns are left out at the top and left: only from where one of its 3 x 3 cells
    begins have all colours one centre. Elsewhere green would lie up to 0.6 px beside red and blue.
    """
    side = pattern.shape[0]
    assert side in (PERIOD, 2) and pattern.shape == (side, side)
    if side == PERIOD:
        top, left = (-place % CELL for place in phase_of(pattern))
        mosaic_hw, pattern = mosaic_hw[top:, left:], np.roll(pattern, (-top, -left), (0, 1))
    height, width = (length - length % side for length in mosaic_hw.shape)
    cells = mosaic_hw[:height, :width].reshape(height // side, side, width // side, side).transpose(0, 2, 1, 3)
    means = [cells[:, :, pattern == color].mean(axis=2, dtype=np.float32) for color in range(3)]
    return np.stack(means, axis=-1)


def _linear(photo: Photo, item: Item) -> Entry:
    return Entry(photo.name, REAL, "", "", LINEAR, item.number, item.height, item.width, item.reduction)

"""Samples of lens correction: photographs and drawn scenes, seen through the profile of a real lens.

"image" [3, S, S] float32 in [0, 1]: the distorted picture, squeezed to a square; "target" [3, S, S]: as it should be;
"frame" [2]: half width and half height in half-diagonals (geometry.py), which tells the picture's shape; "profile" [7]:
c0 .. c4 of the lens and its axis, from which the true map follows at any size. Where lines are asked for, validation
samples have what they say of the same view as a photograph of its own shape and size (inputs.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlkit.data.manifest import DatasetManifest
from mlkit.data.store import Store
from mlkit.errors import DataError, SettingsError
from mlkit.seeding import generator
from mlkit.tasks.lens.inputs import LINES_PX, HeardOnce, Levels, as_levels
from mlkit.tasks.lens.items import PHOTOGRAPHS, PROFILES, PhotoEntry, Split, View
from mlkit.tasks.lens.profiles import ASPECTS, Profile, is_usable
from mlkit.tasks.lens.scenes import draw_scene
from mlkit.tasks.lens.settings import LensData

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LensSource", "opened_profiles"]

Floats = NDArray[np.float32]
Frame = tuple[float, float]

_PROFILE_KEYS = ("lens", "camera", "focal_mm", "model", "aspect", "frame_share")
_UPRIGHT = 0.3  # share of the training samples that are taller than wide
_SMALLEST_CROP = 0.6  # of the largest that fits into its photograph


class LensSource:
    """Samples {"image", "target", "frame", "profile"}.

    A training sample is a place in an epoch only: photograph, crop, lens and all else are drawn anew. A validation
    sample is a photograph as large as it fits behind its lens, or a scene; photographs and lenses are those kept for
    validation.

    Raises:
        DataError: when the dataset is of another task, or damaged.
        SettingsError: when photographs are smaller than `settings.size`.
    """

    def __init__(self, data: DatasetManifest, split: Split, settings: LensData, *, sure: float | None = None) -> None:
        if data.task != "lens":
            raise DataError(f"dataset {data.folder} is of task {data.task}, not lens; build one for lens")
        self.split, self.settings = split, settings
        self._heard = HeardOnce(sure)
        self._seed = int(data.details["options"]["seed"])
        self._count = data.splits[split]
        self._photos = [_photo(values) for values in data.details["photographs"]]
        self._views = [View(**values) for values in data.details["views"]] if split == "validation" else []
        self._own = [entry for entry in self._photos if entry.split == split]
        self._store = Store(data.folder, PHOTOGRAPHS)
        self._profiles, splits = opened_profiles(data)
        by_lens: dict[str, list[int]] = {}
        for place, profile in enumerate(self._profiles):
            if splits[place] == split:
                by_lens.setdefault(profile.lens, []).append(place)
        self._by_lens = list(by_lens.values())
        self._refuse_small()

    def __len__(self) -> int:
        return self._count

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return validation view `index`, or a training sample, all of which `rng` draws."""
        return self._training(rng) if self.split == "train" else self._view(index)

    def sample_id(self, index: int) -> str:
        """Return photograph and lens of a view as "chelsea/Canon EF 17-40mm f/4L USM/17 mm/000012"."""
        if self.split == "train":
            return f"{index:06d}"
        view = self._views[index]
        profile = self._profiles[view.profile]
        what = self._photos[view.photo].name if view.photo >= 0 else "scene"
        return f"{what}/{profile.lens}/{profile.focal_mm:g} mm/{index:06d}"

    def _training(self, rng: np.random.Generator) -> dict[str, Tensor]:
        settings = self.settings
        lens = self._by_lens[rng.integers(len(self._by_lens))]
        profile = self._profiles[lens[rng.integers(len(lens))]]
        profile = _strengthened(profile, float(rng.uniform(*settings.strength)))
        shape = profile.aspect if rng.random() >= settings.shapes else float(rng.choice(ASPECTS))
        shape = 1 / shape if rng.random() < _UPRIGHT else shape
        centre = rng.uniform(-1, 1, 2) * settings.centre
        is_scene = rng.random() < settings.scenes
        entry = self._own[rng.integers(len(self._own))]
        lens_view = _LensView(profile, centre, shape, (settings.size, settings.size))
        if is_scene:
            scene = draw_scene(rng)
            behind = list(self._pictures(entry, lens_view, rng)) if rng.random() < 0.5 else None
            pictures = list(_scene_pictures(scene, lens_view, behind))
        else:
            pictures = list(self._pictures(entry, lens_view, rng))
        if rng.random() < 0.5:  # a mirrored lens is the same lens with a mirrored axis
            pictures = [picture[:, ::-1] for picture in pictures]
            centre = centre * (-1, 1)
        if settings.color > 0:
            pictures = _recolored(pictures, settings.color, rng)
        return _as_sample(pictures, lens_view.frame, profile, centre)

    def _view(self, index: int) -> dict[str, Tensor]:
        view, size = self._views[index], self.settings.size
        lens_view = self._lens_view(view, (size, size))
        sample = _as_sample(list(self._seen(view, lens_view)), lens_view.frame, lens_view.profile, lens_view.centre)
        return sample | self._heard.of(index, lambda: next(self.in_own_shape(index)), sample["frame"])

    def in_own_shape(self, index: int) -> Iterator[Levels]:
        """Yield the distorted picture of validation view `index`, then its target, as lines are looked for in them.

        Each is [H, W, 3] in the shape of the camera's frame, its longer side that of the photograph or `LINES_PX`.
        """
        view = self._views[index]
        entry, squeezed = self._entry(view), self._lens_view(view, (self.settings.size,) * 2)
        longer = LINES_PX if entry is None else min(LINES_PX, int(_longer_px(entry, squeezed)))
        sides = [max(1, round(longer * half / max(squeezed.frame))) for half in squeezed.frame]
        yield from map(as_levels, self._seen(view, self._lens_view(view, (sides[1], sides[0]))))

    def _entry(self, view: View) -> PhotoEntry | None:
        return self._photos[view.photo] if view.photo >= 0 else None

    def _lens_view(self, view: View, size: tuple[int, int]) -> _LensView:
        """Return the places of a validation view's pixels at a size (H, W)."""
        profile, entry = self._profiles[view.profile], self._entry(view)
        upright = entry is not None and entry.width < entry.height
        return _LensView(profile, np.zeros(2), 1 / profile.aspect if upright else profile.aspect, size)

    def _seen(self, view: View, lens_view: _LensView) -> Iterator[Floats]:
        """Yield the distorted picture of a view, then its target."""
        entry = self._entry(view)
        if entry is not None:
            return self._pictures(entry, lens_view, None)
        return _scene_pictures(draw_scene(generator(self._seed, "scene", view.number)), lens_view, None)

    def _pictures(self, entry: PhotoEntry, view: _LensView, rng: np.random.Generator | None) -> Iterator[Floats]:
        """Yield the distorted picture of a photograph, then its target, [H, W, 3]; without `rng` of all that fits."""
        turn = 0.0 if rng is None else float(np.deg2rad(rng.uniform(-1, 1) * self.settings.roll_deg))
        sine, cosine = np.sin(turn), np.cos(turn)
        rotation = np.array([[cosine, -sine], [sine, cosine]])
        places = [points @ rotation.T for points in (view.behind_lens, view.ideal)]
        low, high = _extent(places)
        room = _room_px(entry)
        half_diagonal_px = float((room / (high - low)).min())
        if rng is not None:
            half_diagonal_px *= rng.uniform(_SMALLEST_CROP, 1.0)
        slack = room - half_diagonal_px * (high - low)
        share = np.full(2, 0.5) if rng is None else rng.random(2)
        origin = 1.0 + slack * share - half_diagonal_px * low
        px_per_px = 2 * half_diagonal_px * max(view.frame) / max(view.size)
        fitting = [level for level in entry.levels if px_per_px / level[0] >= 0.9]
        reduction, number = (fitting or [entry.levels[0]])[-1]
        level = self._store[number]
        for points in places:
            yield _sampled(level, (points * half_diagonal_px + origin) / reduction)

    def _refuse_small(self) -> None:
        least = min(self._own, key=lambda entry: min(entry.height, entry.width))
        side = min(least.height, least.width)
        if side < self.settings.size:
            raise SettingsError(
                f"data.size is {self.settings.size}, but {least.name} has only {side} px; set at most "
                f"{side // 32 * 32}, or build the dataset again with --smallest {self.settings.size}"
            )


class _LensView:
    """Places of all pixels of a picture behind a lens, undistorted, in isotropic coordinates.

    ideal: of the corrected picture, [H, W, 2]. behind_lens: of the distorted one. size: (H, W).
    """

    def __init__(self, profile: Profile, centre: NDArray[np.float64], shape: float, size: tuple[int, int]) -> None:
        self.profile, self.centre, self.size = profile, centre, size
        diagonal = float(np.hypot(shape, 1.0))
        self.frame: Frame = (shape / diagonal, 1.0 / diagonal)
        self.ideal = self.places(1)
        self.behind_lens = self.undistorted(self.ideal)

    def places(self, fineness: int) -> NDArray[np.float64]:
        down, right = ((2.0 * np.arange(n * fineness) + 1.0) / (n * fineness) - 1.0 for n in self.size)
        return np.stack(np.broadcast_arrays(right[None, :] * self.frame[0], down[:, None] * self.frame[1]), axis=-1)

    def undistorted(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        points = places - self.centre
        radius = np.maximum(np.sqrt(np.square(points).sum(axis=-1)), 1e-9)
        # a table, since Newton's method for each pixel costs more than the picture
        table = np.linspace(0.0, float(radius.max()) + 1e-6, 513)
        ratio = np.interp(radius, table[1:], self.profile.undistorted(table[1:]) / table[1:])
        return np.asarray(points * ratio[..., None] + self.centre)


def _scene_pictures(scene: object, view: _LensView, behind: list[Floats] | None) -> Iterator[Floats]:
    """Yield the distorted picture of a scene, then its target, means of 2 x 2 places a pixel."""
    fine = view.places(2)
    for place in range(2):
        points = view.undistorted(fine) if place == 0 else fine
        back = None if behind is None else np.repeat(np.repeat(behind[place], 2, axis=0), 2, axis=1)
        colors = scene(points.astype(np.float32), back)  # type: ignore[operator]
        yield (colors[::2, ::2] + colors[1::2, ::2] + colors[::2, 1::2] + colors[1::2, 1::2]) * np.float32(0.25)


def _sampled(level: NDArray[np.uint8], places: NDArray[np.float64]) -> Floats:
    """Return a picture's colours at places in px, edges at 0 and its width, bicubic, [H, W, 3]; only what is needed is
    read."""
    import torch

    from mlkit.tasks.lens.geometry import warp

    height, width = level.shape[:2]
    outer = _border(places)
    first = np.maximum(np.floor(outer.min(axis=0)).astype(int) - 3, 0)
    last = np.minimum(np.ceil(outer.max(axis=0)).astype(int) + 3, (width, height))
    part = level[first[1] : last[1], first[0] : last[0]].astype(np.float32)
    image = torch.from_numpy(part).permute(2, 0, 1)[None] / 255.0
    grid = 2.0 * (places - first) / (last - first) - 1.0
    seen = warp(image, torch.from_numpy(grid.astype(np.float32))[None])
    return np.asarray(seen[0].clamp(0, 1).permute(1, 2, 0).numpy())


def _room_px(entry: PhotoEntry) -> NDArray[np.float64]:
    """Return the width and height of what may be looked at of a photograph."""
    return np.array([entry.width, entry.height]) - 2.0


def _longer_px(entry: PhotoEntry, view: _LensView) -> float:
    """Return how long the longer side of all that fits of a photograph is in its own px."""
    low, high = _extent([view.behind_lens, view.ideal])
    return float((_room_px(entry) / (high - low)).min()) * 2 * max(view.frame)


def _strengthened(profile: Profile, factor: float) -> Profile:
    """Return a profile `factor` times as strong, or as strong as one may be."""
    while factor > 1.0:
        stronger = profile.stronger(factor)
        if is_usable(stronger):
            return stronger
        factor = max(1.0, 0.7 * factor)
    return profile.stronger(factor)


def _extent(places: list[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest and the largest x and y among places, [2] each; a lens turns no picture inside out."""
    outer = np.concatenate([_border(points) for points in places])
    return outer.min(axis=0), outer.max(axis=0)


def _border(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the outer places of [H, W, 2], [N, 2]."""
    return np.concatenate((places[0], places[-1], places[:, 0], places[:, -1]))


def _recolored(pictures: list[Floats], most: float, rng: np.random.Generator) -> list[Floats]:
    """Return both pictures with another brightness, contrast and saturation."""
    gain, contrast, saturation = 1.0 + rng.uniform(-most, most, 3).astype(np.float32)
    made = []
    for picture in pictures:
        grey = picture.mean(axis=2, keepdims=True)
        vivid = grey + saturation * (picture - grey)
        made.append(np.clip(gain * (0.5 + contrast * (vivid - 0.5)), 0.0, 1.0).astype(np.float32))
    return made


def _as_sample(
    pictures: list[Floats], frame: Frame, profile: Profile, centre: NDArray[np.float64]
) -> dict[str, Tensor]:
    import torch

    image, target = (torch.from_numpy(np.ascontiguousarray(np.moveaxis(one, 2, 0))) for one in pictures)
    return {
        "image": image,
        "target": target,
        "frame": torch.tensor(frame, dtype=torch.float32),
        "profile": torch.tensor((*profile.terms, *centre.tolist()), dtype=torch.float32),
    }


def opened_profiles(data: DatasetManifest) -> tuple[list[Profile], list[str]]:
    """Return the profiles of a dataset, and the split of each.

    Raises:
        DataError: when their file is damaged.
    """
    path = data.folder / PROFILES
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["profiles"]
        profiles = [
            Profile(**{**{key: row[key] for key in _PROFILE_KEYS}, "terms": tuple(row["terms"])}) for row in rows
        ]
        return profiles, [row["split"] for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"profiles {path} are damaged ({error}); build the dataset again") from error


def _photo(values: dict[str, object]) -> PhotoEntry:
    """Return an entry as it was before JSON made lists of its tuples."""
    levels = tuple(tuple(level) for level in values["levels"])  # type: ignore[attr-defined]
    return PhotoEntry(**{**values, "levels": levels})  # type: ignore[arg-type]

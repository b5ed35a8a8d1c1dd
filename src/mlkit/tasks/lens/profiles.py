"""Profiles of real lenses: lensfun's data base, which lensfunpy's wheel holds, as radial polynomials.

lensfun's models (lensfun.h.in; ptlens after Dersch) map undistorted to distorted radii:

    poly3   r (1 - k1 + k1 r^2)
    poly5   r (1 + k1 r^2 + k2 r^4)
    ptlens  r (a r^3 + b r^2 + c r + 1 - a - b - c)

with r = 1 at half the shorter side of the frame that was calibrated. Here all become

    r (c0 + c1 r + c2 r^2 + c3 r^3 + c4 r^4)

with r = 1 in the corner of the camera's frame, whatever its shape: the data base is by lensfun's contributors, under
the licence CC BY-SA 3.0. Distortion only: no chromatic aberration, no vignetting, no fisheye projections.
"""

from __future__ import annotations

import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError, did_you_mean
from mlkit.seeding import generator

NUM_TERMS = 5
ASPECTS = (1.5, 4 / 3, 16 / 9, 1.0)  # frames that lenses are calibrated on, frequent ones first
LARGEST_SHARE = 0.15  # of the radius, in the corner: more is a fisheye or a mistake
FARTHEST = 1.3  # half-diagonals that a profile is asked for
_LEAST_SLOPE = 0.2
_SMALLEST_CROP = 0.96  # of the camera's crop factor to the lens's: lensfun's own rule for a frame that the lens fills
_PROBE_PX = (1501, 1001)
_PROBE_TOLERANCE_PX = 1.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """Distortion of a lens at a focal length, on a camera."""

    lens: str  # maker and model
    camera: str
    focal_mm: float
    model: str  # lensfun's name: "ptlens", "poly3" or "poly5"
    terms: tuple[float, ...]  # c0 .. c4
    aspect: float = 1.5  # longer over shorter side of the frame that was calibrated
    frame_share: float = 1.0  # camera's frame over that which was calibrated, in length

    @cached_property
    def _polynomial(self) -> Floats:
        return np.asarray(self.terms, np.float64)

    def distorted(self, radius: Floats) -> Floats:
        """Return the distorted radius of undistorted ones, both in half-diagonals."""
        return np.asarray(radius * np.polynomial.polynomial.polyval(radius, self._polynomial))

    def undistorted(self, radius: Floats) -> Floats:
        """Return the undistorted radius of distorted ones, by Newton's method."""
        derivative = self._polynomial * np.arange(1, NUM_TERMS + 1)
        found = np.array(radius, np.float64)
        for _ in range(12):
            slope = np.polynomial.polynomial.polyval(found, derivative)
            found -= (self.distorted(found) - radius) / np.maximum(slope, 0.05)
            np.clip(found, 0.0, FARTHEST, out=found)
        return found

    def stronger(self, factor: float) -> Profile:
        """Return a profile whose displacement is `factor` times as large."""
        moved = self._polynomial * factor
        moved[0] += 1.0 - factor
        return replace(self, terms=tuple(moved.tolist()))

    @property
    def corner_share(self) -> float:
        """Displacement in the corner in half-diagonals: negative is barrel distortion."""
        return float(np.sum(self._polynomial)) - 1.0


def is_usable(profile: Profile) -> bool:
    """Return whether a profile is finite, of a size that photographs have, and can be undone in a whole picture.

    That is: radii grow out to FARTHEST, and there something of the world is seen beyond the picture's corner.
    """
    if not np.isfinite(profile.terms).all() or abs(profile.corner_share) > LARGEST_SHARE:
        return False
    radius = np.linspace(0.0, FARTHEST, 261)
    reached = profile.distorted(radius)
    return bool((np.diff(reached) > _LEAST_SLOPE * (radius[1] - radius[0])).all() and reached[-1] > 1.0)


def in_half_diagonals(model: str, terms: Sequence[float], unit: float) -> tuple[float, ...]:
    """Return c0 .. c4 of a lensfun calibration.

    Args:
        model: "ptlens", "poly3" or "poly5".
        terms: lensfun's.
        unit: half-diagonals of the picture in lensfun's unit.
    """
    if model == "ptlens":
        a, b, c = terms[:3]
        powers = [1.0 - a - b - c, c, b, a, 0.0]
    elif model == "poly3":
        powers = [1.0 - terms[0], 0.0, terms[0], 0.0, 0.0]
    else:
        assert model == "poly5", model
        powers = [1.0, 0.0, terms[0], 0.0, terms[1]]
    return tuple(power * unit**place for place, power in enumerate(powers))


def database_profiles(wanted: str = "", *, seed: int) -> tuple[list[Profile], int]:
    """Return a profile for each calibration of lensfun's data base, and how many were left out as unusable.

    The camera of each is drawn by the seed among those that the lens fits and whose frame it covers. Each is checked
    against lensfun's own map in a corner.

    Args:
        wanted: text that maker and model must contain, in any case.
        seed: draws the cameras.

    Raises:
        DataError: when no lens contains the text, or none of those is usable.
    """
    import lensfunpy

    with _quiet():
        return _all_profiles(lensfunpy, wanted, seed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what lensfun's C library tells of its own data base off the terminal; it knows no other way than stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _all_profiles(lensfunpy: Any, wanted: str, seed: int) -> tuple[list[Profile], int]:
    database = lensfunpy.Database()
    cameras: dict[str, list[Any]] = defaultdict(list)
    for camera in database.cameras:
        cameras[camera.mount].append(camera)
    lenses = sorted(database.lenses, key=lambda lens: (lens.maker, lens.model, lens.crop_factor))
    named = [lens for lens in lenses if wanted.lower() in _named(lens).lower()]
    if not named:
        names = sorted({_named(lens) for lens in lenses})
        near = did_you_mean(wanted, [*sorted({lens.maker for lens in lenses}), *names])
        raise DataError(f"no lens of lensfun's data base contains '{wanted}'{near}; it has {len(names):,} lenses")
    profiles: list[Profile] = []
    left_out = 0
    for lens in named:
        if lens.type != lensfunpy.LensType.RECTILINEAR:
            left_out += len(lens.calib_distortion)
            continue
        fitting = sorted(
            (camera for mount in lens.mounts for camera in cameras[mount] if _covers(lens, camera)),
            key=lambda camera: (camera.maker, camera.model),
        )
        for calibration in lens.calib_distortion:
            key = (lens.maker, lens.model, str(lens.crop_factor), str(calibration.focal))
            rng = generator(seed, "camera", *key)
            chosen = fitting[rng.integers(len(fitting))] if fitting else None
            profile = _profile(lensfunpy, lens, chosen, calibration)
            if profile is None or not is_usable(profile):
                left_out += 1
            else:
                profiles.append(profile)
    if not profiles:
        raise DataError(
            f"no lens that contains '{wanted}' has a usable profile: {len(named)} were found, without calibration, "
            f"fisheyes, or beyond {LARGEST_SHARE:.0%} in the corner; choose another lens"
        )
    return profiles, left_out


def _named(device: Any) -> str:
    """Return "Canon EF 17-40mm f/4L USM" of a lens or camera: many models begin with their maker."""
    maker, model = str(device.maker), str(device.model)
    return model if model.lower().startswith(maker.lower()) else f"{maker} {model}"


def _covers(lens: Any, camera: Any) -> bool:
    return bool(camera.crop_factor >= _SMALLEST_CROP * lens.crop_factor)


def _profile(lensfunpy: Any, lens: Any, camera: Any | None, calibration: Any) -> Profile | None:
    """Return the profile under the frame shape with which lensfun's own map agrees; None when there is none."""
    model = str(calibration.model).rpartition(".")[2].lower()
    if model not in ("ptlens", "poly3", "poly5"):
        return None
    crop = lens.crop_factor if camera is None else camera.crop_factor
    width, height = _PROBE_PX
    modifier = lensfunpy.Modifier(lens, crop, width, height)
    flags = lensfunpy.ModifyFlags.DISTORTION
    modifier.initialize(calibration.focal, 8.0, 1000.0, scale=1.0, flags=flags)
    corner = modifier.apply_geometry_distortion(0, 0, 1, 1)
    if corner is None:
        return None
    half_diagonal_px = math.hypot(width - 1, height - 1) / 2  # lensfun counts between the centres of outer pixels
    theirs = math.hypot(*(corner[0, 0] - np.array([(width - 1) / 2, (height - 1) / 2]))) / half_diagonal_px
    best: Profile | None = None
    least = _PROBE_TOLERANCE_PX / half_diagonal_px
    for aspect in ASPECTS:
        unit = math.hypot(aspect, 1.0) * lens.crop_factor / crop
        profile = Profile(
            lens=_named(lens),
            camera="" if camera is None else _named(camera),
            focal_mm=float(calibration.focal),
            model=model,
            terms=in_half_diagonals(model, list(calibration.terms), unit),
            aspect=aspect,
            frame_share=round(lens.crop_factor / crop, 4),
        )
        missed = abs(float(profile.distorted(np.asarray(1.0))) - theirs)
        if missed < least:
            best, least = profile, missed
    return best


def split_lenses(profiles: Sequence[Profile], share: float, seed: int) -> list[str]:
    """Return "train" or "validation" for each profile: all those of a lens on one side.

    Raises:
        DataError: when there is only one lens.
    """
    lenses = sorted({profile.lens for profile in profiles})
    if len(lenses) < 2:
        raise DataError(
            f"only the lens {lenses[0]} is left, and validation needs a lens of its own; choose two or more"
        )
    number = min(len(lenses) - 1, max(1, round(share * len(lenses))))
    order = generator(seed, "lenses").permutation(len(lenses))
    held_out = {lenses[place] for place in order[:number].tolist()}
    return ["validation" if profile.lens in held_out else "train" for profile in profiles]

"""Drawn scenes full of straight lines: planes in perspective with boards, bars, windows and tiles on them.

A scene is a function of places, not a picture: it is evaluated wherever a lens looks, so that no interpolation leaves
traces that a network could go by in place of the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rng = np.random.Generator
Pattern = Callable[[Floats, Floats], Floats]

_CELLS = 4096  # entries of the tables of random values
_LEAST_CONTRAST = 0.2  # of a pattern's two colours, in the channel where they differ most
_NEAREST = 0.05  # of a plane's points, that it may not reach the eye


@dataclass(frozen=True, slots=True)
class _Plane:
    """A pattern on a plane, seen through a homography, within a convex part of the picture."""

    homography: Floats  # [3, 3], isotropic coordinates to the plane's
    edges: Floats  # [E, 3]: a x + b y + c >= 0 within
    pattern: Pattern
    colors: Floats  # [2, 3]


@dataclass(frozen=True, slots=True)
class Scene:
    """Planes one before the other, over a ramp of two colours or over what is handed in."""

    planes: Sequence[_Plane]
    ramp: Floats  # [3, 3]: colour at the middle, its change along x and along y

    def __call__(self, points: Floats, behind: Floats | None = None) -> Floats:
        """Return the colours at undistorted places [..., 2] in isotropic coordinates, [..., 3] in [0, 1].

        Args:
            points: where.
            behind: colours in place of the ramp.
        """
        x, y = np.asarray(points[..., 0], np.float32), np.asarray(points[..., 1], np.float32)
        owner = np.zeros(x.shape, np.int8)  # which plane is seen, 0 for none
        value = np.zeros(x.shape, np.float32)
        for number, plane in enumerate(self.planes, start=1):
            across, down, depth = (row[0] * x + row[1] * y + row[2] for row in plane.homography)
            shown = depth > _NEAREST
            for a, b, c in plane.edges:
                shown &= (a * x + b * y + c) >= 0
            depth = np.maximum(depth, np.float32(_NEAREST))
            value = np.where(shown, plane.pattern(across / depth, down / depth), value)
            owner[shown] = number
        low = np.stack([np.zeros(3, np.float32), *(plane.colors[0] for plane in self.planes)])
        rise = np.stack([np.zeros(3, np.float32), *(plane.colors[1] - plane.colors[0] for plane in self.planes)])
        seen = low[owner] + value[..., None] * rise[owner]
        nothing = owner == 0
        if behind is None:
            seen[nothing] = self.ramp[0] + np.stack((x[nothing], y[nothing]), axis=-1) @ self.ramp[1:]
        else:
            seen[nothing] = behind[nothing]
        return np.asarray(np.clip(seen, 0.0, 1.0, out=seen), np.float32)


def draw_scene(rng: Rng) -> Scene:
    """Return a random scene of one to four planes."""
    whole = rng.random() < 0.5  # one plane that fills the picture, as of a wall or a chart
    planes = [_plane(rng, whole=whole and place == 0) for place in range(int(rng.integers(1, 5)))]
    ramp = np.stack([rng.uniform(0.1, 0.9, 3), rng.uniform(-0.3, 0.3, 3), rng.uniform(-0.3, 0.3, 3)])
    return Scene(planes, ramp.astype(np.float32))


def _plane(rng: Rng, *, whole: bool) -> _Plane:
    angle = rng.normal(0, 0.12) if rng.random() < 0.6 else rng.uniform(-np.pi, np.pi)
    sine, cosine = np.sin(angle), np.cos(angle)
    tilt = rng.normal(0, 0.25, 2) * (rng.random() < 0.7)
    size = np.exp(rng.uniform(np.log(2.0), np.log(10.0)))  # cells in a half-diagonal
    stretch = np.exp(rng.normal(0, 0.3))
    shift = rng.uniform(-5, 5, 2)
    homography = np.array(
        [
            [size * stretch * cosine, size * stretch * sine, shift[0]],
            [-size / stretch * sine, size / stretch * cosine, shift[1]],
            [tilt[0], tilt[1], 1.0],
        ]
    )
    edges = np.zeros((0, 3)) if whole else _convex(rng, angle)
    colors = rng.random((2, 3)) if rng.random() < 0.6 else np.repeat(rng.random((2, 1)), 3, axis=1)
    while np.abs(colors[1] - colors[0]).max() < _LEAST_CONTRAST:
        colors = np.repeat(rng.random((2, 1)), 3, axis=1)
    patterns = (_board, _bars, _windows, _tiles) if whole else (_board, _bars, _windows, _tiles, _plain)
    shares = np.array((0.25, 0.2, 0.25, 0.2, 0.1)[: len(patterns)])
    pattern = patterns[rng.choice(len(patterns), p=shares / shares.sum())](rng)
    return _Plane(homography.astype(np.float32), edges.astype(np.float32), pattern, colors.astype(np.float32))


def _convex(rng: Rng, angle: float) -> NDArray[np.float64]:
    """Return the half planes of a polygon of three to five sides about a random place."""
    middle = rng.uniform(-0.6, 0.6, 2)
    number = int(rng.integers(3, 6))
    # often upright like a house, else turned anyhow
    first = angle if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
    directions = first + 2 * np.pi * (np.arange(number) + rng.uniform(-0.15, 0.15, number)) / number
    outward = np.stack((np.cos(directions), np.sin(directions)), axis=1)
    reach = rng.uniform(0.15, 0.8, number)
    return np.concatenate((-outward, (outward @ middle + reach)[:, None]), axis=1)


def _board(rng: Rng) -> Pattern:
    del rng
    return lambda u, v: ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)


def _bars(rng: Rng) -> Pattern:
    share, tones = rng.uniform(0.2, 0.8), _tones(rng)
    if rng.random() < 0.5:
        return lambda u, v: (u % 1 < share).astype(np.float32)
    return lambda u, v: tones[np.floor(u).astype(np.int64) % _CELLS]


def _windows(rng: Rng) -> Pattern:
    wide, high = rng.uniform(0.35, 0.8, 2)
    tones = _tones(rng) * np.float32(0.8)

    def pattern(u: Floats, v: Floats) -> Floats:
        tone = tones[(np.floor(u).astype(np.int64) * 131 + np.floor(v).astype(np.int64) * 17) % _CELLS]
        return np.where((u % 1 < wide) & (v % 1 < high), tone, np.float32(1.0)).astype(np.float32)

    return pattern


def _tiles(rng: Rng) -> Pattern:
    joint = rng.uniform(0.04, 0.2)
    offset = 0.5 if rng.random() < 0.5 else 0.0  # of every other row: bricks

    def pattern(u: Floats, v: Floats) -> Floats:
        moved = u + offset * (np.floor(v) % 2)
        return ((moved % 1 < joint) | (v % 1 < joint)).astype(np.float32)

    return pattern


def _plain(rng: Rng) -> Pattern:
    value = np.float32(rng.random())
    return lambda u, v: np.full(u.shape, value, np.float32)


def _tones(rng: Rng) -> Floats:
    return rng.random(_CELLS).astype(np.float32)

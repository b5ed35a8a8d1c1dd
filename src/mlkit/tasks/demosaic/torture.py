"""Synthetic patterns that are hard on a demosaicer: 13 families, each drawn from a seed and a number alone.

A family draws values of [0, 1] at three times the resolution; they become colours of a palette chosen in HSV, and means
over 3 x 3 px in linear light, so edges are as an optical system would leave them.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlkit.seeding import generator

__all__ = ["FAMILIES", "contact_sheet", "family_of", "pattern", "pattern_name"]

Floats = NDArray[np.float32]
Cells = NDArray[np.int64]
Rng = np.random.Generator
SUPERSAMPLING = 3
_JULIA_STEPS = 48
_HAIRS = 14
_CELLS = 64  # random values of stripes, checkers and dots repeat after so many


def stripes(rng: Rng, y: Floats, x: Floats) -> Floats:
    """Bars of one or several colours, 1 to 16 px wide, at any angle."""
    across, _ = _turned(rng, y, x)
    bar = np.floor(across / _log_uniform(rng, 1, 16)).astype(np.int64)
    return _two_or_many(rng, bar)


def checkers(rng: Rng, y: Floats, x: Floats) -> Floats:
    """A chessboard of two colours, or of a random one each."""
    across, along = _turned(rng, y, x)
    side = _log_uniform(rng, 1, 20)
    row, column = (np.floor(place / side).astype(np.int64) for place in (across, along))
    return _two_or_many(rng, row + column, row * 37 + column * 11)


def circles(rng: Rng, y: Floats, x: Floats) -> Floats:
    """Rings about a point, perhaps elliptic."""
    far = float(y.max())
    down, right = rng.uniform(-far, far, 2)
    radius = np.hypot(y - down, (x - right) * rng.uniform(0.6, 1.6))
    ring = np.floor(radius / _log_uniform(rng, 1, 16)).astype(np.int64)
    return _two_or_many(rng, ring)


def edges(rng: Rng, y: Floats, x: Floats) -> Floats:
    """Regions that a few straight lines cut out, some of the lines soft."""
    total = np.zeros(np.broadcast(y, x).shape, np.float32)
    for _ in range(int(rng.integers(1, 6))):
        across, _along = _turned(rng, y, x)
        width = rng.choice([0.02, 0.02, 1.0, 6.0])
        total += rng.uniform(0.3, 1.0) * np.clip((across - rng.uniform(-0.5, 0.5) * float(y.max())) / width, 0, 1)
    return total


def diagonals(rng: Rng, y: Floats, x: Floats) -> Floats:
    """Zigzag bars of 45 degrees."""
    half = _log_uniform(rng, 4, 40)
    zigzag = np.abs((y / half) % 2 - 1) * half
    bar = np.floor((x + zigzag) / _log_uniform(rng, 1, 10)).astype(np.int64)
    return _two_or_many(rng, bar)


def gradients(rng: Rng, y: Floats, x: Floats) -> Floats:
    """A ramp, straight or about a point, once or several times over."""
    far = float(y.max())
    across, along = _turned(rng, y, x)
    place = across if rng.random() < 0.5 else np.hypot(across - rng.uniform(-far, far), along)
    ramp = place / far * rng.uniform(0.3, 3)
    return np.asarray(np.abs((ramp + rng.random()) % 2 - 1), np.float32)


def dots(rng: Rng, y: Floats, x: Floats) -> Floats:
    """Discs on a square or hexagonal lattice, of one or several colours."""
    across, along = _turned(rng, y, x)
    step = _log_uniform(rng, 3, 24)
    rise = step * (np.sqrt(0.75) if rng.random() < 0.5 else 1.0)
    row = np.floor(across / rise).astype(np.int64)
    shift = 0.5 * (row % 2) if rise != step else 0.0
    column = np.floor(along / step + shift).astype(np.int64)
    distance = np.hypot(across - (row + 0.5) * rise, along - (column + 0.5 - shift) * step)
    colors = _table(rng)[(row * 37 + column * 11) % _CELLS] if rng.random() < 0.5 else np.float32(1)
    is_inside = distance < step * rng.uniform(0.2, 0.45)
    return np.asarray(np.where(is_inside, 0.25 + 0.75 * colors, 0), np.float32)


def zoneplate(rng: Rng, y: Floats, x: Floats) -> Floats:
    """A sine whose frequency rises with the distance from a point, to at most half a period a px."""
    far = float(y.max())
    down, right = rng.uniform(-far, far, 2) if rng.random() < 0.5 else (0.0, 0.0)
    squared = np.square(y - down) + np.square(x - right)
    farthest = float(np.sqrt(squared.max()))
    phase = np.pi * rng.uniform(0.2, 0.5) / farthest * squared + rng.uniform(0, 2 * np.pi)
    return np.asarray(0.5 + 0.5 * np.cos(phase), np.float32)


def grid(rng: Rng, y: Floats, x: Floats) -> Floats:
    """Thin lines that cross, as of a fence or cloth."""
    across, along = _turned(rng, y, x)
    step, width = _log_uniform(rng, 3, 28), rng.uniform(0.8, 3)
    rows, columns = (across % step) < width, (along % (step * rng.uniform(0.7, 1.4))) < width
    return np.asarray(np.maximum(rows * rng.uniform(0.5, 1), columns), np.float32)


def rays(rng: Rng, y: Floats, x: Floats) -> Floats:
    """A star of wedges, as of a resolution chart."""
    far = float(y.max())
    angle = np.arctan2(y - rng.uniform(-0.5, 0.5) * far, x - rng.uniform(-0.5, 0.5) * far) / (2 * np.pi) + 0.5
    number = int(rng.integers(6, 60))
    wedge = np.minimum(np.floor(angle * 2 * number).astype(np.int64), 2 * number - 1)
    return _two_or_many(rng, wedge)


def hair(rng: Rng, y: Floats, x: Floats) -> Floats:
    """Thin curves over a plain ground."""
    drawn = np.zeros(np.broadcast(y, x).shape, np.float32)
    far = float(y.max())
    for color in rng.uniform(0.3, 1, _HAIRS).astype(np.float32):
        across, along = _turned(rng, y, x)
        wave = rng.uniform(0, 0.25) * far * np.sin(along / far * rng.uniform(1, 9) + rng.uniform(0, 7))
        line = np.abs(across - wave - rng.uniform(-1, 1) * far) < rng.uniform(0.25, 1.2)
        drawn[line] = color
    return drawn


def julia(rng: Rng, y: Floats, x: Floats, *, zoomed: bool = False) -> Floats:
    """A Julia set of z^2 + c by its time of escape; `zoomed` into a place on its border, 6 to 40 times."""
    far = float(y.max())
    turn = rng.uniform(0, 2 * np.pi)  # of c on a curve just outside the Mandelbrot set's main parts
    c = (
        np.complex64(0.7885 * np.exp(1j * turn))
        if rng.random() < 0.5
        else np.complex64(complex(*_NICE[rng.integers(4)]))
    )
    plane = ((x + 1j * y) * (1.4 / far)).astype(np.complex64)
    if zoomed:
        coarse = _escape(plane[::12, ::12], c)
        steep = np.abs(np.diff(coarse, axis=0))[:, 1:] + np.abs(np.diff(coarse, axis=1))[1:]
        steepest = np.argsort(steep.ravel(), kind="stable")[-30:]
        centre = plane[12::12, 12::12].flat[int(rng.choice(steepest))]
        plane = plane / np.float32(_log_uniform(rng, 6, 40)) + centre
    time = _escape(plane, c)
    time -= time.min()
    return np.asarray(
        np.abs((time / max(float(np.percentile(time, 98)), 1e-6) * rng.uniform(1, 4)) % 2 - 1), np.float32
    )


_NICE = ((-0.8, 0.156), (-0.4, 0.6), (0.285, 0.01), (-0.70176, -0.3842))  # whose sets fill much of the plane


def perlin(rng: Rng, y: Floats, x: Floats) -> Floats:
    """Fractal sum of gradient noise (Perlin 1985), as smooth clouds to rough rock, or as marble."""
    scale, keeps = _log_uniform(rng, 12, 96), rng.uniform(0.45, 0.85)
    total = np.zeros(np.broadcast(y, x).shape, np.float32)
    weight = 1.0
    while scale > 2:
        total += weight * _gradient_noise(rng, y / scale, x / scale)
        scale, weight = scale / 2, weight * keeps
    total = (total - total.min()) / max(float(np.ptp(total)), 1e-6)
    return total if rng.random() < 0.6 else np.asarray(0.5 + 0.5 * np.sin(total * rng.uniform(6, 40)), np.float32)


FAMILIES: dict[str, Callable[[Rng, Floats, Floats], Floats]] = {
    function.__name__: function
    for function in (
        stripes, checkers, circles, edges, diagonals, gradients, dots, zoneplate, grid, rays, hair, julia, perlin
    )
}  # fmt: skip


def family_of(number: int) -> str:
    """Return the family of pattern `number`: they take turns."""
    return list(FAMILIES)[number % len(FAMILIES)]


def pattern_name(number: int) -> str:
    """Return the name of a pattern, such as "torture/julia/000011"."""
    return f"torture/{family_of(number)}/{number:06d}"


def pattern(number: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Return pattern `number` as sRGB [size, size, 3]; of the family julia, every second one is zoomed."""
    from mlkit.imaging.light import linear_to_srgb, srgb_to_linear

    rng = generator(seed, "torture", number)
    fine = size * SUPERSAMPLING
    axis = ((np.arange(fine, dtype=np.float32) + 0.5) / SUPERSAMPLING - size / 2).astype(np.float32)
    family, y, x = family_of(number), axis[:, None], axis[None, :]
    zoomed = number // len(FAMILIES) % 2 == 1
    drawn = julia(rng, y, x, zoomed=zoomed) if family == "julia" else FAMILIES[family](rng, y, x)
    values = np.broadcast_to(drawn, (fine, fine)).astype(np.float32)
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-6)
    palette = np.asarray(srgb_to_linear(_palette(rng)), np.float32)
    places = np.linspace(0, 1, len(palette))
    colored = np.stack([np.interp(values, places, palette[:, channel]) for channel in range(3)], axis=-1)
    means = colored.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3).mean(axis=(1, 3))
    return np.rint(np.clip(linear_to_srgb(means), 0, 1) * 255).astype(np.uint8)


def contact_sheet(size: int, seed: int, columns: int = 4) -> NDArray[np.uint8]:
    """Return a picture of `columns` patterns of each family, a family a row."""
    from mlkit.imaging.grids import Panel, comparison_grid

    rows = [
        [
            Panel("", pattern(column * len(FAMILIES) + row, size, seed).astype(np.float32) / np.float32(255))
            for column in range(columns)
        ]
        for row in range(len(FAMILIES))
    ]
    return comparison_grid(rows, labels=list(FAMILIES), heading="synthetic patterns")


def _palette(rng: Rng) -> NDArray[np.float64]:
    """Return 2 to 5 sRGB colours, chosen in HSV: often strong, sometimes pale or grey."""
    number = int(rng.integers(2, 6))
    hsv = np.stack([rng.random(number), np.sqrt(rng.random(number)), rng.uniform(0.03, 1, number)], axis=1)
    if rng.random() < 0.2:
        hsv[:, 1] = 0
    if rng.random() < 0.3:  # from dark to bright
        hsv[0, 2], hsv[-1, 2] = 0.03, 1
    return np.asarray([colorsys.hsv_to_rgb(*color) for color in hsv.tolist()])


def _turned(rng: Rng, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return places across and along a direction, about a random origin; one time in three along the sites."""
    angle = rng.uniform(0, np.pi) if rng.random() < 2 / 3 else rng.choice([0, np.pi / 2])
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    off = rng.uniform(0, 8, 2).astype(np.float32)
    return x * cosine + y * sine + off[0], y * cosine - x * sine + off[1]


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _two_or_many(rng: Rng, cell: Cells, mixed: Cells | None = None) -> Floats:
    """Return two values in turn by the number of a cell, or a random one for each number, of `mixed` if given."""
    if rng.random() < 0.6:
        return np.asarray(cell % 2, np.float32)
    return np.asarray(_table(rng)[(cell if mixed is None else mixed) % _CELLS], np.float32)


def _table(rng: Rng) -> Floats:
    return rng.random(_CELLS).astype(np.float32)


def _escape(plane: NDArray[np.complex64], c: np.complex64) -> Floats:
    """Return the smooth number of steps of z^2 + c until |z| > 4."""
    z, time = plane.copy(), np.full(plane.shape, _JULIA_STEPS, np.float32)
    inside = np.ones(plane.shape, bool)
    for step in range(_JULIA_STEPS):
        z[inside] = z[inside] ** 2 + c
        size = np.abs(z)
        left = inside & (size > 4)
        time[left] = step + 1 - np.log2(np.log(size[left]))
        inside &= ~left
    return time


def _gradient_noise(rng: Rng, y: Floats, x: Floats) -> Floats:
    """Return gradient noise whose lattice has distance 1."""
    top, left = int(np.floor(y.min())), int(np.floor(x.min()))
    shape = int(np.floor(y.max())) - top + 2, int(np.floor(x.max())) - left + 2
    angle = rng.uniform(0, 2 * np.pi, shape).astype(np.float32)
    down, right = np.sin(angle), np.cos(angle)
    row, column = (np.floor(place).astype(np.int64) for place in (y, x))
    v, u = (y - row).astype(np.float32), (x - column).astype(np.float32)
    row, column = row - top, column - left

    def corner(dy: int, dx: int) -> Floats:
        at = row + dy, column + dx
        return np.asarray(down[at] * (v - dy) + right[at] * (u - dx), np.float32)

    fade_v, fade_u = (t**3 * (t * (6 * t - 15) + 10) for t in (v, u))
    upper = corner(0, 0) * (1 - fade_u) + corner(0, 1) * fade_u
    lower = corner(1, 0) * (1 - fade_u) + corner(1, 1) * fade_u
    return np.asarray(upper * (1 - fade_v) + lower * fade_v, np.float32)

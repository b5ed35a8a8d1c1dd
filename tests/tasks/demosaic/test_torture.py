"""Claims of tasks/demosaic/torture.py."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image

from mlkit.tasks.demosaic import torture
from mlkit.tasks.demosaic.torture import FAMILIES, contact_sheet, family_of, pattern, pattern_name


def test_there_are_13_families_and_they_take_turns() -> None:
    assert len(FAMILIES) == 13
    assert [family_of(number) for number in range(13)] == list(FAMILIES)
    assert family_of(13) == "stripes" and pattern_name(24) == "torture/julia/000024"


@pytest.mark.parametrize("number", range(13))
def test_a_pattern_is_a_function_of_seed_and_number(number: int) -> None:
    made = pattern(number, 48, seed=0)
    assert made.shape == (48, 48, 3) and made.dtype == np.uint8
    assert np.array_equal(made, pattern(number, 48, seed=0))
    assert not np.array_equal(made, pattern(number, 48, seed=1))
    assert not np.array_equal(made, pattern(number + 13, 48, seed=0))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_pattern_is_flat(family: str) -> None:
    first = list(FAMILIES).index(family)
    for turn in range(6):
        assert pattern(first + 13 * turn, 64, seed=0).std(axis=(0, 1)).max() > 1, turn


def test_edges_are_anti_aliased_in_linear_light(monkeypatch: pytest.MonkeyPatch) -> None:
    # Black from the left, white from the second of the three columns of px 2 on: its light is 2/3.
    monkeypatch.setitem(FAMILIES, "stripes", lambda rng, y, x: (x > -0.6).astype(np.float32) + 0 * y)
    monkeypatch.setattr(torture, "_palette", lambda rng: np.asarray([[0.0] * 3, [1.0] * 3]))
    made = pattern(0, 6, seed=0)
    expected = 255 * (1.055 * (2 / 3) ** (1 / 2.4) - 0.055)
    assert made[0, :, 0].tolist() == [0, 0, round(expected), 255, 255, 255]


def test_every_second_julia_set_is_zoomed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, *, zoomed: bool) -> np.ndarray:
        asked.append(zoomed)
        return x + y

    monkeypatch.setattr(torture, "julia", noted)
    for number in (11, 24, 37, 50):
        pattern(number, 48, seed=0)
    assert asked == [False, True, False, True]


def test_escape_times_are_those_of_plain_iteration() -> None:
    rng = np.random.default_rng(0)
    plane = (rng.uniform(-1.5, 1.5, (5, 7)) + 1j * rng.uniform(-1.5, 1.5, (5, 7))).astype(np.complex64)
    c = np.complex64(-0.4 + 0.6j)
    times = torture._escape(plane, c)
    for place in np.ndindex(plane.shape):
        z, steps = complex(plane[place]), 0
        while abs(z) <= 4 and steps < 48:
            z, steps = z * z + complex(c), steps + 1
        # 1 - log2(ln 4) to 1 - log2(ln 16 + ...): the smooth part takes half to one and a half steps off
        assert times[place] == 48 if abs(z) <= 4 else steps - 1.6 < times[place] < steps, place


def test_gradient_noise_is_zero_on_its_lattice_and_smooth() -> None:
    axis = np.arange(-4, 4, 0.125, dtype=np.float32)
    noise = torture._gradient_noise(np.random.default_rng(0), axis[:, None], axis[None, :])
    assert np.abs(noise[::8, ::8]).max() < 1e-6
    assert 0.1 < noise.std() < 0.5
    assert np.abs(np.diff(noise, axis=0)).max() < 0.35


def test_palettes_hold_all_hues_and_grey() -> None:
    colors = [torture._palette(np.random.default_rng(seed)) for seed in range(200)]
    hues = [colorsys.rgb_to_hsv(*color) for palette in colors for color in palette]
    saturated = np.asarray([hue for hue, saturation, _ in hues if saturation > 0.2])
    assert (np.histogram(saturated, 6, (0, 1))[0] > 40).all()
    assert 0.1 < np.mean([np.ptp(palette, axis=1).max() < 1e-9 for palette in colors]) < 0.3
    assert all(2 <= len(palette) <= 5 and palette.min() >= 0 and palette.max() <= 1 for palette in colors)


def test_the_contact_sheet_names_every_family_in_a_picture() -> None:
    sheet = contact_sheet(48, seed=0, columns=2)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert sheet.shape[0] > 13 * 48 and sheet.shape[1] > 2 * 48
    assert Image.fromarray(sheet).getcolors(16) is None

"""A developed picture: grey is grey, saturated is white, and rows are developed as the whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from skimage.color import colorconv

from mlkit.tasks.demosaic.develop import develop_rows, neutral_highlights
from rawfiles import CAMERA, WB


@dataclass
class Camera:
    wb: tuple[float, float, float] = WB
    camera_to_srgb: np.ndarray = field(default_factory=lambda: matrix())


def matrix() -> np.ndarray:
    from_srgb = CAMERA @ colorconv.xyz_from_rgb
    return np.linalg.inv(from_srgb / from_srgb.sum(axis=1, keepdims=True))


def grey(*levels: float) -> np.ndarray:
    """What the camera measures of grey things: the less where the white balance multiplies the more."""
    return np.array([[[level / wb for wb in WB] for level in levels]], np.float32)


def test_grey_is_grey_and_of_its_light() -> None:
    made = develop_rows(grey(0, 0.18, 0.5, 1), Camera(), linear=True)
    np.testing.assert_allclose(made[0], np.repeat([[0], [0.18], [0.5], [1]], 3, axis=1), atol=1e-6)


def test_colours_come_back_from_what_the_camera_saw_of_them() -> None:
    """Linear sRGB seen by a camera: through XYZ, the camera's matrix, and divided by its white balance."""
    colors = np.random.default_rng(0).uniform(0.05, 0.6, (4, 5, 3))
    from_srgb = CAMERA @ colorconv.xyz_from_rgb
    seen = colors @ (from_srgb / from_srgb.sum(axis=1, keepdims=True)).T / np.array(WB)
    np.testing.assert_allclose(develop_rows(seen.astype(np.float32), Camera(), linear=True), colors, atol=1e-5)
    encoded = np.where(colors <= 0.0031308, 12.92 * colors, 1.055 * colors ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(develop_rows(seen.astype(np.float32), Camera()), encoded, atol=1e-5)


@pytest.mark.parametrize("wb", [(2.0, 1.0, 1.6), (0.6, 1.0, 2.4)])
@pytest.mark.parametrize("highlights", ["clip", "blend"])
@pytest.mark.parametrize("level", [1.0, 1.3])
def test_what_is_saturated_is_white_whatever_the_white_balance(
    wb: tuple[float, float, float], highlights: str, level: float
) -> None:
    saturated = np.full((1, 1, 3), level, np.float32)
    made = develop_rows(saturated, Camera(wb), highlights=highlights)  # type: ignore[arg-type]
    np.testing.assert_allclose(made, 1, atol=1e-6)


@pytest.mark.parametrize("highlights", ["clip", "blend"])
def test_nothing_below_saturation_is_changed(highlights: str) -> None:
    values = np.random.default_rng(1).uniform(-0.1, 1, (5, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(neutral_highlights(values, highlights), values)  # type: ignore[arg-type]


def test_blending_goes_on_in_brightness_and_fades_in_colour() -> None:
    """A coloured thing seen ever brighter: its red, which the white balance doubles, passes 1 first."""
    light = np.linspace(0.2, 2, 200, dtype=np.float32)[None, :, None]
    made = neutral_highlights(light * np.array([1.0, 0.7, 0.4], np.float32), "blend")[0]
    brightness, saturation = made.mean(axis=1), (made.max(axis=1) - made.min(axis=1)) / made.mean(axis=1)
    assert (np.diff(brightness) > 0).all()
    assert (np.diff(saturation) < 1e-5).all()
    assert np.abs(np.diff(made, axis=0)).max() < 0.02  # no step where red reaches 1
    assert saturation[-1] < 0.25 * saturation[0]
    assert made.max() > 1
    clipped = neutral_highlights(light * np.array([1.0, 0.7, 0.4], np.float32), "clip")[0]
    assert clipped.max() == 1


def test_exposure_is_in_stops_and_brings_blended_highlights_back() -> None:
    dark = develop_rows(grey(0.1, 0.4), Camera(), linear=True, exposure_stops=1.0)
    np.testing.assert_allclose(dark[0, :, 1], [0.2, 0.8], atol=1e-6)
    bright = np.array([[[1.0, 0.9, 1.0], [1.0, 1.0, 1.0]]], np.float32)
    blended = develop_rows(bright, Camera(), highlights="blend", exposure_stops=-1.0)
    clipped = develop_rows(bright, Camera(), highlights="clip", exposure_stops=-1.0)
    assert blended[0, 1].mean() > clipped[0, 1].mean()


def test_a_picture_is_developed_rows_at_a_time() -> None:
    values = np.random.default_rng(2).uniform(-0.05, 1.4, (31, 9, 3)).astype(np.float32)
    whole = develop_rows(values, Camera(), highlights="blend", exposure_stops=0.3)
    parts = [
        develop_rows(values[top : top + 7], Camera(), highlights="blend", exposure_stops=0.3) for top in range(0, 31, 7)
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_what_is_given_is_not_changed() -> None:
    values = np.ones((2, 2, 3), np.float32)
    develop_rows(values, Camera(), highlights="blend")
    assert (values == 1).all()

"""sRGB's curve and matrix, against scikit-image's and the standard's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import colorconv

from mlkit.imaging.light import XYZ_TO_SRGB, linear_to_srgb, srgb_to_linear


def test_the_curve_is_that_of_scikit_image() -> None:
    grey = np.repeat(np.linspace(0, 1, 1001)[:, None], 3, axis=1)[None]
    expected = colorconv.rgb2xyz(grey)[0, :, 1]  # of grey Y is the linear light
    np.testing.assert_allclose(srgb_to_linear(grey[0, :, 0]), expected, atol=1e-6)
    np.testing.assert_allclose(linear_to_srgb(expected), grey[0, :, 0], atol=1e-5)


def test_numbers_of_the_standard() -> None:
    """IEC 61966-2-1: 0.04045 is where the line meets the power; middle grey of 18 % is level 118 of 255."""
    assert srgb_to_linear(np.array(0.04045)) == pytest.approx(0.04045 / 12.92)
    assert srgb_to_linear(np.array(0.5)) == pytest.approx(0.214041, abs=1e-6)
    assert 255 * linear_to_srgb(np.array(0.18)) == pytest.approx(117.65, abs=0.01)


@pytest.mark.parametrize("convert", [srgb_to_linear, linear_to_srgb])
def test_values_below_0_are_mirrored_and_above_1_go_on(convert) -> None:  # type: ignore[no-untyped-def]
    values = np.linspace(0, 4, 401)
    np.testing.assert_array_equal(convert(-values), -convert(values))
    assert (np.diff(convert(values)) > 0).all()
    assert convert(np.array(4.0)) != pytest.approx(convert(np.array(1.0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back_in_the_same_type(dtype: type) -> None:
    values = np.linspace(-0.5, 3, 1001).astype(dtype)
    back = linear_to_srgb(srgb_to_linear(values))
    assert back.dtype == srgb_to_linear(values).dtype == dtype
    np.testing.assert_allclose(back, values, atol=2e-6)


def test_the_matrix_is_that_of_scikit_image() -> None:
    np.testing.assert_allclose(XYZ_TO_SRGB, colorconv.rgb_from_xyz, atol=1e-4)

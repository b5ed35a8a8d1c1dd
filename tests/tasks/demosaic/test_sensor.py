"""Claims of tasks/demosaic/sensor.py."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import convolve1d

from mlkit.tasks.demosaic.sensor import blurred, noise_levels, other_colors, with_noise


@pytest.mark.parametrize("value", [-0.1, 0.0, 0.05, 0.5, 1.7])
def test_noise_has_the_variance_of_the_model_and_no_bias(value: float) -> None:
    shot, read = 0.01, 0.0004
    noisy = with_noise(np.full((400, 400), value, np.float32), np.random.default_rng(0), shot, read)
    expected = shot * max(value, 0) + read
    assert noisy.dtype == np.float32
    assert noisy.var() == pytest.approx(expected, rel=0.02)
    assert noisy.mean() == pytest.approx(value, abs=4 * expected**0.5 / 400)


def test_noise_is_not_clamped_below_zero() -> None:
    noisy = with_noise(np.zeros((100, 100), np.float32), np.random.default_rng(0), 0.0, 0.01)
    assert 0.45 < (noisy < 0).mean() < 0.55


def test_levels_follow_brooks_2019() -> None:
    rng = np.random.default_rng(0)
    shot, read = np.log(np.asarray([noise_levels(rng, (1e-4, 1.2e-2)) for _ in range(4000)])).T
    low, high = np.log(1e-4), np.log(1.2e-2)
    assert shot.min() > low and shot.max() < high
    assert np.histogram(shot, 4, (low, high))[0] == pytest.approx(1000, rel=0.15)
    slope, offset = np.polyfit(shot, read, 1)
    assert slope == pytest.approx(2.18, abs=0.02) and offset == pytest.approx(1.20, abs=0.12)
    assert np.std(read - slope * shot - offset) == pytest.approx(0.26, rel=0.05)


def test_blur_is_a_gaussian_that_keeps_the_light() -> None:
    image = np.random.default_rng(0).random((40, 50, 3)).astype(np.float32)
    offsets = np.arange(-3, 4)
    weights = np.exp(-0.5 * offsets**2)
    weights /= weights.sum()
    expected = convolve1d(convolve1d(image, weights, 0, mode="mirror"), weights, 1, mode="mirror")
    assert np.abs(blurred(image, 1.0) - expected).max() < 1e-5
    assert blurred(np.full((9, 9, 3), 0.7, np.float32), 0.8) == pytest.approx(0.7)


def test_other_colors_are_a_matrix_without_negative_values() -> None:
    image = np.random.default_rng(0).random((30, 30, 3)).astype(np.float32) ** 2
    channels, overshoot = set(), 0
    for seed in range(60):
        made = other_colors(image, np.random.default_rng(seed))
        assert made.min() >= 0 and made.dtype == np.float32
        inside = (made > 0).all(axis=2)
        matrix, *_ = np.linalg.lstsq(image[inside], made[inside], rcond=None)
        assert np.abs(image[inside] @ matrix - made[inside]).max() < 1e-4
        gains = matrix.sum(axis=0)  # what grey becomes: the saturation leaves it alone
        assert (gains > np.exp(-0.61)).all() and (gains < np.exp(0.31)).all()
        channels.add(tuple(np.argmax(matrix, axis=0).tolist()))
        overshoot += int(not inside.all())
    assert len(channels) == 6 and overshoot > 10

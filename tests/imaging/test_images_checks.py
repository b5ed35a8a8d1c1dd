"""A result that is no image is told, and transparent colours do not bleed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow

from mlkit.errors import NonFiniteError
from mlkit.imaging.alpha import over_white, unweighted_by_alpha, weighted_by_alpha
from mlkit.imaging.checks import OutputCheck, check_output, is_black

BLACK, GREY = np.zeros((6, 5, 3), np.float32), np.full((6, 5, 3), 0.5, np.float32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_told(bad: float) -> None:
    pixels = GREY.copy()
    pixels[3, 2, 1] = bad
    with pytest.raises(NonFiniteError, match="the result has values that are NaN or infinite; try --precision fp32"):
        check_output(pixels, "the result", given=GREY)


def test_black_is_told_unless_the_input_is_black() -> None:
    for pixels in (BLACK, BLACK + 0.001, BLACK - 3):  # all 0 in 8 bits
        assert is_black(pixels)
        with pytest.raises(NonFiniteError, match="a is all black, which its input is not"):
            check_output(pixels, "a", given=GREY)
        with pytest.raises(NonFiniteError):
            check_output(pixels, "a")
        check_output(pixels, "a", given=BLACK)
    dim = BLACK.copy()
    dim[0, 0, 0] = 0.004
    check_output(dim, "a", given=GREY)


def test_rows_are_judged_together() -> None:
    check = OutputCheck("a")
    check.add(BLACK)
    check.add(GREY)
    check.add(BLACK)
    check.finish()
    black = OutputCheck("a")
    black.add(BLACK)
    with pytest.raises(NonFiniteError):
        black.finish()


def interpolated(values: np.ndarray) -> np.ndarray:
    """Return [4 H, 4 W, C], bicubic with its overshoot."""
    size = (4 * values.shape[1], 4 * values.shape[0])
    planes = [Pillow.fromarray(plane).resize(size, Pillow.Resampling.BICUBIC) for plane in np.moveaxis(values, 2, 0)]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def test_invisible_colours_do_not_bleed_when_weighted_ones_are_interpolated() -> None:
    color = np.array([0.9, 0.2, 0.4], np.float32)
    pixels, alpha = np.zeros((12, 12, 3), np.float32), np.zeros((12, 12), np.float32)
    pixels[:, 6:], alpha[:, 6:] = color, 1.0  # what is invisible is black
    larger = interpolated(alpha[..., None])[..., 0]
    straight = unweighted_by_alpha(interpolated(weighted_by_alpha(pixels, alpha)), larger, shown_above=1e-4)
    shown = larger > 1e-4
    np.testing.assert_allclose(straight[shown], np.broadcast_to(color, straight.shape)[shown], atol=1e-4)
    assert np.abs(interpolated(pixels)[shown] - color).max() > 0.3  # as it would be
    hidden = np.full_like(straight, 0.7)
    kept = unweighted_by_alpha(np.zeros_like(straight), np.zeros_like(larger), hidden)
    assert np.array_equal(kept, hidden)


def test_weights_come_off_exactly_and_white_paper_shows_through() -> None:
    levels = np.random.default_rng(0).integers(1, 65536, (50, 40, 4))
    values = (levels / 65535).astype(np.float32)
    pixels, alpha = values[..., :3], values[..., 3]
    weighted = weighted_by_alpha(pixels, alpha)
    np.testing.assert_allclose(unweighted_by_alpha(weighted, alpha), pixels, atol=1e-6)
    expected = pixels * alpha[..., None] + (1 - alpha[..., None])
    np.testing.assert_allclose(over_white(pixels, alpha), expected, atol=1e-6)

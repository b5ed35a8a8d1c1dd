"""Claims of tasks/sr/colors.py: low frequencies and statistics of the reference, whatever the bands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from mlkit.tasks.sr import colors
from mlkit.tasks.sr.colors import REACH_PX, fixed_colors, low_pass


def images(height: int, width: int, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return restored images [3 S, H, W] and another reference [3, H, W]."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0.2, 0.8, width)[None, None]
    tint = np.tile((0.1, 0.0, -0.1), count)[:, None, None]
    made = ramp + rng.normal(0, 0.1, (3 * count, height, width)) + tint
    reference = ramp[..., ::-1] + rng.normal(0, 0.05, (3, height, width))
    return made.astype(np.float32), reference.astype(np.float32)


def fixed(
    made: np.ndarray, reference: np.ndarray, kind: Any, sizes: Sequence[int] = (), most_rows: int | None = None
) -> np.ndarray:
    """Return the fixed image, given in bands of these sizes and one of the rest."""
    height = made.shape[1]
    starts = [0, *np.cumsum(sizes)]

    def bands() -> Iterator[tuple[int, np.ndarray]]:
        for top, bottom in zip(starts, [*starts[1:], height], strict=True):
            yield int(top), made[:, top:bottom].copy()

    def rows(top: int, bottom: int) -> np.ndarray:
        assert 0 <= top < bottom <= height
        assert most_rows is None or bottom - top <= most_rows
        return reference[:, top:bottom]

    parts, done = [], 0
    for top, band in fixed_colors(bands(), rows, height, kind):
        assert top == done and band.shape[1] > 0
        done += band.shape[1]
        parts.append(band)
    assert done == height
    return np.concatenate(parts, axis=1)


def slow_low_pass(image_hw: np.ndarray) -> np.ndarray:
    """Return five blurs by a 3 x 3 binomial kernel with holes, by plain convolution of the whole image."""
    low = image_hw.astype(np.float64)
    for level in range(5):
        holes = 2**level
        kernel = np.zeros((2 * holes + 1, 2 * holes + 1))
        kernel[::holes, ::holes] = np.outer((1, 2, 1), (1, 2, 1)) / 16
        low = ndimage.convolve(low, kernel, mode="nearest")
    return low


@pytest.mark.parametrize("size", [(90, 70), (3, 200), (33, 1)])
def test_the_low_pass_is_that_of_plain_convolution(size: tuple[int, int]) -> None:
    image = images(*size)[1]
    expected = np.stack([slow_low_pass(plane) for plane in image])
    np.testing.assert_allclose(low_pass(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sizes", [(), (112, 40), (3, 1, 70, 31, 32), (199,)])
def test_wavelet_gives_the_low_frequencies_of_the_reference_and_keeps_the_high_ones(sizes: tuple[int, ...]) -> None:
    made, reference = images(200, 90, count=2)
    expected = [
        plane - slow_low_pass(plane) + slow_low_pass(reference[channel % 3]) for channel, plane in enumerate(made)
    ]
    most = max((*sizes, 200 - sum(sizes))) + 3 * REACH_PX + 4  # never the whole image, where bands are small
    np.testing.assert_allclose(fixed(made, reference, "wavelet", sizes, most), expected, rtol=0, atol=2e-6)


def test_adain_gives_the_mean_and_contrast_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colors, "_ROWS", 50)
    made, reference = images(130, 90, count=2)
    result = fixed(made, reference, "adain", (60, 20))
    for channel, plane in enumerate(result):
        assert plane.mean() == pytest.approx(reference[channel % 3].mean(), abs=1e-5)
        assert plane.std() == pytest.approx(reference[channel % 3].std(), abs=1e-5)
        assert np.corrcoef(plane.ravel(), made[channel].ravel())[0, 1] == pytest.approx(1.0, abs=1e-5)


def test_a_flat_image_is_shifted_by_adain_and_stays_finite() -> None:
    made, reference = np.full((3, 20, 20), 0.25, np.float32), np.full((3, 20, 20), 0.5, np.float32)
    np.testing.assert_allclose(fixed(made, reference, "adain"), 0.5, atol=1e-6)


def test_none_changes_nothing() -> None:
    made, reference = images(20, 20)
    np.testing.assert_array_equal(fixed(made, reference, "none", (7,), most_rows=0), made)

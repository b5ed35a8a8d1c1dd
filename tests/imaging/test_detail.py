"""Where two images differ most."""

from __future__ import annotations

import numpy as np
import pytest

from mlkit.imaging.detail import BLOCK_PX, block_means, busiest


@pytest.mark.parametrize(("top", "left"), [(0, 0), (128, 64), (224, 288)])
def test_the_square_of_the_largest_change_is_found(top: int, left: int) -> None:
    change = np.random.default_rng(0).normal(0.0, 0.01, (330, 400, 3))
    change[top : top + 96, left : left + 96] -= 1.0  # its sign does not matter
    assert busiest(change, 96) == (top, left)


def test_the_square_lies_within_the_image() -> None:
    change = np.zeros((200, 200, 3))
    change[192:, 192:] = 1.0  # in a block that is not whole
    change[160:192, 160:192] = 0.1
    top, left = busiest(change, 96)
    assert (top, left) == (96, 96)


def test_an_image_that_is_smaller_is_shown_from_its_corner() -> None:
    assert busiest(np.ones((40, 400, 3)), 96) == (0, 0)


def test_blocks_are_means_of_sizes() -> None:
    change = np.zeros((BLOCK_PX, 2 * BLOCK_PX, 1))
    change[:, BLOCK_PX:] = -2.0
    change[: BLOCK_PX // 2, BLOCK_PX:] = 4.0
    np.testing.assert_allclose(block_means(change), [[0.0, 3.0]])

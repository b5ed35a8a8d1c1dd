"""The X-Trans pattern, its phases and symmetries, by counting sites and by mosaicking after augmenting."""

from __future__ import annotations

import numpy as np
import pytest

from mlkit.errors import DataError
from mlkit.tasks.demosaic import xtrans
from mlkit.tasks.demosaic.xtrans import PATTERN, PERIOD, B, G, R, colors, mosaic, moved, phase_of, transformed

# As published with demosaicing networks for X-Trans (Gharbi et al. 2016): rows of the 6 x 6 cell, lower case repeats.
GHARBI = ["GBGGRG", "RGRBGB", "GBGGRG", "GRGGBG", "BGBRGR", "GRGGBG"]
# As LibRaw gives it for some cameras, and as a widely used open training script assumes it.
OTHER = [
    [0, 2, 1, 2, 0, 1],
    [1, 1, 0, 1, 1, 2],
    [1, 1, 2, 1, 1, 0],
    [2, 0, 1, 0, 2, 1],
    [1, 1, 2, 1, 1, 0],
    [1, 1, 0, 1, 1, 2],
]


def test_of_36_sites_20_are_green_and_8_each_red_and_blue() -> None:
    assert [int((color == PATTERN).sum()) for color in (R, G, B)] == [8, 20, 8]


def test_every_row_and_column_holds_all_three_colors() -> None:
    """What the pattern was designed for: no line of the sensor is blind to red or blue."""
    for line in (*PATTERN, *PATTERN.T):
        assert set(line.tolist()) == {R, G, B}


def test_the_pattern_of_others_is_a_phase_of_ours() -> None:
    letters = {"R": R, "G": G, "B": B}
    for pattern in ([[letters[letter] for letter in row] for row in GHARBI], OTHER):
        assert np.array_equal(colors(6, 6, phase_of(pattern)), pattern)


def test_the_period_is_18_sites_and_a_move_by_half_exchanges_red_and_blue() -> None:
    assert np.array_equal(colors(6, 6, (3, 3)), PATTERN)
    exchanged = np.array([B, G, R])[PATTERN]
    assert np.array_equal(colors(6, 6, (3, 0)), exchanged)
    assert np.array_equal(colors(6, 6, (0, 3)), exchanged)


@pytest.mark.parametrize("row", range(6))
@pytest.mark.parametrize("column", range(6))
def test_the_phase_of_a_corner_is_found(row: int, column: int) -> None:
    found = phase_of(colors(6, 6, (row, column)))
    assert np.array_equal(colors(12, 12, found), colors(12, 12, (row, column)))


def test_a_crop_at_any_place_has_the_moved_phase() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((40, 50, 3), dtype=np.float32)
    whole = mosaic(image, (1, 4))
    for y, x in rng.integers(0, 20, (30, 2)).tolist():
        assert np.array_equal(whole[y:, x:], mosaic(image[y:, x:], moved((1, 4), y, x)))


@pytest.mark.parametrize("symmetry", range(xtrans.SYMMETRIES))
@pytest.mark.parametrize(("height", "width"), [(24, 24), (25, 31), (36, 20), (6, 7)])
def test_mosaicking_and_augmenting_may_change_places(symmetry: int, height: int, width: int) -> None:
    """The measured values stay measured values of the same colours: no site changes its filter."""
    rng = np.random.default_rng(symmetry)
    image = rng.random((height, width, 3), dtype=np.float32)
    for phase in ((0, 0), (2, 5), (1, 3)):
        after = xtrans.transformed_phase(phase, height, width, symmetry)
        assert np.array_equal(transformed(mosaic(image, phase), symmetry), mosaic(transformed(image, symmetry), after))


def test_the_eight_symmetries_differ() -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert (
        len(
            {
                transformed(image, symmetry).tobytes() + bytes(transformed(image, symmetry).shape)
                for symmetry in range(8)
            }
        )
        == 8
    )


def test_a_bayer_pattern_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"2 x 2 colour filter \[\[0, 1\], \[1, 2\]\] is no X-Trans pattern"):
        phase_of([[0, 1], [1, 2]])
    with pytest.raises(DataError, match="no X-Trans"):
        phase_of(np.tile([[0, 1], [1, 2]], (3, 3)))


def test_the_period_divides_no_less() -> None:
    """A smaller step than (3, 3) never maps the pattern to itself."""
    same = [(y, x) for y in range(PERIOD) for x in range(PERIOD) if np.array_equal(colors(6, 6, (y, x)), PATTERN)]
    assert same == [(0, 0), (3, 3)]

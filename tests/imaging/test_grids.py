"""Grids show every pixel where it belongs, every scale once, and every text inside the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from mlkit.errors import DataError
from mlkit.imaging.grids import Panel, apply_scale, comparison_grid, grayscale, heat, write_png

RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


def flat(color: tuple[float, float, float], height: int = 256, width: int = 256) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.float32), (height, width, 3)).copy()


def box_of(grid: np.ndarray, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return top, left, height, width of the one area of that very colour, which must be a full rectangle."""
    rows, columns = np.nonzero((grid == np.array(color, np.uint8)).all(axis=2))
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    assert len(rows) == (bottom - top) * (right - left)
    return int(top), int(left), int(bottom - top), int(right - left)


def test_panels_stand_in_order_at_their_own_size_within_margins() -> None:
    grid = comparison_grid([[Panel("a", flat(RED)), Panel("b", flat(GREEN))]], heading="run", labels=["000001"])
    assert grid.dtype == np.uint8 and grid.shape[2] == 3
    red, green = box_of(grid, (255, 0, 0)), box_of(grid, (0, 255, 0))
    assert red[2:] == green[2:] == (256, 256)
    assert red[0] == green[0] and red[1] + 256 < green[1]
    border = np.concatenate((grid[:20].reshape(-1, 3), grid[-20:].reshape(-1, 3), grid[:, :20].reshape(-1, 3)))
    assert (border == border[0]).all() and border.min() > 240


@pytest.mark.parametrize(("side", "shown"), [(1, 192), (16, 192), (100, 200), (192, 192), (256, 256), (500, 500)])
def test_small_images_are_enlarged_by_whole_factors(side: int, shown: int) -> None:
    image = np.random.default_rng(0).random((side, side, 3)).astype(np.float32)
    grid = comparison_grid([[Panel("", image)]])
    expected = np.rint(image * 255).astype(np.uint8).repeat(shown // side, axis=0).repeat(shown // side, axis=1)
    assert any(
        np.array_equal(grid[top : top + shown, 28 : 28 + shown], expected) for top in range(grid.shape[0] - shown + 1)
    )


def test_a_low_resolution_panel_is_as_large_as_its_neighbour() -> None:
    grid = comparison_grid([[Panel("LR", flat(RED, 64, 48)), Panel("HR", flat(GREEN, 256, 192))]])
    assert box_of(grid, (255, 0, 0))[2:] == box_of(grid, (0, 255, 0))[2:] == (256, 192)


def test_a_low_resolution_panel_is_as_large_as_a_reduced_neighbour() -> None:
    row = [Panel("LR", flat(RED, 150, 100)), Panel("HR", flat(GREEN, 900, 600))]
    grid = comparison_grid([row])
    assert box_of(grid, (255, 0, 0))[2:] == box_of(grid, (0, 255, 0))[2:] == (768, 512)


def test_large_images_are_reduced_by_averaging() -> None:
    checkerboard = np.indices((2000, 1000)).sum(axis=0) % 2
    image = np.repeat(checkerboard[..., None], 3, axis=2).astype(np.float32)
    grid = comparison_grid([[Panel("", image)]])
    assert grid.shape[0] < 1000
    panel = grid[100:-100, 100:-100].astype(int)  # sampling would leave black and white, averaging leaves gray
    assert np.abs(panel - 128).max() < 60


def test_equal_titles_stand_once_and_different_ones_on_each_panel() -> None:
    same = comparison_grid([[Panel("a", flat(RED))], [Panel("a", flat(RED))]])
    different = comparison_grid([[Panel("a", flat(RED))], [Panel("b", flat(RED))]])
    untitled = comparison_grid([[Panel("", flat(RED))], [Panel("", flat(RED))]])
    title = same.shape[0] - untitled.shape[0]
    assert title > 0 and different.shape[0] - untitled.shape[0] == 2 * title


def test_each_distinct_scale_is_drawn_once() -> None:
    db, error = grayscale("dB", -25, 5), heat("error", 0, 8)
    values = np.linspace(-25, 5, 256 * 256).reshape(256, 256)

    def height(*scales: object) -> int:
        return comparison_grid([[Panel("", apply_scale(values, db), scale=scale)] for scale in scales]).shape[0]  # type: ignore[arg-type]

    none = height(None, None)
    assert height(db, None) == height(db, grayscale("dB", -25, 5)) > none
    assert height(db, grayscale("dB", -30, 5)) > height(db, db)  # another range is another bar
    assert height(db, error) > height(db, db)


def test_long_and_unusual_texts_stay_inside_and_are_not_empty_boxes() -> None:
    short = comparison_grid([[Panel("a", flat(RED), "x")]])
    long = comparison_grid(
        [[Panel("a title that is far too long for a panel of this size", flat(RED), "word " * 30 + "w" * 200)]],
        heading="heading " * 30,
        labels=["label" * 50],
        footer="footer " * 50,
    )
    assert (long[:, -20:] == long[0, 0]).all() and long.shape[0] > short.shape[0]
    assert np.array_equal(
        comparison_grid([[Panel("16\u00d7", flat(RED), "\u22123.1 dB")]]),
        comparison_grid([[Panel("16x", flat(RED), "-3.1 dB")]]),
    )


def test_rows_may_differ_in_length_and_size() -> None:
    grid = comparison_grid(
        [[Panel("a", flat(RED, 256, 300)), Panel("b", flat(GREEN, 300, 256))], [Panel("c", flat(RED, 9, 5))]]
    )
    assert box_of(grid, (0, 255, 0))[2:] == (300, 256)


def test_apply_scale_is_linear_cuts_and_marks_nan() -> None:
    scale = grayscale("dB", -25, 5)
    values = np.array([[-25.0, -10.0, 5.0], [-100.0, 100.0, np.nan]])
    image = apply_scale(values, scale)
    assert image.dtype == np.float32 and image.shape == (2, 3, 3)
    np.testing.assert_allclose(image[0, :, 0], [0, 0.5, 1], atol=1 / 255)
    assert image[1, 0].tolist() == [0, 0, 0] and image[1, 1].tolist() == [1, 1, 1]
    assert np.ptp(image[1, 2]) > 0.3  # a colour that no gray has


def test_nan_in_a_panel_is_shown_and_does_not_warn() -> None:
    image = flat(RED)
    image[100:110, 100:110] = np.nan
    grid = comparison_grid([[Panel("", image)]])
    cyan = (grid[..., 2] > 150) & (grid[..., 0] < 50)
    assert cyan.sum() == 100


def test_heat_is_ordered_by_lightness_as_cie_sees_it() -> None:
    lightness = rgb2lab(heat("", 0, 1).colors_rgb[None])[0, :, 0]
    assert (np.diff(lightness) > 0).all()
    assert lightness[0] < 5 and lightness[-1] > 90
    assert np.diff(lightness).max() < 3 * np.diff(lightness).mean()  # no edge where the data has none


def test_scales_are_equal_by_label_and_range() -> None:
    assert heat("error", 0, 8) == heat("error", 0, 8) != heat("error", 0, 9)
    assert len({grayscale("dB", 0, 1), grayscale("dB", 0, 1)}) == 1


def test_write_png_is_exact_and_a_bad_place_is_named(tmp_path: Path) -> None:
    grid = comparison_grid([[Panel("a", np.random.default_rng(0).random((64, 64, 3)).astype(np.float32))]])
    write_png(tmp_path / "grids" / "grid.png", grid, tmp_path / "beside.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grids" / "grid.png")), grid)
    assert (tmp_path / "beside.png").read_bytes() == (tmp_path / "grids" / "grid.png").read_bytes()
    assert [path.name for path in (tmp_path / "grids").iterdir()] == ["grid.png"]
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(DataError, match=r"cannot write .*taken\.png"):
        write_png(tmp_path / "taken.png", grid)

"""Scores of maps and lines, by hand and by other ways of computing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlkit.metrics.geometry import bend, corners, end_point_error, inside, jacobian, jacobian_stats


def identity(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(
        (2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1,
        (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1,
        indexing="ij",
    )
    return torch.stack((x, y), dim=-1)[None]


def radial(height: int, width: int, k1: float) -> torch.Tensor:
    grid = identity(height, width)
    half = torch.tensor([width, height]) / np.hypot(width, height)
    points = grid * half
    return points * (1 + k1 * points.square().sum(-1, keepdim=True)) / half


def test_distances_are_px_of_a_picture_1000_px_wide() -> None:
    truth = identity(20, 30)
    frame = torch.tensor([[30.0, 20.0]]) / np.hypot(30, 20)
    moved = truth.clone()
    moved[..., 0] += 2 / 30 * 3  # 3 of 30 px
    moved[..., 1] += 2 / 20 * 4
    error = end_point_error(moved, truth, frame)
    assert torch.allclose(error, torch.full_like(error, 5 * 1000 / 30))
    squeezed = end_point_error(identity(30, 30) + torch.tensor([0.0, 2 / 20 * 4]), identity(30, 30), frame)
    assert torch.allclose(squeezed, torch.full_like(squeezed, 4 * 1000 / 30))


def test_corners_are_the_four_corner_pixels() -> None:
    values = torch.zeros(1, 5, 7, dtype=torch.float64)
    values[0, 0, 0], values[0, 0, 6], values[0, 4, 0], values[0, 4, 6], values[0, 2, 2] = 1, 2, 3, 6, 100
    assert corners(values).tolist() == [3.0]


def test_the_determinant_is_that_of_the_formula() -> None:
    """Of r (1 + k r^2) it is f (f + r f') with f = 1 + k r^2."""
    height, width, k1 = 200, 300, -0.2
    det = jacobian(radial(height, width, k1))[0]
    points = identity(height, width)[0] * (torch.tensor([width, height]) / np.hypot(width, height))
    between = (points[1:, 1:] + points[:-1, :-1]) / 2
    r2 = between.square().sum(-1)
    expected = (1 + k1 * r2) * (1 + 3 * k1 * r2)
    assert float((det - expected).abs().max()) < 3e-3


def test_identity_has_determinant_one_and_a_zoom_its_square() -> None:
    assert torch.allclose(jacobian(identity(9, 12)), torch.ones(1, 8, 11, dtype=torch.float64))
    assert torch.allclose(jacobian(identity(9, 12) / 1.25), torch.full((1, 8, 11), 0.64, dtype=torch.float64))


def test_only_the_image_that_folds_is_told_to() -> None:
    """k1 = -0.6 folds where 1 - 1.8 r^2 < 0: outside r = 0.745, a fifth of a 3:2 picture."""
    both = torch.cat((radial(200, 300, -0.1), radial(200, 300, -0.6)))
    stats = jacobian_stats(both)
    assert stats["negative_det_pct"][0] == 0 and stats["det_min"][0] > 0.5
    assert float(stats["negative_det_pct"][1]) == pytest.approx(19.6, abs=0.6)
    assert stats["det_min"][1] < 0 and stats["det_p01"][1] < 0
    det = jacobian(both)[1].flatten().numpy()
    assert float(stats["det_p01"][1]) == pytest.approx(np.quantile(det, 0.01), abs=5e-3)


def test_a_determinant_of_zero_counts_as_folded() -> None:
    flat = identity(10, 10)
    flat[..., 0] = 0
    assert jacobian_stats(flat)["negative_det_pct"].tolist() == [100.0]


def test_out_of_bounds_is_the_share_whose_source_lies_outside() -> None:
    grid = identity(10, 10)
    grid[:, :3] += 5.0
    assert jacobian_stats(grid)["oob_ratio"].tolist() == pytest.approx([0.3])
    assert inside(grid)[0].float().mean() == pytest.approx(0.7)


def test_points_on_a_line_do_not_bend_however_they_lie() -> None:
    along = np.linspace(-3, 5, 9)
    line = np.stack((along * np.cos(1.1) + 7, along * np.sin(1.1) - 2), axis=-1)
    assert bend(line) == pytest.approx(0, abs=1e-12)


def test_the_bend_of_an_arc_is_that_of_a_fit_by_another_way() -> None:
    x = np.linspace(-1, 1, 201)
    arc = np.stack((x, 0.05 * x**2), axis=-1)
    assert bend(arc) == pytest.approx(np.std(0.05 * x**2), rel=1e-3)  # the best line is level
    turned = arc @ np.array([[0.6, -0.8], [0.8, 0.6]])
    assert bend(turned) == pytest.approx(float(bend(arc)), rel=1e-9)
    assert np.isnan(bend(np.array([[0, 0], [1, np.nan], [2, 0.0]])))

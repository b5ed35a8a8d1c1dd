"""Colours of flows and determinants say what they are meant to."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from mlkit.tasks.lens.geometry import frame_of
from mlkit.tasks.lens.pictures import flow_colors, flow_wheel, jacobian_picture, jacobian_scale, unsqueezed, with_curves


def test_hue_is_the_direction_and_white_stands_still() -> None:
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    flow = np.stack((np.cos(angles), np.sin(angles)), axis=-1)[None]
    colors = flow_colors(flow, 1.0)[0]
    expected = [colorsys.hsv_to_rgb(angle / (2 * np.pi), 1.0, 1.0) for angle in angles]
    np.testing.assert_allclose(colors, expected, atol=1e-6)
    np.testing.assert_array_equal(flow_colors(np.zeros((2, 2, 2)), 1.0), 1.0)
    np.testing.assert_allclose(flow_colors(flow * 5, 1.0)[0], expected, atol=1e-6)  # beyond the largest: as vivid
    assert flow_colors(flow * 1e-7, 1e-7).min() > 1 - 1 / 255, "roundings are no flow"
    half = flow_colors(flow / 2, 1.0)[0]
    np.testing.assert_allclose(half, (1 + np.array(expected)) / 2, atol=1e-6)


def test_the_wheel_is_a_disc_with_red_at_the_right() -> None:
    wheel = flow_wheel(65)
    assert wheel.shape == (65, 65, 3)
    np.testing.assert_array_equal(wheel[0, 0], 1.0)
    assert wheel[32, 63, 0] == pytest.approx(1, abs=0.01) and wheel[32, 63, 1] < 0.1


def test_folds_are_red_and_nothing_else_is() -> None:
    scale = jacobian_scale(0.3)
    picture = jacobian_picture(np.array([[-0.2, 0.0, 0.7, 1.0, 1.3]]), scale)[0]
    assert picture[0].tolist() == picture[1].tolist() == pytest.approx([0.85, 0.0, 0.1])
    assert picture[2, 2] > picture[2, 0] + 0.3  # shrunk is blue
    assert np.ptp(picture[3]) < 0.02 and picture[3].min() > 0.9
    assert picture[4, 0] > picture[4, 2] + 0.3  # grown is orange


@pytest.mark.parametrize(("height", "width"), [(2, 3), (3, 2), (1, 1), (9, 16)])
def test_a_square_gets_its_own_shape_back(height: int, width: int) -> None:
    picture = unsqueezed(torch.rand(3, 64, 64), torch.tensor(frame_of(height, width)))
    assert max(picture.shape[:2]) == 64
    assert picture.shape[1] / picture.shape[0] == pytest.approx(width / height, rel=0.02)
    assert picture.min() >= 0 and picture.max() <= 1


def test_curves_are_green_where_they_become_straight_and_red_where_they_stay_bent() -> None:
    frame = torch.tensor(frame_of(40, 60))
    level, upright = torch.zeros(30, 2), torch.zeros(30, 2)
    level[:, 0], level[:, 1] = torch.linspace(-0.9, 0.9, 30) * frame[0], 0.51 * frame[1]
    upright[:, 1] = torch.linspace(-0.9, 0.2, 30) * frame[1]
    white = np.ones((40, 60, 3), np.float32)
    shown = with_curves(white, [(level, 1e-4), (upright, 1e-2)], frame, straight=3e-4, bent=3e-3)
    rows, columns = np.nonzero(shown[..., 1] > 0.9)
    assert set(rows) == {30} and len(columns) == 30 and (shown[rows, columns, 0] == 0).all()
    rows, columns = np.nonzero(shown[..., 0] > 0.9)
    assert set(columns) == {30} and rows.max() == 24 and (shown[rows, columns, 1] == 0).all()
    assert shown[0, 0].tolist() == [0.5, 0.5, 0.5]

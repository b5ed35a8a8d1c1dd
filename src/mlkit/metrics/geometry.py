"""Scores of maps and of what they make of lines; one value per image. B images, H rows, W columns.

A map is a backward grid [B, H, W, 2]: for each pixel of a corrected picture the place (x, y) in the distorted one, in
grid coordinates: -1 and 1 are the picture's edges, as `grid_sample(align_corners=False)` has them. Lengths are told in
px of a picture that is 1000 px wide, so that they compare over sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIDTH_PX = 1000.0  # lengths are those in a picture of this width


def end_point_error(grid: Tensor, truth: Tensor, frame: Tensor) -> Tensor:
    """Return the distance between two maps in px at 1000 px width, [B, H, W].

    Args:
        grid, truth: [B, H, W, 2].
        frame: [B, 2], half width and half height in half-diagonals, so that pixels may be oblong.
    """
    assert grid.shape == truth.shape, f"maps of shapes {tuple(grid.shape)} and {tuple(truth.shape)}"
    half_width, half_height = frame[:, 0].double(), frame[:, 1].double()
    px = torch.stack((torch.ones_like(half_width), half_height / half_width), dim=1) * (WIDTH_PX / 2)
    distance: Tensor = ((grid.double() - truth.double()) * px[:, None, None]).norm(dim=-1)
    return distance


def scaled_error(grid: Tensor, truth: Tensor, frame: Tensor) -> Tensor:
    """Return the distance between two maps as `end_point_error`, the first enlarged about the middle so that they fit
    best in least squares: what a picture tells, in which every scale leaves straight lines straight; [B, H, W]."""
    half = frame.double()[:, None, None]
    made, true = grid.double() * half, truth.double() * half
    scale = (made * true).sum(dim=(1, 2, 3)) / made.square().sum(dim=(1, 2, 3))
    return end_point_error(grid * scale[:, None, None, None], truth, frame)


def corners(values: Tensor) -> Tensor:
    """Return the mean over the four corner pixels of [B, H, W], [B]."""
    return values[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(dim=1)


def jacobian(grid: Tensor) -> Tensor:
    """Return the determinant of a map's Jacobian by forward differences, float64, [B, H - 1, W - 1]; 1 where it moves
    without change, 0 or less where it folds.

    In float64 whatever the input: of a map in bf16 the differences of neighbours are rounding.
    """
    height, width = grid.shape[1:3]
    assert min(height, width) > 1, f"a map of {width} x {height} has no differences"
    grid = grid.double()
    right = (grid[:, :, 1:] - grid[:, :, :-1])[:, :-1] * (width / 2)
    down = (grid[:, 1:] - grid[:, :-1])[:, :, :-1] * (height / 2)
    return right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]


def jacobian_stats(grid: Tensor) -> dict[str, Tensor]:
    """Return of each image, [B] each: a bad one must not hide among the others.

    negative_det_pct: percent of the picture that folds over (determinant of 0 or less).
    det_min, det_p01: smallest determinant, and the first percentile.
    oob_ratio: share of the corrected picture whose source lies outside the distorted one.
    """
    det = jacobian(grid).flatten(1)
    place = max(1, round(0.01 * det.shape[1]))
    return {
        "negative_det_pct": 100.0 * (det <= 0).double().mean(dim=1),
        "det_min": det.amin(dim=1),
        "det_p01": det.kthvalue(
            place, dim=1
        ).values,  # torch.quantile refuses 2^24 elements, a picture of 17 megapixels
        "oob_ratio": 1.0 - inside(grid).double().mean(dim=(1, 2)),
    }


def inside(grid: Tensor) -> Tensor:
    """Return where a map stays within the distorted picture, bool [B, H, W]."""
    return (grid.abs() <= 1.0).all(dim=-1)


def bend(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far points [..., N, 2] of a line lie from the straight line that fits them best: the root mean square
    distance, in their unit, [...]; NaN where a point is.

    The line is the one of total least squares, so that turning or moving the points changes nothing.
    """
    assert points.shape[-2] >= 3 and points.shape[-1] == 2, f"a line of shape {points.shape}"
    values = np.asarray(points, np.float64)
    missing = np.asarray(~np.isfinite(values).all(axis=(-1, -2)))
    centred = np.where(missing[..., None, None], 0.0, values)
    centred = centred - centred.mean(axis=-2, keepdims=True)
    # the smaller singular value is the norm of the distances to the best line
    distance = np.linalg.svd(centred, compute_uv=False)[..., 1] / np.sqrt(points.shape[-2])
    return np.where(missing, np.nan, distance)

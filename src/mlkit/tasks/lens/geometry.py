"""Maps between pictures: the lens model, residual flows, warps, inverses. One convention, used everywhere:

- Grid coordinates: (x right, y down), -1 and 1 are the edges of a picture, not the centres of its outer pixels:
  `align_corners=False` of torch. The centre of pixel (column, row) is ((2 column + 1) / W - 1, (2 row + 1) / H - 1). A
  picture that is reduced by area means keeps its grid coordinates, so what is found at 256 px holds at any size.
- Isotropic coordinates: grid coordinates times the frame (ax, ay) = (W, H) / hypot(W, H): 1 is half a diagonal, and
  each corner has r = 1. The lens model and flows live here. (In grid coordinates r would be elliptical: on a 3:2
  picture the same coefficient would move a point twice as far along y as along x.)
- Maps are backward: for each pixel of the corrected picture, where in the distorted one its colour lies, [B, H, W, 2]
  in grid coordinates, as `grid_sample` takes them. A picture is sampled once, by one map.
- The lens model maps undistorted to distorted points, as OpenCV's and lensfun's do (Brown 1966; Conrady 1919):

      x, y = (point - centre) / scale;  r^2 = x^2 + y^2;  radial = 1 + k1 r^2 + k2 r^4 + k3 r^6
      x' = x radial + 2 p1 x y + p2 (r^2 + 2 x^2)
      y' = y radial + p1 (r^2 + 2 y^2) + 2 p2 x y;  result = (x', y') + centre

  Negative k1 is barrel distortion. Scale > 1 enlarges the corrected picture.

Parameters are [B, 8] in the order of NAMES. Everything is float32 or wider, also under autocast.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("k1", "k2", "k3", "p1", "p2", "cx", "cy", "scale")
IDENTITY = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def frame_of(height: int, width: int) -> tuple[float, float]:
    """Return half width and half height of a picture in half-diagonals."""
    diagonal = math.hypot(height, width)
    return width / diagonal, height / diagonal


def identity_grid(height: int, width: int, *, device: torch.device | None = None, rows: slice | None = None) -> Tensor:
    """Return the grid coordinates of all pixels' centres, [H, W, 2]; of some rows alone where `rows` says so."""
    y = (2.0 * torch.arange(height, device=device, dtype=torch.float64) + 1.0) / height - 1.0
    x = (2.0 * torch.arange(width, device=device, dtype=torch.float64) + 1.0) / width - 1.0
    y = y if rows is None else y[rows]
    down, right = torch.meshgrid(y.float(), x.float(), indexing="ij")
    return torch.stack((right, down), dim=-1)


def distorted_points(params: Tensor, points: Tensor) -> Tensor:
    """Return where the lens puts undistorted points.

    Args:
        params: [B, 8].
        points: [B, ..., 2] in isotropic coordinates.
    """
    params, points = _wide(params), _wide(points)
    shape = (len(params), *[1] * (points.ndim - 2))
    k1, k2, k3, p1, p2, cx, cy, scale = (params[:, index].reshape(shape) for index in range(len(NAMES)))
    x, y = (points[..., 0] - cx) / scale, (points[..., 1] - cy) / scale
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    moved_x = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
    moved_y = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
    return torch.stack((moved_x + cx, moved_y + cy), dim=-1)


def undistorted_points(params: Tensor, points: Tensor, *, iterations: int = 30) -> Tensor:
    """Return the undistorted points that the lens puts at `points`, [B, ..., 2], by Newton's method in float64.

    Where the lens folds the plane there may be no such point; the result is then NaN.
    """
    params, target = params.double(), points.double()
    found = target.clone()
    step = 1e-6
    for _ in range(iterations):
        value = distorted_points(params, found)
        right = (distorted_points(params, found + found.new_tensor((step, 0.0))) - value) / step
        down = (distorted_points(params, found + found.new_tensor((0.0, step))) - value) / step
        rest = target - value
        det = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
        det = torch.where(det.abs() < 1e-9, torch.full_like(det, 1e-9), det)
        move_x = (rest[..., 0] * down[..., 1] - rest[..., 1] * down[..., 0]) / det
        move_y = (right[..., 0] * rest[..., 1] - right[..., 1] * rest[..., 0]) / det
        found = found + torch.stack((move_x, move_y), dim=-1).clamp(-0.5, 0.5)
    missed = (distorted_points(params, found) - target).norm(dim=-1, keepdim=True) > 1e-6
    return torch.where(missed, torch.full_like(found, torch.nan), found)


def parametric_grid(params: Tensor, frame: Tensor, height: int, width: int) -> Tensor:
    """Return the map of the lens model, [B, H, W, 2].

    Args:
        params: [B, 8].
        frame: [B, 2] as `frame_of`; of the picture itself, which need not be H by W in shape.
        height, width: of the map in px.
    """
    frame = _wide(frame)[:, None, None]
    points = identity_grid(height, width, device=params.device) * frame
    return distorted_points(params, points) / frame


def profile_grid(profile: Tensor, frame: Tensor, height: int, width: int) -> Tensor:
    """Return the true map of a radial profile (profiles.py), [B, H, W, 2].

    Args:
        profile: [B, 7]: c0 .. c4, and the lens's axis in half-diagonals.
        frame: [B, 2].
        height, width: of the map in px.
    """
    frame, profile = _wide(frame)[:, None, None], _wide(profile)
    centre = profile[:, None, None, 5:7]
    points = identity_grid(height, width, device=profile.device) * frame - centre
    radius = points.norm(dim=-1, keepdim=True)
    ratio = torch.zeros_like(radius)
    for place in range(4, -1, -1):
        ratio = ratio * radius + profile[:, place, None, None, None]
    return (points * ratio + centre) / frame


def profile_undistorted(profile: Tensor, points: Tensor) -> Tensor:
    """Return the undistorted places of points [B, ..., 2] in isotropic coordinates, by Newton's method, float64."""
    profile, points = profile.double(), points.double()
    shape = (len(profile), *[1] * (points.ndim - 2))
    terms = [profile[:, place].reshape(shape) for place in range(5)]
    centre = profile[:, 5:7].reshape(len(profile), *[1] * (points.ndim - 2), 2)
    offset = points - centre
    radius = offset.norm(dim=-1)
    found = radius.clone()
    for _ in range(12):
        value, slope = torch.zeros_like(found), torch.zeros_like(found)
        for place in range(4, -1, -1):
            value = value * found + terms[place]
            slope = slope * found + (place + 1) * terms[place]
        found = found - (found * value - radius) / slope.clamp_min(0.05)
    undone: Tensor = offset * (found / radius.clamp_min(1e-12))[..., None] + centre
    return undone


def upsample_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """Return a flow of low resolution at a map's size, bicubic: [B, 2, h, w] to [B, 2, H, W]; its unit stays."""
    with torch.autocast(flow.device.type, enabled=False):
        return F.interpolate(_wide(flow), size=(height, width), mode="bicubic", align_corners=False)


def flow_at(flow: Tensor, places: Tensor) -> Tensor:
    """Return a flow of low resolution at places [B, H, W, 2] in grid coordinates, bicubic, [B, 2, H, W].

    The same values as `upsample_flow`, for a part of a picture that is too large to hold as a whole.
    """
    return F.grid_sample(_wide(flow), places, mode="bicubic", padding_mode="border", align_corners=False)


def fuse(grid: Tensor, flow: Tensor, frame: Tensor) -> Tensor:
    """Return the map of lens model and residual flow together: the flow, in half-diagonals, is added.

    Args:
        grid: [B, H, W, 2].
        flow: [B, 2, H, W].
        frame: [B, 2].
    """
    return grid + flow.permute(0, 2, 3, 1) / _wide(frame)[:, None, None]


def warp(image: Tensor, grid: Tensor, *, mode: str = "bicubic") -> Tensor:
    """Return an image [B, C, H, W] seen through a map; beyond its edge lies its last row or column.

    Bicubic is Keys' kernel with a = -0.75, as OpenCV's, and overshoots at edges: values may leave [0, 1].
    """
    assert mode in ("bicubic", "bilinear"), mode
    with torch.autocast(image.device.type, enabled=False):
        return F.grid_sample(_wide(image), _wide(grid), mode=mode, padding_mode="border", align_corners=False)


def inverse_grid(grid: Tensor, *, iterations: int = 40) -> Tensor:
    """Return the map that undoes another, [B, H, W, 2]; NaN where what would have to be known lies outside.

    By the fixed point q = p - d(q) (Chen et al. 2008, "A simple fixed-point approach to invert a deformation field"),
    which holds for maps that move less than a pixel per pixel.
    """
    height, width = grid.shape[1:3]
    places = identity_grid(height, width, device=grid.device).expand_as(grid)
    moves = (_wide(grid) - places).permute(0, 3, 1, 2)
    found = places
    for _ in range(iterations):
        at = F.grid_sample(moves, found, mode="bilinear", padding_mode="border", align_corners=False)
        found = places - at.permute(0, 2, 3, 1)
    at = F.grid_sample(moves, found, mode="bilinear", padding_mode="border", align_corners=False)
    rest = (found + at.permute(0, 2, 3, 1) - places).norm(dim=-1, keepdim=True)
    outermost = 1.0 - 1.0 / found.new_tensor((width, height))  # centres of the outer pixels: beyond them is no map
    missed = (rest > 0.05 / max(height, width)) | (found.abs() > outermost).any(dim=-1, keepdim=True)
    return torch.where(missed, torch.full_like(found, torch.nan), found)


def _wide(values: Tensor) -> Tensor:
    """Return float32 or wider: in bf16 a pixel of a large picture has no coordinates of its own."""
    return values if values.dtype == torch.float64 else values.float()

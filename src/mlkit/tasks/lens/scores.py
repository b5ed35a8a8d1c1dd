"""Scores of corrected pictures and their maps, one value per image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.metrics import geometry as maps
from mlkit.metrics.image import ssim_terms
from mlkit.tasks.lens.geometry import (
    distorted_points,
    flow_at,
    identity_grid,
    profile_grid,
    profile_undistorted,
)

_WINDOW = 11
_LINES = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9)  # grid coordinates
_POINTS = 33
_EPE_FLOOR_PX = 0.2  # a lens without distortion is no reason to divide by nothing


def picture_scores(made: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Return "psnr" and "ssim" inside the valid area.

    Args:
        made, target: [B, 3, H, W]; clipped to [0, 1].
        valid: bool [B, H, W]. Windows of the SSIM count where they are valid whole.
    """
    made, target, inside = made.float().clamp(0, 1), target.float().clamp(0, 1), valid[:, None].double()
    error = (made.double() - target.double()).square() * inside
    mse = error.sum(dim=(1, 2, 3)) / (3 * inside.sum(dim=(1, 2, 3)))
    luminance, structure = ssim_terms(made, target)
    whole = -F.max_pool2d(-inside.float(), _WINDOW, stride=1).double()
    ssim = (luminance * structure * whole).sum(dim=(1, 2, 3)) / (3 * whole.sum(dim=(1, 2, 3)))
    return {"psnr": -10.0 * torch.log10(mse), "ssim": ssim}


def map_scores(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the distances of "map" and "parametric_map" to the true map of "profile"; NaN where none is known."""
    grid, frame = outputs["map"], batch["frame"]
    keys = ("epe_px", "epe_shape_px", "epe_corner_px", "epe_param_px", "epe_share", "bend_px")
    if "profile" not in batch:
        return {key: grid.new_full((len(grid),), torch.nan) for key in keys}
    height, width = grid.shape[1:3]
    truth = profile_grid(batch["profile"], frame, height, width)
    error = maps.end_point_error(grid, truth, frame)
    mean = error.mean(dim=(1, 2))
    identity = identity_grid(height, width, device=grid.device).expand_as(truth)
    without = maps.end_point_error(identity, truth, frame).mean(dim=(1, 2))
    return {
        "epe_px": mean,
        "epe_shape_px": maps.scaled_error(grid, truth, frame).mean(dim=(1, 2)),
        "epe_corner_px": maps.corners(error),
        "epe_param_px": maps.end_point_error(outputs["parametric_map"], truth, frame).mean(dim=(1, 2)),
        "epe_share": mean / without.clamp_min(_EPE_FLOOR_PX),
        "bend_px": bends(outputs["params"], outputs["flow"], batch["profile"], frame),
    }


def bends(params: Tensor, flow: Tensor, profile: Tensor, frame: Tensor) -> Tensor:
    """Return the mean bend of seven level and seven upright lines of the corrected picture, in px at 1000 px, [B].

    Points on a straight line of the corrected picture go through the map to the distorted picture, and from there
    through the true lens back to where they really are.
    """
    along = torch.linspace(-1.0, 1.0, _POINTS, device=frame.device)
    across = torch.tensor(_LINES, device=frame.device)
    fixed, moving = torch.meshgrid(across, along, indexing="ij")
    lines = torch.cat((torch.stack((moving, fixed), dim=-1), torch.stack((fixed, moving), dim=-1)))
    places = lines[None].expand(len(frame), -1, -1, -1)
    points = places * frame.float()[:, None, None]
    seen = distorted_points(params, points) + flow_at(flow, places).permute(0, 2, 3, 1)
    world = profile_undistorted(profile, seen)
    px = world.detach().cpu().numpy() * (maps.WIDTH_PX / 2 / frame.double().cpu().numpy()[:, :1, None, None])
    return torch.from_numpy(np.asarray(maps.bend(px).mean(axis=1))).to(frame.device)

"""What pictures of maps look like: the flow as a colour wheel, the Jacobian as a scale, squares in their own shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mlkit.imaging.grids import ColorScale, apply_scale

Floats = NDArray[np.float32]

_STILL = 1e-4  # half-diagonals: 0.06 px of a picture 1000 px wide


def unsqueezed(image: Tensor, frame: Tensor) -> Floats:
    """Return a squeezed picture [3, S, S] in its own shape, its longer side S px, [H, W, 3] in [0, 1]."""
    side = image.shape[-1]
    half_width, half_height = (float(value) for value in frame)
    longer = max(half_width, half_height)
    size = (max(1, round(side * half_height / longer)), max(1, round(side * half_width / longer)))
    shaped = F.interpolate(image[None].float(), size=size, mode="bicubic", align_corners=False, antialias=True)[0]
    picture: Floats = shaped.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return picture


def with_curves(
    picture: Floats, curves: Sequence[tuple[Tensor, float]], frame: Tensor, straight: float, bent: float
) -> Floats:
    """Return a picture in dark grey with curves on it: green where they become straight, red where they stay bent.

    Args:
        picture: [H, W, 3] in [0, 1].
        curves: of `heard_curves`.
        frame: [2].
        straight, bent: half-diagonals of a bend that is wholly green, and wholly red.
    """
    height, width = picture.shape[:2]
    grey = picture.mean(axis=2, keepdims=True) * np.float32(0.5)
    shown: Floats = np.repeat(grey, 3, axis=2)
    for places, rms in sorted(curves, key=lambda curve: -curve[1]):
        at = ((places / frame + 1) / 2 * places.new_tensor([width, height])).long().numpy()
        share = min(1.0, max(0.0, math.log(max(rms, 1e-9) / straight) / math.log(bent / straight)))
        color = np.array([min(1.0, 2 * share), min(1.0, 2 - 2 * share), 0.2], np.float32)
        shown[at[:, 1].clip(0, height - 1), at[:, 0].clip(0, width - 1)] = color
    return shown


def flow_colors(flow: NDArray[np.floating], largest: float) -> Floats:
    """Return a flow [H, W, 2] in half-diagonals as colours: the hue is the direction, white stands still, `largest` is
    vivid, unless that is so small that it shows roundings.

    Red points right, then by way of yellow-green, cyan and violet clockwise round, as y points down.
    """
    turn = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1.0
    size = np.clip(np.hypot(flow[..., 0], flow[..., 1]) / max(largest, _STILL), 0.0, 1.0)
    wheel = np.stack([np.abs((turn * 6 + offset) % 6 - 3) - 1 for offset in (0, 4, 2)], axis=-1).clip(0, 1)
    return np.asarray(1.0 - size[..., None] * (1.0 - wheel), np.float32)


def flow_wheel(side: int = 96) -> Floats:
    """Return the key to `flow_colors`, [side, side, 3]: a disc whose edge is the largest flow."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    places = np.stack(np.meshgrid(axis, axis), axis=-1)
    return np.where((np.hypot(places[..., 0], places[..., 1]) <= 1)[..., None], flow_colors(places, 1.0), np.float32(1))


def jacobian_scale(span: float) -> ColorScale:
    """Return blue over white to orange for 1 - span to 1 + span: shrunk, kept, enlarged; what folds is not on it."""
    share = np.linspace(-1.0, 1.0, 256)[:, None]
    shrunk, kept, grown = (np.array(color) for color in ((0.10, 0.30, 0.65), (0.97, 0.97, 0.97), (0.80, 0.36, 0.05)))
    colors = np.where(share < 0, kept + (shrunk - kept) * -share, kept + (grown - kept) * share)
    return ColorScale("det J", 1.0 - span, 1.0 + span, colors)


def jacobian_picture(det: NDArray[np.floating], scale: ColorScale) -> Floats:
    """Return determinants [H, W] as colours; red where the map folds."""
    picture = apply_scale(det, scale)
    picture[det <= 0] = (0.85, 0.0, 0.1)
    return picture

"""What is minimised: the true map where it is known, the picture it makes, and how calm the flow is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.metrics.geometry import inside, jacobian
from mlkit.metrics.image import ssim_terms
from mlkit.tasks.lens.geometry import profile_grid, warp
from mlkit.tasks.lens.model import maps_of
from mlkit.tasks.lens.settings import LensLoss

_HUNDREDTHS = 100.0  # maps and flows are counted in hundredths of a half-diagonal: 6 px of a picture 1000 px wide
_CHARBONNIER = 1e-3
_EDGE_FLOOR = 1e-3  # of squared gradients, so that roots have slopes
_WINDOW = 11  # of the SSIM
_MAP_STEP = 4  # px between the places at which maps are compared: they are smooth


def objective(
    outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], weights: LensLoss, *, has_flow: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and its parts, detached and before weighting; parts without weight are not computed.

    Args:
        outputs: of the network.
        batch: "image", "target", "frame" and, where the true map is known, "profile".
        weights: of the parts.
        has_flow: whether the stage has a residual flow.
    """
    image, target, frame = batch["image"].float(), batch["target"].float(), batch["frame"]
    height, width = image.shape[-2:]
    parts: dict[str, Tensor] = {}
    total = torch.zeros((), device=image.device)

    def add(name: str, weight: float, value: Tensor) -> None:
        nonlocal total
        total = total + weight * value
        parts[name] = value.detach()

    if weights.map > 0 and "profile" in batch:
        size = (height // _MAP_STEP, width // _MAP_STEP)
        truth = profile_grid(batch["profile"], frame, *size)
        _, made = maps_of(outputs, frame, *size)
        distance = ((made - truth) * frame[:, None, None]).square().sum(dim=-1).add(1e-10).sqrt()
        add("map", weights.map, _HUNDREDTHS * distance.mean())
    compares = weights.pixel + weights.ssim + weights.edge + weights.orientation > 0
    if compares or weights.jacobian > 0:
        _, grid = maps_of(outputs, frame, height, width)
    if compares:
        seen = warp(image, grid)
        valid = inside(grid.detach())
        if "profile" in batch:
            valid = valid & inside(profile_grid(batch["profile"], frame, height, width))
        for name, weight, value in _image_terms(seen, target, valid[:, None].float(), weights):
            add(name, weight, value)
    if has_flow:
        flow = outputs["flow"].float() * _HUNDREDTHS
        for name, weight, value in _flow_terms(flow, weights):
            add(name, weight, value)
    if weights.jacobian > 0:
        add("jacobian", weights.jacobian, F.relu(weights.jacobian_margin - jacobian(grid)).mean().float())
    return total, parts


def _image_terms(seen: Tensor, target: Tensor, valid: Tensor, weights: LensLoss) -> list[tuple[str, float, Tensor]]:
    """Return name, weight and value of the terms that compare pictures, each the mean over full and half size."""
    sums: dict[str, list[Tensor]] = {}
    for _ in range(2):
        if weights.pixel > 0:
            difference = seen - target
            size = difference.abs()
            if weights.pixel_kind == "charbonnier":
                size = (difference.square() + _CHARBONNIER**2).sqrt()
            sums.setdefault("pixel", []).append(_mean(size, valid))
        if weights.ssim > 0 and min(seen.shape[-2:]) >= _WINDOW:
            sums.setdefault("ssim_loss", []).append(_ssim_loss(seen, target, valid))
        if weights.edge > 0 or weights.orientation > 0:
            edge, orientation = _gradient_losses(seen, target, valid)
            sums.setdefault("edge", []).append(edge)
            sums.setdefault("orientation", []).append(orientation)
        seen, target = F.avg_pool2d(seen, 2), F.avg_pool2d(target, 2)
        valid = -F.max_pool2d(-valid, 2)
    named = {
        "pixel": weights.pixel,
        "ssim_loss": weights.ssim,
        "edge": weights.edge,
        "orientation": weights.orientation,
    }
    return [(name, named[name], torch.stack(values).mean()) for name, values in sums.items() if named[name] > 0]


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over images of the mean over their valid pixels, which is 0 where none is valid.

    Image by image, so that a batch on several processes has the loss that it has on one.
    """
    count = (valid.sum(dim=(1, 2, 3)) * values.shape[1]).clamp_min(1.0)
    return ((values * valid).sum(dim=(1, 2, 3)) / count).mean()


def _ssim_loss(seen: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return 1 - SSIM over the windows that lie in the valid area whole."""
    luminance, structure = ssim_terms(seen, target)
    whole = -F.max_pool2d(-valid, _WINDOW, stride=1)
    return _mean(1.0 - luminance * structure, whole)


def _gradient_losses(seen: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the L1 of Sobel magnitudes, and 1 - |cosine| of gradient directions weighted by the target's magnitude.

    A direction and its opposite count as the same, as an edge has no front.
    """
    (seen_x, seen_y), (target_x, target_y) = _sobel(seen), _sobel(target)
    seen_size = (seen_x.square() + seen_y.square() + _EDGE_FLOOR**2).sqrt()
    target_size = (target_x.square() + target_y.square() + _EDGE_FLOOR**2).sqrt()
    inner = -F.max_pool2d(-valid, 3, stride=1)
    edge = _mean((seen_size - target_size).abs(), inner)
    cosine = (seen_x * target_x + seen_y * target_y) / (seen_size * target_size)
    weight = target_size * inner
    across = ((1.0 - cosine.abs()) * weight).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp_min(1e-6)
    return edge, across.mean()


def _sobel(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return Sobel's derivatives of the luma along x and y, [B, 1, H - 2, W - 2]."""
    luma = image.mean(dim=1, keepdim=True)
    kernel = luma.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0
    both = F.conv2d(luma, torch.stack((kernel, kernel.T))[:, None])
    return both[:, :1], both[:, 1:]


def _flow_terms(flow: Tensor, weights: LensLoss) -> list[tuple[str, float, Tensor]]:
    """Return the terms that hold a flow [B, 2, h, w]: variation, size, second differences."""
    right, down = flow[..., 1:] - flow[..., :-1], flow[..., 1:, :] - flow[..., :-1, :]
    terms = []
    if weights.flow_tv > 0:
        terms.append(("flow_tv", weights.flow_tv, right.abs().mean() + down.abs().mean()))
    if weights.flow_mag > 0:
        terms.append(("flow_mag", weights.flow_mag, flow.square().mean()))
    if weights.flow_curv > 0:
        bend = _mean_square(right[..., 1:] - right[..., :-1]) + _mean_square(down[..., 1:, :] - down[..., :-1, :])
        terms.append(("flow_curv", weights.flow_curv, bend))
    return terms


def _mean_square(values: Tensor) -> Tensor:
    """Return the mean square, 0 of nothing: a flow two places wide has no second differences."""
    return values.square().sum() / max(1, values.numel())

"""Straight lines that a lens bent: edge curves of a picture, and the lens that makes them straight.

No part of this learns. Edges are found to a fraction of a pixel (as Devernay and Faugeras 2001 do), gathered along
parabolas that grow from seeds, and each curve is reduced to second moments, from which the lens follows (plumb.py).

Everything is in isotropic coordinates (geometry.py). B pictures, P edge points, S curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.tasks.lens.geometry import IDENTITY
from mlkit.tasks.lens.plumb import (
    NUM_SHAPES,
    Found,
    forward_parameters,
    found_lens,
    moments,
    straightness_weight,
    undone,
)

NUM_FACTS = 2 * NUM_SHAPES + 7
SURE = -1  # place among the facts of how sure the answer is, 0 to 1

_POINTS_PER_PX = 16  # of a side: as the picture grows, so does the number of px along its edges
_CELLS = 12  # along either side; a seed in each
_SMOOTHING_PX = 1.0
_RADIUS = 3
_PARTS = 6  # along either side, in which edges are compared with their neighbours
_FAINT = 0.01  # of gradients a px, below which nothing counts as an edge
_WINDOWS = (0.06, 0.13, 0.3, 0.7, 1.6)  # half-lengths of a curve as it grows
_TOLERANCE, _TOLERANCE_UNDONE = 0.004, 0.0015  # distance of a point from its curve, behind the lens and without it
_STEP = 1e-3
_TURN = 0.25  # sine of the angle between an edge and its curve
_GAP = 0.03
_BINS, _SPAN = 128, 1.6
_SHORTEST, _FEWEST = 0.15, 12  # curves below this length or number of points are left out


@torch.no_grad()
def lens_of_lines(image: Tensor, frame: Tensor, sure: float) -> tuple[Tensor, Tensor]:
    """Return the lens parameters that straight lines ask for, [B, 8], and what speaks for them, [B, NUM_FACTS].

    Without lines, and where they do not tell the lens surely, the parameters are the identity; without, the facts
    are 0. Facts are the lens's shapes and how sure each is, how bent curves stay, how many and long they are, and how
    sure the whole is (`SURE`).

    Args:
        image: [B, 3, H, W] in [0, 1].
        frame: [B, 2].
        sure: how likely it must be that following the lines comes nearer to the truth than doing nothing, 0 to 1.
    """
    pairs = zip(_all_heard(image, frame), frame.detach().float().cpu(), strict=True)
    params, facts = zip(*(_told(heard, one, sure) for (_, heard), one in pairs), strict=True)
    return torch.stack(params).to(image.device), torch.stack(facts).to(image.device)


@torch.no_grad()
def heard_curves(image: Tensor, frame: Tensor) -> list[tuple[Tensor, float]]:
    """Return the curves of one picture that lines are heard in: places of each [n, 2], and how bent it stays once the
    lens is undone, in half-diagonals.

    Args:
        image: [1, 3, H, W] in [0, 1].
        frame: [1, 2].
    """
    ((place, heard),) = _all_heard(image, frame)
    if heard is None:
        return []
    return [(place[one], rms) for one, rms in zip(heard.member, heard.found.rms.tolist(), strict=True)]


def _all_heard(image: Tensor, frame: Tensor) -> Iterator[tuple[Tensor, _Heard | None]]:
    """Yield the edge points [P, 2] of each picture, and what they tell."""
    pictures, frames = image.detach().float().cpu(), frame.detach().float().cpu()
    side = math.sqrt(image.shape[-2] * image.shape[-1])
    with torch.autocast("cpu", enabled=False):  # a hundredth of a pixel is less than bf16 knows
        place, along, strength = edge_points(pictures, frames, round(_POINTS_PER_PX * side))
        for number in range(len(pictures)):
            pixel = 2 * float(frames[number].prod().sqrt()) / side
            real = slice(int((strength[number] > 0).sum()))  # the strongest come first
            points = place[number, real], along[number, real], strength[number, real]
            yield points[0], _heard(*points, frames[number], pixel)


def edge_points(image: Tensor, frame: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the clearest edge points of pictures: places [B, P, 2], directions along the edge [B, P, 2], strengths
    [B, P], which are 0 where there are fewer.

    Args:
        image: [B, 3, H, W] in [0, 1].
        frame: [B, 2].
        number: P.
    """
    height, width = image.shape[-2:]
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=image.dtype)
    bell = torch.exp(-0.5 * (offsets / _SMOOTHING_PX) ** 2)
    bell = bell / bell.sum()
    slope = offsets * bell / (offsets.square() * bell).sum()
    wide = F.pad(image, (_RADIUS,) * 4, mode="replicate")
    gx = _filtered(_filtered(wide, slope, -1), bell, -2)
    gy = _filtered(_filtered(wide, bell, -1), slope, -2)
    gx, gy = _clearest(gx, gy)
    size = (gx * gx + gy * gy).sqrt()
    wide = F.pad(size, (1, 1, 1, 1))
    is_steep = gx.abs() >= gy.abs()
    before = torch.where(is_steep, wide[:, 1:-1, :-2], wide[:, :-2, 1:-1])
    after = torch.where(is_steep, wide[:, 1:-1, 2:], wide[:, 2:, 1:-1])
    is_peak = (size > before) & (size >= after) & (size > _FAINT)
    is_peak[:, :_RADIUS] = is_peak[:, -_RADIUS:] = False
    is_peak[:, :, :_RADIUS] = is_peak[:, :, -_RADIUS:] = False
    # the vertex of a parabola through three gradients, along the axis that the edge crosses
    offset = (0.5 * (before - after) / (before - 2 * size + after).clamp_max(-1e-6)).clamp(-0.5, 0.5)
    # clear among their neighbours, so that one busy part does not take all places
    coarse = F.adaptive_avg_pool2d(size[:, None], _PARTS)
    around = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    clear = torch.where(is_peak, size / (around + _FAINT), torch.zeros_like(size)).flatten(1)
    strength, index = clear.topk(min(number, clear.shape[1]), dim=1)

    def at(values: Tensor) -> Tensor:
        return values.flatten(1).gather(1, index)

    moved, steep = at(offset), at(is_steep)
    x = (2 * (index % width + torch.where(steep, moved, 0.0)) + 1) / width - 1
    y = (2 * (index // width + torch.where(steep, 0.0, moved)) + 1) / height - 1
    half = frame.to(image)[:, None]
    normal = torch.stack((at(gx) * width, at(gy) * height), dim=-1) / half
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return torch.stack((x, y), dim=-1) * half, torch.stack((-normal[..., 1], normal[..., 0]), dim=-1), strength


def _clearest(gx: Tensor, gy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients [B, H, W] of the colour where they are largest, since some edges are none in grey."""
    made_x, made_y = gx[:, 0], gy[:, 0]
    for color in range(1, gx.shape[1]):
        other_x, other_y = gx[:, color], gy[:, color]
        is_clearer = other_x * other_x + other_y * other_y > made_x * made_x + made_y * made_y
        made_x, made_y = torch.where(is_clearer, other_x, made_x), torch.where(is_clearer, other_y, made_y)
    return made_x, made_y


def _filtered(image: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Return the image correlated with a kernel along one axis, shorter by the kernel's length less one."""
    length = image.shape[axis] - len(kernel) + 1
    made = kernel[0] * image.narrow(axis, 0, length)
    for place in range(1, len(kernel)):
        made.add_(image.narrow(axis, place, length), alpha=float(kernel[place]))
    return made


def curves(
    place: Tensor, along: Tensor, strength: Tensor, frame: Tensor, *, tolerance: float = _TOLERANCE
) -> tuple[Tensor, Tensor]:
    """Return which points belong to which curve of one picture, bool [S, P], and the curves' lengths [S].

    A curve begins at the clearest point of a cell, along its edge, and grows: at each length a parabola is put through
    the points near the one before that are connected to the seed.

    Args:
        place, along, strength: [P, 2], [P, 2] and [P] of `edge_points`.
        frame: [2].
        tolerance: largest distance of a point from its curve.
    """
    seeds = _seeds(place, strength, frame)
    tangent = along[seeds]
    normal = torch.stack((-tangent[:, 1], tangent[:, 0]), dim=1)
    s, d = (axis @ place.T - (axis * place[seeds]).sum(dim=1, keepdim=True) for axis in (tangent, normal))
    far = s.abs()
    width, half = 2 * _SPAN / _BINS, _BINS // 2
    gap = max(1, round(_GAP / width))
    parabola = torch.zeros(len(seeds), 3)
    for window in _WINDOWS:
        off = (s * parabola[:, 2:]).add_(parabola[:, 1:2]).mul_(s).add_(parabola[:, :1]).sub_(d).abs_()
        # of all pairs of seeds and points few are near, so the rest is done for these alone
        seed, point = ((off < tolerance) & (far < window)).nonzero(as_tuple=True)
        place_s, slope = s[seed, point], parabola[seed, 1] + 2 * parabola[seed, 2] * s[seed, point]
        cosine, sine = ((along[point] * axis[seed]).sum(dim=1) for axis in (tangent, normal))
        follows = (sine - slope * cosine).abs() < _TURN * (1 + slope * slope).sqrt()
        seed, point, place_s = seed[follows], point[follows], place_s[follows]
        filled = torch.zeros(len(seeds), _BINS)
        filled[seed, ((place_s / _SPAN + 1.0) * half).long().clamp(0, _BINS - 1)] = 1.0
        closed = F.max_pool1d(filled[:, None], 2 * gap + 1, stride=1, padding=gap)[:, 0]
        right = width * closed[:, half:].cumprod(dim=1).sum(dim=1)
        left = width * closed[:, :half].flip(1).cumprod(dim=1).sum(dim=1)
        reached = (place_s < right[seed]) & (place_s > -left[seed])
        seed, point, place_s = seed[reached], point[reached], place_s[reached]
        parabola = _parabolas(seed, place_s, d[seed, point], len(seeds), window)
    member = torch.zeros_like(s, dtype=torch.bool)
    member[seed, point] = True
    return member, right + left


def _seeds(place: Tensor, strength: Tensor, frame: Tensor) -> Tensor:
    cell = ((place / frame + 1.0) * (_CELLS / 2)).long().clamp(0, _CELLS - 1)
    number = cell[:, 1] * _CELLS + cell[:, 0]
    clearest = torch.zeros(_CELLS * _CELLS).scatter_reduce(0, number, strength, "amax")
    return ((strength > 0) & (strength == clearest[number])).nonzero()[: _CELLS * _CELLS, 0]


def _parabolas(seed: Tensor, s: Tensor, d: Tensor, number: int, window: float) -> Tensor:
    """Return b of d = b0 + b1 s + b2 s^2 through the points of each of `number` seeds, [S, 3]; short curves are rather
    straight."""
    u, height = (s / window).double(), d.double()
    powers = torch.stack([u**power for power in range(5)] + [height * u**power for power in range(3)], dim=1)
    sums = powers.new_zeros(number, 8).index_add_(0, seed, powers)
    normal = torch.stack([sums[:, row : row + 3] for row in range(3)], dim=1)
    found = torch.linalg.solve(normal + torch.diag(sums.new_tensor([1e-3, 0.3, 3.0])), sums[:, 5:])
    made: Tensor = (found / sums.new_tensor([1.0, window, window * window])).float()
    return made


@dataclass(frozen=True, slots=True)
class _Heard:
    """The curves of one picture and the lens that they tell: member bool [S, P], length, weight and count [S]."""

    found: Found
    member: Tensor
    length: Tensor
    weight: Tensor
    count: Tensor


def _heard(place: Tensor, along: Tensor, strength: Tensor, frame: Tensor, pixel: float) -> _Heard | None:
    """Return what edge points of one picture tell; None where there are no curves."""
    heard = None
    for tolerance in (_TOLERANCE, _TOLERANCE_UNDONE):
        # the second time curves grow where the first answer has undone the lens, and must be nearly straight
        seen = (place, along) if heard is None else _undone(place, along, heard.found.sizes)
        member, length = curves(*seen, strength, frame, tolerance=tolerance)
        used = (length > _SHORTEST) & (member.sum(dim=1) >= _FEWEST)
        if not used.any():
            break
        member, length = member[used], length[used]
        moment, count = moments(place, member)
        weight = straightness_weight(length, count, member.sum(dim=1))
        heard = _Heard(found_lens(moment, count, weight, frame, pixel), member, length, weight, count)
    return heard


def _told(heard: _Heard | None, frame: Tensor, sure: float) -> tuple[Tensor, Tensor]:
    """Return the parameters [8] that one picture's curves ask for, and what speaks for them."""
    if heard is None:
        return torch.tensor(IDENTITY), torch.zeros(NUM_FACTS)
    found = heard.found
    more = (
        found.bend,
        torch.log1p(heard.weight.sum()) / 4,
        torch.log1p(heard.count.new_tensor(len(heard.member))) / 4,
        heard.length.double().mean(),
        heard.length.double().max(),
        found.rms.median() * 1000,
        found.sure,
    )
    facts = torch.cat((found.sizes, 1.0 - found.spread, torch.stack(more))).clamp(-10, 10).float()
    params = torch.tensor(IDENTITY) if float(found.sure) < sure else forward_parameters(found.sizes, frame).float()
    return params, facts


def _undone(place: Tensor, along: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return edge points and their directions without the lens."""
    here = undone(place, sizes)
    ahead = undone(place + _STEP * along, sizes) - here
    return here, ahead / ahead.norm(dim=-1, keepdim=True).clamp_min(1e-9)

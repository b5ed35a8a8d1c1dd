"""Straight lines that a lens bent: edge curves of a picture, and the radial distortion that makes them straight.

No part of this learns. Edges are found to a fraction of a pixel (as Devernay and Faugeras 2001 do), gathered along
parabolas that grow from seeds, and each curve is reduced to second moments, from which Gauss-Newton finds the
distortion that makes all of them as straight as they can be: the plumb-line method (Brown 1971), with a prior from real
lenses and little trust in curves that stay bent.

Lines tell the shape of a distortion, not its scale: any enlargement leaves them straight. The scale taken here is
lensfun's convention, that places half the shorter side from the middle stay where they are.

Everything is in isotropic coordinates (geometry.py). B pictures, P edge points, S curves, J shapes of distortion.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlkit.tasks.lens.geometry import IDENTITY, NAMES

# What r^1 .. r^4 a place moves by, as a share of its r, when real lenses are undone: principal shapes but for scale, in
# standard deviations, over the lenses of lensfun's data base that `dataset build lens` trains on by default.
SHAPES = (
    (0.00245, 0.02534, 0.02891, -0.01439),
    (-0.00192, 0.02800, 0.00645, -0.02792),
    (-0.02608, 0.00489, 0.04669, -0.03357),
)
NUM_SHAPES = len(SHAPES)
# (noise of a curve's place, rms at which a curve counts a quarter), in half-diagonals: the first trusts what it sees,
# the second asks for many lines
TRUSTS = ((0.001, 0.0007), (0.004, 0.0007))
NUM_FACTS = len(TRUSTS) * 2 * NUM_SHAPES + 4

_POINTS = 2048
_CELLS = 12  # along either side; a seed in each
_SMOOTHING_PX = 1.0
_RADIUS = 3
_PARTS = 6  # along either side, in which edges are compared with their neighbours
_FAINT = 0.01  # of gradients a px, below which nothing counts as an edge
_WINDOWS = (0.06, 0.13, 0.3, 0.7, 1.6)  # half-lengths of a curve as it grows
_TOLERANCE = 0.004  # distance of a point from its curve
_TURN = 0.25  # sine of the angle between an edge and its curve
_GAP = 0.03
_BINS, _SPAN = 128, 1.6
_SHORTEST, _FEWEST = 0.15, 12  # curves below this length or number of points are left out
_ITERATIONS = 10
_RADII = 24


@torch.no_grad()
def lens_of_lines(image: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Return lens parameters by each of TRUSTS, [B, T, 8], and what speaks for them, [B, NUM_FACTS].

    Without lines the parameters are the identity, and the facts are 0.

    Args:
        image: [B, 3, H, W] in [0, 1].
        frame: [B, 2].
    """
    pictures, frames = image.detach().float().cpu(), frame.detach().float().cpu()
    params, facts = [], []
    with torch.autocast("cpu", enabled=False):  # a hundredth of a pixel is less than bf16 knows
        place, along, strength = edge_points(pictures, frames)
        for number in range(len(pictures)):
            real = slice(int((strength[number] > 0).sum()))  # the strongest come first
            places = place[number, real]
            member, length = curves(places, along[number, real], strength[number, real], frames[number])
            used = (length > _SHORTEST) & (member.sum(dim=1) >= _FEWEST)
            fits, told = _fits(places, member[used], length[used], frames[number])
            params.append(fits)
            facts.append(told)
    return torch.stack(params).to(image.device), torch.stack(facts).to(image.device)


def edge_points(image: Tensor, frame: Tensor, number: int = _POINTS) -> tuple[Tensor, Tensor, Tensor]:
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
    clearest = (gx * gx + gy * gy).argmax(dim=1, keepdim=True)  # of the colours, since some edges are none in grey
    gx, gy = gx.gather(1, clearest)[:, 0], gy.gather(1, clearest)[:, 0]
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


def _filtered(image: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Return the image correlated with a kernel along one axis, shorter by the kernel's length less one."""
    length = image.shape[axis] - len(kernel) + 1
    made = kernel[0] * image.narrow(axis, 0, length)
    for place in range(1, len(kernel)):
        made.add_(image.narrow(axis, place, length), alpha=float(kernel[place]))
    return made


def curves(place: Tensor, along: Tensor, strength: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Return which points belong to which curve of one picture, bool [S, P], and the curves' lengths [S].

    A curve begins at the clearest point of a cell, along its edge, and grows: at each length a parabola is put through
    the points near the one before that are connected to the seed.

    Args:
        place, along, strength: [P, 2], [P, 2] and [P] of `edge_points`.
        frame: [2].
    """
    seeds = _seeds(place, strength, frame)
    tangent = along[seeds]
    apart = place[None] - place[seeds][:, None]
    s = (apart * tangent[:, None]).sum(dim=-1)
    d = apart[..., 1] * tangent[:, :1] - apart[..., 0] * tangent[:, 1:]
    cosine, sine = along @ tangent.T, along @ torch.stack((-tangent[:, 1], tangent[:, 0]))
    cosine, sine = cosine.T, sine.T
    bins = ((s / _SPAN + 1.0) * (_BINS / 2)).long().clamp(0, _BINS - 1)
    width, half = 2 * _SPAN / _BINS, _BINS // 2
    gap = max(1, round(_GAP / width))
    parabola = torch.zeros(len(seeds), 3)
    member, length = torch.zeros_like(s, dtype=torch.bool), torch.zeros(len(seeds))
    for window in _WINDOWS:
        b0, b1, b2 = (parabola[:, place : place + 1] for place in range(3))
        slope = b1 + 2 * b2 * s
        member = (d - (b0 + s * (b1 + s * b2))).abs() < _TOLERANCE
        member &= (sine - slope * cosine).abs() < _TURN * (1 + slope * slope).sqrt()
        member &= s.abs() < window
        filled = torch.zeros(len(seeds), _BINS).scatter_add_(1, bins, member.float()) > 0
        closed = F.max_pool1d(filled.float()[:, None], 2 * gap + 1, stride=1, padding=gap)[:, 0]
        right = width * closed[:, half:].cumprod(dim=1).sum(dim=1)
        left = width * closed[:, :half].flip(1).cumprod(dim=1).sum(dim=1)
        member &= (s < right[:, None]) & (s > -left[:, None])
        length = right + left
        parabola = _parabolas(s, d, member.float(), window)
    return member, length


def _seeds(place: Tensor, strength: Tensor, frame: Tensor) -> Tensor:
    cell = ((place / frame + 1.0) * (_CELLS / 2)).long().clamp(0, _CELLS - 1)
    number = cell[:, 1] * _CELLS + cell[:, 0]
    clearest = torch.zeros(_CELLS * _CELLS).scatter_reduce(0, number, strength, "amax")
    return ((strength > 0) & (strength == clearest[number])).nonzero()[: _CELLS * _CELLS, 0]


def _parabolas(s: Tensor, d: Tensor, weight: Tensor, window: float) -> Tensor:
    """Return b of d = b0 + b1 s + b2 s^2 through each row's points, [S, 3]; short curves are rather straight."""
    u = s / window
    by_power, by_height = [weight], [weight * d]
    for _ in range(4):
        by_power.append(by_power[-1] * u)
    for _ in range(2):
        by_height.append(by_height[-1] * u)
    sums = torch.stack([values.sum(dim=1) for values in by_power], dim=1)
    right = torch.stack([values.sum(dim=1) for values in by_height], dim=1)
    normal = torch.stack([sums[:, row : row + 3] for row in range(3)], dim=1)
    found = torch.linalg.solve(normal + torch.diag(torch.tensor([1e-3, 0.3, 3.0])), right)
    made: Tensor = found / torch.tensor([1.0, window, window * window])
    return made


def _fits(place: Tensor, member: Tensor, length: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parameters [T, 8] and facts of one picture's curves."""
    if not len(member):
        return torch.tensor(IDENTITY).expand(len(TRUSTS), -1).clone(), torch.zeros(NUM_FACTS)
    moment, count = moments(place, member)
    params, facts = [], []
    rms = count
    for noise, outlier in TRUSTS:
        theta, information, rms = straightened(moment, count, noise=noise, outlier=outlier)
        params.append(forward_parameters(theta, frame))
        facts += [theta, torch.log1p(torch.diagonal(information)) / 4]
    middle = rms.median() * 1000
    more = torch.stack((torch.log1p(count.new_tensor(len(member))) / 4, length.double().mean(), middle, length.max()))
    return torch.stack(params).float(), torch.cat((*facts, more)).clamp(-10, 10).float()


def moments(place: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Return central second moments of each curve, sums over its points [S, 2 + 2 J, 2 + 2 J], and their number [S].

    The vector of a point is (x, y, x f_1(r), y f_1(r), ...) with the shapes f. A point of several curves counts for
    each in part, so that a line with many seeds counts once.
    """
    radius = place.double().norm(dim=-1, keepdim=True)
    shapes = torch.cat([radius**power for power in range(1, 5)], dim=-1) @ radius.new_tensor(SHAPES).T
    vector = torch.cat((place, (place[:, None] * shapes[..., None]).flatten(1)), dim=1)
    share = member.double()
    share = share / share.sum(dim=0, keepdim=True).clamp_min(1.0)
    count = share.sum(dim=1).clamp_min(1e-9)
    first = share @ vector
    second = (share @ (vector[:, :, None] * vector[:, None]).flatten(1)).reshape(len(share), *[vector.shape[1]] * 2)
    return second - first[:, :, None] * first[:, None] / count[:, None, None], count


def straightened(moment: Tensor, count: Tensor, *, noise: float, outlier: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sizes of the shapes [J] that make curves straightest, their information matrix [J, J], and how far
    points then lie off straight lines, the root mean square of each curve [S].

    Gauss-Newton on sum(trust * least eigenvalue of a curve's undone moments) / noise^2 + |sizes|^2; the trust in a
    curve falls with its rms (Geman and McClure 1987), first slowly, so that strong distortions are found too.
    """
    sizes = moment.new_zeros(NUM_SHAPES)
    axes, own_axis = torch.eye(2, dtype=moment.dtype), torch.eye(NUM_SHAPES, dtype=moment.dtype)
    information, rms = moment.new_zeros(NUM_SHAPES, NUM_SHAPES), count
    for iteration in range(_ITERATIONS):
        lift = torch.cat((axes, torch.kron(sizes[None], axes)), dim=1)  # [2, 2 + 2 J]: undoes a point
        values, vectors = torch.linalg.eigh(lift @ moment @ lift.T)
        normal, tangent = vectors[..., 0], vectors[..., 1]  # across and along the line, [S, 2]
        rms = (values[:, 0].clamp_min(0) / count).sqrt()
        trust = (1 + (rms / (outlier * max(1.0, 8.0 * 0.5**iteration))) ** 2) ** -2 / noise**2
        by_shape = torch.einsum("jk,sx->sjkx", own_axis, normal).flatten(2)
        across = torch.cat((torch.zeros_like(by_shape[..., :2]), by_shape), dim=2)
        moved = across @ moment  # what each shape moves points across the line, with all else
        turned = torch.einsum("sjv,sv->sj", moved, tangent @ lift)
        spread = values[:, 1, None, None].clamp_min(1e-12)
        own = moved @ across.transpose(1, 2) - turned[:, :, None] * turned[:, None] / spread
        information = torch.einsum("s,sij->ij", trust, own)
        slope = torch.einsum("s,sj->j", trust, torch.einsum("sjv,sv->sj", moved, normal @ lift))
        sizes = sizes - torch.linalg.solve(information + own_axis, slope + sizes)
    return sizes, information, rms


def forward_parameters(sizes: Tensor, frame: Tensor) -> Tensor:
    """Return the lens parameters [8] that put undistorted places where the shapes undo them, by least squares.

    Scaled so that places half the shorter side from the middle stay.
    """
    distorted = torch.linspace(1.0 / _RADII, 1.0, _RADII, dtype=torch.float64)
    terms = sizes @ sizes.new_tensor(SHAPES)

    def share(radius: Tensor) -> Tensor:
        return 1.0 + torch.stack([radius**power for power in range(1, 5)], dim=-1) @ terms

    undone = distorted * share(distorted) / share(frame.double().min())
    # distorted / undone is linear in 1 / scale, k1 / scale^3, ...; areas grow with r
    powers = torch.stack([undone**power for power in (0, 2, 4, 6)], dim=-1) * undone[:, None]
    ridge = 1e-3 * torch.diag(sizes.new_tensor([0.0, 0.01, 0.03, 0.1]))
    weight = distorted[:, None]
    normal = powers.T @ (weight * powers) + ridge
    found = torch.linalg.solve(normal, powers.T @ (weight[:, 0] * distorted))
    scale = 1.0 / found[0]
    params = sizes.new_tensor(IDENTITY)
    params[:3] = torch.stack([found[place] * scale ** (2 * place + 1) for place in (1, 2, 3)])
    params[NAMES.index("scale")] = scale
    return params

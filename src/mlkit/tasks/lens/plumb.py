"""The lens that makes curves straight: the plumb-line method (Brown 1971), answered as a mean over lenses.

A curve's bend under a lens is what a line through its undone points misses, as a length in the distorted picture: a
lens that makes the picture smaller makes every bend smaller too, and is no better for it. Bends have heavy tails, since
some curves are bent in the world, and how large they are is found with the lens: where nothing becomes straight,
curves say little, and what is left is the prior from real lenses. Longer curves say more, by their length squared.

The mean over all lenses is taken by adaptive importance sampling (Cappe et al. 2004, "Population Monte Carlo") from
points that fill space evenly, so the same curves always give the same lens, and no start can lead astray.

Lines tell the shape of a distortion, not its scale: any enlargement leaves them straight. The scale taken here is
lensfun's convention, that places half the shorter side from the middle stay where they are.

How sure an answer is follows from the same lenses: the share of them, each as likely as it is, that is nearer to the
answer than to no lens. Where curves say little it is about a half, and the answer is better not taken.

Everything is in isotropic coordinates (geometry.py). P edge points, S curves, J shapes of distortion, K tried lenses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlkit.tasks.lens.geometry import IDENTITY, NAMES, distorted_points

# What r^1 .. r^4 a place moves by, as a share of its r, when real lenses are undone: principal shapes but for scale, in
# standard deviations, over the lenses of lensfun's data base that `dataset build lens` trains on by default.
SHAPES = (
    (0.00245, 0.02534, 0.02891, -0.01439),
    (-0.00192, 0.02800, 0.00645, -0.02792),
    (-0.02608, 0.00489, 0.04669, -0.03357),
)
NUM_SHAPES = len(SHAPES)

_UNKNOWNS = NUM_SHAPES + 1  # sizes of the shapes, and the logarithm of the bend
_BEND, _BEND_SPREAD = 1e-3, 1.0  # of curves that the lens makes straight, and of its logarithm: a guess before looking
_SHARPEST_PX = 0.0565  # a bend that edges have by chance
_TRUST = 12.0  # bends that a curve of half a diagonal is worth
_TRIED = 1024
_ROUNDS, _MOST_ROUNDS = 4, 8
_FIRST_SPREAD, _WIDER = 1.5, 1.3  # of what is tried over what is believed
_FEWEST_HEARD = 40.0  # lenses, over which a round's mean must be
_RADII = 24
_ASKED = 12  # places along half a side, by which lenses are compared


@dataclass(frozen=True, slots=True)
class Found:
    """What curves say of the lens.

    sizes: of the shapes, [J]. spread: their standard deviations, [J]. bend: the logarithm of how bent curves stay, over
    that of `_BEND`. rms: of each curve, [S]. sure: how likely it is that undoing these sizes comes nearer to the truth
    than leaving the picture as it is, 0 to 1.
    """

    sizes: Tensor
    spread: Tensor
    bend: Tensor
    rms: Tensor
    sure: Tensor


def moments(place: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Return central second moments of each curve, sums over its points [S, 2 + 2 J, 2 + 2 J], and their number [S].

    The vector of a point is (x, y, x f_1(r), y f_1(r), ...) with the shapes f. A point of several curves counts for
    each in part, so that a line with many seeds counts once.

    Args:
        place: [P, 2].
        member: bool [S, P].
    """
    shapes = _shapes(place)
    vector = torch.cat((place, (place[:, None] * shapes[..., None]).flatten(1)), dim=1)
    share = member.double()
    share = share / share.sum(dim=0, keepdim=True).clamp_min(1.0)
    count = share.sum(dim=1).clamp_min(1e-9)
    first = share @ vector
    second = (share @ (vector[:, :, None] * vector[:, None]).flatten(1)).reshape(len(share), *[vector.shape[1]] * 2)
    return second - first[:, :, None] * first[:, None] / count[:, None, None], count


def undone(place: Tensor, sizes: Tensor) -> Tensor:
    """Return points [P, 2] without the lens of these sizes [J]."""
    made: Tensor = (place * (1.0 + _shapes(place) @ sizes)[:, None]).to(place)
    return made


def _shapes(place: Tensor) -> Tensor:
    """Return what each shape moves points by, as a share of their r, [P, J]."""
    radius = place.double().norm(dim=-1, keepdim=True)
    moved: Tensor = torch.cat([radius**power for power in range(1, 5)], dim=-1) @ radius.new_tensor(SHAPES).T
    return moved


def found_lens(moment: Tensor, count: Tensor, weight: Tensor, frame: Tensor, pixel: float) -> Found:
    """Return the mean over lenses, each as likely as the prior and the curves say.

    Args:
        moment, count: of `moments`.
        weight: how many bends each curve is worth, [S].
        frame: [2].
        pixel: half-diagonals that a pixel of the picture is wide, which the sharpness of its edges goes by.
    """
    mean, spread = moment.new_zeros(_UNKNOWNS), torch.eye(_UNKNOWNS, dtype=moment.dtype) * _FIRST_SPREAD
    covariance = spread
    for number in range(_MOST_ROUNDS):
        draw = _even_normals()[number * _TRIED : (number + 1) * _TRIED]
        tried = mean + draw @ spread.T
        likely = _log_likelihood(tried, moment, count, weight, pixel) - 0.5 * tried.square().sum(dim=1)
        share, heat = _shares(likely + 0.5 * draw.square().sum(dim=1))
        mean = share @ tried
        apart = tried - mean
        covariance = (share[:, None] * apart).T @ apart
        spread = torch.linalg.cholesky(_WIDER * covariance + 1e-8 * torch.eye(_UNKNOWNS, dtype=moment.dtype))
        if heat == 1.0 and number + 1 >= _ROUNDS:
            break
    sizes = mean[:NUM_SHAPES]
    rms = bends(sizes[None], moment, count)[0]
    spreads = torch.diagonal(covariance)[:NUM_SHAPES].clamp_min(0).sqrt()
    return Found(sizes, spreads, mean[NUM_SHAPES], rms, _sureness(sizes, tried[:, :NUM_SHAPES], share, frame))


def _sureness(sizes: Tensor, tried: Tensor, share: Tensor, frame: Tensor) -> Tensor:
    """Return the share of lenses that are nearer to these sizes than to none, by the mean distance of undone places."""
    axis = (torch.arange(_ASKED, dtype=sizes.dtype) + 0.5) / _ASKED
    half = frame.to(sizes)
    radius = (axis[:, None] * half[0]).hypot(axis * half[1]).flatten()
    along = torch.stack((torch.cat((radius, half.min()[None])), torch.zeros(len(radius) + 1).to(sizes)), dim=-1)

    def moved(of: Tensor) -> Tensor:
        grown = 1.0 + of @ _shapes(along).T  # last: at half the shorter side, where places stay
        return radius * (grown[:, :-1] / grown[:, -1:] - 1.0)

    found, lenses = moved(sizes[None]), moved(tried)
    return share @ ((lenses - found).abs().mean(dim=1) < lenses.abs().mean(dim=1)).to(share)


def straightness_weight(length: Tensor, count: Tensor, points: Tensor) -> Tensor:
    """Return how many bends each curve is worth, [S].

    Args:
        length: in half-diagonals, [S].
        count: of `moments`, where shared points count in part, [S].
        points: of the curve, [S].
    """
    return _TRUST * length.double().square() * count / points.double()


def bends(sizes: Tensor, moment: Tensor, count: Tensor) -> Tensor:
    """Return how bent each curve is once lenses are undone, the root mean square in lengths of the distorted picture.

    Args:
        sizes: of the shapes, [K, J].
        moment, count: of `moments`.

    Returns:
        [K, S].
    """
    least, most = _axes(sizes, moment)
    _, most_before = _axes(torch.zeros_like(sizes[:1]), moment)
    return (least / count * most_before / most.clamp_min(1e-12)).sqrt()


def _axes(sizes: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smaller and the larger eigenvalue of each curve's undone moments, each [K, S]."""
    lift = torch.cat((torch.ones_like(sizes[:, :1]), sizes), dim=1)
    pairs = (lift[:, :, None] * lift[:, None]).flatten(1)
    xx, yy, xy = (pairs @ moment[:, row::2, column::2].flatten(1).T for row, column in ((0, 0), (1, 1), (0, 1)))
    apart = (((xx - yy) / 2).square() + xy.square()).sqrt()
    most = (xx + yy) / 2 + apart
    return (xx * yy - xy.square()).clamp_min(0) / most.clamp_min(1e-12), most


def _log_likelihood(tried: Tensor, moment: Tensor, count: Tensor, weight: Tensor, pixel: float) -> Tensor:
    """Return the logarithm of how likely each tried lens and bend makes the curves, [K]: Cauchy's distribution."""
    bend = _BEND * (_BEND_SPREAD * tried[:, NUM_SHAPES:]).exp()
    usual = bend.square() + (_SHARPEST_PX * pixel) ** 2
    seen = bends(tried[:, :NUM_SHAPES], moment, count).square()
    return -(weight * (0.5 * usual.log() + torch.log1p(seen / usual))).sum(dim=1)


def _shares(logs: Tensor) -> tuple[Tensor, float]:
    """Return the share of each tried lens, and the power to which likelihoods were taken so that enough are heard."""
    logs, heat = logs - logs.max(), 1.0
    while True:
        share = (heat * logs).exp()
        share = share / share.sum()
        if heat < 1e-3 or float(share.square().sum()) * _FEWEST_HEARD < 1.0:
            return share, heat
        heat *= 0.7


@cache
def _even_normals() -> Tensor:
    """Return points that fill a normal distribution evenly, [rounds * K, unknowns] (Sobol 1967; scrambled)."""
    engine = torch.quasirandom.SobolEngine(_UNKNOWNS, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    even = engine.draw(_MOST_ROUNDS * _TRIED, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    return math.sqrt(2) * torch.erfinv(2 * even - 1)


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
    normal = powers.T @ (distorted[:, None] * powers) + torch.diag(powers.new_tensor([0.0, 1e-5, 3e-5, 1e-4]))
    held = torch.linalg.solve(normal, powers.T @ (distorted * distorted))
    scale = 1.0 / held[0]
    return _radial(held[1:] * scale ** powers.new_tensor([3.0, 5.0, 7.0]), scale)


def within(params: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return lens parameters [8] that move places as nearly as can be as the given ones do and lie from `low` to
    `high` [8], by bounded least squares (Branch, Coleman and Li 1999); radial ones and the scale alone, in and out."""
    from scipy.optimize import least_squares

    index = [*range(3), NAMES.index("scale")]
    radius = torch.linspace(1.0 / _RADII, 1.0, _RADII, dtype=torch.float64)
    places = torch.stack((radius, torch.zeros_like(radius)), dim=-1)

    def moved(some: Tensor) -> Tensor:
        return distorted_points(some[None], places[None])[0, :, 0]

    wanted, least, most = (values.detach().cpu().double() for values in (params, low, high))
    aim, area = moved(wanted), radius.sqrt()

    def missed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        some = torch.from_numpy(values)
        return np.asarray((area * (moved(_radial(some[:3], some[3])) - aim)).numpy())

    start, *bounds = (values[index].numpy() for values in (wanted.clamp(least, most), least, most))
    found = least_squares(missed, start, bounds=bounds, xtol=1e-10, ftol=1e-10)
    values = torch.from_numpy(found.x)
    return _radial(values[:3], values[3])


def _radial(radial: Tensor, scale: Tensor) -> Tensor:
    """Return lens parameters [8] of k1, k2, k3 and a scale, all else none."""
    params = radial.new_tensor(IDENTITY)
    params[:3], params[NAMES.index("scale")] = radial, scale
    return params

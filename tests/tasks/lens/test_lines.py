"""What straight lines say: exact for exact points, close for pictures, and nothing where there is nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, lsq_linear

from mlkit.metrics.geometry import end_point_error, scaled_error
from mlkit.tasks.lens.geometry import (
    IDENTITY,
    distorted_points,
    frame_of,
    identity_grid,
    parametric_grid,
    profile_grid,
    profile_undistorted,
)
from mlkit.tasks.lens.lines import NUM_FACTS, curves, edge_points, heard_curves, lens_of_lines
from mlkit.tasks.lens.model import build_net
from mlkit.tasks.lens.plumb import (
    SHAPES,
    bends,
    forward_parameters,
    found_lens,
    moments,
    straightness_weight,
    undone,
    within,
)
from mlkit.tasks.lens.settings import LensModel

FRAME = torch.tensor(frame_of(200, 300))
SIZES = (1.5, -0.8, 0.5)
PIXEL = 0.005  # half-diagonals: of a square of 256 px
SURE = 0.7


def undone_radius(radius: float, sizes: tuple[float, ...] = SIZES) -> float:
    return radius * (1 + sum(size * sum(c * radius ** (n + 1) for n, c in enumerate(shape))
                             for size, shape in zip(sizes, SHAPES, strict=True)))  # fmt: skip


def bent_lines(rng: np.random.Generator, number: int = 12) -> list[np.ndarray]:
    """Return points of straight lines as a lens with SIZES shows them, by SciPy's root finding."""
    lines = []
    for _ in range(number):
        angle, offset = rng.uniform(0, math.pi), rng.uniform(-0.5, 0.5)
        along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        points = offset * across + np.linspace(-0.6, 0.6, 40)[:, None] * along
        radii = np.linalg.norm(points, axis=1)
        seen = np.array([brentq(lambda r, target=target: undone_radius(r) - target, 0.0, 1.3) for target in radii])
        lines.append(points * (seen / radii)[:, None])
    return lines


def board(profile: torch.Tensor, size: int = 256) -> torch.Tensor:
    """Return a slightly turned board behind a lens, [1, 3, S, S], each pixel the mean of 4 x 4 places."""
    fine = identity_grid(size * 4, size * 4) * FRAME
    radius = fine.norm(dim=-1, keepdim=True)
    table = torch.linspace(0, 1.3, 4001)
    bent = sum(profile[n] * table ** (n + 1) for n in range(5))
    world = fine / radius.clamp_min(1e-6) * torch.from_numpy(np.interp(radius.numpy(), bent.numpy(), table.numpy()))
    x = 6 * (world[..., 0] * math.cos(0.1) + world[..., 1] * math.sin(0.1)) + 0.3
    y = 6 * (world[..., 1] * math.cos(0.1) - world[..., 0] * math.sin(0.1))
    colors = (torch.floor(x) + torch.floor(y)) % 2 * 0.8 + 0.1
    small = torch.nn.functional.avg_pool2d(colors[None, None].float(), 4)
    return small.expand(-1, 3, -1, -1)


def of_curves(lines: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the points [P, 2] of curves, and which belongs to which [S, P]."""
    place = torch.from_numpy(np.concatenate(lines)).float()
    owner = torch.repeat_interleave(torch.arange(len(lines)), torch.tensor([len(line) for line in lines]))
    return place, owner[None] == torch.arange(len(lines))[:, None]


def test_lines_of_exact_points_give_back_the_lens() -> None:
    place, member = of_curves(bent_lines(np.random.default_rng(0)))
    moment, count = moments(place, member)
    weight = straightness_weight(torch.full((12,), 1.2), count, member.sum(dim=1))
    found = found_lens(moment, count, weight, FRAME, PIXEL)
    assert found.sizes.tolist() == pytest.approx(SIZES, abs=0.06)
    assert bool((found.spread < 0.3).all()) and float(found.rms.max()) < 2e-4
    again = found_lens(moment, count, weight, FRAME, PIXEL)
    assert torch.equal(again.sizes, found.sizes) and float(found.sure) > 0.999
    unheard = found_lens(moment, count, torch.zeros_like(count), FRAME, PIXEL)
    assert float(unheard.sizes.abs().max()) < 0.05 and unheard.spread.tolist() == pytest.approx([1, 1, 1], abs=0.1)
    assert float(unheard.sure) < 0.6  # of an answer near no change, as many lenses are nearer to it as to none


def test_curves_that_no_lens_makes_straight_say_little() -> None:
    rng = np.random.default_rng(3)
    arcs = []
    for _ in range(30):
        u = np.linspace(-0.2, 0.2, 40)
        points = np.stack((u, rng.normal(0, 0.4) * u * u + rng.normal(0, 5e-4, 40)), axis=1)
        angle = rng.uniform(0, 2 * math.pi)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        arcs.append(points @ turn + rng.uniform(-0.5, 0.5, 2))
    place, member = of_curves(arcs)
    moment, count = moments(place, member)
    weight = straightness_weight(torch.full((30,), 0.4), count, member.sum(dim=1))
    found = found_lens(moment, count, weight, FRAME, PIXEL)
    assert float(found.sizes.abs().max()) < 1.0 and bool((found.spread > 0.3).all())
    assert float(found.bend) > 0  # curves stay bent by more than a thousandth of a half-diagonal
    assert float(found.sure) < SURE


@pytest.mark.parametrize(("number", "length"), [(1, 0.4), (2, 0.5), (3, 0.8)])
def test_how_sure_is_the_share_of_likely_lenses_whose_maps_are_nearer(number: int, length: float) -> None:
    """Beside maps of all pixels for lenses drawn at random from the prior, weighed by Cauchy's density in NumPy."""
    rng = np.random.default_rng(number)
    place, member = of_curves([line[:30] + rng.normal(0, 1e-3, (30, 2)) for line in bent_lines(rng, number)])
    moment, count = moments(place, member)
    weight = straightness_weight(torch.full((number,), length), count, member.sum(dim=1))
    found = found_lens(moment, count, weight, FRAME, PIXEL)
    draw = np.random.default_rng(9).normal(size=(40_000, 4))
    bent = bends(torch.from_numpy(draw[:, :3]), moment, count).numpy()
    width = np.sqrt((1e-3 * np.exp(draw[:, 3:])) ** 2 + (0.0565 * PIXEL) ** 2)
    likely = ((width + bent**2 / width) ** -weight.numpy()).prod(axis=1)
    share = likely / likely.sum()
    y, x = np.meshgrid((np.arange(16) + 0.5) / 8 - 1, (np.arange(24) + 0.5) / 12 - 1, indexing="ij")
    radius = np.hypot(x * float(FRAME[0]), y * float(FRAME[1])).ravel()

    def moved(sizes: np.ndarray) -> np.ndarray:
        grown = [sum(c * r ** (n + 1) for n, c in enumerate((sizes @ np.array(SHAPES)).T[..., None]))
                 for r in (radius, np.array([float(FRAME.min())]))]  # fmt: skip
        return radius * ((1 + grown[0]) / (1 + grown[1]) - 1)

    lenses, answer = moved(draw[:, :3]), moved(found.sizes.numpy()[None])
    nearer = np.abs(lenses - answer).mean(axis=1) < np.abs(lenses).mean(axis=1)
    assert 1 / (share**2).sum() > 200, "too few lenses are heard to compare with"
    assert float(found.sure) == pytest.approx(float(share @ nearer), abs=0.02)
    np.testing.assert_allclose(found.sizes.numpy(), share @ draw[:, :3], atol=0.03)
    assert 0.55 < float(found.sure) < 0.99


def test_bends_are_those_of_undone_points_as_lengths_in_the_distorted_picture() -> None:
    place, member = of_curves(bent_lines(np.random.default_rng(4), 3))
    moment, count = moments(place, member)
    sizes = torch.tensor([SIZES, (4.0, 0.0, -2.0)], dtype=torch.float64)
    found = bends(sizes, moment, count)
    for row, size in zip(found, sizes, strict=True):
        for value, part in zip(row.tolist(), member, strict=True):
            before, after = (
                np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
                for points in (place[part].double().numpy(), undone(place[part].double(), size).numpy())
            )
            expected = after[1] / math.sqrt(40) * before[0] / after[0]
            assert value == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_a_line_of_many_seeds_counts_once() -> None:
    place = torch.from_numpy(np.concatenate(bent_lines(np.random.default_rng(1), 2))).float()
    one = torch.zeros(2, 80, dtype=torch.bool)
    one[0, :40] = one[1, 40:] = True
    many = torch.cat((one[:1].expand(5, -1), one[1:]))
    for member in (one, many):
        moment, count = moments(place, member)
        assert float(count.sum()) == pytest.approx(80)
        found = moment.sum(dim=0)
        expected = sum(np.cov(place[part].double().numpy().T, bias=True) * 40 for part in (slice(40), slice(40, 80)))
        np.testing.assert_allclose(found[:2, :2].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(0.0, 0.0, 0.0), SIZES, (-2.0, 1.0, 0.0)])
def test_forward_parameters_are_the_inverse(sizes: tuple[float, ...]) -> None:
    params = forward_parameters(torch.tensor(sizes, dtype=torch.float64), FRAME)
    least = float(FRAME.min())
    radius = np.linspace(0.05, 1.0, 40)
    scale = least / undone_radius(least, sizes)  # places half the shorter side from the middle stay
    world = torch.tensor([[undone_radius(r, sizes) * scale, 0.0] for r in radius], dtype=torch.float64)
    seen = distorted_points(params[None], world[None])[0, :, 0]
    assert float((seen - torch.from_numpy(radius)).abs().max()) * 601 < 0.15  # px at 1000 px width


@pytest.mark.parametrize(
    ("radial", "scale"),
    [((0.6, 0.3, 0.15), (0.9, 1.2)), ((0.6, 0.01, 0.01), (0.9, 1.2)), ((0.05, 0.3, 0.15), (0.97, 1.01))],
)
def test_parameters_beyond_their_range_are_fitted_again(
    radial: tuple[float, float, float], scale: tuple[float, float]
) -> None:
    """Beside SciPy's bounded linear least squares of k1 to k3 at each of many scales."""
    low = torch.tensor([*(-size for size in radial), 0, 0, 0, 0, scale[0]], dtype=torch.float64)
    high = torch.tensor([*radial, 0, 0, 0, 0, scale[1]], dtype=torch.float64)
    radius = np.linspace(0.02, 1.0, 50)
    places = torch.from_numpy(np.stack((radius, 0 * radius), axis=-1))[None]

    def moved(some: torch.Tensor) -> np.ndarray:
        return distorted_points(some[None], places)[0, :, 0].numpy()

    def least(aim: np.ndarray) -> float:
        found = []
        for one in np.linspace(*scale, 121):
            columns = np.stack([(radius / one) ** power for power in (3, 5, 7)], axis=-1)
            area = np.sqrt(radius)
            fit = lsq_linear(area[:, None] * columns, area * (aim - radius / one), bounds=(low[:3], high[:3]))
            found.append(2 * fit.cost)
        return min(found)

    draws = np.concatenate((np.random.default_rng(0).normal(0, 3.0, (30, 3)), [[-4.50, 0.773, -1.163]]))
    outside = 0
    for draw in draws:
        params = forward_parameters(torch.from_numpy(draw), FRAME)
        if bool(((params >= low) & (params <= high)).all()):
            continue
        outside += 1
        made, aim = within(params, low, high), moved(params)
        assert bool(((made >= low - 1e-9) & (made <= high + 1e-9)).all())
        clipped = params.clamp(low, high)
        error, cut = (float((radius * (moved(some) - aim) ** 2).sum()) for some in (made, clipped))
        assert error < 1.1 * least(aim) + 1e-8
        assert error <= cut
    assert outside >= 5


def test_parameters_within_their_range_stay() -> None:
    low, high = (torch.tensor([sign * 0.5] * 7 + [1 + sign * 0.2], dtype=torch.float64) for sign in (-1, 1))
    inside = torch.tensor([-0.1, 0.02, 0, 0, 0, 0, 0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(within(inside, low, high), inside, atol=1e-4, rtol=0)


def test_edge_points_lie_on_the_edge_to_a_twentieth_of_a_pixel() -> None:
    angle, offset = 0.4, 0.07
    fine = identity_grid(128 * 8, 128 * 8) * FRAME
    side = fine[..., 0] * math.sin(angle) - fine[..., 1] * math.cos(angle) - offset
    image = torch.nn.functional.avg_pool2d((side > 0).float()[None, None], 8).expand(-1, 3, -1, -1)
    place, along, strength = edge_points(image, FRAME[None], 256)
    real = strength[0] > 0
    place, along = place[0][real], along[0][real]
    assert len(place) > 100
    apart = place[:, 0] * math.sin(angle) - place[:, 1] * math.cos(angle) - offset
    assert float(apart.abs().mean()) < 0.05 * 2 / 128 * float(FRAME.max())
    assert float((along[:, 0] * math.sin(angle) - along[:, 1] * math.cos(angle)).abs().max()) < 0.05
    member, length = curves(place, along, strength[0][real], FRAME)
    assert float(member.float().mean()) > 0.9 and float(length.min()) > 0.8


@pytest.mark.parametrize("terms", [(1.03, 0.0, -0.1, 0.0, 0.0), (0.985, 0.01, 0.04, 0.0, 0.0)])
def test_a_board_behind_a_lens_tells_the_lens(terms: tuple[float, ...]) -> None:
    profile = torch.tensor([*terms, 0.0, 0.0])
    params, facts = lens_of_lines(board(profile), FRAME[None], SURE)
    assert params.shape == (1, 8) and facts.shape == (1, NUM_FACTS)
    truth = profile_grid(profile[None], FRAME[None], 48, 48)
    made = parametric_grid(params, FRAME[None], 48, 48)
    without = float(end_point_error(identity_grid(48, 48)[None], truth, FRAME[None]).mean())
    assert without > 3
    assert float(scaled_error(made, truth, FRAME[None]).mean()) < 0.05 * without


def test_the_curves_heard_in_a_board_are_its_lines_and_become_straight() -> None:
    profile = torch.tensor([1.03, 0.0, -0.1, 0.0, 0.0, 0.0, 0.0])
    curves_found = heard_curves(board(profile), FRAME[None])
    assert len(curves_found) > 20
    for places, bent in curves_found:
        assert bent < 1e-3
        world = profile_undistorted(profile[None], places[None])[0].numpy()
        x = 6 * (world[:, 0] * math.cos(0.1) + world[:, 1] * math.sin(0.1)) + 0.3
        y = 6 * (world[:, 1] * math.cos(0.1) - world[:, 0] * math.sin(0.1))
        assert min(float(np.abs(v - np.rint(v)).mean()) for v in (x, y)) < 0.05  # on the border of two squares
    assert heard_curves(torch.full((1, 3, 96, 96), 0.5), FRAME[None]) == []


def test_pictures_without_lines_say_nothing() -> None:
    flat = torch.full((1, 3, 96, 96), 0.5)
    params, facts = lens_of_lines(flat, FRAME[None], SURE)
    assert torch.equal(params, torch.tensor([IDENTITY])) and not facts.any()
    noise = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    params, facts = lens_of_lines(noise, FRAME.expand(2, -1), SURE)
    assert torch.isfinite(params).all() and torch.isfinite(facts).all()


def test_a_scaled_map_has_no_error_but_for_scale() -> None:
    truth = parametric_grid(torch.tensor([[-0.1, 0, 0, 0, 0, 0, 0, 1.0]]), FRAME[None], 32, 32)
    assert float(scaled_error(1.1 * truth, truth, FRAME[None]).max()) < 1e-3
    assert float(end_point_error(1.1 * truth, truth, FRAME[None]).mean()) > 10


def test_a_network_that_hears_lines_begins_with_no_change_and_learns_to_follow_them() -> None:
    torch.manual_seed(0)
    net = build_net(LensModel(channels=8, head_channels=16, lines=True, reduce=2))
    profile = torch.tensor([1.03, 0.0, -0.1, 0.0, 0.0, 0.0, 0.0])
    image = board(profile)
    first = net(image, FRAME[None])["params"]
    torch.testing.assert_close(first, torch.tensor([IDENTITY]), atol=1e-6, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = lens_of_lines(image, FRAME[None], SURE)[0]
    torch.testing.assert_close(again, lens_of_lines(image, FRAME[None], SURE)[0])
    first[0, 0].backward()
    assert net.parametric.gate is not None and net.parametric.gate.bias.grad is not None
    assert float(net.parametric.gate.bias.grad.abs().min()) > 0
    assert net(image, FRAME[None])["flow"].shape == (1, 2, 16, 16)
    with torch.no_grad():
        hybrid = build_net(LensModel(channels=8, head_channels=16, lines=True, reduce=2, stage="hybrid"))
        hybrid.residual.last.bias.fill_(0.5)  # type: ignore[union-attr]
        params, facts = lens_of_lines(image, FRAME[None], SURE)
        both = torch.cat((params, torch.tensor([IDENTITY]))), torch.cat((facts, facts))
        flow = hybrid(image.expand(2, -1, -1, -1), FRAME.expand(2, -1), both)["flow"]
    assert float(flow[0].abs().min()) > 0 and not flow[1].any()  # none where lines are not followed
    nothing = torch.tensor([IDENTITY] * 5), facts.expand(5, -1)
    silent = build_net(LensModel(channels=8, head_channels=16, lines=True, reduce=2))
    silent(image.expand(5, -1, -1, -1), FRAME.expand(5, -1), nothing)["params"][:, 0].sum().backward()
    assert silent.parametric.gate is not None and silent.parametric.gate.bias.grad is not None
    assert not silent.parametric.gate.bias.grad.any() and not silent.parametric.gate.weight.grad.any()  # exactly
    handed = net(image, FRAME[None], lens_of_lines(image, FRAME[None], SURE))
    assert torch.equal(handed["params"], net(image, FRAME[None])["params"])

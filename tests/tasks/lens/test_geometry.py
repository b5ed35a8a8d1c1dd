"""Maps against OpenCV, lensfun, SciPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from mlkit.metrics.geometry import jacobian_stats
from mlkit.tasks.lens.corrector import Correction
from mlkit.tasks.lens.geometry import (
    IDENTITY,
    NAMES,
    distorted_points,
    flow_at,
    frame_of,
    fuse,
    identity_grid,
    inverse_grid,
    parametric_grid,
    undistorted_points,
    upsample_flow,
    warp,
)

HEIGHT, WIDTH = 120, 180
LENS = {"k1": -0.12, "k2": 0.03, "k3": -0.01, "p1": 0.004, "p2": -0.003, "cx": 0.02, "cy": -0.01, "scale": 1.05}


def params(**values: float) -> torch.Tensor:
    return torch.tensor([[values.get(name, IDENTITY[place]) for place, name in enumerate(NAMES)]])


def frame(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    return torch.tensor([frame_of(height, width)])


def pixels(grid: torch.Tensor) -> np.ndarray:
    """Return a map as columns and rows of pixels' centres, [H, W, 2], which is what other libraries speak of."""
    height, width = grid.shape[1:3]
    return ((grid[0].double().numpy() + 1) * np.array([width, height]) - 1) / 2


def opencv_map(**values: float) -> np.ndarray:
    """Return OpenCV's undistortion map with a focal length of half a diagonal: then its coefficients are ours."""
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is an oracle of the bench extra")
    lens = params(**values)[0].double().numpy()
    k1, k2, k3, p1, p2, cx, cy, scale = lens
    unit = math.hypot(HEIGHT, WIDTH) / 2
    centre = np.array([(WIDTH - 1) / 2 + cx * unit, (HEIGHT - 1) / 2 + cy * unit])
    camera = np.array([[unit, 0, centre[0]], [0, unit, centre[1]], [0, 0, 1]])
    enlarged = camera.copy()
    enlarged[0, 0] = enlarged[1, 1] = unit * scale
    terms = np.array([k1, k2, p1, p2, k3])
    x, y = cv2.initUndistortRectifyMap(camera, terms, None, enlarged, (WIDTH, HEIGHT), cv2.CV_32FC1)
    return np.stack((x, y), axis=-1)


@pytest.mark.parametrize("chosen", [*({name: LENS[name]} for name in NAMES), LENS], ids=[*NAMES, "all"])
def test_the_lens_model_is_opencvs(chosen: dict[str, float]) -> None:
    ours = pixels(parametric_grid(params(**chosen), frame(), HEIGHT, WIDTH))
    assert np.abs(ours - opencv_map(**chosen)).max() < 1e-3  # float32 of both


@pytest.mark.parametrize(("height", "width"), [(1001, 1501), (1501, 1001), (901, 1601)])
def test_a_poly3_lens_is_lensfuns(height: int, width: int) -> None:
    lensfunpy = pytest.importorskip("lensfunpy")
    database = lensfunpy.Database()
    calibrated = [
        (lens, calibration)
        for lens in database.lenses
        for calibration in lens.calib_distortion
        if calibration.model == lensfunpy.DistortionModel.POLY3
        and abs(calibration.terms[0]) > 0.01
        and 1 <= lens.crop_factor < 1.7  # of a camera whose frame is 3:2
    ]
    lens, calibration = calibrated[0]
    camera_crop = lens.crop_factor
    modifier = lensfunpy.Modifier(lens, camera_crop, width, height)
    flags = lensfunpy.ModifyFlags.DISTORTION
    modifier.initialize(calibration.focal, 8.0, 1000.0, scale=1.0, flags=flags)
    theirs = modifier.apply_geometry_distortion()
    # r_d = r (1 - k + k (u r)^2) with r in half-diagonals; u of them are half the shorter side of a 3:2 frame.
    k = float(calibration.terms[0])
    u = math.hypot(1.5, 1.0)
    scale = 1 / (1 - k)
    ours = parametric_grid(params(k1=k * u**2 * scale**3, scale=scale), frame(height, width), height, width)
    assert np.abs(theirs - pixels(identity_grid(height, width)[None])).max() > 5
    assert np.abs(pixels(ours) - theirs).max() < 0.3  # lensfun rounds reciprocals: its own maps jump by 0.15 px


def test_a_coefficient_moves_points_at_equal_radius_equally_far_on_any_aspect() -> None:
    lens = params(k1=-0.1)
    for height, width in ((400, 600), (600, 400), (500, 500)):
        half = frame(height, width)
        grid = parametric_grid(lens, half, height, width)
        moved = ((grid - identity_grid(height, width)) * half[:, None, None]).norm(dim=-1)[0]
        radius = (identity_grid(height, width) * half).norm(dim=-1)
        assert torch.allclose(moved, 0.1 * radius**3, atol=1e-6)


def test_identity_moves_nothing_and_its_warp_changes_no_pixel() -> None:
    image = torch.rand(1, 3, 33, 47)
    grid = parametric_grid(torch.tensor([IDENTITY]), frame(33, 47), 33, 47)
    assert torch.allclose(grid[0], identity_grid(33, 47), atol=1e-6)
    for mode in ("bicubic", "bilinear"):
        assert torch.allclose(warp(image, grid, mode=mode), image, atol=1e-4)


def test_bicubic_and_bilinear_warps_are_opencvs() -> None:
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is an oracle of the bench extra")
    image = np.random.default_rng(0).random((HEIGHT, WIDTH)).astype(np.float32)
    grid = parametric_grid(params(**LENS), frame(), HEIGHT, WIDTH)
    at = pixels(grid).astype(np.float32)
    inner = (slice(12, -12), slice(12, -12))
    for mode, flag, tolerance in (("bilinear", cv2.INTER_LINEAR, 0.05), ("bicubic", cv2.INTER_CUBIC, 0.06)):
        ours = warp(torch.from_numpy(image)[None, None], grid, mode=mode)[0, 0].numpy()
        theirs = cv2.remap(image, at[..., 0], at[..., 1], flag)
        assert np.abs(ours - theirs)[inner].max() < tolerance  # OpenCV rounds places to 1/32 px
        assert np.abs(ours - theirs)[inner].mean() < 0.01
    exact = map_coordinates(image.astype(np.float64), [at[..., 1], at[..., 0]], order=1, mode="nearest")
    assert np.abs(warp(torch.from_numpy(image)[None, None], grid, mode="bilinear")[0, 0].numpy() - exact).max() < 1e-4


def test_points_come_back_through_the_inverse_lens() -> None:
    points = identity_grid(20, 30)[None] * frame(20, 30)
    lens = params(**LENS)
    back = undistorted_points(lens, distorted_points(lens, points))
    assert torch.allclose(back, points.double(), atol=1e-6)


def test_a_point_that_no_undistorted_one_maps_to_is_not_a_number() -> None:
    # of r - 0.6 r^3 the largest value is 0.497, at r = 0.745
    back = undistorted_points(params(k1=-0.6), torch.tensor([[[0.9, 0.0], [0.3, 0.0]]]))
    assert torch.isnan(back[0, 0]).all() and torch.isfinite(back[0, 1]).all()


def test_the_inverse_map_undoes_the_map() -> None:
    grid = parametric_grid(params(k1=-0.12, k2=0.03, scale=1.1), frame(), HEIGHT, WIDTH)
    inverse = inverse_grid(grid)
    points = identity_grid(HEIGHT, WIDTH)[None] * frame()
    expected = (undistorted_points(params(k1=-0.12, k2=0.03, scale=1.1), points) / frame()).float()
    known = torch.isfinite(inverse[..., 0])
    assert 0.7 < known.float().mean() < 1
    off_px = ((inverse - expected).abs() * torch.tensor([WIDTH / 2, HEIGHT / 2]))[known].max()
    assert off_px < 0.05


def test_a_part_of_the_rows_is_the_part_of_the_whole() -> None:
    lens, half = params(**LENS), frame()
    correction = Correction(lens, None, half)
    whole = correction.map_of(HEIGHT, WIDTH)
    assert torch.equal(whole, parametric_grid(lens, half, HEIGHT, WIDTH))
    assert torch.equal(correction.map_of(HEIGHT, WIDTH, slice(40, 70)), whole[:, 40:70])
    flow = torch.randn(1, 2, 8, 12) * 0.01
    part = identity_grid(HEIGHT, WIDTH, rows=slice(40, 70))[None]
    assert torch.allclose(flow_at(flow, part), upsample_flow(flow, HEIGHT, WIDTH)[:, :, 40:70], atol=1e-6)


def test_a_flow_is_in_half_diagonals_whatever_the_aspect() -> None:
    flow = torch.zeros(1, 2, 4, 6)
    flow[:, 0] = 0.01
    half = frame()
    grid = fuse(identity_grid(HEIGHT, WIDTH)[None], upsample_flow(flow, HEIGHT, WIDTH), half)
    moved = pixels(grid) - pixels(identity_grid(HEIGHT, WIDTH)[None])
    expected = 0.01 * math.hypot(HEIGHT, WIDTH) / 2
    assert np.allclose(moved, [expected, 0.0], atol=1e-4)


def test_strength_is_a_share_of_the_displacement() -> None:
    grid = parametric_grid(params(**LENS), frame(), HEIGHT, WIDTH)
    identity = identity_grid(HEIGHT, WIDTH)[None]
    none, half, all_ = (
        Correction(params(**LENS), None, frame(), strength=share).map_of(HEIGHT, WIDTH) for share in (0.0, 0.5, 1.0)
    )
    assert torch.equal(none, identity)
    assert torch.allclose(all_, grid)
    assert torch.allclose(half - identity, (grid - identity) / 2, atol=1e-6)


def test_found_at_256_px_holds_at_any_size() -> None:
    """A map of a reduced picture is the large picture's own, at the places of its pixels."""
    lens, half = params(**LENS), frame()
    small, large = (parametric_grid(lens, half, HEIGHT * n, WIDTH * n) for n in (1, 3))
    assert torch.allclose(large[:, 1::3, 1::3], small, atol=1e-6)  # the middle pixel of three by three


def test_maps_stay_exact_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grid = parametric_grid(torch.tensor([IDENTITY]).bfloat16(), frame(), HEIGHT, WIDTH)
        stats = jacobian_stats(grid)
    assert float(stats["det_min"][0]) == pytest.approx(1.0, abs=1e-3)

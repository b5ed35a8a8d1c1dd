"""Claims of tasks/sr/degrade.py."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import integrate, ndimage, stats
from skimage import data

from mlkit.tasks.sr.degrade import (
    KERNELS,
    apply_record,
    blurred,
    compressed,
    degrade,
    draw_record,
    kernel_of,
    noisy,
    resized,
)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return (data.astronaut()[40:136, 180:276] / 255).astype(np.float32)


def operations(number: int, **wanted: Any) -> list[dict[str, Any]]:
    """Return the operations of many drawn records that have these values."""
    drawn = [op for seed in range(number) for op in draw_record(rng_of(seed), 128, 128, 4, "real")["operations"]]
    return [op for op in drawn if all(op.get(key) == value for key, value in wanted.items())]


@pytest.mark.parametrize("kind", ["bicubic", "real"])
@pytest.mark.parametrize("scale", [2, 4])
def test_the_record_alone_gives_the_same_image_even_after_json(photograph: np.ndarray, kind: Any, scale: int) -> None:
    for seed in range(12):
        low, record = degrade(photograph, rng_of(seed), scale, kind)
        assert low.shape == (96 // scale, 96 // scale, 3)
        assert low.dtype == np.float32
        assert 0 <= low.min() <= low.max() <= 1
        again = apply_record(photograph, json.loads(json.dumps(record)))
        np.testing.assert_array_equal(again, low)
        assert np.array_equal(low * 255, np.rint(low * 255))  # as an 8-bit file would hold it


def test_seeds_decide(photograph: np.ndarray) -> None:
    one, same, other = (degrade(photograph, rng_of(seed), 4, "real") for seed in (1, 1, 2))
    assert one[1] == same[1]
    assert one[1] != other[1]
    assert not np.array_equal(one[0], other[0])


def test_bicubic_is_the_antialiased_one_of_the_papers(photograph: np.ndarray) -> None:
    """Keys 1981 with a = -0.5, widened by the factor: written out as sums over pixels, away from the borders."""
    low, _ = degrade(photograph, rng_of(0), 4, "bicubic")

    def cubic(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    weights = np.array([cubic((k - 7.5) / 4) for k in range(16)])
    weights /= weights.sum()
    for i, j in ((5, 7), (12, 3), (10, 18)):
        window = photograph[4 * i - 6 : 4 * i + 10, 4 * j - 6 : 4 * j + 10].astype(np.float64)
        wanted = np.clip(np.einsum("a,b,abc->c", weights, weights, window), 0, 1)
        np.testing.assert_allclose(low[i, j], wanted, atol=0.5 / 255 + 1e-5)


def test_a_constant_image_keeps_its_value() -> None:
    grey = np.full((64, 64, 3), 128 / 255, np.float32)
    low, _ = degrade(grey, rng_of(0), 4, "bicubic")
    np.testing.assert_array_equal(low, np.full((16, 16, 3), np.float32(128) / np.float32(255)))
    for op in operations(60, op="blur")[:40]:
        np.testing.assert_allclose(blurred(grey, kernel_of(op)), grey, atol=1e-6)


def test_blur_is_the_convolution_of_scipy(photograph: np.ndarray) -> None:
    for op in operations(20, op="blur")[:6]:
        kernel = kernel_of(op)
        for channel in range(3):
            wanted = ndimage.convolve(photograph[..., channel].astype(np.float64), kernel, mode="mirror")
            np.testing.assert_allclose(blurred(photograph, kernel)[..., channel], wanted, atol=1e-6)


def test_images_smaller_than_the_kernel_are_blurred_too() -> None:
    tiny = rng_of(0).random((5, 4, 3)).astype(np.float32)
    op = {"op": "blur", "kernel": "sinc", "side": 21, "cutoff_rad": 1.5}
    assert blurred(tiny, kernel_of(op)).shape == tiny.shape


def test_a_gaussian_kernel_is_the_normal_density() -> None:
    op = {"kernel": "aniso", "side": 21, "sigma_x_px": 2.4, "sigma_y_px": 0.9, "angle_rad": 0.7, "beta": 1.0}
    turn = np.array([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    covariance = turn @ np.diag([2.4**2, 0.9**2]) @ turn.T
    y, x = np.mgrid[-10:11, -10:11]
    wanted = stats.multivariate_normal(cov=covariance).pdf(np.stack([x, y], axis=-1))
    np.testing.assert_allclose(kernel_of(op), wanted / wanted.sum(), atol=1e-12)


def test_generalised_and_plateau_kernels_are_those_of_the_paper() -> None:
    about = {"side": 7, "sigma_x_px": 1.5, "sigma_y_px": 1.5, "angle_rad": 0.0, "beta": 2.5}
    for kernel, shape in (
        ("generalized_iso", lambda q: math.exp(-0.5 * q**2.5)),
        ("plateau_iso", lambda q: 1 / (1 + q**2.5)),
    ):
        made = kernel_of({"kernel": kernel, **about})
        for y, x in ((3, 5), (0, 0), (6, 3)):
            q = ((x - 3) ** 2 + (y - 3) ** 2) / 1.5**2
            assert made[y, x] / made[3, 3] == pytest.approx(shape(q) / shape(0.0))


def test_the_sinc_passes_below_its_cut_off_and_stops_above() -> None:
    """The kernel is the inverse Fourier transform of a disc: integrated numerically."""
    w = 2.0
    made = kernel_of({"kernel": "sinc", "side": 21, "cutoff_rad": w})
    wanted = np.zeros((3, 3))

    def column(u: float, x: int, y: int) -> float:
        """Return the integral over the disc along one column of frequencies."""
        reach = math.sqrt(w * w - u * u)
        return math.cos(u * x) * (2 * math.sin(reach * y) / y if y else 2 * reach)

    for y in range(3):
        for x in range(3):
            wanted[y, x] = integrate.quad(column, -w, w, args=(x, y))[0] / (4 * math.pi**2)
    np.testing.assert_allclose(made[10:13, 10:13] / made[10, 10], wanted / wanted[0, 0], rtol=1e-5, atol=1e-7)


def test_resizing_keeps_means_and_sizes(photograph: np.ndarray) -> None:
    for name in ("area", "bilinear", "bicubic"):
        small = resized(photograph, 33, 41, name)
        assert small.shape == (33, 41, 3)
        np.testing.assert_allclose(small.mean(axis=(0, 1)), photograph.mean(axis=(0, 1)), atol=0.01)
    np.testing.assert_allclose(
        resized(photograph, 24, 24, "area"), photograph.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3)), atol=1e-6
    )


def test_noise_has_the_recorded_strength() -> None:
    grey = np.full((200, 200, 3), 0.5, np.float32)
    for is_grey in (False, True):
        made = noisy(grey, {"kind": "gaussian", "sigma_255": 12.0, "grey": is_grey, "seed": 3}) - grey
        assert made.std() * 255 == pytest.approx(12.0, rel=0.03)
        assert (np.ptp(made, axis=2).max() == 0) == is_grey
        # one grey level gives one photon at white: a Poisson count of mean 1/2 a pixel
        made = noisy(grey, {"kind": "poisson", "strength": 0.5, "grey": is_grey, "seed": 4}) - grey
        assert made.std() == pytest.approx(0.5 * math.sqrt(0.5), rel=0.03)
        assert (np.ptp(made, axis=2).max() < 1e-6) == is_grey
    ramp = np.repeat(np.linspace(0.1, 0.9, 64, dtype=np.float32)[None, :, None], 3, axis=2).repeat(4000, axis=0)
    variance = (noisy(ramp, {"kind": "poisson", "strength": 1.0, "grey": False, "seed": 5}) - ramp).var(axis=(0, 2))
    np.testing.assert_allclose(variance, ramp[0, :, 0] / 64, rtol=0.1)  # 64 levels: 64 photons at white


def test_jpeg_is_that_of_pillow(photograph: np.ndarray) -> None:
    levels = np.rint(photograph * 255).astype(np.uint8)
    held = io.BytesIO()
    Image.fromarray(levels).save(held, "jpeg", quality=40, subsampling=2)
    np.testing.assert_array_equal(np.rint(compressed(photograph, 40) * 255), np.asarray(Image.open(held)))


def test_drawn_numbers_are_as_often_and_as_large_as_the_paper_has_them() -> None:
    """The configuration of Real-ESRGAN x4plus."""
    number = 1500
    records = [draw_record(rng_of(seed), 256, 256, 4, "real")["operations"] for seed in range(number)]
    blurs = [[op for op in ops if op["op"] == "blur"] for ops in records]
    first = [found[0] for found in blurs]
    share = Counter(op["kernel"] for op in first)
    assert share["sinc"] / number == pytest.approx(0.1, abs=0.03)
    for kernel, wanted in zip(KERNELS, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True):
        assert share[kernel] / number == pytest.approx(0.9 * wanted, abs=0.04)
    assert {op["side"] for op in first} == {7, 9, 11, 13, 15, 17, 19, 21}
    # one blur always, a second in 8 of 10, the last sinc in 8 of 10
    assert np.mean([len(found) for found in blurs]) == pytest.approx(2.6, abs=0.06)
    sigmas = [op["sigma_x_px"] for op in first if op["kernel"] != "sinc"]
    assert 0.2 <= min(sigmas) < 0.25
    assert 2.95 < max(sigmas) <= 3.0
    resizes = [[op["height"] for op in ops if op["op"] == "resize"] for ops in records]
    assert {len(found) for found in resizes} == {3}
    assert all(found[2] == 64 for found in resizes)
    ups = np.sign(np.array([[found[0] - 256, found[1] - 64] for found in resizes]))
    assert (ups[:, 0] > 0).mean() == pytest.approx(0.2, abs=0.04)
    assert (ups[:, 0] == 0).mean() == pytest.approx(0.1, abs=0.04)
    assert (ups[:, 1] > 0).mean() == pytest.approx(0.3, abs=0.06)
    assert min(found[0] for found in resizes) in (38, 39, 40)  # 0.15 of 256
    noises = [op for ops in records for op in ops if op["op"] == "noise"]
    assert np.mean([op["kind"] == "gaussian" for op in noises]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([op["grey"] for op in noises]) == pytest.approx(0.4, abs=0.03)
    assert max(op.get("sigma_255", 0) for op in noises) == pytest.approx(30, abs=0.3)
    assert max(op.get("strength", 0) for op in noises) == pytest.approx(3, abs=0.03)
    qualities = [op["quality"] for ops in records for op in ops if op["op"] == "jpeg"]
    assert (min(qualities), max(qualities)) == (30, 95)
    jpeg_last = np.mean([ops[-1]["op"] == "jpeg" for ops in records])
    assert jpeg_last == pytest.approx(0.5, abs=0.04)

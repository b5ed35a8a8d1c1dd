"""Scores of demosaicked images against scikit-image, scipy and formulas; what the lattice scores see and do not see."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import skimage.color
import skimage.data
import torch
from scipy.signal import convolve2d
from scipy.signal.windows import hann
from skimage.metrics import peak_signal_noise_ratio

from mlkit.metrics.mosaic import (
    FOLD_LIMIT,
    HARMONIC_LIMIT_DB,
    cfa_fold,
    cfa_harmonic_db,
    channel_psnr,
    cpsnr,
    cpsnr_linear,
    highlight_error,
    lattice_seen,
    log_spectrum,
    srgb_decoded,
    srgb_encoded,
    texture,
    zipper,
)

# Written out here a second time (R 0, G 1, B 2), so that the scores are tested without the task.
XTRANS = np.array([[int(site) for site in row] for row in ("101121", "212010", "101121", "121101", "010212", "121101")])


def tensor(image_hwc: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image_hwc)).permute(2, 0, 1)[None]


def array(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).double().numpy()  # type: ignore[no-any-return]


def photograph(name: str = "astronaut", side: int = 150, top: int = 0, left: int = 130) -> torch.Tensor:
    image = getattr(skimage.data, name)()[top : top + side, left : left + side]
    return tensor(image.astype(np.float64) / 255)


def noise(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def damaged(image: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return a blurred, noisy version that leaves [0, 1]."""
    blurred = scipy.ndimage.gaussian_filter(image.numpy(), (0, 0, 0.8, 0.8))
    return torch.from_numpy(blurred) + 0.03 * noise(tuple(image.shape), seed)


def eight_bit(image: torch.Tensor, border: int = 8) -> np.ndarray:
    inside = array(image)[border:-border, border:-border]
    return np.rint(np.clip(inside, 0, 1) * 255).astype(np.uint8)


def green_sites(height: int, width: int) -> torch.Tensor:
    """Return 1 where the filter is green, [height, width]."""
    tiled = np.tile(XTRANS, (height // 6 + 1, width // 6 + 1))[:height, :width]
    return torch.from_numpy((tiled == 1).astype(np.float64))


# ---- errors ------------------------------------------------------------------------------------------------------


def test_srgb_curves_are_those_of_scikit_image_and_go_on_beyond_black_and_white() -> None:
    encoded = torch.linspace(0, 1, 101, dtype=torch.float64)
    gray = np.repeat(encoded.numpy()[:, None, None], 3, axis=2)
    luminance = skimage.color.rgb2xyz(gray)[:, 0, 1]
    np.testing.assert_allclose(srgb_decoded(encoded).numpy(), luminance, atol=1e-5)
    values = torch.linspace(-2, 4, 601, dtype=torch.float64)
    torch.testing.assert_close(srgb_decoded(srgb_encoded(values)), values)
    torch.testing.assert_close(srgb_encoded(-values), -srgb_encoded(values))
    assert srgb_encoded(torch.tensor(2.0)).item() == pytest.approx(1.055 * 2 ** (1 / 2.4) - 0.055, abs=1e-6)


def test_the_srgb_curve_has_a_finite_slope_everywhere() -> None:
    values = torch.tensor([-1.0, -1e-9, 0.0, 1e-9, 0.5, 3.0], requires_grad=True)
    srgb_encoded(values).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None and values.grad.isfinite().all()
    assert values.grad[2].item() == pytest.approx(12.92)


def test_psnr_in_srgb_agrees_with_scikit_image_of_8_bit_images_inside_the_border() -> None:
    truth = torch.cat((photograph(), photograph("coffee")))
    made = damaged(truth)
    for number in range(2):
        x, y = eight_bit(made[number : number + 1]), eight_bit(truth[number : number + 1])
        assert cpsnr(made, truth)[number].item() == pytest.approx(peak_signal_noise_ratio(y, x), abs=1e-9)
        by_channel = [peak_signal_noise_ratio(y[..., c], x[..., c]) for c in range(3)]
        np.testing.assert_allclose(channel_psnr(made, truth)[number].numpy(), by_channel, atol=1e-9)


def test_linear_psnr_clips_nothing() -> None:
    truth = photograph() * 3.0
    made = damaged(truth)
    inside = np.s_[8:-8, 8:-8]
    expected = peak_signal_noise_ratio(array(truth)[inside], array(made)[inside], data_range=1.0)
    assert cpsnr_linear(made, truth).item() == pytest.approx(expected, abs=1e-9)


def test_the_border_is_left_out_of_every_score() -> None:
    truth = photograph()
    made = truth.clone()
    made[..., :8, :] = made[..., -8:, :] = made[..., :8] = made[..., -8:] = 0.5
    assert cpsnr(made, truth).isinf().all() and cpsnr_linear(made, truth).isinf().all()
    assert texture(made, truth).item() == 1.0
    assert zipper(made, truth).item() == cfa_fold(made, truth).item() == cfa_harmonic_db(made, truth).item() == 0.0
    assert not cpsnr(made, truth, border=7).isinf().any()


def test_highlight_error_is_the_mean_where_the_truth_is_above_white() -> None:
    truth = photograph() * 1.5
    made = damaged(truth).clamp(max=1.0)
    x, y = array(made)[8:-8, 8:-8], array(truth)[8:-8, 8:-8]
    assert (y > 1).sum() > 100
    assert highlight_error(made, truth).item() == pytest.approx(np.abs(x - y)[y > 1].mean(), abs=1e-12)
    assert highlight_error(made, truth * 0.5).isnan().all()


def test_texture_is_the_ratio_of_the_laplacians_variances() -> None:
    truth = photograph()
    made = damaged(truth)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    lumas = [array(image)[8:-8, 8:-8] @ np.array([0.299, 0.587, 0.114]) for image in (made, truth)]
    variances = [convolve2d(luma, kernel, mode="valid").var() for luma in lumas]
    assert texture(made, truth).item() == pytest.approx(variances[0] / variances[1], rel=1e-9)
    blurred = torch.from_numpy(scipy.ndimage.gaussian_filter(truth.numpy(), (0, 0, 1, 1)))
    assert texture(blurred, truth).item() < 0.3 < 1.0 < texture(truth + 0.1 * noise(truth.shape), truth).item()
    assert texture(made, torch.full_like(truth, 0.3)).isnan().all()


def zipper_pixel_by_pixel(made: torch.Tensor, truth: torch.Tensor) -> float:
    """Lu and Tan 2003, section V, with scikit-image's CIELAB."""
    lab_x, lab_y = (skimage.color.rgb2lab(eight_bit(image)) for image in (made, truth))
    height, width = lab_y.shape[:2]
    torn = 0
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            around = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
            distances = [np.linalg.norm(lab_y[row, column] - lab_y[place]) for place in around]
            nearest = around[int(np.argmin(distances))]
            change = np.linalg.norm(lab_x[row, column] - lab_x[nearest]) - min(distances)
            torn += abs(change) > 2.3
    return 100.0 * torn / ((height - 2) * (width - 2))


def test_zipper_agrees_with_a_count_pixel_by_pixel() -> None:
    truth = photograph(side=60, top=60)
    expected = zipper_pixel_by_pixel(made := damaged(truth), truth)
    assert 5.0 < expected < 95.0
    # a pixel whose change is 2.3 to the rounding of the two matrices may fall on either side
    assert zipper(made, truth).item() == pytest.approx(expected, abs=0.1)


def test_a_torn_edge_counts_along_its_length() -> None:
    truth = torch.full((1, 3, 40, 40), 0.2, dtype=torch.float64)
    truth[..., 20:] = 0.8
    torn = truth.clone()
    torn[..., ::2, 20] = 0.5  # every other pixel of one column
    assert zipper(truth, truth).item() == 0.0
    # inside the border 24 x 24 px, scored 22 x 22; each pixel's nearest neighbour of equal colour lies up and left
    assert 22 / 22**2 <= zipper(torn, truth).item() / 100 <= 3 * 22 / 22**2


# ---- the lattice -------------------------------------------------------------------------------------------------


def harmonics_by_hand(error_hwc: np.ndarray) -> float:
    """Each harmonic's 3 x 3 bins over its ring, by indices and loops."""
    height, width = (side // 6 * 6 for side in error_hwc.shape[:2])
    ratios = []
    for colour in range(3):
        plane = error_hwc[:height, :width, colour]
        window = np.outer(hann(height, sym=False), hann(width, sym=False))
        power = np.abs(scipy.fft.fft2((plane - plane.mean()) * window)) ** 2
        for k in range(6):
            for m in range(6):
                if (k + m) % 2 or k == m == 0:
                    continue
                near, ring = [], []
                for i in range(-10, 11):
                    for j in range(-10, 11):
                        value = power[(k * height // 6 + i) % height, (m * width // 6 + j) % width]
                        reach = max(abs(i), abs(j))
                        if reach <= 1:
                            near.append(value)
                        elif reach >= 4:
                            ring.append(value)
                ratios.append(np.mean(near) / np.mean(ring))
    assert len(ratios) == 3 * 17
    return float(10 * np.log10(np.mean(ratios)))


def fold_by_hand(error_hwc: np.ndarray) -> float:
    height, width = (side // 6 * 6 for side in error_hwc.shape[:2])
    means = np.array([[error_hwc[i:height:6, j:width:6].mean(axis=(0, 1)) for j in range(6)] for i in range(6)])
    return float(255 * np.sqrt(means.var(axis=(0, 1)).mean()))


def test_lattice_scores_agree_with_loops_over_frequencies_and_places() -> None:
    truth = photograph(side=160)
    made = damaged(truth) + 0.01 * green_sites(160, 160)
    error = (array(made) - array(truth))[8:-8, 8:-8]
    assert cfa_harmonic_db(made, truth).item() == pytest.approx(harmonics_by_hand(error), abs=1e-6)
    assert cfa_fold(made, truth).item() == pytest.approx(fold_by_hand(error), abs=1e-9)


@pytest.mark.parametrize("side", [112, 192, 516])
def test_white_noise_has_no_harmonics(side: int) -> None:
    values = [cfa_harmonic_db(0.1 * noise((1, 3, side, side), seed)).item() for seed in range(6)]
    assert abs(np.mean(values)) < 0.7 and max(np.abs(values)) < 2.0  # one has a standard deviation of 0.5
    # 36 means of 0.1 / sqrt(pixels / 36), in 1/255
    inside = (side - 16) // 6 * 6
    folds = [cfa_fold(0.1 * noise((1, 3, side, side), seed), torch.zeros(1, 3, side, side)) for seed in range(6)]
    assert float(torch.stack(folds).mean()) == pytest.approx(255 * 0.1 * 6 / inside, rel=0.1)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "retina"])
def test_clean_photographs_show_no_lattice_and_a_planted_one_is_caught(name: str) -> None:
    truth = photograph(name, side=258, top=20)
    assert not lattice_seen(cfa_harmonic_db(truth).item(), cfa_fold(truth).item())
    planted = truth + 2 / 255 * green_sites(258, 258)  # invisible to PSNR: above 42 dB
    assert cpsnr_linear(planted, truth).item() > 42.0
    assert cfa_harmonic_db(planted).item() > HARMONIC_LIMIT_DB + 3 and cfa_fold(planted).item() > FOLD_LIMIT
    assert lattice_seen(cfa_harmonic_db(planted).item(), cfa_fold(planted).item())
    # and among ordinary errors, with the truth at hand
    made = damaged(truth)
    assert not lattice_seen(cfa_harmonic_db(made, truth).item(), cfa_fold(made, truth).item())
    made = made + 2 / 255 * green_sites(258, 258)
    assert lattice_seen(cfa_harmonic_db(made, truth).item(), cfa_fold(made, truth).item())


@pytest.mark.parametrize(("k", "m"), [(1, 1), (2, 0), (1, 5), (0, 4), (3, 3)])
def test_a_wave_at_a_harmonic_has_the_fold_of_its_amplitude(k: int, m: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(160), torch.arange(160), indexing="ij")
    wave = 0.02 * torch.cos(2 * torch.pi * (k * rows + m * columns).double() / 6)[None, None].expand(1, 3, -1, -1)
    size = 1.0 if (k, m) == (3, 3) else 2**-0.5
    assert cfa_fold(wave, torch.zeros_like(wave)).item() == pytest.approx(255 * 0.02 * size, rel=1e-6)
    assert cfa_fold(wave).item() == pytest.approx(255 * 0.02 * size, rel=1e-6)  # the mean keeps nothing of it
    noisy = wave + 0.02 * noise(tuple(wave.shape))
    assert cfa_harmonic_db(noisy, torch.zeros_like(wave)).item() > 15.0


def test_a_wave_beside_the_harmonics_is_no_lattice() -> None:
    columns = torch.arange(160).double()
    for frequency in (1 / 5, 1 / 4, 1 / 8, 1 / 6):  # (0, 1) is no harmonic of the 18-site pattern
        wave = 0.02 * torch.cos(2 * torch.pi * frequency * columns).expand(1, 3, 160, 160)
        noisy = wave + 0.02 * noise((1, 3, 160, 160))
        assert cfa_harmonic_db(noisy, torch.zeros_like(noisy)).item() < 2.0


def test_a_colour_cast_is_no_lattice() -> None:
    truth = photograph()
    assert cfa_fold(truth + 0.1, truth).item() == pytest.approx(0.0, abs=1e-9)


def interpolated(image: torch.Tensor, *, told: tuple[int, int]) -> torch.Tensor:
    """Return weighted means of the samples of each colour, of a mosaic of phase (0, 0) read with the phase told."""
    height, width = image.shape[-2:]
    tiled = np.tile(XTRANS, (height // 6 + 3, width // 6 + 3))
    sites = tiled[:height, :width]
    read = tiled[told[0] : told[0] + height, told[1] : told[1] + width]
    measured = np.take_along_axis(array(image), sites[..., None], axis=2)[..., 0]
    planes = []
    for colour in range(3):
        mask = (read == colour).astype(np.float64)
        sums = scipy.ndimage.gaussian_filter(measured * mask, 1.0)
        planes.append(sums / scipy.ndimage.gaussian_filter(mask, 1.0))
    return tensor(np.stack(planes, axis=2))


def test_a_wrong_phase_is_caught_but_for_the_blind_spot_where_red_and_blue_change_places() -> None:
    truth = photograph(side=258, left=0, top=200)
    right = interpolated(truth, told=(0, 0))
    by_one = interpolated(truth, told=(0, 1))
    swapped = interpolated(truth, told=(0, 3))
    assert not lattice_seen(cfa_harmonic_db(right, truth).item(), cfa_fold(right, truth).item())
    assert lattice_seen(cfa_harmonic_db(by_one, truth).item(), cfa_fold(by_one, truth).item())
    # THE BLIND SPOT: (0, 3) moves greens onto greens; the lattice scores call it as clean as the right phase
    assert abs(cfa_harmonic_db(swapped, truth).item() - cfa_harmonic_db(right, truth).item()) < 3.0
    assert cpsnr(swapped, truth).item() < cpsnr(right, truth).item() - 6.0
    red_right, _, blue_right = channel_psnr(right, truth)[0]
    red, green, blue = channel_psnr(swapped, truth)[0]
    assert green.item() == pytest.approx(channel_psnr(right, truth)[0, 1].item(), abs=1e-9)
    assert red < red_right - 6.0 and blue < blue_right - 6.0


def test_the_spectrum_frames_the_harmonics_and_shows_a_lattice_inside_the_frames() -> None:
    truth = photograph(side=256)
    made = damaged(truth)
    shown = log_spectrum((made + 0.02 * green_sites(256, 256))[0], truth[0])
    assert shown.shape == (240, 240, 3) and shown.dtype == np.float32 and 0.0 <= shown.min() <= shown.max() <= 1.0
    framed = (shown == np.array([1.0, 0.55, 0.1], np.float32)).all(axis=2)
    middles = [(120 + 40 * k, 120 + 40 * m) for k in range(-2, 3) for m in range(-2, 3) if (k + m) % 2 == 0]
    middles.remove((120, 120))
    plain = log_spectrum(made[0], truth[0])
    brighter = [shown[middle][0] - plain[middle][0] for middle in middles if shown[middle][0] > 0.55]
    assert len(brighter) == 8 and min(brighter) > 0.2
    for row, column in middles:
        assert not framed[row, column] and framed[row - 6, column] and framed[row, column + 6]
    assert not framed[114:127, 114:127].any()
    assert np.isfinite(log_spectrum(truth[0])).all()


def test_images_too_small_for_a_score_have_none() -> None:
    truth = photograph()
    small = (truth[..., :16, :16] * 0.9, truth[..., :16, :16])
    for score in (cpsnr, cpsnr_linear, texture, zipper, highlight_error, cfa_fold, cfa_harmonic_db):
        assert score(*small).isnan().all(), score.__name__
    assert channel_psnr(*small).isnan().all() and cfa_fold(small[0]).isnan().all()
    assert cfa_harmonic_db(truth[..., :93, :] * 0.9, truth[..., :93, :]).isnan().all()
    assert not cfa_harmonic_db(truth[..., :94, :94] * 0.9, truth[..., :94, :94]).isnan().any()


def test_scores_have_one_value_for_each_image_of_a_batch() -> None:
    truth = torch.cat((photograph(), photograph("coffee"), photograph("chelsea"))).float()
    made = damaged(truth).float()
    for score in (cpsnr, cpsnr_linear, texture, zipper, cfa_fold, cfa_harmonic_db):
        together = score(made, truth)
        assert together.dtype == torch.float64 and together.shape == (3,)
        alone = torch.cat([score(made[i : i + 1], truth[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(together, alone)

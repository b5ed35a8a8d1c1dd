"""ENL, ENL ratio and EPI on simulated gamma speckle, whose answers are known in closed form."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import laplace, sobel, uniform_filter, zoom
from scipy.special import polygamma
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from mlkit.metrics.sar import (
    enl,
    enl_ratio,
    enl_ratio_pooled_db,
    epi,
    epi_sobel_cosine,
    intensity_of,
    psnr_wall,
    rmse_db,
    speckle_sigma_db,
)

VMIN_DB, VMAX_DB = -40.0, 20.0


def speckle(looks: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return multi-look speckle: Gamma(L, 1/L), mean 1, variance 1/L, so ENL L."""
    return np.random.default_rng(seed).gamma(looks, 1 / looks, shape)


def normalised(intensity: np.ndarray) -> Tensor:
    db = 10 * np.log10(intensity)
    return torch.from_numpy((db - VMIN_DB) / (VMAX_DB - VMIN_DB)).float().clamp(0, 1)


def scene(seed: int = 7) -> np.ndarray:
    """Return a noise-free scene [2, 1, 256, 256] of smooth fields with steps, 0.01 to 0.3 in intensity."""
    coarse = np.random.default_rng(seed).uniform(-20, -5, (2, 1, 4, 4))
    return 10 ** (np.round(zoom(coarse, (1, 1, 64, 64), order=0)) / 10)


@pytest.mark.parametrize("looks", [1.0, 4.0, 16.0])
def test_enl_of_speckle_is_its_number_of_looks(looks: float) -> None:
    intensity = torch.from_numpy(0.05 * speckle(looks, (3, 1, 256, 256)))
    np.testing.assert_allclose(enl(intensity, share=1.0).numpy(), looks, rtol=0.04)
    # the most homogeneous fifth flatters, by less than a fifth
    chosen = enl(intensity).numpy()
    assert (chosen > looks).all() and (chosen < 1.25 * looks).all()


def test_enl_of_amplitude_would_be_overstated_as_rayleigh_says() -> None:
    # the trap of science notes: on amplitude, mean^2/variance at one look is 1/(4/pi - 1) = 3.66, not 1
    amplitude = torch.from_numpy(np.sqrt(speckle(1.0, (1, 1, 256, 256))))
    assert enl(amplitude, share=1.0).item() == pytest.approx(1 / (4 / np.pi - 1), rel=0.05)


def test_enl_looks_at_homogeneous_windows_only() -> None:
    intensity = scene() * speckle(4.0, (2, 1, 256, 256))
    whole = intensity.mean(axis=(1, 2, 3)) ** 2 / intensity.var(axis=(1, 2, 3))
    assert (whole < 2.5).all()
    np.testing.assert_allclose(enl(torch.from_numpy(intensity)).numpy(), 4.0, rtol=0.25)


def test_enl_ratio_is_one_for_equal_images_and_near_one_for_new_speckle() -> None:
    original = normalised(scene() * speckle(4.0, (2, 1, 256, 256)))
    again = normalised(scene() * speckle(4.0, (2, 1, 256, 256), seed=1))
    assert enl_ratio(original, original, vmin_db=VMIN_DB, vmax_db=VMAX_DB).tolist() == [1.0, 1.0]
    np.testing.assert_allclose(enl_ratio(again, original, vmin_db=VMIN_DB, vmax_db=VMAX_DB).numpy(), 1.0, atol=0.25)


def test_an_ideal_despeckler_has_a_large_enl_ratio() -> None:
    # 0.1 dB of remaining texture: ENL = (10/ln 10 / 0.1)^2 = 1886, over 4 looks
    residue = 0.1 * np.random.default_rng(3).standard_normal((2, 1, 256, 256))
    ideal = normalised(scene() * 10 ** (residue / 10))
    original = normalised(scene() * speckle(4.0, (2, 1, 256, 256)))
    ratio = enl_ratio(ideal, original, vmin_db=VMIN_DB, vmax_db=VMAX_DB).numpy()
    assert (ratio > 300).all() and (ratio < 600).all()


def test_enl_ratio_takes_windows_from_the_original() -> None:
    # a reconstruction that is calm only where the original is busy gains nothing by it
    rng = np.random.default_rng(0)
    original = np.full((1, 1, 256, 256), 0.1) * speckle(8.0, (1, 1, 256, 256))
    original[..., 128:] *= rng.gamma(0.5, 2, (1, 1, 256, 128))  # texture: these windows are not homogeneous
    reconstruction = original.copy()
    reconstruction[..., 128:] = 0.1 * speckle(500.0, (1, 1, 256, 128))
    ratio = enl_ratio(normalised(reconstruction), normalised(original), vmin_db=VMIN_DB, vmax_db=VMAX_DB)
    assert ratio.item() == pytest.approx(1.0, abs=1e-6)


def test_enl_ratio_is_nan_where_it_is_undefined() -> None:
    noisy = normalised(0.1 * speckle(4.0, (1, 1, 64, 64)))
    flat = torch.full_like(noisy, 0.5)
    for reconstruction, original in ((noisy, flat), (flat, noisy), (flat, flat), (noisy[..., :24], noisy[..., :24])):
        assert enl_ratio(reconstruction, original, vmin_db=VMIN_DB, vmax_db=VMAX_DB).isnan().all()
    assert enl(torch.full((2, 1, 64, 64), 0.3)).isnan().all()
    assert enl(torch.rand((2, 1, 24, 64))).isnan().all()


def test_cut_off_speckle_is_not_taken_for_homogeneous_ground() -> None:
    calm_but_clipped = 10 ** (VMIN_DB / 10) * speckle(4.0, (1, 1, 256, 256))  # half of it below vmin
    original = 0.1 * speckle(4.0, (1, 1, 256, 256), seed=1)
    original[..., :128] = calm_but_clipped[..., :128]
    # doubling dB contrast on the right lowers its ENL; the clipped left stays as it is and would score 1
    rougher = normalised(original)
    right = rougher[..., 128:]
    rougher[..., 128:] = right.mean() + 2 * (right - right.mean())
    assert enl_ratio(rougher, normalised(original), vmin_db=VMIN_DB, vmax_db=VMAX_DB).item() < 0.5


def test_each_image_of_a_batch_is_scored_alone() -> None:
    original = normalised(scene() * speckle(4.0, (2, 1, 256, 256)))
    other = normalised(scene() * speckle(9.0, (2, 1, 256, 256), seed=5))
    for together, alone in (
        (epi(other, original), [epi(other[i : i + 1], original[i : i + 1]).item() for i in range(2)]),
        (
            enl_ratio(other, original, vmin_db=VMIN_DB, vmax_db=VMAX_DB),
            [
                enl_ratio(other[i : i + 1], original[i : i + 1], vmin_db=VMIN_DB, vmax_db=VMAX_DB).item()
                for i in range(2)
            ],
        ),
    ):
        np.testing.assert_allclose(together.numpy(), alone, rtol=1e-12)


def test_epi_is_the_centred_correlation_of_laplacians_by_scipy() -> None:
    a = normalised(scene() * speckle(4.0, (2, 1, 256, 256)))
    b = (a + 0.02 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for image in range(2):
        filtered = [laplace(x[image, 0].double().numpy())[1:-1, 1:-1].ravel() for x in (a, b)]
        assert epi(b, a)[image].item() == pytest.approx(np.corrcoef(filtered)[0, 1], abs=1e-9)


def test_epi_of_independent_speckle_is_near_zero_and_of_equal_images_one() -> None:
    flat = np.full((2, 1, 256, 256), 0.1)
    a, b = (normalised(flat * speckle(4.0, (2, 1, 256, 256), seed=seed)) for seed in (0, 1))
    assert epi(a, b).abs().max().item() < 0.02
    np.testing.assert_allclose(epi(a, a).numpy(), 1.0, atol=1e-12)
    np.testing.assert_allclose(epi(0.5 * a + 0.1, a).numpy(), 1.0, atol=1e-9)  # the dB range does not matter
    assert epi(torch.full_like(a, 0.3), a).isnan().all()


def test_intensity_and_rmse_undo_the_normalisation() -> None:
    intensity = scene() * speckle(4.0, (2, 1, 256, 256))
    back = intensity_of(normalised(intensity), vmin_db=VMIN_DB, vmax_db=VMAX_DB).numpy()
    np.testing.assert_allclose(back, intensity, rtol=1e-4)
    shifted = normalised(intensity * 10**0.3)  # + 3 dB
    error = rmse_db(shifted, normalised(intensity), vmin_db=VMIN_DB, vmax_db=VMAX_DB)
    np.testing.assert_allclose(error.numpy(), 3.0, atol=1e-3)


def test_enl_of_a_real_sentinel_1_scene_is_that_of_its_product() -> None:
    data = Path(os.environ.get("MLKIT_SHARED_DATA", Path(__file__).parents[2] / "../shared/data"))
    path = data / "sar/sentinel1_VV_db.tif"
    if not path.exists():
        pytest.skip(f"real data: {path} is absent")
    db = np.squeeze(tifffile.imread(path)).astype(np.float64)
    looks = enl(torch.from_numpy(10 ** (db / 10))[None, None], share=1.0).item()
    assert 4.0 < looks < 5.5  # 4.4 nominal for IW GRDH; its data sheet here says about 5


# ---- the wall -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("looks", "sigma_db"), [(1.0, 5.57), (4.0, 2.31), (4.4, 2.19)])
def test_speckle_in_db_deviates_as_published(looks: float, sigma_db: float) -> None:
    sigma = speckle_sigma_db(torch.tensor(looks, dtype=torch.float64)).item()
    assert sigma == pytest.approx(sigma_db, abs=0.005)
    assert sigma == pytest.approx(10 / np.log(10) * np.sqrt(polygamma(1, looks)), rel=1e-9)
    samples = 10 * np.log10(speckle(looks, (1_000_000,)))
    assert sigma == pytest.approx(samples.std(), rel=0.005)


def test_the_wall_is_the_psnr_of_an_ideal_despeckler() -> None:
    clean = scene()
    noisy = clean * speckle(4.4, clean.shape)
    wall = psnr_wall(normalised(noisy), vmin_db=VMIN_DB, vmax_db=VMAX_DB)
    for image in range(2):
        error = 10 * np.log10(noisy[image, 0] / clean[image, 0])
        ideal = normalised(clean * 10 ** (error.mean() / 10))  # without the bias of a mean in dB
        found = peak_signal_noise_ratio(
            normalised(noisy)[image, 0].double().numpy(), ideal[image, 0].double().numpy(), data_range=1.0
        )
        # the calmest windows flatter the looks by about 8 %: 0.4 dB
        assert wall[image].item() == pytest.approx(found, abs=0.7)
        assert wall[image].item() == pytest.approx(20 * np.log10(60 / 2.19), abs=0.7)
    assert psnr_wall(torch.full((1, 1, 64, 64), 0.5), vmin_db=VMIN_DB, vmax_db=VMAX_DB).isnan().all()
    assert psnr_wall(torch.rand(1, 1, 16, 64), vmin_db=VMIN_DB, vmax_db=VMAX_DB).isnan().all()


# ---- the plan's own definitions -------------------------------------------------------------------------------------


def pooled_by_scipy(made: np.ndarray, original: np.ndarray) -> float:
    inside = np.ones_like(original)
    share = uniform_filter(inside, 15, mode="constant")
    mean = uniform_filter(original, 15, mode="constant") / share
    square = uniform_filter(original**2, 15, mode="constant") / share
    calm = np.sqrt(np.maximum(square - mean**2, 0)) / mean < 0.3
    looks = [image[calm].mean() ** 2 / image[calm].var() for image in (made, original)]
    return float(looks[0] / looks[1])


def test_the_plans_scores_are_those_of_scipy() -> None:
    original = normalised(scene() * speckle(4.4, (2, 1, 256, 256)))
    made = normalised(scene() * speckle(9.0, (2, 1, 256, 256), seed=2))
    for image in range(2):
        x, y = (values[image, 0].double().numpy() for values in (made, original))
        assert enl_ratio_pooled_db(made, original)[image].item() == pytest.approx(pooled_by_scipy(x, y), rel=1e-9)
        edges = [np.hypot(sobel(v, 0), sobel(v, 1))[1:-1, 1:-1].ravel() for v in (x, y)]
        cosine = (edges[0] * edges[1]).sum() / np.sqrt((edges[0] ** 2).sum() * (edges[1] ** 2).sum())
        assert epi_sobel_cosine(made, original)[image].item() == pytest.approx(cosine, rel=1e-9)


def test_the_plans_scores_say_little_where_the_right_ones_speak() -> None:
    clean = scene()
    original = normalised(clean * speckle(4.4, clean.shape))
    ideal = normalised(clean * 10 ** (0.02 * np.random.default_rng(3).standard_normal(clean.shape)))
    again = normalised(clean * speckle(4.4, clean.shape, seed=1))
    assert (enl_ratio(ideal, original, vmin_db=VMIN_DB, vmax_db=VMAX_DB) > 50).all()
    assert (enl_ratio_pooled_db(ideal, original) < 2).all()
    assert (epi(again, original) < 0.1).all()
    assert (epi_sobel_cosine(again, original) > 0.75).all()
    noise = torch.randn((1, 1, 512, 512), generator=torch.Generator().manual_seed(0))
    other = torch.randn((1, 1, 512, 512), generator=torch.Generator().manual_seed(1))
    assert epi_sobel_cosine(noise, other).item() == pytest.approx(np.pi / 4, abs=0.005)
    flat = torch.full((1, 1, 32, 32), 0.5)
    assert epi_sobel_cosine(flat, noise[..., :32, :32]).isnan().all()
    assert enl_ratio_pooled_db(flat, flat).isnan().all()

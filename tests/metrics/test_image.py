"""PSNR, SSIM and MS-SSIM against scikit-image, torchmetrics and a float64 computation with scipy."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.functional.image import (
    peak_signal_noise_ratio as torchmetrics_psnr,
)

from mlkit.metrics.image import MS_SSIM_WEIGHTS, ms_ssim, psnr, ssim


def photographs() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two photographs and noisy, blurred or darkened versions of them, [2, 3, 200, 212]."""
    first = skimage.data.astronaut()[:200, 100:312].astype(np.float32) / 255
    second = skimage.data.chelsea()[50:250, 100:312].astype(np.float32) / 255
    x = torch.from_numpy(np.stack((first, second))).permute(0, 3, 1, 2).contiguous()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    y = (torch.stack((F.avg_pool2d(x[0], 5, 1, 2), x[1] * 0.8)) + 0.04 * noise).clamp(0, 1)
    return x, y


def skimage_ssim(x: torch.Tensor, y: torch.Tensor, data_range: float = 1.0) -> float:
    return float(
        structural_similarity(
            x.permute(1, 2, 0).double().numpy(),
            y.permute(1, 2, 0).double().numpy(),
            channel_axis=2,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def test_psnr_agrees_with_scikit_image_and_torchmetrics_per_image() -> None:
    x, y = photographs()
    for image, (a, b) in enumerate(zip(x, y, strict=True)):
        expected = peak_signal_noise_ratio(a.double().numpy(), b.double().numpy(), data_range=1.0)
        assert psnr(x, y)[image].item() == pytest.approx(expected, abs=1e-4)
        assert psnr(x, y)[image].item() == pytest.approx(torchmetrics_psnr(b, a, data_range=1.0).item(), abs=1e-4)


def test_psnr_scales_with_the_data_range_and_is_infinite_for_equal_images() -> None:
    x, y = photographs()
    torch.testing.assert_close(psnr(255 * x, 255 * y, data_range=255.0), psnr(x, y), rtol=0, atol=1e-5)
    assert psnr(x, x).isinf().all()


def test_ssim_agrees_with_scikit_image_per_image() -> None:
    x, y = photographs()
    expected = [skimage_ssim(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y).numpy(), expected, atol=1e-5)
    scaled = ssim(255 * x, 255 * y, data_range=255.0)
    np.testing.assert_allclose(scaled.numpy(), expected, atol=1e-5)


def test_ssim_agrees_with_torchmetrics_under_its_border() -> None:
    # torchmetrics also scores pixels whose window hangs over the border, on images continued by reflection
    x, y = photographs()
    expected = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    padded = ssim(F.pad(x, (5, 5, 5, 5), mode="reflect"), F.pad(y, (5, 5, 5, 5), mode="reflect"))
    np.testing.assert_allclose(padded.numpy(), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("contrast", [1e-3, 1e-2])
def test_ssim_in_float32_holds_on_bright_flat_areas(contrast: float) -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.full((1, 3, 64, 64), 0.97)
    base[..., 32:] = 0.05
    x = base + contrast * torch.randn(base.shape, generator=generator)
    y = base + contrast * torch.randn(base.shape, generator=generator)
    assert ssim(x, y).item() == pytest.approx(skimage_ssim(x[0], y[0]), abs=1e-5)


def test_ssim_is_one_for_equal_images_and_nan_below_the_window() -> None:
    x, _ = photographs()
    assert ssim(x, x).tolist() == [1.0, 1.0]
    assert ssim(x[..., :10], x[..., :10]).isnan().all()
    assert ssim(x[..., :11, :11], x[..., :11, :11]).tolist() == [1.0, 1.0]


def numpy_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """MS-SSIM of two [H, W] images by scipy in float64, following the paper."""
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def smooth(image: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(image, kernel, axis=0), kernel, axis=1)[5:-5, 5:-5]

    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        mu_x, mu_y = smooth(x), smooth(y)
        var_x, var_y, cov = smooth(x * x) - mu_x**2, smooth(y * y) - mu_y**2, smooth(x * y) - mu_x * mu_y
        term = (2 * cov + 9e-4) / (var_x + var_y + 9e-4)
        if scale == 4:
            term = term * (2 * mu_x * mu_y + 1e-4) / (mu_x**2 + mu_y**2 + 1e-4)
        product *= term.mean() ** weight
        height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
        x, y = (image[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for image in (x, y))
    return product


def test_ms_ssim_agrees_with_a_computation_by_scipy_and_nearly_with_torchmetrics() -> None:
    x, y = photographs()
    expected = [
        np.mean([numpy_ms_ssim(a.double().numpy(), b.double().numpy()) for a, b in zip(*pair, strict=True)])
        for pair in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ms_ssim(x, y).numpy(), expected, atol=1e-5)
    theirs = multiscale_structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    np.testing.assert_allclose(ms_ssim(x, y).numpy(), theirs.numpy(), atol=5e-3)  # borders differ
    assert ms_ssim(x[..., :175], y[..., :175]).isnan().all()

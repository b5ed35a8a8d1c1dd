"""Scores of photographs against scikit-image, scipy and published figures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from scipy.signal import convolve2d
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mlkit.metrics.photo import gms, luma_8bit, psnr_y, ssim_y

SHARED = Path(os.environ.get("MLKIT_SHARED_DATA", Path(__file__).parents[2] / "../shared/data"))


def photographs() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two photographs and noisy, shifted or darkened versions that leave [0, 1], [2, 3, 121, 140]."""
    first = skimage.data.astronaut()[:121, 100:240].astype(np.float32) / 255
    second = skimage.data.chelsea()[50:171, 100:240].astype(np.float32) / 255
    x = torch.from_numpy(np.stack((first, second))).permute(0, 3, 1, 2).contiguous()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return x, torch.stack((x[0].roll(1, dims=2), x[1] * 0.8)) + 0.04 * noise


def eight_bit(image_chw: torch.Tensor) -> np.ndarray:
    return np.rint(np.clip(image_chw.permute(1, 2, 0).double().numpy(), 0, 1) * 255).astype(np.uint8)


def skimage_luma(image_chw: torch.Tensor) -> np.ndarray:
    return rgb2ycbcr(eight_bit(image_chw))[..., 0]  # type: ignore[no-any-return]


def numpy_gms(x: torch.Tensor, y: torch.Tensor) -> float:
    """The mean of GMSD's map for 8-bit images, following the authors' MATLAB code but for the border."""

    def magnitude(image_chw: torch.Tensor) -> np.ndarray:
        rgb = image_chw.permute(1, 2, 0).double().numpy() * 255
        luma = rgb @ np.array([0.299, 0.587, 0.114])
        half = convolve2d(luma, np.full((2, 2), 0.25), mode="valid")[::2, ::2]
        kernel = np.array([[1, 0, -1]] * 3) / 3
        return np.hypot(convolve2d(half, kernel, mode="valid"), convolve2d(half, kernel.T, mode="valid"))

    a, b = magnitude(x), magnitude(y)
    return float(np.mean((2 * a * b + 170) / (a**2 + b**2 + 170)))


def test_luma_is_that_of_scikit_image_of_8_bit_colours() -> None:
    _, noisy = photographs()
    expected = np.stack([skimage_luma(image) for image in noisy])
    np.testing.assert_allclose(luma_8bit(noisy)[:, 0].numpy() * 255, expected, atol=1e-9)


@pytest.mark.parametrize("crop", [0, 4])
def test_psnr_and_ssim_of_the_luma_agree_with_scikit_image_inside_the_border(crop: int) -> None:
    x, y = photographs()
    inside = np.s_[crop : x.shape[2] - crop, crop : x.shape[3] - crop]
    for image, pair in enumerate(zip(x, y, strict=True)):
        first, second = (skimage_luma(one)[inside] for one in pair)
        psnr = peak_signal_noise_ratio(first, second, data_range=255)
        ssim = structural_similarity(
            first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert psnr_y(x, y, crop=crop)[image].item() == pytest.approx(psnr, abs=1e-6)
        assert ssim_y(x, y, crop=crop)[image].item() == pytest.approx(ssim, abs=1e-6)


def test_the_default_leaves_out_four_pixels() -> None:
    x, y = photographs()
    border = y.clone()
    border[..., 4:-4, 4:-4] = x[..., 4:-4, 4:-4]
    assert psnr_y(x, border).isinf().all() and not psnr_y(x, border, crop=3).isinf().any()
    torch.testing.assert_close(psnr_y(x, y), psnr_y(x, y, crop=4))


def test_gms_agrees_with_a_computation_by_scipy() -> None:
    x, y = photographs()
    expected = [numpy_gms(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(gms(x, y).numpy(), expected, atol=1e-6)
    assert min(expected) > 0.3 and max(expected) < 0.99


def test_gms_is_one_for_equal_images_and_blind_to_brightness() -> None:
    x, _ = photographs()
    assert gms(x, x).tolist() == [1.0, 1.0]
    torch.testing.assert_close(gms(x, x * 0.5 + 0.25), gms(x + 0.3, x * 0.5))


def test_images_without_a_pixel_to_score_are_undefined() -> None:
    x, y = photographs()
    assert psnr_y(x[..., :8], y[..., :8]).isnan().all()
    assert ssim_y(x[..., :18], y[..., :18]).isnan().all()  # 10 px are left, the window is 11
    assert gms(x[..., :5, :], y[..., :5, :]).isnan().all()
    assert not gms(x[..., :6, :6], y[..., :6, :6]).isnan().any()


def test_bicubic_at_scale_4_scores_what_papers_print_for_set5() -> None:
    # 28.42 dB and 0.8104 (MATLAB's imresize, such as Table 2 of Lim et al. 2017); Pillow rounds between its two passes
    files = sorted((SHARED / "photos" / "set5").glob("*.png"))
    if not files:
        pytest.skip("Set5 is not there; set MLKIT_SHARED_DATA to a folder with photos/set5")
    scores = []
    for path in files:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        width, height = image.width - image.width % 4, image.height - image.height % 4
        image = image.crop((0, 0, width, height))
        low = image.resize((width // 4, height // 4), Image.Resampling.BICUBIC)
        pair = [
            torch.from_numpy(np.asarray(one, dtype=np.float32) / 255).permute(2, 0, 1)[None]
            for one in (image, low.resize((width, height), Image.Resampling.BICUBIC))
        ]
        scores.append((psnr_y(*pair).item(), ssim_y(*pair).item()))
    psnr, ssim = np.mean(scores, axis=0)
    assert psnr == pytest.approx(28.42, abs=0.03)
    assert ssim == pytest.approx(0.8104, abs=0.002)

"""Shared losses against torchmetrics, torch's own cross-entropy, and numerical gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torchmetrics.functional.image import image_gradients

from mlkit.losses import charbonnier, chroma_loss, focal_loss, gradient_loss, ssim_loss
from mlkit.metrics.image import ssim


def pair(size: int = 48, dtype: torch.dtype = torch.float32, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((2, channels, size, size), generator=generator, dtype=dtype)
    return x, (x + 0.1 * torch.randn(x.shape, generator=generator, dtype=dtype)).clamp(0, 1)


def test_ssim_loss_is_one_minus_the_metric() -> None:
    x, y = pair(channels=3)
    assert ssim_loss(x, y).item() == pytest.approx(1 - ssim(x, y).mean().item(), abs=1e-6)
    assert ssim_loss(x, x).item() == 0.0


@pytest.mark.parametrize("loss", [charbonnier, ssim_loss, gradient_loss, chroma_loss])
def test_gradients_agree_with_finite_differences(loss) -> None:  # type: ignore[no-untyped-def]
    x, y = pair(12, torch.float64, channels=3)
    assert gradcheck(lambda image: loss(image, y), (x.requires_grad_(),), eps=1e-6, atol=1e-6)


def test_focal_gradient_agrees_with_finite_differences_also_for_small_gamma() -> None:
    logits = torch.randn((2, 4, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 3, 3), generator=torch.Generator().manual_seed(1))
    for gamma in (0.0, 0.5, 2.0):
        assert gradcheck(lambda z, g=gamma: focal_loss(z, labels, gamma=g), (logits.requires_grad_(),))


def test_training_on_the_ssim_loss_restores_an_image() -> None:
    x, y = pair(32)
    image = y.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        ssim_loss(image, x).backward()
        optimizer.step()
    assert ssim(image, x).min().item() > 0.99 > 0.96 > ssim(y, x).max().item()


@pytest.mark.parametrize("loss", [charbonnier, ssim_loss, gradient_loss, chroma_loss])
def test_losses_leave_autocast(loss) -> None:  # type: ignore[no-untyped-def]
    x, y = pair(channels=3)
    plain = loss(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss(x, y)
        half = loss(x.bfloat16(), y.bfloat16())
    assert cast.dtype == half.dtype == torch.float32
    assert cast.item() == plain.item()


def test_charbonnier_is_the_mean_of_its_formula() -> None:
    x, y = pair(dtype=torch.float64)
    expected = np.sqrt((x.numpy() - y.numpy()) ** 2 + 1e-6).mean()
    assert charbonnier(x, y).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_loss_is_the_mean_difference_of_torchmetrics_gradients() -> None:
    x, y = pair()
    # torchmetrics puts a row (column) of zeros after the last difference
    (down_x, right_x), (down_y, right_y) = image_gradients(x), image_gradients(y)
    down = (down_x - down_y).abs()[..., :-1, :].mean()
    right = (right_x - right_y).abs()[..., :, :-1].mean()
    assert gradient_loss(x, y).item() == pytest.approx((0.5 * (down + right)).item(), rel=1e-5)
    assert gradient_loss(x + 0.3, x).item() == pytest.approx(0.0, abs=1e-6)


def test_chroma_loss_is_the_mean_error_of_two_colour_differences_and_blind_to_brightness() -> None:
    x, y = pair(dtype=torch.float64, channels=3)
    (r_x, g_x, b_x), (r_y, g_y, b_y) = (image.numpy().transpose(1, 0, 2, 3) for image in (x, y))
    expected = 0.5 * (np.abs((r_x - g_x) - (r_y - g_y)).mean() + np.abs((b_x - g_x) - (b_y - g_y)).mean())
    assert chroma_loss(x, y).item() == pytest.approx(expected, rel=1e-12)
    assert chroma_loss(x + 0.3 * x[:, 1:2], x).item() == pytest.approx(0.0, abs=1e-12)
    assert chroma_loss(x.flip(1), x).item() > 0.1  # red and blue exchanged


def test_focal_loss_without_gamma_is_weighted_cross_entropy() -> None:
    logits = torch.randn((2, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 5, (2, 6, 7), generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0])
    expected = F.cross_entropy(logits, labels, weight=weights, reduction="none")
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0, class_weights=weights), expected)


def test_focal_loss_follows_its_formula_and_stays_finite_on_certain_predictions() -> None:
    p = np.array([0.9, 0.5, 0.01])
    logits = torch.tensor(np.log(np.stack((p, 1 - p), axis=1)))
    expected = -((1 - p) ** 2) * np.log(p)
    np.testing.assert_allclose(focal_loss(logits, torch.zeros(3, dtype=torch.long)).numpy(), expected, rtol=1e-9)
    certain = torch.tensor([[80.0, -80.0]], requires_grad=True)
    for gamma in (0.5, 2.0):
        for label in (0, 1):
            loss = focal_loss(certain, torch.tensor([label]), gamma=gamma).sum()
            (gradient,) = torch.autograd.grad(loss, certain)
            assert loss.isfinite() and gradient.isfinite().all()

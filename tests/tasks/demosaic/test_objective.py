"""The training loss against a second implementation in NumPy and scikit-image, and where it looks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mlkit.tasks.demosaic.objective import objective
from mlkit.tasks.demosaic.settings import DemosaicLoss


def images(seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(2, 3, 40, 44, generator=generator) * scale
    return truth + 0.05 * torch.randn(truth.shape, generator=generator), truth


LINEAR, SRGB = torch.zeros(2), torch.ones(2)


def inner(image: Tensor) -> np.ndarray:
    return image.numpy().astype(np.float64)[..., 6:-6, 6:-6]


def test_the_weighted_sum_is_that_of_its_parts() -> None:
    made, truth = images()
    weights = DemosaicLoss(l1=0.4, gradient=0.1, chroma=0.05)
    total, parts = objective(made, truth, LINEAR, weights)
    error = inner(made) - inner(truth)
    slopes = 0.5 * (np.abs(np.diff(error, axis=2)).mean() + np.abs(np.diff(error, axis=3)).mean())
    colors = 0.5 * (np.abs(error[:, 0] - error[:, 1]).mean() + np.abs(error[:, 2] - error[:, 1]).mean())
    assert float(parts["l1"]) == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert float(parts["gradient"]) == pytest.approx(slopes, rel=1e-5)
    assert float(parts["chroma"]) == pytest.approx(colors, rel=1e-5)
    assert float(total) == pytest.approx(0.4 * np.abs(error).mean() + 0.1 * slopes + 0.05 * colors, rel=1e-5)


def test_ssim_is_that_of_scikit_image() -> None:
    from skimage.metrics import structural_similarity

    made, truth = images()
    total, _ = objective(made, truth, SRGB, DemosaicLoss(l1=0.0, ssim=1.0))
    scores = [
        structural_similarity(
            x, y, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(inner(made), inner(truth), strict=True)
    ]
    assert float(total) == pytest.approx(1.0 - np.mean(scores), abs=1e-4)


def test_light_is_compared_as_srgb_where_asked_and_encoded_samples_are_left_alone() -> None:
    made, truth = (image.clamp_min(1e-4) for image in images(scale=0.2))
    weights = DemosaicLoss(encoding="srgb")

    def encoded(values: np.ndarray) -> np.ndarray:
        return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)

    light, _ = objective(made, truth, LINEAR, weights)
    assert float(light) == pytest.approx(np.abs(encoded(inner(made)) - encoded(inner(truth))).mean(), rel=1e-4)
    already, _ = objective(made, truth, SRGB, weights)
    assert float(already) == pytest.approx(np.abs(inner(made) - inner(truth)).mean(), rel=1e-5)
    half, _ = objective(made, truth, torch.tensor([0.0, 1.0]), weights)
    assert float(already) < float(half) < float(light)


@pytest.mark.parametrize("encoding", ["linear", "root", "srgb"])
def test_highlights_and_negative_values_have_gradients(encoding: str) -> None:
    truth = torch.full((1, 3, 20, 20), 1.5)
    made = torch.full((1, 3, 20, 20), 2.0)
    made[..., 9] = -0.01
    made[..., 10] = 0.0
    made.requires_grad_(True)
    objective(made, truth, torch.zeros(1), DemosaicLoss(encoding=encoding))[0].backward()
    assert made.grad is not None
    assert bool(torch.isfinite(made.grad).all())
    assert bool((made.grad[..., 8, 8] > 0).all())  # above white, too, it knows which way
    assert bool((made.grad[..., 8, 9:11] < 0).all())


def test_the_edge_of_a_crop_does_not_count() -> None:
    made, truth = images()
    changed = made.clone()
    changed[..., :6, :] += 1.0
    changed[..., -6:] += 1.0
    before, _ = objective(made, truth, LINEAR, DemosaicLoss())
    after, _ = objective(changed, truth, LINEAR, DemosaicLoss())
    assert float(before) == float(after)

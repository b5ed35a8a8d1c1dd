"""Quantised latents: what stands for rounding, the bits they cost, who may look at whom, and the loss with its rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import logistic
from torch import Tensor

from mlkit.settings import TrainSettings
from mlkit.tasks.sar.entropy import MAX_SCALE, MIN_SCALE, Prior, causal_mask, logistic_bits
from mlkit.tasks.sar.model import build_autoencoder
from mlkit.tasks.sar.settings import SarLoss, SarModel, SarSettings
from mlkit.tasks.sar.task import SarTask


def busy_prior(channels: int = 3, quantize: Any = "noise", context: bool = True) -> Prior:
    torch.manual_seed(0)
    prior = Prior(channels, quantize, context)
    with torch.no_grad():
        for value in prior.parameters():
            value += 0.1 * torch.randn_like(value)
    return prior


def settings(**changes: Any) -> SarSettings:
    model = {"arch": "gdn", "base_channels": 4, "latent_channels": 8, "quantize": "noise", **changes.pop("model", {})}
    loss = {"mse_weight": 1.0, "ssim_weight": 0.0, "rate_weight": 0.01, **changes.pop("loss", {})}
    return SarSettings(model=SarModel(**model), loss=SarLoss(**loss), train=TrainSettings(steps=1))


def test_bits_are_those_of_scipys_logistic_distribution() -> None:
    residual = torch.tensor([-7.3, -1.2, 0.0, 0.4, 3.0, 11.0], dtype=torch.float64)
    for scale in (0.3, 1.0, 5.0):
        cell = logistic.cdf(residual + 0.5, scale=scale) - logistic.cdf(residual - 0.5, scale=scale)
        found = logistic_bits(residual, torch.tensor(scale, dtype=torch.float64))
        np.testing.assert_allclose(found.numpy(), -np.log2(np.maximum(cell, 2.0**-24)), rtol=1e-6)


def test_the_probabilities_of_all_values_sum_to_one() -> None:
    values = torch.arange(-400, 401, dtype=torch.float64)
    for mean, scale in ((0.3, 0.4), (-2.7, 6.0)):
        bits = logistic_bits(values - mean, torch.tensor(scale, dtype=torch.float64))
        assert float((2.0**-bits).sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("context", [True, False])
def test_no_value_looks_at_what_is_coded_after_it(context: bool) -> None:
    prior = busy_prior(context=context)
    q = torch.randn(1, 3, 5, 6).mul(3).round()
    place = (1, 2, 3)
    q[0][place], q[0, 2, 4, 5] = 5, -2
    changed = q.clone()
    changed[0][place], changed[0, 2, 4, 5] = -2, 5  # the level of the image stays
    before, after = prior.mean_and_scale(q), prior.mean_and_scale(changed)
    moved = [(a != b)[0] for a, b in zip(before, after, strict=True)]
    flat = (moved[0] | moved[1]).flatten()
    first = (place[0] * 5 + place[1]) * 6 + place[2]
    assert not flat[: first + 1].any()
    assert bool(flat.any()) == context


def test_mean_and_scale_are_the_documented_sums_by_loops() -> None:
    prior = busy_prior()
    q = torch.randn(1, 3, 4, 4).mul(3).round()
    with torch.no_grad():
        mean, scale = prior.mean_and_scale(q)
    a, v, b = (value.detach().double() for value in (prior.mean_taps, prior.root_scale_taps, prior.root_base))
    for c, i, j in np.ndindex(3, 4, 4):
        m, s = 0.0, float(b[c] ** 2) * float(q.abs().mean())
        for k in range(c + 1):
            for y, x in np.ndindex(3, 3):
                inside = 0 <= i + y - 1 < 4 and 0 <= j + x - 1 < 4
                if inside and (k < c or (y, x) in ((0, 0), (0, 1), (0, 2), (1, 0))):
                    value = float(q[0, k, i + y - 1, j + x - 1])
                    m += float(a[c, k, y, x]) * value
                    s += float(v[c, k, y, x] ** 2) * abs(value)
        assert float(mean[0, c, i, j]) == pytest.approx(m, abs=1e-4)
        assert float(scale[0, c, i, j]) == pytest.approx(min(max(s, MIN_SCALE), MAX_SCALE), rel=1e-4)
    assert causal_mask(3).sum() == 3 * 9 + 3 * 4


def test_what_stands_for_rounding() -> None:
    latent = torch.randn(2, 3, 8, 8)
    rounded = busy_prior().eval()
    decoded, _ = rounded(latent, 0.5)
    in_steps = decoded * rounded.gain[:, None, None] / 0.5
    torch.testing.assert_close(in_steps, in_steps.round(), atol=1e-3, rtol=0)
    exact = latent * rounded.gain[:, None, None] / 0.5
    assert (in_steps - exact).abs().max() <= 0.601
    towards_zero = in_steps.round().abs() < exact.abs()
    assert towards_zero.float().mean() > 0.5, "a dead zone: more values lose size than gain"
    torch.testing.assert_close((exact.abs() % 1 > 0.6) & towards_zero, torch.zeros_like(towards_zero))
    noisy, _ = busy_prior().train()(latent, 0.5)
    error = (noisy - latent) * rounded.gain[:, None, None] / 0.5
    assert error.abs().max() <= 0.501 and error.std().item() == pytest.approx(math.sqrt(1 / 12), rel=0.1)
    straight = busy_prior(quantize="straight_through").train()
    again, _ = straight(latent, 0.5)
    torch.testing.assert_close(again, decoded)
    wanted = latent.clone().requires_grad_()
    straight(wanted, 0.5)[0].sum().backward()
    torch.testing.assert_close(wanted.grad, torch.ones_like(latent))


def test_a_training_step_lowers_rate_and_error_and_reaches_every_weight() -> None:
    torch.manual_seed(0)
    task = SarTask(settings(model={"quantize": "straight_through", "quantize_steps": (0.5, 2.0)}))
    net = task.build_model().train()
    image = torch.rand(4, 1, 32, 32)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for step in range(40):
        torch.manual_seed(1)  # the same noise and steps
        loss = task.loss(net, {"image": image}, step=step)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
        if step == 1:  # the last layers start at 0 and let nothing through in the first step
            assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in net.parameters())
    assert losses[-1] < 0.9 * losses[0]
    assert loss.parts.keys() == {"mse", "ssim_loss", "rate_bpp"}


class Given(torch.nn.Module):
    """A network whose reconstruction and bits are given; it keeps the step it was told."""

    def __init__(self, made: Tensor, bits: Tensor) -> None:
        super().__init__()
        self.made, self.bits = made, bits
        self.steps = torch.zeros(0)

    def forward(self, image: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        self.steps = step
        return self.made, self.bits


def test_the_loss_is_as_documented() -> None:
    image, made = torch.rand(3, 1, 32, 32), torch.rand(3, 1, 32, 32)
    net = Given(made, torch.tensor([100.0, 200.0, 900.0]))
    task = SarTask(settings(model={"quantize_steps": (0.25, 4.0)}))
    loss = task.loss(net, {"image": image}, step=0)
    steps = net.steps.flatten()
    assert steps.min() >= 0.25 and steps.max() <= 4 and len(steps.unique()) == 3
    squares = (made - image).square().mean(dim=(1, 2, 3))
    assert loss.total.item() == pytest.approx(float((squares / steps**2).mean() + 0.01 * 400 / 1024), rel=1e-5)
    assert loss.parts["rate_bpp"].item() == pytest.approx(400 / 1024)


def test_the_rate_is_a_score_and_stands_below_the_picture() -> None:
    torch.manual_seed(0)
    task = SarTask(settings())
    net = task.build_model().eval()
    image = torch.rand(2, 1, 40, 50)  # padded to multiples of 16 inside
    batch = {"image": image, "db_range": torch.tensor([[-20.0, 5.0]] * 2)}
    with torch.no_grad():
        outputs = task.predict(net, batch)
    scores = task.metrics(outputs, batch)
    assert torch.equal(scores["rate_bpp"], outputs["rate_bpp"]) and (scores["rate_bpp"] > 0).all()
    mse = (outputs["image"] - image).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(scores["loss"], mse + 0.01 * scores["rate_bpp"])
    assert f"{float(scores['rate_bpp'][1]):.3f} bit/px" in task.panels(outputs, batch, 1)[1].note
    assert "bits_per_px" not in task.facts and task.facts["values_ratio"] == 8.0


@pytest.mark.parametrize("arch", ["baseline", "residual_v1", "gdn"])
def test_every_layout_can_be_quantised(arch: Any) -> None:
    net = build_autoencoder(arch, 4, 4, quantize="noise").eval()
    with torch.no_grad():
        made, bits = net(torch.rand(2, 1, 32, 48), torch.full((2, 1, 1, 1), 0.5))
        assert made.shape == (2, 1, 32, 48) and bits.shape == (2,)
        assert net(torch.rand(2, 1, 32, 48)).shape == (2, 1, 32, 48)


def test_the_transform_of_gdn_starts_as_the_cosine_transform_and_undoes_itself() -> None:
    from scipy.fft import dctn

    net = build_autoencoder("gdn", 4, 64).eval()
    image = torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        latent = net.encode(image)
        torch.testing.assert_close(net.decode(latent), image, atol=1e-5, rtol=0)
    block = dctn(image[0, 0, 8:16, 16:24].double().numpy() - 0.5, norm="ortho")
    np.testing.assert_allclose(np.sort(latent[0, :, 1, 2]), np.sort(block.ravel()), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"quantize": "none"}}, "loss.rate_weight needs whole numbers to count: set model.quantize as well"),
        ({"model": {"latent_channels": 65}}, "latent_channels = 65 is too many for gdn; give 64 at most"),
        ({"model": {"quantize_steps": (2.0, 1.0)}}, "quantize_steps fall; give the lower one first"),
        (
            {"model": {"quantize": "none", "quantize_steps": (1.0, 2.0)}, "loss": {"rate_weight": 0.0}},
            "quantize_steps need quantize; set it to noise or straight_through",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**changes)
    assert said in str(caught.value)

"""The network: shapes for any side and number of classes, padding as a class of its own, noise given from outside."""

from __future__ import annotations

import pytest
import torch

from mlkit.tasks.bvae.model import BetaVae
from mlkit.tasks.bvae.settings import BvaeModel


@pytest.mark.parametrize(("side", "classes", "blocks"), [(16, 10, 0), (30, 10, 1), (7, 3, 0), (4, 40, 2)])
def test_every_side_and_number_of_classes_has_its_shapes(side: int, classes: int, blocks: int) -> None:
    net = BetaVae(BvaeModel(side=side, classes=classes, blocks=blocks, channels=4, hidden=8, latent=5))
    labels = torch.randint(0, classes + 1, (2, side, side), dtype=torch.uint8)
    logits, mu, log_variance = net(labels, torch.randn(2, 5))
    assert logits.shape == (2, classes, side, side)  # none for the padding
    assert mu.shape == log_variance.shape == (2, 5)


def test_the_default_is_the_network_of_the_specification() -> None:
    net = BetaVae(BvaeModel(side=16))
    shapes = [
        tuple(value.shape) for name, value in net.named_parameters() if name.startswith("encoder") and "weight" in name
    ]
    assert shapes == [(32, 11, 3, 3), (64, 32, 3, 3), (128, 64, 3, 3)]
    heads = [tuple(value.shape) for value in net.heads.parameters() if value.ndim > 1]
    assert heads == [(128, 128 * 4 * 4), (20, 128)]  # mu and log sigma^2 of a latent of 10


def test_a_map_has_a_latent_for_each_4x4_cells_and_is_equal_at_every_place() -> None:
    net = BetaVae(BvaeModel(side=30, layout="map", channels=4, latent=3, blocks=1)).eval()
    labels = torch.full((2, 30, 30), 10)
    grid = torch.randint(0, 10, (4, 4))
    labels[0, 12:16, 12:16], labels[1, 16:20, 12:16] = grid, grid  # the same, one site further down
    with torch.no_grad():
        logits, mu, log_variance = net(labels, torch.zeros(2, 3 * 8 * 8))
        assert mu.shape == log_variance.shape == (2, 3 * 8 * 8)
        maps = mu.reshape(2, 3, 8, 8)
        torch.testing.assert_close(maps[0, :, 1:6], maps[1, :, 2:7])
        torch.testing.assert_close(net.decode(mu), logits)
    assert BvaeModel(side=30, layout="map", latent=3).latent_dims == 192
    assert BvaeModel(side=30, latent=3).latent_dims == 3


@pytest.mark.parametrize("layout", ["vector", "map"])
def test_the_posterior_begins_as_wide_as_it_is_asked_to(layout: str) -> None:
    settings = BvaeModel(side=16, layout=layout, channels=8, latent=6, initial_sigma=0.1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    with torch.no_grad():
        _, mu, log_variance = BetaVae(settings)(torch.randint(0, 10, (8, 16, 16)))
    assert float((0.5 * log_variance).exp().mean()) == pytest.approx(0.1, rel=0.15)
    assert float(mu.abs().mean()) < 0.5


def test_without_noise_z_is_the_mean_and_the_answer_always_the_same(net: BetaVae) -> None:
    labels = torch.randint(0, 11, (3, 10, 10))
    with torch.no_grad():
        logits, mu, log_variance = net(labels)
        assert torch.equal(net(labels)[0], logits)
        torch.testing.assert_close(net.decode(mu), logits)
        noise = torch.randn(3, 6)
        z = mu + log_variance.exp().sqrt() * noise
        torch.testing.assert_close(net(labels, noise)[0], net.decode(z))


def test_padding_differs_from_the_background_to_the_encoder(net: BetaVae) -> None:
    background = torch.zeros(1, 10, 10, dtype=torch.long)
    padded = background.clone()
    padded[:, 5:] = 10
    with torch.no_grad():
        assert not torch.allclose(net.encode(background)[0], net.encode(padded)[0])


def test_a_grid_does_not_depend_on_its_neighbours_in_the_batch(net: BetaVae) -> None:
    labels = torch.randint(0, 11, (5, 10, 10))
    with torch.no_grad():
        for whole, alone in zip(net(labels), net(labels[2:3]), strict=True):
            torch.testing.assert_close(whole[2:3], alone)


def test_half_precision_gives_finite_posteriors(net: BetaVae) -> None:
    with torch.no_grad():
        net.heads[-1].bias.fill_(100.0)  # exp(100) overflows even float32's square
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, mu, log_variance = net(torch.zeros(2, 10, 10, dtype=torch.long), torch.randn(2, 6))
    assert mu.dtype == log_variance.dtype == torch.float32
    assert all(torch.isfinite(value).all() for value in (logits, mu, log_variance.exp()))

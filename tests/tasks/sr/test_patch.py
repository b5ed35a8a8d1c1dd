"""The fixed patch transform, against SciPy's discrete cosine transform."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from mlkit.tasks.sr.bases.build import new_vae, open_vae
from mlkit.tasks.sr.bases.patch import PatchAutoencoder


def image(seed: int = 0, sides: tuple[int, int] = (24, 40)) -> torch.Tensor:
    return torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# (vertical, horizontal) frequencies, lowest first.
ORDER = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1)]
ORDER += [(0, 3), (3, 0), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2), (3, 3)]


def test_a_patch_becomes_its_three_dimensional_dct_colour_by_colour_lowest_frequencies_first() -> None:
    x = image()
    z = PatchAutoencoder().encode(x).latent_dist.mode()
    assert z.shape == (2, 48, 6, 10)
    expected = dctn(x[1, :, 8:12, 20:24].double().numpy(), norm="ortho")
    ordered = [expected[colour, i, j] for colour in range(3) for i, j in ORDER]
    np.testing.assert_allclose(z[1, :, 2, 5].numpy(), ordered, atol=1e-6)


def test_fewer_opponent_coefficients_lose_fine_colour_and_no_lightness() -> None:
    vae, x = PatchAutoencoder(latent_channels=24, kept=(16, 4, 4)), image()
    z = vae.encode(x).latent_dist.mode()
    assert z.shape == (2, 24, 6, 10)
    made = vae.decode(z).sample
    torch.testing.assert_close(made.mean(1), x.mean(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(vae.encode(made).latent_dist.mode(), z, atol=1e-6, rtol=0)  # a projection
    assert float((made - x).square().mean()) > 0.05
    grey = x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(vae.decode(vae.encode(grey).latent_dist.mode()).sample, grey, atol=1e-6, rtol=0)


def test_the_first_coefficient_is_the_mean_of_the_patch() -> None:
    z = PatchAutoencoder().encode(torch.full((1, 3, 8, 8), 0.5)).latent_dist.mode()
    torch.testing.assert_close(z[:, 0], torch.full((1, 2, 2), 0.5 * 48**0.5))
    assert float(z[:, 1:].abs().max()) < 1e-6


def test_nothing_is_lost_and_lengths_are_kept() -> None:
    vae, x = PatchAutoencoder(), image()
    z = vae.encode(x).latent_dist.mode()
    torch.testing.assert_close(vae.decode(z).sample, x, atol=1e-6, rtol=0)
    torch.testing.assert_close(z.square().sum(), x.square().sum())
    other = torch.randn(2, 48, 6, 10, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(vae.encode(vae.decode(other).sample).latent_dist.sample(), other, atol=1e-5, rtol=0)


def test_decoding_has_a_gradient() -> None:
    z = torch.zeros(1, 48, 2, 2, requires_grad=True)
    PatchAutoencoder().decode(z).sample.square().sum().backward()
    assert z.grad is not None
    z = torch.ones(1, 48, 2, 2, requires_grad=True)
    PatchAutoencoder().decode(z).sample.square().sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, torch.full_like(z, 2.0))  # of an orthonormal map: 2 z


def test_another_patch_size_says_its_factor_as_diffusers_reads_it() -> None:
    vae = PatchAutoencoder(patch_size=2, latent_channels=12, kept=(4, 4, 4), block_out_channels=(12, 12))
    assert vae.encode(image()).latent_dist.mode().shape == (2, 12, 12, 20)
    assert 2 ** (len(vae.config.block_out_channels) - 1) == 2


def test_it_has_nothing_to_train_and_opens_from_its_folder(tmp_path: Path) -> None:
    vae = new_vae()
    assert list(vae.parameters()) == []
    vae.save_pretrained(tmp_path / "vae")
    for folder in (tmp_path, tmp_path / "vae"):
        opened = open_vae(folder)
        assert type(opened) is PatchAutoencoder
        assert not opened.training
        assert torch.equal(opened.encode(image()).latent_dist.mode(), vae.encode(image()).latent_dist.mode())


@pytest.mark.parametrize("channels", [(8, 16), (8, 16, 16)])
def test_a_new_autoencoder_halves_the_side_at_every_level_after_the_first(channels: tuple[int, ...]) -> None:
    vae = new_vae(channels, 1, 6)
    z = vae.encode(torch.zeros(1, 3, 32, 48)).latent_dist.mode()
    assert z.shape == (1, 6, 32 // 2 ** (len(channels) - 1), 48 // 2 ** (len(channels) - 1))
    assert vae.decode(z).sample.shape == (1, 3, 32, 48)

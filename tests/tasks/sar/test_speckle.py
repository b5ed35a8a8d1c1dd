"""Claims of tasks/sar/speckle.py; expected numbers from the Gamma distribution's closed forms."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from scipy import special, stats

from mlkit.tasks.sar.speckle import PHOTOGRAPHS, SIGMA0_DB, embedded_scenes, simulate, speckle


@pytest.mark.parametrize("looks", [1.0, 2.7, 4.0, 4.4])
def test_speckle_has_the_gamma_distribution_of_its_looks(looks: float) -> None:
    s = speckle(np.random.default_rng(1), (512, 512), looks=looks, psf_sigma_px=0.0)
    assert s.mean() == pytest.approx(1, abs=0.005)
    assert s.var() == pytest.approx(1 / looks, rel=0.02)
    db = 10 * np.log10(s)
    assert db.std() == pytest.approx(10 / np.log(10) * np.sqrt(special.polygamma(1, looks)), rel=0.01)
    assert db.mean() == pytest.approx(
        10 / np.log(10) * (special.digamma(looks) - np.log(looks)), abs=0.04
    )  # 4 standard errors
    assert stats.kstest(s.ravel()[::7], stats.gamma(looks, scale=1 / looks).cdf).pvalue > 0.001


def test_44_looks_have_the_known_standard_deviation_of_219_db() -> None:
    s = speckle(np.random.default_rng(2), (512, 512), looks=4.4)
    assert (10 * np.log10(s)).std() == pytest.approx(2.19, abs=0.03)


@pytest.mark.parametrize("sigma", [0.7, 1.2])
def test_correlation_is_that_of_the_point_spread_function(sigma: float) -> None:
    # The field's autocorrelation is exp(-d^2 / 4 sigma^2); that of intensity is its square (Goodman 1976).
    s = speckle(np.random.default_rng(3), (512, 512), looks=1, psf_sigma_px=sigma)
    assert s.mean() == pytest.approx(1, abs=0.02)
    assert s.var() == pytest.approx(1, rel=0.06)
    for lag in (1, 2):
        measured = np.corrcoef(s[:, lag:].ravel(), s[:, :-lag].ravel())[0, 1]
        assert measured == pytest.approx(np.exp(-(lag**2) / (2 * sigma**2)), abs=0.04)


def test_speckle_is_as_strong_at_the_border_as_inside() -> None:
    s = np.stack([speckle(np.random.default_rng(k), (32, 32), looks=2, psf_sigma_px=1.0) for k in range(300)])
    assert s[:, 0].var() == pytest.approx(s[:, 16].var(), rel=0.1)


def test_embedded_scenes_need_no_network_and_are_a_dozen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the embedded sample reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    scenes = list(embedded_scenes(0))
    assert [scene.name for scene in scenes] == list(PHOTOGRAPHS)
    assert len(scenes) == 12
    for scene in scenes:
        assert scene.db_hw.dtype == np.float32
        assert scene.db_hw.shape == scene.truth_db_hw.shape
        assert 768 <= min(scene.db_hw.shape) <= max(scene.db_hw.shape) <= 1411
        assert np.isfinite(scene.db_hw).all()


def test_noisy_over_true_is_the_speckle_and_targets_are_bright() -> None:
    ramp = np.linspace(0, 1, 300)[None].repeat(300, axis=0)
    scene = simulate("ramp", ramp, 0)
    ratio_db = scene.db_hw - scene.truth_db_hw
    quiet = scene.truth_db_hw < SIGMA0_DB[1]  # without targets
    assert ratio_db[quiet].std() == pytest.approx(2.19, abs=0.08)
    assert ratio_db[quiet].mean() == pytest.approx(-0.51, abs=0.05)
    assert scene.truth_db_hw.min() == pytest.approx(SIGMA0_DB[0], abs=0.01)
    assert 5 < scene.truth_db_hw.max() < 21  # a target, off the pixel centre
    assert 20 < np.ptp(np.percentile(scene.truth_db_hw, (1, 99))) < 27


def test_a_scene_is_a_function_of_its_name_and_seed() -> None:
    ramp = np.linspace(0, 1, 64)[None].repeat(64, axis=0)
    first = simulate("a", ramp, 0)
    np.testing.assert_array_equal(first.db_hw, simulate("a", ramp, 0).db_hw)
    assert np.abs(first.db_hw - simulate("a", ramp, 1).db_hw).mean() > 0.5
    assert np.abs(first.db_hw - simulate("b", ramp, 0).db_hw).mean() > 0.5

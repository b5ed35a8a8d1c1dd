"""Speckle put back into reconstructions: its looks, mean and correlation, and that it depends on the seed alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy.special import polygamma
from torch import Tensor, nn

from mlkit.errors import DataError
from mlkit.metrics.sar import enl_ratio
from mlkit.tasks.sar.infer import infer_scenes
from mlkit.tasks.sar.model import Autoencoder
from mlkit.tasks.sar.resample import BLOCK_ROWS, Looks, SpeckleRows, measure_looks
from mlkit.tasks.sar.speckle import speckle

RANGE = {"db_min": -35.0, "db_max": 10.0}


class Mean(nn.Module):
    """A despeckler: the mean over squares of `side` px, which is what a model with a small latent does."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(image, self.side, 1, self.side // 2, count_include_pad=False)


def noisy_scene(looks: float, psf_sigma_px: float, height: int = 320, width: int = 448) -> np.ndarray:
    """Return ground of a few levels under speckle, in dB."""
    rng = np.random.default_rng(1)
    ground = np.kron(rng.uniform(-18, -6, (height // 64, width // 64)), np.ones((64, 64)))
    s = speckle(np.random.default_rng(2), ground.shape, looks=looks, psf_sigma_px=psf_sigma_px)
    return (ground + 10 * np.log10(s)).astype(np.float32)


def unit(db: np.ndarray) -> Tensor:
    low, high = RANGE["db_min"], RANGE["db_max"]
    return torch.from_numpy(((db - low) / (high - low)).clip(0, 1))[None, None].float()


def inferred(folder: Path, db: np.ndarray, net: nn.Module, **how: object) -> tuple[np.ndarray, object]:
    np.save(folder / "scene.npy", db)
    net = Autoencoder(net, nn.Identity(), 8)
    (result,) = infer_scenes(
        net,
        RANGE,
        folder / "scene.npy",
        folder / "out",
        kind="db",
        overwrite=True,
        **how,  # type: ignore[arg-type]
    )
    return tifffile.imread(result.path), result


@pytest.mark.parametrize(("looks", "psf_sigma_px"), [(1.0, 0.0), (4.4, 0.0), (4.4, 0.7)])
def test_a_smooth_reconstruction_gets_the_looks_of_the_scene(tmp_path: Path, looks: float, psf_sigma_px: float) -> None:
    db = noisy_scene(looks, psf_sigma_px)
    ends = {"vmin_db": RANGE["db_min"], "vmax_db": RANGE["db_max"]}
    clean, told = inferred(tmp_path, db, Mean(7))
    assert enl_ratio(unit(clean), unit(db), **ends).item() > 3
    assert told.speckle.startswith("none put back, ENL ratio ")  # type: ignore[attr-defined]
    made, told = inferred(tmp_path, db, Mean(7), speckle="resample", seed=3)
    assert 0.7 < enl_ratio(unit(made), unit(db), **ends).item() < 1.3
    assert 0.7 < told.enl_ratio < 1.3  # type: ignore[attr-defined]
    assert told.speckle.startswith("resampled to ") and "seed 3" in told.speckle  # type: ignore[attr-defined]
    assert abs((made - clean).mean()) < 0.1  # dB: the level stays
    with tifffile.TiffFile(tmp_path / "out" / "scene_reconstructed.tif") as tiff:
        assert tiff.pages[0].description == "backscatter in dB, reconstructed, speckle resampled, seed 3"


def test_the_same_seed_gives_the_same_speckle_for_any_tile_and_another_seed_another(tmp_path: Path) -> None:
    db = noisy_scene(4.4, 0.7)
    first, _ = inferred(tmp_path, db, Mean(5), speckle="resample", seed=1)
    tiled, _ = inferred(tmp_path, db, Mean(5), speckle="resample", seed=1, tile=96)
    other, _ = inferred(tmp_path, db, Mean(5), speckle="resample", seed=2)
    np.testing.assert_allclose(first, tiled, atol=2e-3)
    assert np.abs(first - other).std() > 1


def test_a_faithful_reconstruction_is_left_as_it_is(tmp_path: Path) -> None:
    db = noisy_scene(4.4, 0.0)
    made, told = inferred(tmp_path, db, nn.Identity(), speckle="resample")
    np.testing.assert_allclose(made, db.clip(RANGE["db_min"], RANGE["db_max"]), atol=1e-4)
    assert told.speckle == "none missing, so none put back, ENL ratio 1.00"  # type: ignore[attr-defined]


def test_masked_pixels_stay_masked(tmp_path: Path) -> None:
    db = noisy_scene(4.4, 0.0)
    db[30:50, 100:200] = np.nan
    made, _ = inferred(tmp_path, db, Mean(5), speckle="resample")
    assert np.array_equal(np.isnan(made), np.isnan(db))


def test_a_scene_without_a_homogeneous_window_is_refused_and_older_results_stay(tmp_path: Path) -> None:
    db = noisy_scene(4.4, 0.0)[:20, :300]
    before, _ = inferred(tmp_path, db, Mean(5))
    with pytest.raises(DataError, match=r"no window of 25 px is homogeneous enough .* use --speckle none$"):
        inferred(tmp_path, db, Mean(5), speckle="resample")
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "scene_reconstructed.tif"), before)


@pytest.mark.parametrize("looks", [0.8, 1.0, 4.4, 30.0])
def test_speckle_rows_have_the_moments_of_theory(looks: float) -> None:
    noise = SpeckleRows(0, "a", 512, looks, 0.0).block(0).astype(np.float64)
    assert noise.shape == (BLOCK_ROWS, 512)
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.std() == pytest.approx(10 / np.log(10) * np.sqrt(polygamma(1, looks)), rel=0.03)


def test_speckle_rows_are_correlated_as_asked_also_across_blocks() -> None:
    rows = SpeckleRows(0, "a", 700, 1.0, 0.4)
    both = 10 ** (np.concatenate([rows.block(3), rows.block(4)]).astype(np.float64) / 10)
    x = both - both.mean()
    for one, two in ((x[1:], x[:-1]), (x[:, 1:], x[:, :-1]), (x[BLOCK_ROWS - 1], x[BLOCK_ROWS])):
        assert (one * two).mean() / x.var() == pytest.approx(0.4, abs=0.12 if one.ndim == 1 else 0.03)


def test_missing_looks_multiply_to_those_of_the_scene() -> None:
    rng = np.random.default_rng(0)
    kept, added = 12.0, Looks(4.0, 12.0, 0.0).missing
    product = rng.gamma(kept, 1 / kept, 400_000) * rng.gamma(added, 1 / added, 400_000)
    assert product.mean() ** 2 / product.var() == pytest.approx(4.0, rel=0.02)
    assert math.isinf(Looks(4.0, 3.0, 0.0).missing)
    assert Looks(4.0, math.inf, 0.0).missing == pytest.approx(4.0)


def test_looks_are_measured_in_the_same_windows() -> None:
    db = noisy_scene(4.4, 0.0, 640, 640)
    looks = measure_looks(lambda a, b: db[a:b], lambda a, b: db[a:b] * 0.5, db.shape, -60, 20)
    assert looks.original == pytest.approx(4.4, rel=0.25) and looks.ratio > 2
    assert looks.correlation == pytest.approx(0, abs=0.05)
    assert math.isnan(measure_looks(lambda a, b: db[a:b, :20], lambda a, b: db[a:b, :20], (640, 20), -60, 20).original)

"""Claims of tasks/sar/infer.py and summary.py: scenes of any size, seams, georeferencing, masks, errors, memory."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.format import open_memmap
from rasterio.transform import from_origin
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn

from mlkit.errors import DataError, MemoryShortError, NonFiniteError
from mlkit.tasks.sar import readers
from mlkit.tasks.sar.infer import default_overlap, infer_scenes, tile_plan
from mlkit.tasks.sar.model import RECEPTIVE_RADIUS_PX, Autoencoder
from mlkit.tasks.sar.summary import Summary

RANGE = {"db_min": -30.0, "db_max": 5.0}
NetOf = Callable[..., Autoencoder]


def identity() -> Autoencoder:
    """Return a network that changes nothing and sees one pixel."""
    return Autoencoder(nn.Identity(), nn.Identity(), 0)


def db_scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return dB values within RANGE."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(-22, -6, width)[None] + 3 * np.sin(np.arange(height) / 9)[:, None]
    return (ramp + rng.normal(0, 1.5, (height, width))).clip(-30, 5).astype(np.float32)


def npy(path: Path, values: np.ndarray) -> Path:
    np.save(path, values)
    return path


def read(path: Path) -> np.ndarray:
    values: np.ndarray = tifffile.imread(path)  # rasterio warns of files without a georeference
    return values


def untiled(net: nn.Module, db_hw: np.ndarray) -> np.ndarray:
    """Return what the network makes of the whole scene at once, in dB."""
    height, width = db_hw.shape
    low, high = RANGE["db_min"], RANGE["db_max"]
    # rounded as inference rounds it: these networks make 150 times as much of the last bit, which is no seam
    scaled = (db_hw.astype(np.float32) - np.float32(low)) * np.float32(1 / (high - low))
    unit = np.nan_to_num(np.clip(scaled, 0, 1), nan=0.0)
    padded = np.pad(unit, ((0, -height % 16), (0, -width % 16)), mode="reflect")
    with torch.no_grad():
        output = net(torch.from_numpy(padded)[None, None])[0, 0].numpy()[:height, :width]
    return np.where(np.isnan(db_hw), np.nan, output.astype(np.float64) * (high - low) + low)


# ---- seams ----------------------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(17, 640), width=st.integers(17, 640), seed=st.integers(0, 99))
def test_tiled_equals_untiled_borders_included(
    net_of: NetOf, tmp_path: Path, height: int, width: int, seed: int
) -> None:
    net = net_of("baseline")
    db = db_scene(height, width, seed)
    path = npy(tmp_path / "s.npy", db)
    (result,) = infer_scenes(net, RANGE, path, tmp_path, kind="db", tile=64, overwrite=True)
    assert result.tile == 2 * default_overlap(net) == 288  # the least that works
    np.testing.assert_allclose(read(result.path), untiled(net, db), rtol=0, atol=1e-5 * 35)  # 1e-5 of the unit range


class Float64(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.double()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x.double())
        return output.float()


@pytest.mark.parametrize("arch", ["resnet_lite_v2", "residual_v1"])
def test_tiles_of_the_residual_layouts_leave_no_seam_either(net_of: NetOf, tmp_path: Path, arch: Any) -> None:
    # In float64: with random weights the rounding of float32 grows through so many layers to about 1e-5.
    net = Autoencoder(Float64(net_of(arch)), nn.Identity(), RECEPTIVE_RADIUS_PX[arch])
    overlap = default_overlap(net)
    db = db_scene(96, 2 * overlap + 200)
    (result,) = infer_scenes(net, RANGE, npy(tmp_path / "s.npy", db), tmp_path / "out", kind="db", tile=64)
    assert result.tile < db.shape[1]
    np.testing.assert_allclose(read(result.path), untiled(net, db), rtol=0, atol=1e-5 * 35)
    assert np.ptp(untiled(net, db)) > 5  # dB; a flat output would have no seams


def test_too_little_overlap_would_be_seen(net_of: NetOf, tmp_path: Path) -> None:
    net = net_of("baseline")
    db = db_scene(96, 500)
    path = npy(tmp_path / "s.npy", db)
    (result,) = infer_scenes(net, RANGE, path, tmp_path / "out", kind="db", tile=128, overlap=16)
    assert np.abs(read(result.path) - untiled(net, db)).max() > 1e-3 * 35


def test_tiles_grow_with_what_the_network_sees(net_of: NetOf) -> None:
    base, residual = net_of("baseline"), net_of("residual_v1")
    assert tile_plan(base) == (512, 144)  # (2 * 60 + 16) in multiples of 16
    assert tile_plan(residual) == (3 * 432, 432)  # (2 * 201 + 16)
    assert tile_plan(residual, 500) == (864, 432)
    assert tile_plan(residual, 2000) == (2000, 432)
    assert tile_plan(residual, 100, 30) == (112, 32)
    assert tile_plan(residual, 100, 0) == (112, 0)


# ---- values ---------------------------------------------------------------------------------------------------------


def geotiff(path: Path, db: np.ndarray, **profile: Any) -> Path:
    about = {"driver": "GTiff", "height": db.shape[0], "width": db.shape[1], "count": 1, "dtype": "float32"}
    with rasterio.open(path, "w", **about | profile) as file:
        file.write(db, 1)
    return path


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of affine, in rasterio
@pytest.mark.parametrize("packed", [{}, {"compress": "deflate", "predictor": 3, "tiled": True}])
def test_georeferencing_is_kept_and_no_data_becomes_nan(tmp_path: Path, packed: dict[str, Any]) -> None:
    db = db_scene(150, 203)  # no multiple of 16
    masked = np.zeros(db.shape, bool)
    masked[:20, 30:90] = masked[149, 202] = True
    profile = {"crs": "EPSG:32633", "transform": from_origin(399_960, 5_000_040, 10, 10), "nodata": -9999.0, **packed}
    path = geotiff(tmp_path / "scene_db.tif", np.where(masked, -9999, db).astype(np.float32), **profile)
    (result,) = infer_scenes(identity(), RANGE, path, tmp_path / "out")
    assert (result.width, result.height, result.masked) == (203, 150, 60 * 20 + 1)
    with rasterio.open(path) as given, rasterio.open(result.path) as made:
        assert made.crs == given.crs and made.crs.to_epsg() == 32633
        assert made.transform == given.transform
        assert made.bounds == given.bounds
        assert math.isnan(made.nodata)
        assert made.dtypes == ("float32",) and made.shape == given.shape and made.count == 1
        values = made.read(1)
        np.testing.assert_array_equal(made.read_masks(1) == 0, masked)
    np.testing.assert_array_equal(np.isnan(values), masked)
    np.testing.assert_allclose(values[~masked], db[~masked], atol=1e-4)  # dB in, dB out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "scene_db_compare.png",
        "scene_db_reconstructed.tif",
    ]


@pytest.mark.parametrize("kind", ["intensity", "amplitude", "slc", "db"])
def test_every_kind_of_values_comes_out_in_db(tmp_path: Path, kind: Any) -> None:
    db = db_scene(70, 90)
    intensity = 10 ** (db.astype(np.float64) / 10)
    phase = np.exp(1j * np.random.default_rng(1).uniform(0, 2 * np.pi, db.shape))
    stored = {
        "intensity": intensity.astype(np.float32),
        "amplitude": np.sqrt(intensity).astype(np.float32),
        "slc": (np.sqrt(intensity) * phase).astype(np.complex64),
        "db": db,
    }
    (result,) = infer_scenes(identity(), RANGE, npy(tmp_path / "s.npy", stored[kind]), tmp_path, kind=kind)
    np.testing.assert_allclose(read(result.path), db, atol=1e-3)
    assert result.why == f"{kind}, as asked"


def test_without_a_kind_the_scene_says_what_it_is(tmp_path: Path) -> None:
    db = db_scene(40, 40)
    (result,) = infer_scenes(identity(), RANGE, npy(tmp_path / "s.npy", 10 ** (db / 10)), tmp_path)
    np.testing.assert_allclose(read(result.path), db, atol=1e-3)
    assert result.why.startswith("intensity, the default for nonnegative fractions")


def test_masked_pixels_stay_masked_and_the_others_do_not_spread_nan(net_of: NetOf, tmp_path: Path) -> None:
    values = 10 ** (db_scene(100, 130) / 10)
    values[10:30, 40:60] = np.nan
    values[50, :] = 0
    values[70, 3] = -1e-4
    (result,) = infer_scenes(net_of("baseline"), RANGE, npy(tmp_path / "s.npy", values), tmp_path, kind="intensity")
    masked = ~(values > 0)
    np.testing.assert_array_equal(np.isnan(read(result.path)), masked)
    assert result.masked == masked.sum()
    expected = np.where(masked, np.nan, 10 * np.log10(np.where(masked, 1, values)))
    made = untiled(net_of("baseline"), expected)
    np.testing.assert_allclose(read(result.path), made, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (15, 16), (17, 31)])
def test_scenes_smaller_than_a_latent_site_are_reconstructed_too(
    net_of: NetOf, tmp_path: Path, size: tuple[int, int]
) -> None:
    (result,) = infer_scenes(net_of("baseline"), RANGE, npy(tmp_path / "s.npy", db_scene(*size)), tmp_path, kind="db")
    values = read(result.path)
    assert values.shape == size and np.isfinite(values).all()


def test_scores_are_those_of_the_clipped_scene(net_of: NetOf, tmp_path: Path) -> None:
    db = db_scene(80, 100)
    db[:4] = 20  # 4 % above the range
    (result,) = infer_scenes(net_of("baseline"), RANGE, npy(tmp_path / "s.npy", db), tmp_path, kind="db")
    made = read(result.path)
    clipped = np.clip(db, -30, 5)
    assert result.psnr_db == pytest.approx(peak_signal_noise_ratio(clipped, made, data_range=35), abs=1e-3)
    assert result.rmse_db == pytest.approx(np.sqrt(np.mean((made - clipped) ** 2)), rel=1e-5)
    assert result.share_clipped == pytest.approx(0.05)


def test_polarisations_are_scenes_of_their_own(tmp_path: Path) -> None:
    stack = np.stack([db_scene(48, 64, seed) for seed in range(2)], axis=2)
    results = infer_scenes(identity(), RANGE, npy(tmp_path / "s.npy", stack), tmp_path / "out", kind="db")
    assert [r.path.name for r in results] == ["s_0_reconstructed.tif", "s_1_reconstructed.tif"]
    for channel, result in enumerate(results):
        np.testing.assert_allclose(read(result.path), stack[..., channel], atol=1e-4)


# ---- what is refused ------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_results_that_exist_are_refused_unless_overwritten(tmp_path: Path) -> None:
    path = npy(tmp_path / "s.npy", db_scene(48, 64))
    out = tmp_path / "out"
    infer_scenes(identity(), RANGE, path, out, kind="db")
    npy(path, db_scene(48, 64, 1))
    before = contents(out)
    with pytest.raises(DataError) as caught:
        infer_scenes(identity(), RANGE, path, out, kind="db")
    assert str(caught.value) == f"{out}/s_reconstructed.tif exists; give another --out, or --overwrite to replace it"
    assert contents(out) == before
    (result,) = infer_scenes(identity(), RANGE, path, out, kind="db", overwrite=True)
    np.testing.assert_allclose(read(result.path), np.load(path), atol=1e-4)


def test_a_scene_without_valid_pixels_leaves_an_older_result_alone(tmp_path: Path) -> None:
    path = npy(tmp_path / "s.npy", db_scene(48, 64))
    infer_scenes(identity(), RANGE, path, tmp_path / "out", kind="db")
    before = contents(tmp_path / "out")
    npy(path, np.full((48, 64), np.nan))
    with pytest.raises(DataError, match=r"s\.npy \(s\) has no valid pixel, read as db$"):
        infer_scenes(identity(), RANGE, path, tmp_path / "out", kind="db", overwrite=True)
    assert contents(tmp_path / "out") == before


def test_a_model_that_gives_nan_writes_nothing(net_of: NetOf, tmp_path: Path) -> None:
    net = net_of("baseline")
    with torch.no_grad():
        next(net.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="s: the model gives values that are not finite; its weights are unusable"):
        infer_scenes(net, RANGE, npy(tmp_path / "s.npy", db_scene(48, 64)), tmp_path / "out", kind="db")
    assert contents(tmp_path / "out") == {}


# ---- memory ---------------------------------------------------------------------------------------------------------


class Hungry(nn.Module):
    """An identity that runs out of memory above a side."""

    def __init__(self, most: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.most, self.error = most, error
        self.tried: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.tried.append(max(x.shape[-2:]))
        if self.tried[-1] > self.most:
            raise self.error()
        return x


GPU = lambda: torch.OutOfMemoryError("CUDA out of memory")  # noqa: E731
CPU = lambda: RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried ...")  # noqa: E731


@pytest.mark.parametrize("error", [GPU, CPU, MemoryError])
def test_tiles_are_halved_until_they_fit(tmp_path: Path, error: Callable[[], Exception]) -> None:
    db = db_scene(400, 900)
    hungry = Hungry(200, error)
    said: list[str] = []
    (result,) = infer_scenes(
        Autoencoder(hungry, nn.Identity(), 20),
        RANGE,
        npy(tmp_path / "s.npy", db),
        tmp_path / "out",
        kind="db",
        progress=lambda text, done, total: said.append(text),
    )
    np.testing.assert_allclose(read(result.path), db, atol=1e-4)
    assert list(dict.fromkeys(hungry.tried)) == [512, 256, 128]
    assert result.tile == 128
    assert [text for text in said if text.startswith("out")] == [
        "out of memory with tiles of 512 px, trying 256",
        "out of memory with tiles of 256 px, trying 128",
    ]
    assert len(contents(tmp_path / "out")) == 2


def test_a_small_scene_is_halved_from_its_own_size(tmp_path: Path) -> None:
    hungry = Hungry(112, GPU)
    infer_scenes(
        Autoencoder(hungry, nn.Identity(), 0), RANGE, npy(tmp_path / "s.npy", db_scene(40, 200)), tmp_path, kind="db"
    )
    assert list(dict.fromkeys(hungry.tried)) == [208, 96]  # not 512, which would be the same again


def test_where_nothing_fits_it_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    path = npy(tmp_path / "s.npy", db_scene(400, 900))
    with pytest.raises(MemoryShortError) as caught:
        infer_scenes(Autoencoder(Hungry(8, GPU), nn.Identity(), 20), RANGE, path, tmp_path / "out", kind="db")
    assert str(caught.value) == (
        f"{path}: out of memory with tiles of 128 px; free some memory, or give --overlap 0, with which tiles may be "
        "small but show seams"
    )
    assert contents(tmp_path / "out") == {}


def test_other_errors_of_the_network_are_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    path = npy(tmp_path / "s.npy", db_scene(40, 40))
    broken = Autoencoder(Hungry(8, lambda: RuntimeError("size mismatch")), nn.Identity(), 0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        infer_scenes(broken, RANGE, path, tmp_path / "out", kind="db")


def test_memory_does_not_grow_with_the_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest_rows = 0
    window = readers.OpenScene.window

    def counted(self: Any, y: int, x: int, height: int, width: int) -> Any:
        nonlocal largest_rows
        largest_rows = max(largest_rows, height)
        return window(self, y, x, height, width)

    monkeypatch.setattr(readers.OpenScene, "window", counted)
    # The sample from which the kind of values is told and the picture are bounded, but larger than the scenes here.
    monkeypatch.setattr(readers._sample, "__defaults__", (1000,))
    monkeypatch.setattr(Summary, "draw", lambda *given: None)

    def peak_bytes(height: int) -> int:
        path = tmp_path / f"{height}.npy"
        values = open_memmap(path, "w+", np.float32, (height, 400))
        for top in range(0, height, 400):
            values[top : top + 400] = db_scene(400, 400, top)
        values.flush()
        tracemalloc.start()
        (result,) = infer_scenes(identity(), RANGE, path, tmp_path / "out", kind="db", tile=128, overlap=32)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (result.height, result.tile) == (height, 128)
        return peak

    small, large = peak_bytes(1600), peak_bytes(8000)
    assert large - small < 0.1 * 4 * 400 * (8000 - 1600)  # a tenth of what the scene grew
    assert largest_rows <= 128


# ---- the picture ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [[0, 7, 50, 51, 1700], [0, 1700]])
def test_pictures_are_reduced_by_averaging_whatever_the_bands(bands: list[int]) -> None:
    db = db_scene(1700, 1000)
    made = db + np.random.default_rng(1).normal(0, 1, db.shape).astype(np.float32)
    db[:100, :100] = np.nan
    seen = Summary(db.shape, -30.0, 5.0)
    for top, bottom in pairwise(bands):
        seen.add(top, db[top:bottom], made[top:bottom])
    assert seen.step == 3  # 1,700 px become 567
    assert seen.num_valid == db.size - 100 * 100
    pictures = seen.pictures()
    for picture, full in zip(pictures, (db, made, np.abs(made - db)), strict=True):
        assert picture.shape == (567, 334)
        np.testing.assert_allclose(picture[100, 200], full[300:303, 600:603].mean(), rtol=1e-5)
        np.testing.assert_allclose(picture[566, 333], full[1698:, 999:].mean(), rtol=1e-5)  # cut at the border
        np.testing.assert_allclose(picture[33, 33], full[99:102, 99:102].ravel()[1:].mean(), rtol=1e-5)
        assert np.isnan(picture[:33, :33]).all()

"""Coded scenes: the file, what it refuses, and that reading it back gives the same scene."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from rasterio.transform import from_origin

from mlkit.errors import DataError
from mlkit.tasks.sar.codec import Codec, codec_of, decode_scene, encode_scene, latent_of, open_coded, psnr_of
from mlkit.tasks.sar.latents import CodedScene, read_coded, to_bytes, write_coded
from mlkit.tasks.sar.model import build_autoencoder
from mlkit.tasks.sar.readers import open_scenes

LOW, HIGH = -30.0, 5.0


def codec(arch: Any = "gdn", channels: int = 12, quantize: Any = "noise") -> Codec:
    torch.manual_seed(0)
    net = build_autoencoder(arch, 4, channels, quantize=quantize).eval()
    return Codec(net, "mine ckpt-3", bytes(range(8)), LOW, HIGH, torch.device("cpu"))


def db_scene(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    ramp = np.linspace(-22, -6, width)[None] + 3 * np.sin(np.arange(height) / 9)[:, None]
    return (ramp + rng.normal(0, 1.5, (height, width))).clip(LOW, HIGH).astype(np.float32)


def opened(folder: Path, db: np.ndarray) -> Any:
    np.save(folder / "scene.npy", db)
    return open_scenes(folder / "scene.npy", "db")[0]


def made_of(codec_: Codec, path: Path, target: Path) -> np.ndarray:
    decode_scene(codec_, open_coded(codec_, path), target)
    values: np.ndarray = tifffile.imread(target)
    return values


@pytest.mark.parametrize(
    ("arch", "channels", "quantize"),
    [("gdn", 12, "noise"), ("baseline", 4, "straight_through"), ("baseline", 4, "none"), ("residual_v1", 3, "none")],
)
def test_reading_back_gives_what_the_model_makes_of_the_whole_scene(
    tmp_path: Path, arch: Any, channels: int, quantize: Any
) -> None:
    own = codec(arch, channels, quantize)
    db = db_scene(70, 101)
    scene = opened(tmp_path, db)
    write_coded(tmp_path / "a.mlk", encode_scene(own, scene))
    made = made_of(own, tmp_path / "a.mlk", tmp_path / "a.tif")
    unit = np.pad((db - LOW) / (HIGH - LOW), ((0, 10), (0, 11)), mode="edge")[None, None]
    with torch.no_grad():
        whole = own.net(torch.from_numpy(unit).float())[0, 0, :70, :101].clamp(0, 1).numpy()
    tolerance = 0.01 * (HIGH - LOW) if quantize == "none" else 1e-3  # 8 bits a value instead of float32
    np.testing.assert_allclose(made, whole * (HIGH - LOW) + LOW, atol=tolerance)
    again = made_of(own, tmp_path / "a.mlk", tmp_path / "b.tif")
    assert np.array_equal(made, again)
    error = float(np.sqrt(np.mean((made.astype(np.float64) - db) ** 2)))
    expected = 20 * math.log10((HIGH - LOW) / error)
    assert psnr_of(own, read_coded(tmp_path / "a.mlk"), scene) == pytest.approx(expected, abs=1e-3)


def test_tiles_leave_no_seam(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = codec()
    with torch.no_grad():
        for value in own.net.parameters():
            value += 0.02 * torch.randn_like(value)
    unit = ((db_scene(300, 270) - LOW) / (HIGH - LOW)).astype(np.float32)
    whole = latent_of(own, unit, 0.7)
    scene = opened(tmp_path, db_scene(300, 270))
    coded = encode_scene(own, scene)
    decode_scene(own, coded, tmp_path / "whole.tif")
    monkeypatch.setattr("mlkit.tasks.sar.codec.TILE_PX", 64)
    np.testing.assert_allclose(latent_of(own, unit, 0.7), whole, atol=2e-5)
    decode_scene(own, coded, tmp_path / "tiled.tif")
    np.testing.assert_allclose(
        tifffile.imread(tmp_path / "tiled.tif"), tifffile.imread(tmp_path / "whole.tif"), atol=2e-3
    )


def test_a_coarser_step_is_fewer_bytes_and_a_rate_is_kept(tmp_path: Path) -> None:
    own, scene = codec(channels=64), opened(tmp_path, db_scene(96, 128))
    sizes = [len(to_bytes(encode_scene(own, scene, step=step))) for step in (0.5, 1.0, 3.0)]
    assert sizes[0] > sizes[1] > sizes[2]
    for bits_per_px in (0.6, 1.2):
        size = len(to_bytes(encode_scene(own, scene, bits_per_px=bits_per_px)))
        assert 0.9 * bits_per_px < 8 * size / (96 * 128) <= bits_per_px
    with pytest.raises(DataError, match=r"^scene cannot be coded in 15 bytes \(0.01 bit/px\); give more$"):
        encode_scene(own, scene, bits_per_px=0.01)
    with pytest.raises(DataError, match="was not trained for whole numbers, so it has one rate only"):
        encode_scene(codec("baseline", 4, "none"), scene, bits_per_px=0.5)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of affine, in rasterio
def test_georeferencing_and_masks_come_back(tmp_path: Path) -> None:
    db = db_scene(50, 61)
    db[10:20, 5:30] = -9999
    profile = {"driver": "GTiff", "height": 50, "width": 61, "count": 1, "dtype": "float32", "nodata": -9999.0}
    profile |= {"crs": "EPSG:32633", "transform": from_origin(399_960, 5_000_040, 10, 10)}
    with rasterio.open(tmp_path / "scene_db.tif", "w", **profile) as file:
        file.write(db, 1)
    own = codec()
    (scene,) = open_scenes(tmp_path / "scene_db.tif")
    write_coded(tmp_path / "a.mlk", encode_scene(own, scene))
    made = made_of(own, tmp_path / "a.mlk", tmp_path / "a.tif")
    assert np.array_equal(np.isnan(made), db == -9999)
    with rasterio.open(tmp_path / "scene_db.tif") as given, rasterio.open(tmp_path / "a.tif") as back:
        assert back.crs == given.crs and back.transform == given.transform and math.isnan(back.nodata)


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coded() -> CodedScene:
    return CodedScene(
        model_hash=bytes(range(8)), model_id="mine ckpt-3", scene="harbour#1", kind="db", height=40, width=33,
        channels=12, coder=0, step_units=1024, level=900, db_min=LOW, db_max=HIGH,
        geotags=((33550, 12, 3, (10.0, 10.0, 0.0)), (34737, 2, 6, "WGS84|"), (42113, 7, 2, b"\x01\xff")),
        masked_hw=np.random.default_rng(0).random((40, 33)) < 0.1, values=b"abcd" * 9,
    )  # fmt: skip


def test_what_is_written_is_read(coded: CodedScene, tmp_path: Path) -> None:
    size = write_coded(tmp_path / "folder" / "a.mlk", coded)
    found = read_coded(tmp_path / "folder" / "a.mlk")
    assert size == (tmp_path / "folder" / "a.mlk").stat().st_size
    assert replace(found, masked_hw=None) == replace(coded, masked_hw=None)
    assert found.masked_hw is not None and coded.masked_hw is not None
    assert np.array_equal(found.masked_hw, coded.masked_hw)
    plain = replace(coded, masked_hw=None, geotags=None)
    assert len(to_bytes(plain)) < 100 + len(coded.values)


def test_every_truncation_and_every_changed_byte_is_refused(coded: CodedScene, tmp_path: Path) -> None:
    content, path = to_bytes(coded), tmp_path / "a.mlk"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(DataError):
            read_coded(path)
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 0x41
        path.write_bytes(altered)
        with pytest.raises(DataError) as caught:
            read_coded(path)
        assert len(caught.value.problems) == 1 and str(path) in str(caught.value)


def test_the_sentences_for_files_that_cannot_be_used(coded: CodedScene, tmp_path: Path) -> None:
    path = tmp_path / "a.mlk"
    path.write_bytes(b"PK\x03\x04" + bytes(200))
    with pytest.raises(DataError, match=r"a\.mlk holds no coded scene; make one with: mlkit infer sar SCENE --latents"):
        read_coded(path)
    path.write_bytes(to_bytes(coded)[:-5])
    with pytest.raises(
        DataError, match=r"a\.mlk is truncated or was altered \(checksum\); make it again from the scene$"
    ):
        read_coded(path)
    content = bytearray(to_bytes(coded))
    content[4] = 9
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mlk has format version 9; this mlkit reads up to 1: install a newer one$"):
        read_coded(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_coded(tmp_path / "none.mlk")
    write_coded(path, replace(coded, model_hash=bytes(8), model_id="other ckpt-9"))
    with pytest.raises(DataError, match=r"was coded by other ckpt-9 \(0000000000000000\), not by mine ckpt-3 \(0001"):
        open_coded(codec(), path)
    write_coded(path, coded)  # a right checksum over values that are none
    with pytest.raises(DataError, match="harbour#1: the coded values do not fit mine ckpt-3"):
        decode_scene(codec(), replace(coded, coder=1), tmp_path / "x.tif")
    assert not (tmp_path / "x.tif").exists()


@pytest.mark.parametrize("budget", [200, 1000, 5000, 30000])
@pytest.mark.parametrize("power", [0.7, 1.1, 2.0])
def test_the_finest_step_within_a_budget_is_found_in_few_tries(budget: int, power: float) -> None:
    from mlkit.tasks.sar.codec import _COARSEST, _FINEST, _step_within

    sizes = {units: int(90 + 9000 * (units / 1024) ** -power) for units in range(_FINEST, _COARSEST + 1)}
    asked = []

    def size_of(units: int) -> int:
        asked.append(units)
        return sizes[units]

    found = _step_within(budget, size_of)
    fitting = [units for units, size in sizes.items() if size <= budget]
    if not fitting:
        assert found is None
        return
    assert found is not None and sizes[found] <= budget
    assert min(fitting) <= found <= min(fitting) * (1 + 2 / 1024) + 1
    assert len(asked) <= 20  # halving alone takes 18


def test_no_step_is_finer_than_the_model_was_trained_for() -> None:
    from mlkit.tasks.sar.codec import _step_within

    found = _step_within(10**6, lambda units: 100, 512)  # every file fits
    assert found is not None and 512 <= found <= 514


@pytest.mark.parametrize(
    ("steps", "finest"),
    [({"quantize_steps": (0.5, 4.0)}, 0.25), ({"quantize_steps": (0.01, 4.0)}, 1 / 32), ({}, 0.5)],
)
def test_half_the_finest_step_of_training_bounds_rates(tmp_path: Path, steps: dict[str, Any], finest: float) -> None:
    """Of a checkpoint from before steps were settings the one step that there was."""
    from mlkit.checkpoint import Checkpoint
    from mlkit.tasks.sar.settings import SarModel

    info = {
        "files": {"model.safetensors": {"sha256": "ab"}},
        "preprocessing": {"db_min": LOW, "db_max": HIGH},
        "settings": {"model": {}},
    }
    settings = SarModel(arch="gdn", quantize="noise", **steps)
    made = codec_of(codec().net, Checkpoint(tmp_path / "run" / "ckpt-3", info), settings, torch.device("cpu"))
    assert made.finest_step == finest
    scene = opened(tmp_path, db_scene(64, 64))
    assert encode_scene(made, scene, bits_per_px=64.0).step_units / 1024 == pytest.approx(finest, abs=2 / 1024)

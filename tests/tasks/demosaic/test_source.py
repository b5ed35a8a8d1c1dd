"""Claims of tasks/demosaic/source.py and items.py."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mlkit.data.manifest import DatasetManifest, open_manifest, write_manifest
from mlkit.data.store import StoreWriter
from mlkit.errors import DataError, SettingsError
from mlkit.seeding import generator
from mlkit.tasks.demosaic import xtrans
from mlkit.tasks.demosaic.items import LINEAR, PHOTOGRAPHS, SENSOR, SHARP, TORTURE, Entry
from mlkit.tasks.demosaic.settings import DemosaicData
from mlkit.tasks.demosaic.source import MosaicSource

SIZE = 48
WB = (2.0, 1.0, 1.5)
SENSOR_PHASE = (1, 4)


def to_linear(values: np.ndarray) -> np.ndarray:
    """The sRGB curve of IEC 61966-2-1, in double precision."""
    values = np.asarray(values, np.float64)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def levels_of(seed: int, height: int = 60, width: int = 110) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def light_of(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((60, 110, 3)) * 1.8 - 0.1).astype(np.float16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return made(tmp_path_factory.mktemp("data") / "all", {})


def made(folder: Path, mix: dict[str, float], stores: tuple[str, ...] = (PHOTOGRAPHS, LINEAR, SENSOR, TORTURE)) -> Any:
    """A dataset with one item of each split in each store."""
    folder.mkdir()
    entries: list[Entry] = []
    linear = StoreWriter(folder, LINEAR, np.float16)
    for place, split in enumerate(("train", "validation")):
        if LINEAR in stores:
            number = linear.add(light_of(10 + place))
            entries.append(Entry(f"deep{place}", "real", "", split, LINEAR, number, 60, 110))
        if SENSOR in stores:
            truth = light_of(20 + place)
            about = {"phase": SENSOR_PHASE, "target": linear.add(truth), "black": 256.0, "white": 4096.0, "wb": WB}
            entries.append(Entry(f"raw{place}", "real", "", split, SENSOR, place, 60, 110, **about))
    linear.close()
    for name, group in ((PHOTOGRAPHS, "real"), (TORTURE, "torture")):
        if name in stores:
            with StoreWriter(folder, name, np.uint8) as writer:
                for place, split in enumerate(("train", "validation")):
                    writer.add(levels_of(place + (5 if name == TORTURE else 0)))
                    family = "stripes" if name == TORTURE else ""
                    title = f"torture/stripes/{place:06d}" if family else f"p{place}"
                    entries.append(Entry(title, group, family, split, name, place, 60, 110, 1 if family else 2))
    if SENSOR in stores:
        with StoreWriter(folder, SENSOR, np.uint16) as writer:
            for place in range(2):
                writer.add(sensor_values(place))
    np.save(folder / SHARP, np.asarray([[len(entries) - 4, 6, 55]], np.int32))  # in the photograph to train on
    write_manifest(
        folder,
        task="demosaic",
        label="",
        preprocessing={},
        splits={"train": 8, "validation": 8},
        details={"size": SIZE, "options": {"mix": mix}, "items": [asdict(entry) for entry in entries]},
    )
    return open_manifest(folder)


def sensor_values(place: int) -> np.ndarray:
    """What a camera wrote whose white-balanced light is `light_of(20 + place)`: rounded, below black cut at 0."""
    light = light_of(20 + place).astype(np.float64) / np.asarray(WB)
    sites = np.take_along_axis(light, xtrans.colors(60, 110, SENSOR_PHASE)[..., None], axis=2)[..., 0]
    return np.rint(np.maximum(sites * 3840 + 256, 0)).astype(np.uint16)


def source_of(data: DatasetManifest, split: Any = "train", **values: Any) -> MosaicSource:
    return MosaicSource(data, split, DemosaicData.model_validate({"crop": 24} | values))


def sites_of(sample: dict[str, torch.Tensor]) -> np.ndarray:
    """The truth at each measured site, by the phase that was told."""
    image = np.moveaxis(sample["image"].numpy(), 0, 2)
    phase = tuple(sample["phase"].tolist())
    return np.take_along_axis(image, xtrans.colors(*image.shape[:2], phase)[..., None], axis=2)[..., 0]


STORE_ORDER = {LINEAR: 0, SENSOR: 2, PHOTOGRAPHS: 4, TORTURE: 6}  # first of the two squares that each picture has


@pytest.mark.parametrize("store", list(STORE_ORDER))
@pytest.mark.parametrize("light", ["linear", "srgb", "both"])
def test_a_mosaic_is_the_truth_at_its_sites_whatever_is_done_to_it(
    data: DatasetManifest, store: str, light: str
) -> None:
    source = source_of(data, light=light, colors=0.5, gain_stops=(-2.0, 1.0), blur=0.4)
    tolerance = 0.003 if store == SENSOR else 0  # a camera's values are whole numbers
    phases = set()
    for k in range(60):
        sample = source.sample(STORE_ORDER[store], generator(0, k))
        assert sample["mosaic"].shape == (1, 24, 24) and sample["image"].shape == (3, 24, 24)
        truth, got = sites_of(sample), sample["mosaic"][0].numpy()
        if store == SENSOR:  # what lies below -256 / 3840 was cut, and encoding makes the dark steep
            is_fit = truth > 0.05
            assert np.abs(truth - got)[is_fit].max() <= tolerance
        else:
            assert np.array_equal(truth, got)
        phases.add(tuple(sample["phase"].tolist()))
    assert len(phases) > 12


def test_all_eight_symmetries_of_a_crop_appear_and_only_with_flips(data: DatasetManifest) -> None:
    for flips, expected in ((True, 8), (False, 1)):
        source = source_of(data, light="srgb", flips=flips)
        found = set()
        for k in range(60):
            image = np.moveaxis(source.sample(STORE_ORDER[PHOTOGRAPHS], generator(0, k))["image"].numpy(), 0, 2)
            levels = np.rint(image * 255).astype(np.uint8)
            found.add(next(symmetry for symmetry in range(8) if _place(xtrans.transformed(levels, symmetry))))
        assert len(found) == expected


def _place(crop: np.ndarray) -> bool:
    whole = levels_of(0)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (24, 24), axis=(0, 1))
    near = np.argwhere((windows[..., 0, 0] == crop[0, 0]).all(axis=2))
    return any(np.array_equal(whole[y : y + 24, x : x + 24], crop) for y, x in near.tolist())


def test_light_is_that_of_the_srgb_curve(data: DatasetManifest) -> None:
    linear = source_of(data, "validation").sample(STORE_ORDER[PHOTOGRAPHS], generator(0))
    encoded = source_of(data, "validation", light="srgb").sample(STORE_ORDER[PHOTOGRAPHS], generator(0))
    levels = np.moveaxis(levels_of(1)[6:54, 7:55], 2, 0)
    assert np.abs(encoded["image"].numpy() - levels / 255).max() < 1e-7
    assert np.abs(linear["image"].numpy() - to_linear(levels / 255)).max() < 1e-6
    assert (float(linear["encoded"]), float(encoded["encoded"])) == (0, 1)


def test_deep_images_are_exact_to_16_bit_floats_and_not_clipped(data: DatasetManifest) -> None:
    sample = source_of(data, "validation").sample(STORE_ORDER[LINEAR], generator(0))
    truth = np.moveaxis(light_of(11)[6:54, 7:55], 2, 0)
    assert np.array_equal(sample["image"].numpy(), truth.astype(np.float32))
    assert sample["image"].min() < -0.05 and sample["image"].max() > 1.5


def test_a_cameras_mosaic_is_white_balanced_and_keeps_its_phase(data: DatasetManifest) -> None:
    sample = source_of(data, "validation").sample(STORE_ORDER[SENSOR], generator(0))
    raw = sensor_values(1)[6:54, 7:55]
    sites = xtrans.colors(60, 110, SENSOR_PHASE)[6:54, 7:55]
    assert tuple(sample["phase"].tolist()) == xtrans.canonical((SENSOR_PHASE[0] + 6, SENSOR_PHASE[1] + 7))
    assert np.abs(sample["mosaic"][0].numpy() - (raw / 3840 - 256 / 3840) * np.asarray(WB)[sites]).max() < 1e-6
    assert sample["mosaic"].max() > 1.0


def test_half_the_samples_of_both_are_encoded(data: DatasetManifest) -> None:
    source = source_of(data, light="both")
    encoded = [float(source.sample(k % len(source), generator(0, k))["encoded"]) for k in range(200)]
    assert 0.4 < np.mean(encoded) < 0.6
    assert float(source_of(data, "validation", light="both").sample(0, generator(0))["encoded"]) == 0


def test_gain_scales_linear_light(data: DatasetManifest) -> None:
    for store in (LINEAR, SENSOR, PHOTOGRAPHS):
        plain = source_of(data).sample(STORE_ORDER[store], generator(3))
        darker = source_of(data, gain_stops=(-4.0, -4.0)).sample(STORE_ORDER[store], generator(3))
        assert torch.equal(darker["phase"], plain["phase"])
        for key in ("mosaic", "image"):  # powers of two are exact
            assert torch.equal(darker[key] * 16, plain[key])


def test_noise_is_on_the_mosaic_alone_and_not_in_validation(data: DatasetManifest) -> None:
    noisy = source_of(data, noise=(0.01, 0.01))
    errors = []
    for k in range(40):
        sample = noisy.sample(STORE_ORDER[PHOTOGRAPHS], generator(0, k))
        truth = sites_of(sample)
        errors.append((sample["mosaic"][0].numpy() - truth) / np.sqrt(0.01 * truth + np.exp(2.18 * np.log(0.01) + 1.2)))
    assert np.mean(errors) == pytest.approx(0, abs=0.03) and np.std(errors) == pytest.approx(1, abs=0.05)
    sample = source_of(data, "validation", noise=(0.01, 0.01)).sample(0, generator(0))
    assert np.array_equal(sample["mosaic"][0].numpy(), sites_of(sample))


def test_blur_is_of_the_scene_before_the_filter(data: DatasetManifest) -> None:
    sharp = source_of(data, flips=False).sample(STORE_ORDER[PHOTOGRAPHS], generator(5))["image"].numpy()
    soft = source_of(data, flips=False, blur=0.7).sample(STORE_ORDER[PHOTOGRAPHS], generator(5))["image"].numpy()
    expected = gaussian_filter(sharp, (0, 0.7, 0.7), mode="mirror", truncate=3.0)
    assert np.abs(soft - expected).max() < 1e-6 and np.abs(soft - sharp).max() > 0.05


def test_a_planted_phase_error_changes_only_what_is_told_in_training(data: DatasetManifest) -> None:
    for index in range(len(source_of(data))):
        right = source_of(data).sample(index, generator(0, index))
        wrong = source_of(data, phase_error=(1, 3)).sample(index, generator(0, index))
        assert torch.equal(wrong["phase"], (right["phase"] + torch.tensor([1, 3])) % 6)
        assert torch.equal(wrong["mosaic"], right["mosaic"]) and torch.equal(wrong["image"], right["image"])
    validation = [
        source_of(data, "validation", phase_error=error).sample(1, generator(0)) for error in ((0, 0), (1, 3))
    ]
    assert torch.equal(validation[0]["phase"], validation[1]["phase"])


def test_samples_depend_on_the_generator_alone_and_survive_pickling(data: DatasetManifest) -> None:
    source = source_of(data, light="both", colors=0.5, noise=(1e-3, 1e-2), blur=0.3)
    for index in range(len(source)):
        first, again = (
            other.sample(index, generator(7, index)) for other in (source, pickle.loads(pickle.dumps(source)))
        )
        assert all(torch.equal(first[key], again[key]) for key in first)
        other = source.sample(index, generator(8, index))
        assert not torch.equal(first["mosaic"], other["mosaic"])


def test_validation_squares_lie_side_by_side_and_are_fixed(data: DatasetManifest) -> None:
    source = source_of(data, "validation", flips=True, colors=1.0, gain_stops=(-2.0, 2.0))
    assert [source.sample_id(index) for index in range(8)] == [
        "deep1/r1/y0006x0007", "deep1/r1/y0006x0055", "raw1/r1/y0006x0007", "raw1/r1/y0006x0055",
        "p1/r2/y0006x0007", "p1/r2/y0006x0055", "torture/stripes/000001", "torture/stripes/000001",
    ]  # fmt: skip
    assert [source.family(index) for index in (0, 4, 6)] == ["real", "real", "stripes"]
    for index in range(8):
        first, again = (source.sample(index, generator(seed)) for seed in (0, 1))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert first["mosaic"].shape == (1, SIZE, SIZE)
    assert len({tuple(source.sample(index, generator(0))["phase"].tolist()) for index in (0, 1, 4, 5, 6, 7)}) == 6


def test_samples_of_a_mix_have_its_shares(tmp_path: Path) -> None:
    mixed = made(tmp_path / "d", {"real": 0.5, "sharp": 0.2, "torture": 0.3}, (PHOTOGRAPHS, TORTURE))
    source = source_of(mixed, light="srgb", flips=False, mix_ramp=100)
    assert len(source) == 2  # the squares of the photograph; patterns are mixed in
    assert shares(source, 100) == pytest.approx([0.7, 0.3], abs=0.06)
    assert shares(source, 0) == [1.0, 0.0]
    assert shares(source, 50) == pytest.approx([0.85, 0.15], abs=0.05)
    assert shares(source, 10_000) == pytest.approx([0.7, 0.3], abs=0.06)
    for k in range(20):  # without a number seen the mix is whole
        whole, ramped = source.sample(0, generator(0, k)), source.sample_at(0, generator(0, k), 100)
        assert torch.equal(whole["mosaic"], ramped["mosaic"])


def shares(source: MosaicSource, seen: int) -> list[float]:
    patterns, num = levels_of(5), 400
    bright = np.asarray([_is_of(patterns, source.sample_at(0, generator(0, k), seen)) for k in range(num)])
    return [1 - float(bright.mean()), float(bright.mean())]


def _is_of(whole: np.ndarray, sample: dict[str, torch.Tensor]) -> bool:
    corner = np.rint(sample["image"][:, :4, :4].numpy() * 255).astype(np.uint8).transpose(1, 2, 0)
    starts = np.argwhere((whole == corner[0, 0]).all(axis=2))
    return any(np.array_equal(whole[y : y + 4, x : x + 4], corner) for y, x in starts.tolist())


@pytest.mark.parametrize("crop", [24, 48, 54])
def test_sharp_crops_lie_in_or_around_a_sharp_square(tmp_path: Path, crop: int) -> None:
    mixed = made(tmp_path / "d", {"sharp": 1.0}, (PHOTOGRAPHS, TORTURE))
    source = source_of(mixed, light="srgb", flips=False, crop=crop)
    whole, found = levels_of(0), set()
    for k in range(50):
        corner = source.sample(0, generator(0, k))["image"][:, :4, :4].numpy().transpose(1, 2, 0)
        starts = np.lib.stride_tricks.sliding_window_view(whole, (4, 4, 3))[:, :, 0] == np.rint(corner * 255)
        found.add(tuple(np.argwhere(starts.all(axis=(2, 3, 4)))[0].tolist()))
    y, x = np.asarray(sorted(found)).T
    if crop <= SIZE:
        assert y.min() >= 6 and y.max() + crop <= 6 + SIZE and x.min() >= 55 and x.max() + crop <= 55 + SIZE
    else:
        assert y.max() <= 6 and y.min() + crop >= 6 + SIZE and x.max() <= 55 and x.min() + crop >= 55 + SIZE
    assert len(found) > (1 if crop != SIZE else 0)


def test_a_mix_of_patterns_alone_needs_no_photographs(tmp_path: Path) -> None:
    source = source_of(made(tmp_path / "d", {"torture": 1.0}, (TORTURE,)), mix_ramp=1000)
    assert len(source) == 2 and source.sample_at(0, generator(0), 0)["mosaic"].shape == (1, 24, 24)


def test_what_does_not_fit_is_refused(data: DatasetManifest, tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"data.crop is 61, but deep0 at reduction 1 has only 60 px; set at most 60"
    ):
        source_of(data, crop=61)
    other = tmp_path / "other"
    other.mkdir()
    write_manifest(other, task="sr", label="", preprocessing={}, splits={}, details={})
    with pytest.raises(DataError, match=r"is of task sr, not demosaic; build one for demosaic"):
        source_of(open_manifest(other))

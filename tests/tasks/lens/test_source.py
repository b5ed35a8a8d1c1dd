"""Samples: the true map makes the target of the picture, nothing of validation is in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

from mlkit.data.manifest import DatasetManifest
from mlkit.errors import DataError, SettingsError
from mlkit.metrics.geometry import bend, inside
from mlkit.tasks.lens import inputs
from mlkit.tasks.lens.geometry import profile_grid, profile_undistorted, warp
from mlkit.tasks.lens.inputs import said_by_lines
from mlkit.tasks.lens.scenes import draw_scene
from mlkit.tasks.lens.settings import LensData
from mlkit.tasks.lens.source import LensSource, opened_profiles

ALL = LensData(size=96, scenes=0.0, shapes=1.0, roll_deg=5.0, centre=0.05, strength=(1.0, 3.0))


def source(data: DatasetManifest, split: str = "train", settings: LensData = ALL) -> LensSource:
    return LensSource(data, split, settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("scenes", "share"), [(0.0, 0.5), (1.0, 0.75)])  # edges of scenes are sharp
def test_the_true_map_makes_the_target_of_the_picture(scenes: float, share: float, dataset: DatasetManifest) -> None:
    train = source(dataset, settings=ALL.model_copy(update={"scenes": scenes, "strength": (4.0, 6.0)}))
    total = torch.zeros(2)
    for seed in range(24):
        sample = train.sample(0, np.random.default_rng(seed))
        image, target, frame, profile = (sample[key][None] for key in ("image", "target", "frame", "profile"))
        grid = profile_grid(profile, frame, 96, 96)
        valid = inside(grid)[:, None].expand(-1, 3, -1, -1)
        made = warp(image, grid)
        total += torch.stack([(one - target)[valid].abs().mean() for one in (image, made)])
    assert total[1] < share * total[0]


def test_the_target_is_the_photograph_itself(dataset: DatasetManifest) -> None:
    """A validation view's target is a plain crop, by SciPy's interpolation of the stored photograph."""
    from mlkit.data.store import Store

    validation = source(dataset, "validation", LensData(size=96))
    name = validation.sample_id(0).split("/")[0]
    entry = next(values for values in dataset.details["photographs"] if values["name"] == name)
    levels = Store(dataset.folder, "photographs")[entry["levels"][0][1]].astype(np.float64) / 255
    target = validation.sample(0, np.random.default_rng(0))["target"].numpy()
    height, width = levels.shape[:2]
    aspect = opened_profiles(dataset)[0][dataset.details["views"][0]["profile"]].aspect
    # somewhere about the middle lies a part of the camera's shape, as wide as it says; find its width by trying
    best = np.inf
    for part in np.linspace(0.7, 1.0, 301) * width:
        x = width / 2 + ((np.arange(96) + 0.5) / 96 - 0.5) * part - 0.5
        y = height / 2 + ((np.arange(96) + 0.5) / 96 - 0.5) * part / aspect - 0.5
        places = np.meshgrid(y, x, indexing="ij")
        seen = map_coordinates(levels[..., 0], places, order=3)
        best = min(best, float(np.abs(seen - target[0])[2:-2, 2:-2].max()))
    assert best < 0.02


def test_lines_of_validation_are_found_in_the_same_view_at_its_own_shape_and_size(
    dataset: DatasetManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def kept(levels: np.ndarray, frame: torch.Tensor, sure: float) -> dict[str, torch.Tensor]:
        seen.append(levels)
        return said_by_lines(levels, frame, sure)

    monkeypatch.setattr(inputs, "said_by_lines", kept)
    views = [*dataset.details["views"][:2], {**dataset.details["views"][0], "photo": -1, "number": 3}]
    data = replace(dataset, details={**dataset.details, "views": views}, splits={**dataset.splits, "validation": 3})
    hearing = LensSource(data, "validation", LensData(size=96), sure=0.7)
    for index in range(3):
        sample = hearing.sample(index, np.random.default_rng(0))
        levels, frame = seen[-1], sample["frame"]
        height, width = levels.shape[:2]
        assert width / height == pytest.approx(float(frame[0] / frame[1]), rel=0.01)
        entry = data.details["photographs"][views[index]["photo"]]
        longer = 640 if index == 2 else max(entry["width"], entry["height"])
        assert 0.7 * longer < max(height, width) <= longer
        small = Image.fromarray(levels).resize((96, 96), Image.Resampling.BICUBIC)
        apart = np.abs(np.asarray(small, np.float32) / 255 - sample["image"].permute(1, 2, 0).numpy())
        assert float(apart.mean()) < 0.03
        said = said_by_lines(levels, frame, 0.7)
        again = hearing.sample(index, np.random.default_rng(1))
        assert len(seen) == index + 1, "what stays the same is looked for once"
        assert all(torch.equal(one[key], said[key]) for one in (sample, again) for key in said)
    train = LensSource(data, "train", LensData(size=96), sure=0.7)
    assert "lines_params" not in train.sample(0, np.random.default_rng(0))


def test_samples_are_functions_of_the_generator_alone(dataset: DatasetManifest) -> None:
    settings = ALL.model_copy(update={"scenes": 0.5, "color": 0.2})
    one, again, other = (
        source(dataset, settings=settings).sample(0, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["image"], other["image"])
    assert one["image"].dtype == torch.float32 and one["image"].min() >= 0 and one["image"].max() <= 1
    assert one["image"].shape == one["target"].shape == (3, 96, 96)


def test_no_photograph_and_no_lens_of_validation_is_in_training(dataset: DatasetManifest) -> None:
    profiles, splits = opened_profiles(dataset)
    held_out = {one.lens for one, of in zip(profiles, splits, strict=True) if of == "validation"}
    validation = source(dataset, "validation", LensData(size=96))
    ids = [validation.sample_id(index) for index in range(len(validation))]
    assert {name.split("/", 1)[1].rsplit("/", 2)[0] for name in ids} <= held_out
    terms = {one.terms for one, of in zip(profiles, splits, strict=True) if of == "train"}
    train = source(dataset, settings=LensData(size=96))
    trained = [tuple(train.sample(0, np.random.default_rng(seed))["profile"][:5].tolist()) for seed in range(20)]
    known = np.array(sorted(terms))
    assert all(np.abs(known - one).max(axis=1).min() < 1e-6 for one in trained)


def test_the_shapes_are_told(dataset: DatasetManifest) -> None:
    train = source(dataset)
    shapes = {
        round(float(sample["frame"][0] / sample["frame"][1]), 2)
        for seed in range(40)
        for sample in [train.sample(0, np.random.default_rng(seed))]
    }
    assert {1.5, 1.33, 1.78, 1.0, 0.67} <= shapes
    own = {profile.aspect for profile in opened_profiles(dataset)[0]}
    plain = source(dataset, settings=LensData(size=96))
    for seed in range(10):
        frame = plain.sample(0, np.random.default_rng(seed))["frame"]
        assert frame.norm() == pytest.approx(1.0)
        assert min(abs(float(frame.max() / frame.min()) - aspect) for aspect in own) < 1e-4


def test_what_a_lens_bends_is_straight_again_when_undone() -> None:
    x = np.linspace(-0.7, 0.7, 41)
    line = torch.from_numpy(np.stack((x, 0.35 + 0.1 * x), axis=-1))[None]
    profile = torch.tensor([[1.0, 0.0, -0.08, 0.0, 0.0, 0.0, 0.0]])
    seen = line * (1 - 0.08 * line.square().sum(dim=-1, keepdim=True))
    assert float(bend(seen.numpy())[0]) > 1e-3
    assert float(bend(profile_undistorted(profile, seen).numpy())[0]) < 1e-8


def test_a_scene_is_a_function_of_places_with_edges() -> None:
    places = np.stack(np.meshgrid(np.linspace(-0.8, 0.8, 64), np.linspace(-0.5, 0.5, 64)), axis=-1).astype(np.float32)
    spread = []
    for seed in range(10):
        scene = draw_scene(np.random.default_rng(seed))
        whole = scene(places)
        assert whole.shape == (64, 64, 3) and whole.min() >= 0 and whole.max() <= 1 and np.isfinite(whole).all()
        np.testing.assert_array_equal(scene(places[10:20]), whole[10:20])
        spread.append(float(np.abs(np.diff(whole, axis=1)).max()))
    assert np.median(spread) > 0.1


def test_photographs_smaller_than_the_network_sees_are_refused(dataset: DatasetManifest) -> None:
    with pytest.raises(SettingsError, match=r"data.size is 256, but p\d has only 1\d\d px; set at most (128|160)"):
        source(dataset, settings=LensData(size=256))


def test_a_dataset_of_another_task_or_without_profiles_is_told(dataset: DatasetManifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is of task sar, not lens"):
        source(replace(dataset, task="sar"))
    for path in dataset.folder.glob("*.npy"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "profiles.json").write_text('{"profiles": [{}]}')
    with pytest.raises(DataError, match=r"profiles .*profiles\.json are damaged \('lens'\)"):
        source(replace(dataset, folder=tmp_path))

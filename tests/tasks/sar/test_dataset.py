"""Claims of tasks/sar/dataset.py, blocks.py, planning.py and source.py."""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.data.manifest import open_manifest, verify_manifest
from mlkit.data.store import Store
from mlkit.errors import DataError, SettingsError
from mlkit.tasks.sar.blocks import training_patches, validation_patches, validation_rects
from mlkit.tasks.sar.dataset import SarSource, build_dataset
from mlkit.tasks.sar.settings import SarBuild

SAR = Path(os.environ.get("MLKIT_SHARED_DATA", Path(__file__).parents[3] / "../shared/data")) / "sar"
real_data = pytest.mark.skipif(not SAR.is_dir(), reason=f"real SAR scenes are absent ({SAR}); set MLKIT_SHARED_DATA")
SMALL = SarBuild(patch=32, stride=16, block=64, guard=8)


def scene(path: Path, height: int = 200, width: int = 240, seed: int = 0, mean: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(seed).gamma(4.4, mean / 4.4, (height, width)).astype(np.float32) + 1e-6)
    return path


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [scene(tmp_path / "in/a.npy"), scene(tmp_path / "in/b.npy", 260, 180, seed=1)]


# ---- splits -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(16, 700), st.integers(16, 700)),
    patch=st.sampled_from([16, 32, 64]),
    stride=st.integers(5, 90),
    block=st.integers(16, 130),
    guard=st.integers(0, 40),
    seed=st.integers(0, 5),
)
def test_no_training_patch_wherever_shifted_comes_near_validation(
    shape: tuple[int, int], patch: int, stride: int, block: int, guard: int, seed: int
) -> None:
    build = SarBuild(patch=patch, stride=stride, block=block, guard=guard, seed=seed)
    rects = validation_rects(shape, build)
    near = np.zeros((shape[0] + 2 * guard, shape[1] + 2 * guard), bool)  # painted, unlike the code's intervals
    for r in rects:
        near[r.y0 : r.y1 + 2 * guard, r.x0 : r.x1 + 2 * guard] = True
    near = near[guard : guard + shape[0], guard : guard + shape[1]]
    for row in training_patches(0, shape, rects, build):
        y0, y1 = int(row["y"]) - int(row["up"]), int(row["y"]) + patch + int(row["down"])
        x0, x1 = int(row["x"]) - int(row["left"]), int(row["x"]) + patch + int(row["right"])
        assert 0 <= y0 <= y1 <= shape[0]
        assert 0 <= x0 <= x1 <= shape[1]
        assert not near[y0:y1, x0:x1].any()
    used = np.zeros(shape, int)
    for row in validation_patches(0, rects, patch):
        used[row["y"] : row["y"] + patch, row["x"] : row["x"] + patch] += 1
    assert used.max(initial=0) <= 1
    inside = np.zeros(shape, bool)
    for r in rects:
        inside[r.y0 : r.y1, r.x0 : r.x1] = True
    assert not used[~inside].any()


def test_the_share_of_validation_is_about_what_was_asked() -> None:
    for shape in ((1024, 1024), (3000, 5000), (512, 512)):
        build = SarBuild(patch=64, val_share=0.2)
        area = sum((r.y1 - r.y0) * (r.x1 - r.x0) for r in validation_rects(shape, build))
        assert 0.12 <= area / (shape[0] * shape[1]) <= 0.28
        assert len(training_patches(0, shape, validation_rects(shape, build), build))


def test_the_seed_moves_the_validation_area_and_equal_sizes_share_it() -> None:
    places = {tuple(map(repr, validation_rects((512, 512), SarBuild(patch=64, seed=seed)))) for seed in range(12)}
    assert len(places) > 1
    assert validation_rects((512, 512), SMALL) == validation_rects((512, 512), SMALL)


def test_scenes_too_small_to_divide_go_whole_and_one_place_to_one_split(tmp_path: Path) -> None:
    covariance = np.zeros((64, 64, 2, 2), np.complex64)
    draw = np.random.default_rng(0)
    for number in range(6):
        for c in range(2):
            covariance[:, :, c, c] = draw.gamma(3, 1, (64, 64))
        np.save(tmp_path / f"c{number}.npy", covariance)
    report = build_dataset(sorted(tmp_path.glob("c*.npy")), tmp_path / "out", build=SarBuild(patch=64, stride=64))
    splits = {s["name"]: s["split"] for s in report.manifest.details["scenes"]}
    assert set(splits.values()) == {"train", "validation"}
    assert all(splits[f"c{n}#0"] == splits[f"c{n}#1"] for n in range(6))
    assert report.manifest.splits == {"train": 10, "validation": 2}
    assert any("to validation as a whole, too small for patches of 64 px" in line for line in report.lines)


@pytest.mark.parametrize("shape", [(64, 64), (400, 400), (130, 250)])
def test_one_scene_that_cannot_be_divided_is_refused_with_a_patch_that_works(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    path = scene(tmp_path / "a.npy", *shape)
    with pytest.raises(DataError) as caught:
        build_dataset([path], tmp_path / "out", build=SarBuild(patch=min(shape), guard=8))
    size = f"{shape[1]} x {shape[0]} px"
    where = rf"no validation patch of {min(shape)} px is left in 1 scene of {size}"
    told = rf"{where}; use --patch (\d+) or less, or add scenes"
    found = re.fullmatch(told, str(caught.value))
    assert found
    assert not (tmp_path / "out").exists()
    works = int(found[1])
    assert build_dataset([path], tmp_path / "out", build=SarBuild(patch=works, guard=8)).manifest.splits["train"]
    if works + 16 < min(shape):
        with pytest.raises(DataError, match="is left in 1 scene"):
            build_dataset([path], tmp_path / "other", build=SarBuild(patch=works + 16, guard=8))


def test_where_no_patch_works_larger_scenes_are_asked_for(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.npy", 24, 24)
    with pytest.raises(DataError) as caught:
        build_dataset([path], tmp_path / "out", build=SarBuild(patch=16))
    assert str(caught.value) == "no validation patch of 16 px is left in 1 scene of 24 x 24 px; add larger scenes"


def test_where_all_is_masked_too_much_the_option_for_that_is_named(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.npy", 256, 256)
    values = np.load(path)
    values[::4] = 0  # a quarter of every patch
    np.save(path, values)
    with pytest.raises(DataError) as caught:
        build_dataset([path], tmp_path / "out", build=SMALL)
    assert re.fullmatch(
        r"no training patch of 32 px is left in 1 scene of 256 x 256 px: \d+ of both parts have more than 5% masked; "
        "use more --max-nodata, a smaller --patch or more scenes",
        str(caught.value),
    )
    build_dataset([path], tmp_path / "out", build=SMALL.model_copy(update={"max_nodata": 0.3}))


def test_few_validation_patches_are_warned_of(tmp_path: Path) -> None:
    few = build_dataset([scene(tmp_path / "a.npy")], tmp_path / "few", build=SMALL)
    many = build_dataset([scene(tmp_path / "b.npy", 600, 600)], tmp_path / "many", build=SMALL)
    told = "warning: scores of 6 validation patches say little; use a smaller --patch, more scenes or more --val-share"
    assert few.manifest.splits["validation"] == 6 and told in few.lines
    assert many.manifest.splits["validation"] >= 8
    assert not any("say little" in line for line in many.lines)


# ---- building -----------------------------------------------------------------------------------------------------


def test_the_stored_scenes_are_the_files_in_db(two: list[Path], tmp_path: Path) -> None:
    report = build_dataset(two, tmp_path / "out", build=SMALL)
    assert report.manifest == open_manifest(tmp_path / "out")
    verify_manifest(report.manifest)
    store = Store(tmp_path / "out", "scenes")
    for path, stored in zip(two, store, strict=True):
        np.testing.assert_allclose(stored, 10 * np.log10(np.load(path).astype(float)), atol=1e-4)
    assert report.manifest.label == ""
    assert report.manifest.splits == {
        split: len(SarSource(report.manifest, split)) for split in ("train", "validation")
    }


def test_equal_input_gives_an_equal_hash_whatever_order_or_folder(two: list[Path], tmp_path: Path) -> None:
    first = build_dataset(two, tmp_path / "one", build=SMALL).manifest.sha256
    moved = tmp_path / "elsewhere/deep"
    moved.mkdir(parents=True)
    for path in two:
        shutil.copy(path, moved)
    assert build_dataset([moved], tmp_path / "two", build=SMALL).manifest.sha256 == first
    for path, folder in zip(two, ("z", "a"), strict=True):  # folders sort against the names
        (tmp_path / folder).mkdir()
        shutil.copy(path, tmp_path / folder)
    assert build_dataset([tmp_path / "z", tmp_path / "a"], tmp_path / "five", build=SMALL).manifest.sha256 == first
    assert build_dataset(two[::-1], tmp_path / "three", build=SMALL).manifest.sha256 == first
    other = SMALL.model_copy(update={"seed": 1})
    assert build_dataset(two, tmp_path / "four", build=other).manifest.sha256 != first


def test_limits_are_percentiles_of_training_pixels_only(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.npy", 256, 256)
    (rect,) = validation_rects((256, 256), SMALL)
    values = np.load(path)
    values[rect.y0 : rect.y1, rect.x0 : rect.x1] *= 1000  # 30 dB brighter where nothing may be learnt from
    values[:4] = 0
    np.save(path, values)
    report = build_dataset([path], tmp_path / "out", build=SMALL.model_copy(update={"max_nodata": 0.2}))
    covered = np.zeros(values.shape, bool)
    for y, x in zip(*(np.load(tmp_path / "out/train.npy")[key] for key in "yx"), strict=True):
        covered[y : y + 32, x : x + 32] = True
    pixels = values[covered & (values > 0)].astype(float)
    low, high = np.percentile(10 * np.log10(pixels), (1, 99))
    assert report.manifest.preprocessing["db_min"] == pytest.approx(low, abs=0.01)
    assert report.manifest.preprocessing["db_max"] == pytest.approx(high, abs=0.01)
    assert high < 0  # the bright validation part, at 20 dB, had no say


def test_masked_patches_are_dropped_and_counted(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.npy", 256, 256)
    values = np.load(path)
    values[:, 100:140] = 0
    np.save(path, values)
    report = build_dataset([path], tmp_path / "out", build=SMALL)
    for split in ("train", "validation"):
        for row in np.load(tmp_path / f"out/{split}.npy"):
            y, x = int(row["y"]), int(row["x"])
            for dy, dx in ((-int(row["up"]), -int(row["left"])), (int(row["down"]), int(row["right"])), (0, 0)):
                assert (values[y + dy : y + dy + 32, x + dx : x + dx + 32] == 0).mean() <= 0.05
    assert any("patches dropped with more than 5% masked" in line for line in report.lines)
    assert any("masked: 10240 nodata" in line for line in report.lines)


def test_subset_keeps_a_seeded_share_of_training_only(two: list[Path], tmp_path: Path) -> None:
    full = build_dataset(two, tmp_path / "full", build=SMALL).manifest
    part = build_dataset(two, tmp_path / "part", build=SMALL.model_copy(update={"subset": 0.2})).manifest
    assert part.splits["train"] == round(0.2 * full.splits["train"])
    assert part.splits["validation"] == full.splits["validation"]
    assert part.preprocessing == full.preprocessing  # scores of both stay comparable
    kept = {SarSource(part, "train").sample_id(i) for i in range(part.splits["train"])}
    assert kept < {SarSource(full, "train").sample_id(i) for i in range(full.splits["train"])}


def test_what_was_decided_is_logged_and_returned(
    two: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, int, int]] = []
    with caplog.at_level(logging.INFO, logger="mlkit"):
        report = build_dataset(two, tmp_path / "out", build=SMALL, progress=lambda *args: seen.append(args))
    assert report.lines == [record.getMessage() for record in caplog.records]
    assert any(line.startswith("a: 240 x 200 px, intensity, ") for line in report.lines)
    done = [count for what, count, _ in seen if what == "scenes"]
    assert all(a <= b for a, b in pairwise(done)) and done[-1] == 2


# ---- sources that are wrong ---------------------------------------------------------------------------------------


def test_broken_files_are_all_named_and_skipped_only_when_asked(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in/c.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "in/d.npy", np.full((64, 64), np.nan))
    with pytest.raises(DataError) as caught:
        build_dataset([tmp_path / "in"], tmp_path / "out", build=SMALL)
    assert len(caught.value.problems) == 3
    assert "c.npy" in caught.value.problems[0] and "d.npy" in caught.value.problems[1]
    assert "--skip-broken" in caught.value.problems[2]
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    report = build_dataset([tmp_path / "in"], tmp_path / "out", build=SMALL, skip_broken=True)
    assert len(report.broken) == 2
    assert [s["name"] for s in report.manifest.details["scenes"]] == ["a", "b"]


def test_only_broken_files_are_refused_even_when_skipping(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/c.npy").write_bytes(b"")
    with pytest.raises(DataError, match="the one file cannot be used, so there is nothing to build"):
        build_dataset([tmp_path / "in"], tmp_path / "out", build=SMALL, skip_broken=True)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_missing_and_empty_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        build_dataset([tmp_path / "gone.tif", tmp_path / "empty"], tmp_path / "out", build=SMALL)
    assert "gone.tif does not exist" in caught.value.problems[0]
    assert "holds no SAR image; accepted are GeoTIFF" in caught.value.problems[1]


def test_scenes_smaller_than_a_patch_are_named(two: list[Path], tmp_path: Path) -> None:
    scene(tmp_path / "in/small.npy", 20, 300, seed=2)
    report = build_dataset([tmp_path / "in"], tmp_path / "out", build=SMALL)
    assert "small is dropped: 300 x 20 px is smaller than a patch of 32 px" in report.lines
    with pytest.raises(
        DataError, match="all scenes are smaller than a patch of 32 px, the largest of 300 x 20 px; use a smal"
    ):
        build_dataset([tmp_path / "in/small.npy"], tmp_path / "other", build=SMALL)


def test_a_folder_that_holds_something_is_never_touched(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert build_dataset(two, out, build=SMALL).manifest.splits["train"]  # empty is fine
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError, match="out is not empty; choose another --out or empty it"):
        build_dataset(two, out, build=SMALL)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(DataError, match="file is a file, not a folder; choose another --out"):
        build_dataset(two, file, build=SMALL)
    assert file.read_text() == "mine"


def test_other_files_of_a_folder_are_named_and_hidden_ones_are_not_read(two: list[Path], tmp_path: Path) -> None:
    before = build_dataset([tmp_path / "in"], tmp_path / "one", build=SMALL)
    (tmp_path / "in/.cache").mkdir()
    shutil.copy(two[0], tmp_path / "in/.cache/c.npy")
    (tmp_path / "in/notes.xml").write_text("x")
    (tmp_path / "in/raw.bin").write_text("x")
    after = build_dataset([tmp_path / "in"], tmp_path / "two", build=SMALL)
    assert after.manifest.sha256 == before.manifest.sha256
    assert after.lines[0] == f"{tmp_path / 'in'}: 2 files of other types not read: notes.xml, raw.bin"
    assert not any("other types" in line for line in before.lines)


def test_an_interrupted_build_leaves_nothing(two: list[Path], tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if (what, done) == ("scenes", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(two, tmp_path / "out", build=SMALL, progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_the_same_file_twice_is_used_once(two: list[Path], tmp_path: Path) -> None:
    shutil.copy(two[0], tmp_path / "in/z.npy")
    report = build_dataset([tmp_path / "in"], tmp_path / "out", build=SMALL)
    assert [s["name"] for s in report.manifest.details["scenes"]] == ["a", "b"]
    assert any("z.npy is the same file as" in line for line in report.lines)


def test_files_of_one_name_in_two_folders_get_different_ids(tmp_path: Path) -> None:
    paths = [scene(tmp_path / f"in{n}/a.npy", seed=n) for n in range(3)]
    report = build_dataset(paths, tmp_path / "out", build=SMALL)
    assert [s["name"] for s in report.manifest.details["scenes"]] == ["a", "a-2", "a-3"]


def test_scenes_of_another_calibration_are_warned_of(tmp_path: Path) -> None:
    paths = [scene(tmp_path / "a.npy"), scene(tmp_path / "b.npy", seed=1, mean=1e5)]
    report = build_dataset(paths, tmp_path / "out", build=SMALL)
    assert any(line.startswith("warning: the median of b is") for line in report.lines)


def test_a_constant_scene_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((200, 200), 0.5))
    with pytest.raises(DataError, match=r"the training part is constant \(-3\.010 dB\)"):
        build_dataset([tmp_path / "a.npy"], tmp_path / "out", build=SMALL)


# ---- samples ------------------------------------------------------------------------------------------------------


def test_validation_samples_are_the_normalised_pixels(two: list[Path], tmp_path: Path) -> None:
    manifest = build_dataset(two, tmp_path / "out", build=SMALL).manifest
    source = SarSource(manifest, "validation", augment=True)
    low, high = manifest.preprocessing["db_min"], manifest.preprocessing["db_max"]
    for index in range(len(source)):
        name, place = source.sample_id(index).split("/")
        y, x = int(place[1:5]), int(place[6:10])
        image = source.sample(index, np.random.default_rng(index))["image"].numpy()
        values = np.load(tmp_path / f"in/{name}.npy")[y : y + 32, x : x + 32].astype(float)
        assert image.shape == (1, 32, 32) and image.dtype == np.float32
        np.testing.assert_allclose(image[0], np.clip((10 * np.log10(values) - low) / (high - low), 0, 1), atol=1e-5)


def test_masked_pixels_become_zero(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.npy", 256, 256)
    values = np.load(path)
    values[::16, ::16] = np.nan
    np.save(path, values)
    source = SarSource(build_dataset([path], tmp_path / "out", build=SMALL).manifest, "validation")
    image = source.sample(0, np.random.default_rng(0))["image"].numpy()
    assert np.isfinite(image).all()
    y, x = (int(source.sample_id(0).split("/")[1][i : i + 4]) for i in (1, 6))
    masked = np.isnan(values[y : y + 32, x : x + 32])
    assert masked.any()
    assert (image[0][masked] == 0).all()


def test_augmented_training_samples_are_symmetries_of_nearby_training_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    # every pixel is unique, so that its place can be told from its value
    np.save(path, np.linspace(-20, -1, 256 * 256).reshape(256, 256))
    build = SMALL.model_copy(update={"kind": "db", "percentiles": (0.0, 100.0)})
    manifest = build_dataset([path], tmp_path / "out", build=build).manifest
    source = SarSource(manifest, "train", augment=True)
    low, high = manifest.preprocessing["db_min"], manifest.preprocessing["db_max"]
    (area,) = manifest.details["scenes"][0]["validation_areas"]
    orientations, places = set(), set()
    for draw in range(200):
        index = draw % len(source)
        image = source.sample(index, np.random.default_rng(draw))["image"].numpy()[0].astype(float)
        pixel = np.rint((image * (high - low) + low + 20) / 19 * (256 * 256 - 1)).astype(int)
        ys, xs = pixel // 256, pixel % 256
        y0, y1, x0, x1 = ys.min(), ys.max(), xs.min(), xs.max()
        assert y1 - y0 == x1 - x0 == 31
        gap_y, gap_x = max(area["y0"] - y1 - 1, y0 - area["y1"]), max(area["x0"] - x1 - 1, x0 - area["x1"])
        assert max(gap_y, gap_x) >= 8  # the guard distance
        orientations.add((np.sign(ys[1, 0] - ys[0, 0]), np.sign(ys[0, 1] - ys[0, 0]), np.sign(xs[0, 1] - xs[0, 0]),
                          np.sign(xs[1, 0] - xs[0, 0])))  # fmt: skip
        places.add((index, y0, x0))
    assert len(orientations) == 8
    assert len(places) > 150


def test_samples_depend_on_the_given_generator_only(two: list[Path], tmp_path: Path) -> None:
    source = SarSource(build_dataset(two, tmp_path / "out", build=SMALL).manifest, "train", augment=True)
    again = pickle.loads(pickle.dumps(source))
    for index in range(5):
        first, second = (s.sample(index, np.random.default_rng(index))["image"] for s in (source, again))
        assert first.equal(second)
    assert len(pickle.dumps(source)) < 10_000


def test_a_smaller_patch_is_cut_from_inside_and_a_larger_one_refused(two: list[Path], tmp_path: Path) -> None:
    manifest = build_dataset(two, tmp_path / "out", build=SMALL).manifest
    whole, small = SarSource(manifest, "validation"), SarSource(manifest, "validation", patch=16)
    rng = np.random.default_rng(0)
    # validation loses no pixel: the parts of a patch are its quadrants, in rows
    assert len(small) == 4 * len(whole)
    for index in range(len(whole)):
        image = whole.sample(index, rng)["image"]
        name, place = whole.sample_id(index).split("/")
        for part, (dy, dx) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
            cut = small.sample(4 * index + part, rng)["image"]
            np.testing.assert_array_equal(cut, image[:, dy : dy + 16, dx : dx + 16])
            assert (
                small.sample_id(4 * index + part) == f"{name}/y{int(place[1:5]) + dy:04d}x{int(place[6:10]) + dx:04d}"
            )
    assert SarSource(manifest, "train", 16, True).sample(0, rng)["image"].shape == (1, 16, 16)
    with pytest.raises(SettingsError, match=r"data\.patch is 64, but dataset .* has patches of 32 px; set at most 32"):
        SarSource(manifest, "train", patch=64)


def test_without_sources_the_scenes_are_simulated_with_their_truth(tmp_path: Path) -> None:
    report = build_dataset(None, tmp_path / "out", build=SarBuild())
    assert report.manifest.label == "simulated"
    assert [scene["split"] for scene in report.manifest.details["scenes"]] == ["blocks"] * 12
    assert report.manifest.splits["validation"] >= 24  # enough for an interval of their mean
    source = SarSource(report.manifest, "train", augment=True)
    sample = source.sample(0, np.random.default_rng(0))
    assert sample["image"].shape == sample["truth"].shape == (1, 256, 256)
    low, high = report.manifest.preprocessing["db_min"], report.manifest.preprocessing["db_max"]
    difference = (sample["image"] - sample["truth"]).numpy() * (high - low)
    inside = ((sample["image"] > 0) & (sample["image"] < 1)).numpy()
    assert difference[inside].std() == pytest.approx(2.19, abs=0.4)  # 4.4 looks; turned alike, or it would be far more
    assert build_dataset(None, tmp_path / "b", build=SarBuild()).manifest.sha256 == report.manifest.sha256


@real_data
def test_real_scenes_of_256_px_can_be_used_with_small_patches(tmp_path: Path) -> None:
    report = build_dataset([SAR / "shanghai_sentinel1.npy"], tmp_path / "out", build=SarBuild(patch=64, stride=64))
    assert [s["split"] for s in report.manifest.details["scenes"]] == ["blocks", "blocks"]
    assert min(report.manifest.splits.values()) >= 4


@real_data
def test_all_real_scenes_build_with_the_defaults(tmp_path: Path) -> None:
    report = build_dataset([SAR], tmp_path / "out", build=SarBuild())
    assert not report.broken
    assert len(report.manifest.details["scenes"]) == 11
    assert min(report.manifest.splits.values()) > 0
    assert SarSource(report.manifest, "validation").sample_id(0).endswith("/y0000x0000")

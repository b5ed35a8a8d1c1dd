"""Building datasets of lenses and of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lensfiles import SMALL, photograph
from mlkit.data.manifest import DatasetManifest, verify_manifest
from mlkit.errors import DataError, MlkitError, SettingsError
from mlkit.tasks.lens.dataset import BuildReport, build_dataset
from mlkit.tasks.lens.inputs import said_by_lines
from mlkit.tasks.lens.items import PROFILES
from mlkit.tasks.lens.pairs import PairSource, find_pairs
from mlkit.tasks.lens.settings import LensBuild, LensData


def built(out: Path, sources: list[Path] | None = None, pairs: Path | None = None, **values: object) -> BuildReport:
    build = LensBuild.model_validate({**SMALL, **values})
    return build_dataset(sources, out, build=build, pairs=pairs)


def test_what_is_built_is_whole_and_counted(dataset: DatasetManifest) -> None:
    verify_manifest(dataset)
    assert dataset.splits == {"train": 16, "validation": 1 * 2 + 3}
    assert dataset.label == "lensfun profiles"
    rows = json.loads((dataset.folder / PROFILES).read_text())
    assert rows["source"] == "lensfun, CC BY-SA 3.0"
    assert all("canon ef " in row["lens"].lower() for row in rows["profiles"])


def test_equal_input_and_options_give_an_equal_hash(
    photographs: Path, dataset: DatasetManifest, tmp_path: Path
) -> None:
    assert built(tmp_path / "again", [photographs]).manifest.sha256 == dataset.sha256
    assert built(tmp_path / "other", [photographs], seed=1).manifest.sha256 != dataset.sha256


def test_no_lens_comes_twice_before_all_came_once(photographs: Path, tmp_path: Path) -> None:
    report = built(tmp_path / "d", [photographs], scenes=20)
    rows = json.loads((tmp_path / "d" / PROFILES).read_text())["profiles"]
    lenses = [rows[view["profile"]]["lens"] for view in report.manifest.details["views"]]
    held_out = {row["lens"] for row in rows if row["split"] == "validation"}
    assert len(set(lenses)) == min(len(lenses), len(held_out))


def test_photographs_are_reduced_and_small_ones_left_out(tmp_path: Path) -> None:
    for number in range(2):
        photograph(tmp_path / f"in/large{number}.png", 400, 600, seed=number)
    photograph(tmp_path / "in/small.png", 80, 200)
    report = built(tmp_path / "d", [tmp_path / "in"], longest=300)
    entries = {entry["name"]: entry for entry in report.manifest.details["photographs"]}
    assert set(entries) == {"large0", "large1"}
    assert (entries["large0"]["height"], entries["large0"]["width"]) == (200, 300)
    assert [level[0] for level in entries["large0"]["levels"]] == [1, 2, 4]
    assert any(line.startswith("small: 200 x 80 px, left out") for line in report.lines)


def test_photographs_that_are_all_too_small_are_told_and_nothing_is_left(tmp_path: Path) -> None:
    for name, height in (("tiny", 20), ("small", 80)):
        photograph(tmp_path / f"in/{name}.png", height, 200)
        with pytest.raises(DataError, match=r"all photographs are smaller than .* the largest of 200 x .*; give "):
            built(tmp_path / "d", [tmp_path / "in"], smallest=128)
    assert not (tmp_path / "d").exists()


def test_a_lens_without_profile_is_told_and_nothing_is_left(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no lens of lensfun's data base contains 'Zeppelin 3mm'"):
        built(tmp_path / "d", [photographs], lens="Zeppelin 3mm")
    assert list(tmp_path.iterdir()) == []


# ---- pairs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for number in range(4):
        photograph(tmp_path / f"pairs/distorted/a{number}.png", seed=number)
        photograph(tmp_path / f"pairs/corrected/a{number}.jpg", seed=number + 10)
    return tmp_path / "pairs"


def test_pairs_are_found_by_name_stored_and_split(pairs: Path, tmp_path: Path) -> None:
    report = built(tmp_path / "d", pairs=pairs)
    data = report.manifest
    assert data.splits == {"train": 3, "validation": 1}
    assert data.preprocessing == {"kind": "pairs"}
    source = PairSource(data, "validation", LensData(size=96))
    sample = source.sample(0, np.random.default_rng(0))
    name = source.sample_id(0)
    assert set(sample) == {"image", "target", "frame"}
    given = Image.open(pairs / f"distorted/{name}.png").resize((96, 96), Image.Resampling.BICUBIC)
    hearing = PairSource(data, "validation", LensData(size=96), sure=0.7).sample(0, np.random.default_rng(0))
    assert set(hearing) == {*sample, "lines_params", "lines_facts"}
    with Image.open(pairs / f"distorted/{name}.png") as whole:
        said = said_by_lines(np.asarray(whole), sample["frame"], 0.7)
    assert torch.equal(hearing["lines_params"], said["lines_params"])
    np.testing.assert_allclose(sample["image"].permute(1, 2, 0).numpy() * 255, np.asarray(given), atol=0.51)
    assert sample["frame"].tolist() == pytest.approx([210 / np.hypot(150, 210), 150 / np.hypot(150, 210)])
    with pytest.raises(SettingsError, match=r"data\.size is 256, but pair a\d has only 150 px; set at most 128"):
        PairSource(data, "train", LensData(size=256))


def test_kaggles_names_are_known(tmp_path: Path) -> None:
    for number in range(2):
        photograph(tmp_path / f"in/x_g{number}_original.jpg")
        photograph(tmp_path / f"in/x_g{number}_generated.jpg")
    assert [name for name, *_ in find_pairs(tmp_path / "in")] == ["x_g0", "x_g1"]


def test_pictures_without_their_other_half_are_named(pairs: Path) -> None:
    (pairs / "corrected/a1.jpg").unlink()
    (pairs / "distorted/a3.png").unlink()
    with pytest.raises(DataError) as caught:
        find_pairs(pairs)
    assert caught.value.problems == (
        f"{pairs}: 1 of distorted/ have no other half in corrected/: a1; add or remove them",
        f"{pairs}: 1 of corrected/ have no other half in distorted/: a3; add or remove them",
    )


def test_pairs_of_two_sizes_are_named_and_nothing_is_left(pairs: Path, tmp_path: Path) -> None:
    photograph(pairs / "corrected/a2.jpg", 150, 200)
    with pytest.raises(DataError, match=r"pair a2: .*a2\.png is 210 x 150 px and .*a2\.jpg is 200 x 150"):
        built(tmp_path / "d", pairs=pairs)
    assert not (tmp_path / "d").exists()


def test_a_folder_without_pairs_is_told(tmp_path: Path) -> None:
    photograph(tmp_path / "in/a.png")
    with pytest.raises(DataError, match=r"holds no pairs; give a folder with distorted/ and corrected/"):
        find_pairs(tmp_path / "in")


def test_photographs_and_pairs_are_one_choice(photographs: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(MlkitError, match="--pairs and --source are two ways to the same"):
        built(tmp_path / "d", [photographs], pairs)

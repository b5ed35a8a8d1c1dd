"""Files that changed, samples that cannot be read or hold NaN: each is named with its place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mlkit.data.checking import DataChecks, changed_files, sample_pictures, sample_problems
from mlkit.data.duplicates import near_duplicates
from mlkit.data.limit import Limit
from mlkit.data.manifest import DatasetManifest, open_manifest, write_manifest
from mlkit.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> DatasetManifest:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * (10 + number))
    write_manifest(folder, task="toy", label="", preprocessing={}, splits={"train": 4}, details={})
    return open_manifest(folder)


class Listed:
    """A source of given samples; one that is an exception is raised."""

    def __init__(self, *samples: Mapping[str, Tensor] | Exception) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        found = self.samples[index]
        if isinstance(found, Exception):
            raise found
        return dict(found)

    def sample_id(self, index: int) -> str:
        return f"s{index}"


def problems(data: DatasetManifest, *samples: Mapping[str, Tensor] | Exception, **checks: object) -> list[str]:
    return list(sample_problems(DataChecks(**checks), data, "train", Listed(*samples), 0, Limit(60.0)))  # type: ignore[arg-type]


def test_whole_files_are_no_problem(data: DatasetManifest) -> None:
    limit = Limit(60.0)
    assert list(changed_files(data, limit)) == [] and limit.told == "all 4"


def test_a_file_that_kept_its_size_and_changed_is_named(data: DatasetManifest) -> None:
    path = data.folder / "2.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    named = f"{path} differs from its hash in manifest.json; build the dataset again"
    assert list(changed_files(data, Limit(60.0))) == [named]


def test_hashes_that_the_time_did_not_allow_are_counted(data: DatasetManifest) -> None:
    limit = Limit(0.0)
    assert list(changed_files(data, limit)) == [] and limit.told == "1 of 4"


def test_values_that_are_not_finite_are_counted_by_sample_and_key(data: DatasetManifest) -> None:
    good = {"image": torch.zeros(1, 2, 2), "labels": torch.zeros(2, dtype=torch.int64)}
    bad = {"image": torch.tensor([[[0.0, torch.nan], [torch.nan, 1.0]]]), "db": torch.tensor([torch.inf])}
    (problem,) = problems(data, good, bad)
    assert problem == (
        f"{data.folder}: train sample s1: 2 of 4 values of 'image' are NaN, 1 of 1 value of 'db' is infinite; look at "
        f"the file it was made from, and build the dataset again"
    )


def test_samples_that_cannot_be_read_are_named_and_the_others_are_looked_at(data: DatasetManifest) -> None:
    inside = f"{data.folder / 'x.png'} is cut"
    found = problems(data, DataError(inside), DataError("no such block"), ValueError("seven"), {"image": torch.ones(1)})
    assert sorted(found) == sorted(
        [
            inside,
            f"{data.folder}: train sample s1: no such block",
            f"{data.folder}: train sample s2 cannot be read: ValueError: seven",
        ]
    )


def test_a_tasks_own_check_sees_only_finite_samples(data: DatasetManifest) -> None:
    seen: list[str] = []

    def own(sample: Mapping[str, Tensor], where: str) -> list[str]:
        seen.append(where)
        return [f"{where}: odd"]

    found = problems(
        data, {"image": torch.zeros(1)}, {"image": torch.tensor([torch.nan])}, sample=own, where=lambda part, name: name
    )
    assert seen == ["s0"] and "s0: odd" in found and len(found) == 2


def test_pictures_of_samples_are_compared_where_a_task_names_none(data: DatasetManifest) -> None:
    draw = np.random.default_rng(0)
    images = [torch.from_numpy(draw.random((3, 40, 50)).astype(np.float32)) for _ in range(4)]
    train = Listed(*({"image": image} for image in images[:3]))
    held = Listed({"image": images[3]}, {"target": images[1].flip(2), "image": images[3]})
    sources = {"train": train, "validation": held}
    pictures = sample_pictures(DataChecks(), data, sources, 0, Limit(60.0))
    (pair,) = near_duplicates(pictures, Limit(60.0))
    assert (pair.train, pair.validation) == (f"{data.folder}: train sample s1", f"{data.folder}: validation sample s1")


def test_a_spread_visits_each_place_once() -> None:
    for count in (1, 2, 3, 10, 97, 1000):
        assert sorted(Limit(60.0).spread(count)) == list(range(count))
    assert list(Limit(60.0).spread(0)) == []


def test_an_opened_dataset_names_what_is_cut_or_missing(data: DatasetManifest, tmp_path: Path) -> None:
    copied = shutil.copytree(data.folder, tmp_path / "copied")
    (copied / "1.bin").unlink()
    (copied / "3.bin").write_bytes(b"short")
    with pytest.raises(DataError) as caught:
        open_manifest(copied)
    assert caught.value.problems == (
        f"dataset {copied} lacks 1.bin; build it again",
        f"{copied / '3.bin'} has 5 bytes instead of 13; build the dataset again",
    )

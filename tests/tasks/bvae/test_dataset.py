"""Datasets of grids: split by task, counted on the training part, reproducible; the made set has its imbalance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mlkit.data.manifest import DatasetManifest, verify_manifest
from mlkit.errors import DataError, SettingsError
from mlkit.tasks.bvae.cli import class_table
from mlkit.tasks.bvae.dataset import build_dataset
from mlkit.tasks.bvae.settings import BvaeBuild, BvaeLoss, BvaeModel
from mlkit.tasks.bvae.source import FileSource, GridSource, Preparation, larger_left_out, seen_counts
from mlkit.tasks.bvae.synthetic import synthetic_grids


def _source(data: DatasetManifest, split: str = "train", side: int = 30, **options: bool | int) -> GridSource:
    preparation = Preparation(data, BvaeModel(side=side), BvaeLoss(), False)
    return GridSource(data, split, preparation, **options)  # type: ignore[arg-type]


def test_no_task_is_in_both_parts_and_no_grid_twice(arc: DatasetManifest) -> None:
    verify_manifest(arc)
    train, validation = _source(arc), _source(arc, "validation")
    ids = [[source.sample_id(index) for index in range(len(source))] for source in (train, validation)]
    tasks = [{name.partition("/")[0] for name in names} for names in ids]
    assert not tasks[0] & tasks[1]
    assert [len(names) for names in ids] == list(arc.splits.values()) == [len(set(names)) for names in ids]
    assert len(tasks[1]) == 160 and arc.details["tasks"] == {"train": len(tasks[0]), "validation": 160}


def test_no_training_grid_is_a_validation_grid(arc: DatasetManifest) -> None:
    contents = []
    for split in ("train", "validation"):
        source = _source(arc, split)
        rng = np.random.default_rng(0)
        contents.append({source.sample(index, rng)["labels"].numpy().tobytes() for index in range(len(source))})
    assert not contents[0] & contents[1]


def test_the_counts_are_those_of_the_training_cells_without_padding(arc: DatasetManifest) -> None:
    source = _source(arc)
    counts = np.zeros(11, np.int64)
    for index in range(len(source)):
        counts += np.bincount(source.sample(index, np.random.default_rng(0))["labels"].ravel(), minlength=11)
    assert counts[:10].tolist() == arc.details["class_counts"]
    assert counts[10] > 0
    shares = counts[:10] / counts[:10].sum()
    assert arc.details["class_shares"] == pytest.approx(shares.tolist())
    assert 0.5 < shares[0] < 0.65  # not the 83 to 91 % that padding with 0 would make of it
    assert arc.details["class_weights"]["inverse"] == pytest.approx((0.1 / shares).tolist())
    assert arc.preprocessing == {"classes": 10, "side": 30, "background": 0}


def test_the_table_of_classes_has_a_line_for_each(arc: DatasetManifest) -> None:
    lines = class_table(arc.details)
    assert lines[0].split() == ["class", "cells", "share", "inverse", "sqrt_inverse", "balanced"]
    assert len(lines) == 12 and lines[1].endswith("(background)")
    weights = arc.details["class_weights"]["inverse"]
    assert lines[-1].split(" : 1")[0].split()[-1] == f"{max(weights) / min(weights):.1f}"
    assert len({len(line.replace("  (background)", "")) for line in lines[:-1]}) == 1


def test_the_made_grids_are_93_percent_background_and_123_to_1() -> None:
    counts = np.zeros(10, np.int64)
    for grid in synthetic_grids(1000, 10, 0):
        assert grid.labels_hw.shape == (16, 16)
        counts += np.bincount(grid.labels_hw.ravel(), minlength=10)
    assert counts[0] / counts.sum() == pytest.approx(0.93, abs=0.005)
    assert (counts[0] / counts[1:]).tolist() == pytest.approx([123.0] * 9, rel=0.01)


def test_made_grids_are_a_function_of_the_seed_and_differ() -> None:
    one, again, other = (list(synthetic_grids(40, 10, seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a.labels_hw, b.labels_hw) for a, b in zip(one, again, strict=True))
    assert sum(np.array_equal(a.labels_hw, b.labels_hw) for a, b in zip(one, other, strict=True)) < 4
    assert len({grid.labels_hw.tobytes() for grid in one}) > 35


def test_equal_grids_and_options_give_an_equal_hash(tmp_path: Path, synthetic: DatasetManifest) -> None:
    again = build_dataset("synthetic", tmp_path / "again", build=BvaeBuild(grids=400)).manifest
    other = build_dataset("synthetic", tmp_path / "other", build=BvaeBuild(grids=400, seed=1)).manifest
    assert again.sha256 == synthetic.sha256 != other.sha256
    assert synthetic.label == "simulated"


def _write_tasks(folder: Path, count: int = 4) -> None:
    folder.mkdir()
    for index in range(count):
        task = {"train": [{"input": [[index, 1], [2, 0]], "output": [[0] * 20]}], "test": []}
        (folder / f"t{index}.json").write_text(json.dumps(task))


def test_a_folder_is_read_and_what_is_broken_too_large_or_absent_is_told(tmp_path: Path) -> None:
    _write_tasks(tmp_path / "tasks")
    (tmp_path / "tasks" / "broken.json").write_text("[[0, 1], [2]]")
    with pytest.raises(DataError) as raised:
        build_dataset(str(tmp_path / "tasks"), tmp_path / "out", build=BvaeBuild(side=16))
    assert raised.value.problems[1] == "1 file cannot be used; mend or remove it, or use --skip-broken"
    assert not (tmp_path / "out").exists()
    report = build_dataset(str(tmp_path / "tasks"), tmp_path / "out", build=BvaeBuild(side=16), skip_broken=True)
    assert len(report.broken) == 1 and "rows differ in length" in report.broken[0]
    assert "4 grids larger than 16 cells a side left out (--side)" in report.lines
    assert report.manifest.splits == {"train": 3, "validation": 1}
    assert any(line.startswith("no training cell has class ") for line in report.lines)
    assert all(np.isfinite(report.manifest.details["class_weights"][key]).all() for key in ("inverse", "balanced"))


def test_what_cannot_become_a_dataset_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    _write_tasks(tmp_path / "one", 1)
    _write_tasks(tmp_path / "two", 2)
    (tmp_path / "equal").mkdir()
    for name in "ab":
        (tmp_path / "equal" / f"{name}.json").write_text("[[0, 1]]")
    cases = {
        "one": "all grids belong to one task (t0), and a task is never split; give two tasks or more",
        "equal": "every training grid is also a validation grid; give more tasks",
    }
    for name, told in cases.items():
        with pytest.raises(DataError) as raised:
            build_dataset(str(tmp_path / name), tmp_path / "out", build=BvaeBuild())
        assert raised.value.problems == (told,)
    with pytest.raises(DataError, match="all grids are larger than --side 4, the largest of 20; use a larger --side"):
        (tmp_path / "large").mkdir()
        (tmp_path / "large" / "x.json").write_text(json.dumps([[0] * 20]))
        build_dataset(str(tmp_path / "large"), tmp_path / "out", build=BvaeBuild(side=4))
    with pytest.raises(DataError, match="ARC grids have 10 colours, but --classes is 4; give 10 or leave it out"):
        build_dataset("arc1", tmp_path / "out", build=BvaeBuild(classes=4))
    assert not (tmp_path / "out").exists()


def test_any_number_of_classes(tmp_path: Path) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", np.random.default_rng(index).integers(0, 40, (6, 6)))
    data = build_dataset(str(tmp_path), tmp_path / "out", build=BvaeBuild(classes=40)).manifest
    preparation = Preparation(data, BvaeModel(classes=40), BvaeLoss(use_class_weights=True), False)
    sample = GridSource(data, "train", preparation).sample(0, np.random.default_rng(0))
    assert sample["class_weights"].shape == (40,) and torch.isfinite(sample["class_weights"]).all()
    assert (sample["labels"] == 40).sum() == 30 * 30 - 36


def test_a_model_of_another_number_of_classes_is_refused_by_name(synthetic: DatasetManifest) -> None:
    with pytest.raises(SettingsError) as raised:
        Preparation(synthetic, BvaeModel(classes=12), BvaeLoss(), False)
    assert raised.value.problems == (
        f"model.classes is 12, but dataset {synthetic.folder} has 10 classes; "
        f"set model.classes = 10 for a new model, or use a dataset of 12 classes",
    )


def test_grids_larger_than_the_model_are_left_out_and_said(arc: DatasetManifest) -> None:
    source = _source(arc, side=16)
    sides = [max(_shape(source, index)) for index in range(len(source))]
    assert max(sides) == 16
    assert (
        larger_left_out(source)
        == f"{arc.splits['train'] - len(source):,} train grids larger than model.side = 16 left out"
    )
    assert larger_left_out(_source(arc)) == ""


def _shape(source: GridSource, index: int) -> tuple[int, int]:
    valid = source.sample(index, np.random.default_rng(0))["labels"] < 10
    return int(valid.any(dim=1).sum()), int(valid.any(dim=0).sum())


def test_augmentation_is_one_of_eight_symmetries_and_a_permutation_that_keeps_the_background(
    arc: DatasetManifest,
) -> None:
    plain = _source(arc, side=30).sample(11, np.random.default_rng(0))["labels"]
    grid = plain[: int((plain < 10).any(dim=1).sum()), : int((plain < 10).any(dim=0).sum())].numpy()
    symmetries = {np.ascontiguousarray(np.rot90(one, k)).tobytes() for one in (grid, grid.T) for k in range(4)}
    source = _source(arc, symmetries=True)
    found = set()
    for seed in range(100):
        labels = source.sample(11, np.random.default_rng(seed))["labels"].numpy()
        valid = labels < 10
        found.add(np.ascontiguousarray(labels[valid.any(axis=1)][:, valid.any(axis=0)]).tobytes())
    assert found == symmetries
    recolored = _source(arc, permute_colors=True).sample(11, np.random.default_rng(1))["labels"]
    assert torch.equal(recolored == 0, plain == 0) and torch.equal(recolored == 10, plain == 10)
    pairs = {(int(a), int(b)) for a, b in zip(plain.ravel(), recolored.ravel(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert not torch.equal(recolored, plain)


def test_weights_are_by_what_the_training_sees(arc: DatasetManifest) -> None:
    counts = np.array(arc.details["class_counts"])
    assert seen_counts(arc, False).tolist() == counts.tolist()
    seen = seen_counts(arc, True)
    assert seen[0] == counts[0] and seen[1:].tolist() == pytest.approx([counts[1:].mean()] * 9)


def test_the_users_own_grids_are_prepared_as_the_dataset_was(tmp_path: Path, synthetic: DatasetManifest) -> None:
    (tmp_path / "g.json").write_text("[[1, 2, 3], [4, 5, 6]]")
    preparation = Preparation(synthetic, BvaeModel(side=16), BvaeLoss(), False)
    source = FileSource([tmp_path / "g.json"], preparation, upscale=3, fit_multiple=2)
    labels = source.sample(0, np.random.default_rng(0))["labels"]
    assert source.sample_id(0) == "g" and len(source) == 1
    assert labels[:6, :8].tolist() == np.kron([[1, 2, 3], [4, 5, 6]], np.ones((3, 3)))[:6, :8].tolist()
    assert (labels == 10).sum() == 256 - 48
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "g.json").write_text("[[1]]")
    both = FileSource([tmp_path / "g.json", tmp_path / "other" / "g.json"], preparation)
    assert [both.sample_id(index) for index in range(2)] == ["g", "g-2"]
    with pytest.raises(DataError, match="a grid of 18 x 12 cells is larger than the model's 16"):
        FileSource([tmp_path / "g.json"], preparation, upscale=6)

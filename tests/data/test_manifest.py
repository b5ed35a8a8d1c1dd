"""Claims of data/manifest.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlkit.data.manifest import DatasetManifest, open_manifest, verify_manifest, write_manifest
from mlkit.errors import DataError


def build(folder: Path, body: bytes = b"hello", **changes: Any) -> DatasetManifest:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.bin").write_bytes(body)
    values: dict[str, Any] = {
        "task": "sar",
        "label": "",
        "preprocessing": {"db_min": -20.5, "percentiles": (1, 99)},
        "splits": {"train": 3, "validation": 1},
        "details": {"patch": 64, "by_number": {10: "a", 9: "b"}},
    }
    write_manifest(folder, **(values | changes))
    return open_manifest(folder)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    manifest = build(tmp_path / "d")
    assert (manifest.task, manifest.label, manifest.folder) == ("sar", "", tmp_path / "d")
    assert manifest.splits == {"train": 3, "validation": 1}
    assert manifest.preprocessing == {"db_min": -20.5, "percentiles": [1, 99]}
    # SHA-256 of "hello", from FIPS 180-4 implementations everywhere
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert manifest.files == {"sub/a.bin": {"bytes": 5, "sha256": digest}}
    verify_manifest(manifest)


def test_the_hash_does_not_depend_on_place_time_or_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(tmp_path / "d").sha256
    monkeypatch.setattr("mlkit.data.manifest.__version__", "9.9")
    assert build(tmp_path / "elsewhere" / "e").sha256 == first


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "sr"},
        {"label": "simulated"},
        {"preprocessing": {}},
        {"splits": {}},
        {"details": {}},
        {"body": b"HELLO"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_hash_depends_on_all_else(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert build(tmp_path / "d").sha256 != build(tmp_path / "e", **changes).sha256


def test_a_folder_without_a_dataset_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; build one with: mlkit dataset build"):
        open_manifest(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no manifest\.json, so it is no complete dataset"):
        open_manifest(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file, not a dataset folder"):
        open_manifest(tmp_path / "file")


def test_opening_sees_cut_and_missing_files(tmp_path: Path) -> None:
    build(tmp_path / "d")
    (tmp_path / "d/sub/a.bin").write_bytes(b"hell")
    with pytest.raises(DataError, match="has 4 bytes instead of 5"):
        open_manifest(tmp_path / "d")
    (tmp_path / "d/sub/a.bin").unlink()
    with pytest.raises(DataError, match=r"lacks sub/a\.bin"):
        open_manifest(tmp_path / "d")


def test_verifying_sees_one_changed_byte(tmp_path: Path) -> None:
    build(tmp_path / "d")
    (tmp_path / "d/sub/a.bin").write_bytes(b"hellO")
    manifest = open_manifest(tmp_path / "d")  # cheap: sizes only
    with pytest.raises(DataError, match=r"a\.bin differs from its hash"):
        verify_manifest(manifest)


def test_an_edited_manifest_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "d")
    path = tmp_path / "d/manifest.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"preprocessing": {"db_min": 0}}))
    with pytest.raises(DataError, match="was changed after it was written"):
        open_manifest(tmp_path / "d")
    path.write_text(json.dumps(value | {"format_version": 99}))
    with pytest.raises(DataError, match="format version 99"):
        open_manifest(tmp_path / "d")
    del value["splits"]
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="it has no splits"):
        open_manifest(tmp_path / "d")


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    from mlkit.files import sha256_json

    build(tmp_path / "d")
    path = tmp_path / "d/manifest.json"
    value = json.loads(path.read_text())
    value["files"] = {"../secret": {"bytes": 1, "sha256": "0"}}
    keys = ("task", "label", "preprocessing", "splits", "files", "details")
    path.write_text(json.dumps(value | {"sha256": sha256_json({key: value[key] for key in keys})}))
    with pytest.raises(DataError, match="outside the dataset"):
        open_manifest(tmp_path / "d")

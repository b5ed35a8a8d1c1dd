"""Claims of tasks/demosaic/images.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlkit.errors import DataError
from mlkit.seeding import generator
from mlkit.tasks.demosaic import images, xtrans
from mlkit.tasks.demosaic.images import ImagesSource
from mlkit.tasks.demosaic.raw import RawFrame


def saved(path: Path, height: int, width: int) -> tuple[Path, np.ndarray]:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(levels).save(path)
    return path, levels


def sample_of(path: Path, **options: Any) -> dict[str, np.ndarray]:
    source = ImagesSource([path], **options)
    assert len(source) == 1 and source.sample_id(0) == path.name
    return {key: value.numpy() for key, value in source.sample(0, generator(0)).items()}


def test_an_image_is_mosaicked_at_phase_0_in_the_light_asked_for(tmp_path: Path) -> None:
    path, levels = saved(tmp_path / "a.png", 31, 43)
    sample = sample_of(path, encoded=True)
    sites = np.take_along_axis(levels / 255, xtrans.colors(31, 43)[..., None], axis=2)[..., 0]
    assert np.abs(sample["mosaic"][0] - sites).max() < 1e-6 and sample["phase"].tolist() == [0, 0]
    assert np.abs(sample["image"] - np.moveaxis(levels, 2, 0) / 255).max() < 1e-6 and sample["encoded"] == 1
    linear = sample_of(path)
    assert linear["encoded"] == 0
    expected = np.where(levels <= 10, levels / 255 / 12.92, ((levels / 255 + 0.055) / 1.055) ** 2.4)
    assert np.abs(linear["image"] - np.moveaxis(expected, 2, 0)).max() < 1e-6


def test_grey_images_and_multiples(tmp_path: Path) -> None:
    Image.fromarray(np.arange(20 * 21, dtype=np.uint16).reshape(20, 21).astype(np.uint8)).save(tmp_path / "g.png")
    sample = sample_of(tmp_path / "g.png", fit_multiple=6)
    assert sample["image"].shape == (3, 18, 18) and np.array_equal(sample["image"][0], sample["image"][2])


def test_large_images_are_cut_from_the_middle(tmp_path: Path) -> None:
    path, levels = saved(tmp_path / "a.png", 20, 1100)
    sample = sample_of(path, encoded=True)
    assert sample["image"].shape == (3, 20, 1024)
    assert np.abs(sample["image"][:, 0, 0] - levels[0, 38] / 255).max() < 1e-6


def test_a_raw_file_has_no_truth_is_white_balanced_and_keeps_its_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    mosaic = np.random.default_rng(0).random((30, 1101)).astype(np.float32) * 1.3 - 0.1
    pattern = xtrans.colors(6, 6, (1, 2))

    def read(path: Path) -> RawFrame:
        return RawFrame(path, "X", mosaic, pattern, (2.0, 1.0, 1.5), np.eye(3))

    monkeypatch.setattr(images, "read_raw", read)
    sample = sample_of(Path("a.RAF"), encoded=True)
    assert sorted(sample) == ["encoded", "mosaic", "phase"] and sample["encoded"] == 0
    sites = xtrans.colors(30, 1101, (1, 2))[:, 38:1062]
    expected = mosaic[:, 38:1062] * np.asarray([2.0, 1.0, 1.5])[sites]
    assert np.abs(sample["mosaic"][0] - expected).max() < 1e-6
    assert np.array_equal(xtrans.colors(30, 1024, tuple(sample["phase"].tolist())), sites)


def test_a_raw_file_is_seen_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    mosaic = np.random.default_rng(0).random((30, 44)).astype(np.float32)
    frame = RawFrame(Path("a.RAF"), "X", mosaic, xtrans.colors(6, 6, (1, 2)), (1.0, 1.0, 1.0), np.eye(3), orientation=6)
    monkeypatch.setattr(images, "read_raw", lambda path: frame)
    sample = sample_of(Path("a.RAF"))
    assert np.array_equal(sample["mosaic"][0], mosaic.T[:, ::-1])  # 6: the camera's right side is below
    sites = xtrans.colors(30, 44, (1, 2)).T[:, ::-1]
    assert np.array_equal(xtrans.colors(44, 30, tuple(sample["phase"].tolist())), sites)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "a.png", 5, 40)
    with pytest.raises(DataError, match=r"a.png is 40 x 5 px, too small for the pattern of 6 x 6 px"):
        sample_of(path)
    with pytest.raises(DataError, match=r"upscale 2 is of no use here: demosaicing keeps the size; leave it at 1"):
        ImagesSource([path], upscale=2)
    with pytest.raises(DataError, match=r"fit multiple 0 must be 1 or more"):
        ImagesSource([path], fit_multiple=0)

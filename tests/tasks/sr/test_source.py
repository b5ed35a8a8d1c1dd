"""Claims of tasks/sr/source.py and images.py."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit.data.manifest import DatasetManifest, open_manifest, write_manifest
from mlkit.data.store import Store
from mlkit.errors import DataError, SettingsError
from mlkit.tasks.sr.bases import open_base
from mlkit.tasks.sr.dataset import build_dataset
from mlkit.tasks.sr.settings import SrBuild, SrSettings
from mlkit.tasks.sr.source import ImagesSource, PairSource, PhotoSource, refuse_other_base, source_of
from srbase import LinearBase, save_small_base


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def settings_of(kind: str, crop: int | None = None, **model: Any) -> SrSettings:
    model["kind"] = kind
    return SrSettings.model_validate({"model": model, "data": {"crop": crop}, "train": {"steps": 1}})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        levels = rng_of(number).integers(0, 256, (96 + 16 * number, 150, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"p{number}.png")
    return folder


@pytest.fixture(scope="module")
def pairs(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    out = tmp_path_factory.mktemp("pairs") / "out"
    build = SrBuild(size=64, count=8, val_share=0.25)
    return build_dataset([photographs], out, build=build, base=LinearBase()).manifest


@pytest.fixture(scope="module")
def alone(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    out = tmp_path_factory.mktemp("alone") / "out"
    return build_dataset([photographs], out, build=SrBuild(pairs="none", size=48, reduce=(1, 2))).manifest


def pixels_of(data: DatasetManifest, kind: str, number: str) -> np.ndarray:
    return np.asarray(Image.open(data.folder / kind / f"{number}.png")).transpose(2, 0, 1) / 255


# ---- pairs --------------------------------------------------------------------------------------------------------


def test_a_pair_is_what_the_files_hold(pairs: DatasetManifest) -> None:
    triples = Store(pairs.folder, "triples")
    for split, first in (("validation", 0), ("train", 2)):
        source = PairSource(pairs, split)
        assert len(source) == pairs.splits[split]
        for index in range(len(source)):
            number = f"{first + index:06d}"
            assert source.sample_id(index) == number
            sample = source.sample(index, rng_of())
            assert {key: (tuple(value.shape), value.dtype) for key, value in sample.items()} == {
                "eps": ((48, 16, 16), torch.float32),
                "z0": ((48, 16, 16), torch.float32),
                "z_lr": ((48, 16, 16), torch.float32),
                "image": ((3, 64, 64), torch.float32),
                "lr_up": ((3, 64, 64), torch.float32),
            }
            for place, key in enumerate(("eps", "z0", "z_lr")):
                np.testing.assert_array_equal(sample[key].numpy(), triples[first + index][place].astype(np.float32))
            np.testing.assert_allclose(sample["image"].numpy(), pixels_of(pairs, "x0", number), atol=1e-7)
            np.testing.assert_allclose(sample["lr_up"].numpy(), pixels_of(pairs, "lr_up", number), atol=1e-7)


def test_latents_and_pictures_are_cropped_together(pairs: DatasetManifest) -> None:
    source = PairSource(pairs, "train", crop=24)
    base = LinearBase()
    seen = set()
    for seed in range(60):
        sample = source.sample(seed % len(source), rng_of(seed))
        assert sample["image"].shape == sample["lr_up"].shape == (3, 24, 24)
        assert sample["eps"].shape == (48, 6, 6)
        # this base sees each cell by itself, so the crop's latent is the latent's crop
        torch.testing.assert_close(base.encode(sample["image"][None])[0], sample["z0"], atol=6e-4, rtol=0)
        torch.testing.assert_close(base.encode(sample["lr_up"][None])[0], sample["z_lr"], atol=5e-3, rtol=0)
        whole = pixels_of(pairs, "x0", source.sample_id(seed % len(source)))
        windows = np.lib.stride_tricks.sliding_window_view(whole, (3, 24, 24))[0]
        ys, xs = np.nonzero(np.isclose(windows, sample["image"].numpy(), atol=1e-6).all(axis=(2, 3, 4)))
        seen.add((int(ys[0]), int(xs[0])))
    assert {y for y, _ in seen} == {x for _, x in seen} == set(range(0, 41, 8))  # in steps of 8 px, ends included


def test_validation_crops_do_not_move(pairs: DatasetManifest) -> None:
    source = PairSource(pairs, "validation", crop=32)
    one, two = (source.sample(0, rng_of(seed)) for seed in (0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    np.testing.assert_allclose(one["image"].numpy(), pixels_of(pairs, "x0", "000000")[:, 16:48, 16:48], atol=1e-7)


def test_training_samples_are_a_function_of_the_generator(pairs: DatasetManifest, alone: DatasetManifest) -> None:
    for source in (PairSource(pairs, "train", 16), PhotoSource(alone, "train", 16)):
        first, again, other = (source.sample(0, rng_of(seed))["image"] for seed in (5, 5, 6))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("crop", [72, 20])
def test_a_crop_that_does_not_fit_pairs_is_refused_with_what_does(pairs: DatasetManifest, crop: int) -> None:
    with pytest.raises(SettingsError, match=f"data.crop is {crop}, .* set a multiple of 8 up to 64"):
        PairSource(pairs, "train", crop)


def test_sources_survive_pickling(pairs: DatasetManifest, alone: DatasetManifest) -> None:
    for source in (PairSource(pairs, "train", 32), PhotoSource(alone, "validation", 32)):
        opened = pickle.loads(pickle.dumps(source))
        assert torch.equal(opened.sample(1, rng_of())["image"], source.sample(1, rng_of())["image"])
        assert len(pickle.dumps(source)) < 20_000


def test_missing_and_damaged_pair_files_are_named(photographs: Path, tmp_path: Path) -> None:
    build = SrBuild(size=32, count=4)
    data = build_dataset([photographs], tmp_path / "out", build=build, base=LinearBase()).manifest
    picture = tmp_path / "out/x0/000001.png"
    whole = picture.read_bytes()
    picture.unlink()
    with pytest.raises(DataError, match=r"lacks x0/000001\.png"):
        open_manifest(data.folder)
    with pytest.raises(DataError, match=r"000001\.png does not exist"):
        PairSource(data, "train").sample(0, rng_of())
    picture.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"000001\.png cannot be decoded"):
        PairSource(data, "train").sample(0, rng_of())
    Image.new("RGB", (16, 32)).save(picture)
    with pytest.raises(DataError, match=r"000001\.png is 16 x 32 px instead of 32 x 32"):
        PairSource(data, "train").sample(0, rng_of())
    with pytest.raises(DataError, match=r"damaged: 4 triples of shape .* instead of 5"):
        PairSource(replace(data, splits={"train": 4, "validation": 1}), "train")
    (tmp_path / "out/triples.npy").unlink()
    with pytest.raises(DataError, match=r"triples\.npy does not exist"):
        PairSource(data, "train")


def test_pairs_of_another_base_are_refused_naming_both(photographs: Path, tmp_path: Path) -> None:
    own, other = (save_small_base(tmp_path / name, seed) for seed, name in enumerate(("own", "other")))
    base = open_base(str(own))
    build = SrBuild(size=32, count=4, steps=2)
    data = build_dataset([photographs], tmp_path / "out", build=build, base=base).manifest
    assert isinstance(source_of(data, "train", settings_of("lora", base=str(own))), PairSource)
    moved = own.rename(tmp_path / "elsewhere")
    assert isinstance(source_of(data, "train", settings_of("lora", base=str(moved))), PairSource)
    told = rf"were made with a base of the family flux \({base.fingerprint[:12]}\), not with {other} \([0-9a-f]{{12}}\)"
    with pytest.raises(DataError, match=told):
        source_of(data, "train", settings_of("lora", base=str(other)))
    assert isinstance(source_of(data, "train", settings_of("vae")), PairSource)  # looks at the images alone


def test_of_the_hub_the_name_is_compared(pairs: DatasetManifest) -> None:
    refuse_other_base(pairs, "linear")
    with pytest.raises(DataError, match=r"made with a base linear \(0123456789ab\), not with some/base; train on that"):
        refuse_other_base(pairs, "some/base")


# ---- photographs --------------------------------------------------------------------------------------------------


def test_validation_squares_are_the_photographs_cut_side_by_side(alone: DatasetManifest, photographs: Path) -> None:
    source = PhotoSource(alone, "validation")
    assert len(source) == alone.splits["validation"]
    (held_out,) = (photo for photo in alone.details["photographs"] if photo["split"] == "validation")
    pixels = np.asarray(Image.open(photographs / f"{held_out['name']}.png"))
    whole = 0
    for index in range(len(source)):
        name, reduction, place = source.sample_id(index).split("/")
        assert name == held_out["name"]
        image = source.sample(index, rng_of(index))["image"]
        assert image.shape == (3, 48, 48)
        if reduction == "r1":
            y, x = int(place[1:5]), int(place[6:10])
            wanted = pixels[y : y + 48, x : x + 48].transpose(2, 0, 1) / 255
            np.testing.assert_allclose(image.numpy(), wanted, atol=1e-7)
            whole += 1
    assert whole == pixels.shape[0] // 48 * (pixels.shape[1] // 48)
    assert len({source.sample_id(index) for index in range(len(source))}) == len(source)


def test_training_crops_lie_anywhere_in_training_photographs_and_are_turned(
    alone: DatasetManifest, photographs: Path
) -> None:
    source = PhotoSource(alone, "train", 20)
    store = Store(alone.folder, "photographs")
    items = {
        item["number"]: (photo["name"], photo["split"])
        for photo in alone.details["photographs"]
        for item in photo["items"]
    }
    keys = {
        store[number][y : y + 2, x : x + 3].tobytes(): number  # a row alone would not tell a mirror image
        for number in items
        for y in range(store.shape(number)[0] - 1)
        for x in range(store.shape(number)[1] - 2)
    }
    turns: Counter[int] = Counter()
    seen = set()
    for seed in range(160):
        crop = source.sample(seed % len(source), rng_of(seed))["image"].numpy().transpose(1, 2, 0)
        levels = np.rint(crop * 255).astype(np.uint8)
        for turn in range(8):  # undo: turn back, then flip back
            upright = np.rot90(levels, -(turn & 3))
            upright = upright[:, ::-1] if turn & 4 else upright
            number = keys.get(np.ascontiguousarray(upright[:2, :3]).tobytes())
            if number is not None:
                turns[turn] += 1
                seen.add(number)
                break
        else:
            raise AssertionError("a crop is no turned part of a photograph")
    assert set(turns) == set(range(8))
    assert min(turns.values()) >= 8
    assert seen == {number for number, (_, split) in items.items() if split == "train"}


def test_a_crop_larger_than_a_photograph_is_refused_by_name(alone: DatasetManifest) -> None:
    with pytest.raises(SettingsError, match=r"data.crop is 64, but p0 at reduction 2 has only 48 px; set at most 48"):
        PhotoSource(alone, "train", 64)


def test_the_default_crop_of_photographs_is_128_px(photographs: Path, tmp_path: Path) -> None:
    for number in range(2):
        Image.new("RGB", (200, 180), (number, 0, 0)).save(tmp_path / f"{number}.png")
    build = SrBuild(pairs="none", size=160)
    data = build_dataset([tmp_path / "0.png", tmp_path / "1.png"], tmp_path / "out", build=build).manifest
    assert PhotoSource(data, "train").sample(0, rng_of())["image"].shape == (3, 128, 128)
    # a validation crop larger than the square stays inside the photograph
    assert PhotoSource(data, "validation", 176).sample(0, rng_of())["image"].shape == (3, 176, 176)


# ---- what a stage reads -------------------------------------------------------------------------------------------


def test_each_stage_reads_what_it_needs(pairs: DatasetManifest, alone: DatasetManifest, tmp_path: Path) -> None:
    assert isinstance(source_of(pairs, "train", settings_of("lora", base="linear")), PairSource)
    assert isinstance(source_of(alone, "validation", settings_of("flow")), PhotoSource)
    assert "image" in source_of(pairs, "train", settings_of("vae", crop=32)).sample(0, rng_of())
    with pytest.raises(DataError, match="an adapter is trained on pairs; build them with: mlkit dataset build sr"):
        source_of(alone, "train", settings_of("lora"))
    (tmp_path / "other").mkdir()
    write_manifest(tmp_path / "other", task="sar", label="", preprocessing={}, splits={}, details={})
    with pytest.raises(DataError, match="is of task sar, not sr"):
        source_of(open_manifest(tmp_path / "other"), "train", settings_of("lora"))


def test_the_users_images_are_enlarged_and_fitted(tmp_path: Path) -> None:
    levels = rng_of().integers(0, 256, (37, 50), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "grey one.png")
    source = ImagesSource([tmp_path / "grey one.png"], upscale=2, fit_multiple=16)
    assert len(source) == 1
    assert source.sample_id(0) == "grey one.png"
    sample = source.sample(0, rng_of())
    assert list(sample) == ["lr_up"]
    plane = Image.fromarray((levels / np.float32(255)).astype(np.float32)).resize((100, 74), Image.Resampling.BICUBIC)
    wanted = np.asarray(plane).clip(0, 1)[5:69, 2:98]
    assert sample["lr_up"].shape == (3, 64, 96)
    np.testing.assert_allclose(sample["lr_up"].numpy(), np.stack([wanted] * 3), atol=1e-6)
    with pytest.raises(DataError, match=r"grey one\.png: an image of 50 x 37 px has no part"):
        ImagesSource([tmp_path / "grey one.png"], fit_multiple=64).sample(0, rng_of())
    with pytest.raises(DataError, match="upscale 0 and fit multiple 1 must be 1 or more"):
        ImagesSource([], upscale=0)


def test_large_images_of_the_user_are_cut_to_what_a_grid_can_show(tmp_path: Path) -> None:
    Image.new("RGB", (700, 300)).save(tmp_path / "wide.png")
    sample = ImagesSource([tmp_path / "wide.png"], upscale=4).sample(0, rng_of())
    assert sample["lr_up"].shape == (3, 1024, 1024)

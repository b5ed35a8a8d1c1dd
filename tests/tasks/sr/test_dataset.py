"""Claims of tasks/sr/dataset.py, pairs.py, planning.py and photos.py."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from mlkit.data.manifest import verify_manifest
from mlkit.data.photos import Item, Photo, choose_validation, grid
from mlkit.data.store import Store
from mlkit.errors import DataError, MlkitError, NonFiniteError
from mlkit.tasks.sr.bases import open_base
from mlkit.tasks.sr.dataset import BuildReport, build_dataset
from mlkit.tasks.sr.degrade import apply_record
from mlkit.tasks.sr.planning import places, split_counts
from mlkit.tasks.sr.settings import SrBuild
from srbase import RATE, LinearBase, save_small_base

SMALL = SrBuild(size=32, count=12, val_share=0.25)


def build_of(**values: Any) -> SrBuild:
    return SrBuild.model_validate({"size": 32, "count": 12, "val_share": 0.25} | values)


def photograph(path: Path, height: int = 100, width: int = 130, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).random((height // 4 + 1, width // 4 + 1, 3))
    smooth = np.asarray(Image.fromarray((values * 255).astype(np.uint8)).resize((width, height), 3))
    Image.fromarray(smooth).save(path)
    return path


@pytest.fixture
def four(tmp_path: Path) -> Path:
    for number in range(4):
        photograph(tmp_path / f"in/p{number}.png", 100 + 8 * number, 140 - 10 * number, seed=number)
    return tmp_path / "in"


def records(report: BuildReport) -> list[dict[str, Any]]:
    lines = (report.manifest.folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def picture(report: BuildReport, kind: str, number: str) -> np.ndarray:
    return np.asarray(Image.open(report.manifest.folder / kind / f"{number}.png"))


# ---- pairs --------------------------------------------------------------------------------------------------------


def test_the_triple_is_what_the_base_makes_of_the_pictures(four: Path, tmp_path: Path) -> None:
    report = build_dataset([four], tmp_path / "out", build=SMALL, base=LinearBase())
    triples = Store(tmp_path / "out", "triples")
    assert len(triples) == 12
    assert triples.dtype == np.float16
    for record, triple in zip(records(report), triples, strict=True):
        assert triple.shape == (3, 48, 8, 8)
        image, enlarged = picture(report, "x0", record["id"]), picture(report, "lr_up", record["id"])
        eps, z0, z_lr = triple.astype(np.float64)
        # 4 x 4 px side by side in the channels, colour slowest
        wanted = (image.reshape(8, 4, 8, 4, 3).transpose(4, 1, 3, 0, 2).reshape(48, 8, 8) / 255) * 2 - 1
        np.testing.assert_allclose(z0, wanted, atol=6e-4)
        np.testing.assert_allclose(eps, z0 * (1 + RATE / 8) ** 8, atol=2e-3)  # eight Euler steps of dz/dt = RATE z
        wanted = (enlarged.reshape(8, 4, 8, 4, 3).transpose(4, 1, 3, 0, 2).reshape(48, 8, 8) / 255) * 2 - 1
        np.testing.assert_allclose(z_lr, wanted, atol=1 / 255 + 6e-4)  # the picture is rounded, the latent's is not


def test_the_ode_runs_from_data_to_noise_for_photographs_and_back_for_the_base_alone(
    four: Path, tmp_path: Path
) -> None:
    base = LinearBase()
    build_dataset([four], tmp_path / "photos", build=build_of(steps=4, count=8), base=base)
    assert base.times == [0.0, 0.25, 0.5, 0.75]
    base = LinearBase()
    build_dataset(None, tmp_path / "base", build=build_of(pairs="from-base", steps=4, count=8), base=base)
    assert base.times == [1.0, 0.75, 0.5, 0.25]


def test_pairs_from_the_base_start_at_normal_noise_and_end_at_its_image(tmp_path: Path) -> None:
    build = build_of(pairs="from-base", count=20)
    report = build_dataset(None, tmp_path / "out", build=build, base=LinearBase())
    assert report.manifest.label == "simulated"
    assert report.manifest.splits == {"train": 15, "validation": 5}
    triples = np.stack(list(Store(tmp_path / "out", "triples"))).astype(np.float64)
    eps = triples[:, 0]
    assert eps.mean() == pytest.approx(0, abs=0.02)
    assert eps.std() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(eps.reshape(20, -1))[~np.eye(20, dtype=bool)]).max() < 0.1  # each pair has its own
    np.testing.assert_allclose(triples[:, 1], eps * (1 - RATE / 8) ** 8, atol=3e-3)
    for number, record in enumerate(records(report)):
        image = picture(report, "x0", record["id"]) / 255
        decoded = triples[number, 1].reshape(3, 4, 4, 8, 8).transpose(3, 1, 4, 2, 0).reshape(32, 32, 3)
        np.testing.assert_allclose(image, (decoded * 0.5 + 0.5).clip(0, 1), atol=0.5 / 255 + 1e-3)


@pytest.mark.parametrize("pairs", ["from-photos", "from-base"])
def test_a_real_base_makes_coupled_pairs(four: Path, tmp_path: Path, pairs: str) -> None:
    """Integrated again by hand from what is stored, with the base opened anew."""
    folder = save_small_base(tmp_path / "base")
    options = build_of(pairs=pairs, base=str(folder), count=6, steps=3)
    sources = [four] if pairs == "from-photos" else None
    report = build_dataset(sources, tmp_path / "out", build=options)  # opens it by its name
    base = open_base(str(folder))
    assert report.manifest.preprocessing["base"]["fingerprint"] == base.fingerprint
    for number, triple in enumerate(Store(tmp_path / "out", "triples")):
        eps, z0, z_lr = (torch.from_numpy(latent.astype(np.float32))[None] for latent in triple)
        z, end, times = (z0, eps, (0, 1 / 3, 2 / 3)) if pairs == "from-photos" else (eps, z0, (1, 2 / 3, 1 / 3))
        step = 1 / 3 if pairs == "from-photos" else -1 / 3
        with torch.no_grad():
            for t in times:
                z = z + step * base.velocity(z, torch.tensor([t]))
            assert (z - end).abs().max() < 2e-3 * end.abs().max()
            assert (z0 - eps).abs().max() > 0.05  # the flow does something
            for latent, kind in ((z0, "x0"), (z_lr, "lr_up")):
                image = base.decode(latent)[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
                assert np.abs(image - picture(report, kind, f"{number:06d}")).max() < 0.7
    again = build_dataset(sources, tmp_path / "again", build=options)
    assert again.manifest.sha256 == report.manifest.sha256


@pytest.mark.parametrize("degradation", ["bicubic", "real"])
@pytest.mark.parametrize("scale", [2, 4])
def test_every_low_resolution_picture_can_be_made_again_from_its_record(
    four: Path, tmp_path: Path, degradation: str, scale: int
) -> None:
    build = build_of(degradation=degradation, scale=scale, count=8)
    report = build_dataset([four], tmp_path / "out", build=build, base=LinearBase())
    made = records(report)
    assert len({json.dumps(record["degradation"]) for record in made}) == (8 if degradation == "real" else 1)
    for record in made:
        image = (picture(report, "x0", record["id"]) / 255).astype(np.float32)
        low = apply_record(image, record["degradation"])
        assert low.shape == (32 // scale, 32 // scale, 3)
        planes = [Image.fromarray(plane).resize((32, 32), Image.Resampling.BICUBIC) for plane in np.moveaxis(low, 2, 0)]
        wanted = np.rint(np.clip(np.stack(planes, axis=2), 0, 1) * 255)
        np.testing.assert_array_equal(picture(report, "lr_up", record["id"]), wanted)


def test_the_record_says_where_a_pair_is_from(four: Path, tmp_path: Path) -> None:
    build = build_of(reduce=(1, 2), count=40)
    report = build_dataset([four], tmp_path / "out", build=build, base=LinearBase())
    assert {record["reduction"] for record in records(report)} == {1, 2}
    for record in records(report):
        pixels = np.asarray(Image.open(four / f"{record['photograph']}.png"), dtype=np.float64)
        r = record["reduction"]
        height, width = (side // r * r for side in pixels.shape[:2])
        pixels = pixels[:height, :width].reshape(height // r, r, width // r, r, 3).mean(axis=(1, 3))
        cut = pixels[record["y"] : record["y"] + 32, record["x"] : record["x"] + 32]
        assert np.abs(picture(report, "x0", record["id"]) - cut).max() <= 0.5


def test_validation_is_held_out_by_photograph_and_comes_first(four: Path, tmp_path: Path) -> None:
    report = build_dataset([four], tmp_path / "out", build=SMALL, base=LinearBase())
    assert report.manifest.splits == {"train": 9, "validation": 3}
    made = records(report)
    assert [record["id"] for record in made] == [f"{number:06d}" for number in range(12)]
    assert [record["split"] for record in made] == ["validation"] * 3 + ["train"] * 9
    held_out = {record["photograph"] for record in made[:3]}
    assert len(held_out) == 1
    assert not held_out & {record["photograph"] for record in made[3:]}
    told = {photo["name"]: photo["split"] for photo in report.manifest.details["photographs"]}
    assert {name for name, split in told.items() if split == "validation"} == held_out


def test_as_many_pairs_as_fit_side_by_side_where_no_number_is_asked(four: Path, tmp_path: Path) -> None:
    report = build_dataset([four], tmp_path / "out", build=build_of(count=None), base=LinearBase())
    wanted = sum((100 + 8 * n) // 32 * ((140 - 10 * n) // 32) for n in range(4))
    assert sum(report.manifest.splits.values()) == wanted
    places_used = {(record["photograph"], record["y"], record["x"]) for record in records(report)}
    assert len(places_used) == wanted


def test_more_pairs_than_fit_lie_at_other_places(four: Path, tmp_path: Path) -> None:
    report = build_dataset([four], tmp_path / "out", build=build_of(count=120), base=LinearBase())
    assert report.manifest.splits == {"train": 90, "validation": 30}
    assert len({(record["photograph"], record["y"], record["x"]) for record in records(report)}) > 110


def test_equal_input_and_options_give_an_equal_hash_wherever_the_files_lie(four: Path, tmp_path: Path) -> None:
    build = build_of(degradation="real")
    first = build_dataset([four], tmp_path / "a", build=build, base=LinearBase()).manifest
    shutil.copytree(four, tmp_path / "elsewhere/with spaces")
    second = build_dataset([tmp_path / "elsewhere"], tmp_path / "b", build=build, base=LinearBase()).manifest
    assert first.sha256 == second.sha256
    verify_manifest(first)
    hashes = {first.sha256}
    for changed in ({"seed": 1}, {"steps": 9}, {"scale": 2}, {"degradation": "bicubic"}):
        options = build_of(**{"degradation": "real", **changed})
        hashes.add(build_dataset([four], tmp_path / str(changed), build=options, base=LinearBase()).manifest.sha256)
    other = LinearBase()
    other.fingerprint = "f" * 64
    hashes.add(build_dataset([four], tmp_path / "other", build=build, base=other).manifest.sha256)
    assert len(hashes) == 6


def test_the_manifest_says_how_pairs_were_made_and_names_no_path(four: Path, tmp_path: Path) -> None:
    base = LinearBase()
    base.name = str(tmp_path)  # a folder
    manifest = build_dataset([four], tmp_path / "out", build=build_of(base=str(tmp_path)), base=base).manifest
    assert manifest.preprocessing == {
        "pairs": "from-photos",
        "pipeline": "image|encode|ode 0 to 1",
        "scale": 4,
        "degradation": "bicubic",
        "upscale": "bicubic",
        "steps": 8,
        "base": {
            "name": "",
            "family": "linear",
            "fingerprint": base.fingerprint,
            "dtype": "float32",
            "latent_channels": 48,
            "factor": 4,
            "multiple": 8,
        },
    }
    assert str(tmp_path) not in (manifest.folder / "manifest.json").read_text()
    assert not list(manifest.folder.glob("photographs*"))  # only pairs remain
    assert len(manifest.files) == 3 + 2 * 12


def test_the_embedded_sample_needs_no_files(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    report = build_dataset(
        None,
        tmp_path / "out",
        build=SrBuild(size=64),
        base=LinearBase(),
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert report.manifest.label == "embedded sample"
    assert report.manifest.splits == {"train": 72, "validation": 8}
    assert {photo["name"] for photo in report.manifest.details["photographs"]} >= {"astronaut", "chelsea", "coffee"}
    image = picture(report, "x0", "000000")
    record = records(report)[0]
    y, x = record["y"], record["x"]
    np.testing.assert_array_equal(image, getattr(data, record["photograph"])()[y : y + 64, x : x + 64, :3])
    pairs = [entry for entry in told if entry[0].startswith("pairs")]
    assert pairs[-1][1:] == (80, 80)
    assert re.fullmatch(r"pairs, [0-9.e+]+/s", pairs[-1][0])


def test_photographs_of_16_bits_of_grey_and_with_alpha_are_used(tmp_path: Path) -> None:
    import imagecodecs

    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (40, 40, 3), dtype=np.uint16)
    (folder / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 256, (40, 40, 4), dtype=np.uint8)).save(folder / "alpha.png")
    report = build_dataset([folder], tmp_path / "out", build=build_of(count=None), base=LinearBase())
    by_name = {record["photograph"]: picture(report, "x0", record["id"]) for record in records(report)}
    np.testing.assert_array_equal(by_name["deep"], np.rint(deep[4:36, 4:36] / 257.0))
    assert np.ptp(by_name["grey"], axis=2).max() == 0
    assert len(by_name) == 3


# ---- photographs alone --------------------------------------------------------------------------------------------


def test_photographs_alone_are_kept_whole_at_each_reduction(four: Path, tmp_path: Path) -> None:
    options = build_of(pairs="none", count=None, reduce=(1, 2))
    manifest = build_dataset([four], tmp_path / "out", build=options).manifest
    store = Store(manifest.folder, "photographs")
    assert len(store) == 8
    for photo in manifest.details["photographs"]:
        pixels = np.asarray(Image.open(four / f"{photo['name']}.png"))
        whole, half = (store[item["number"]] for item in photo["items"])
        np.testing.assert_array_equal(whole, pixels)
        height, width = (side // 2 * 2 for side in pixels.shape[:2])
        means = pixels[:height, :width].astype(float).reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
        assert np.abs(half - means).max() <= 0.5
    assert manifest.preprocessing == {"pairs": "none", "pipeline": "photographs"}
    assert sorted(manifest.files) == ["photographs.index.npy", "photographs.npy"]


# ---- planning -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(height=st.integers(32, 300), width=st.integers(32, 300), size=st.sampled_from([32, 40, 64]))
def test_squares_of_the_grid_fit_and_do_not_overlap(height: int, width: int, size: int) -> None:
    used = np.zeros((height, width), int)
    for y, x in grid(height, width, size):
        assert 0 <= y <= height - size
        assert 0 <= x <= width - size
        used[y : y + size, x : x + size] += 1
    assert used.max(initial=0) <= 1
    assert used.sum() == height // size * (width // size) * size**2


@settings(max_examples=60, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(32, 200), st.integers(32, 200)), min_size=1, max_size=5),
    wanted=st.integers(1, 80),
    seed=st.integers(0, 3),
)
def test_places_are_as_many_as_wanted_inside_and_even(sides: list[tuple[int, int]], wanted: int, seed: int) -> None:
    photos = [Photo(f"p{n}", "", h, w, [Item(n, 1, h, w)], "train") for n, (h, w) in enumerate(sides)]
    found = places(photos, 32, wanted, seed)
    assert len(found) == wanted
    assert all(0 <= p.y <= p.item.height - 32 and 0 <= p.x <= p.item.width - 32 for p in found)
    room = {photo.name: len(grid(photo.height, photo.width, 32)) for photo in photos}
    if wanted <= sum(room.values()):
        assert len({(p.photo.name, p.y, p.x) for p in found}) == wanted
        counts = {name: sum(p.photo.name == name for p in found) for name in room}
        for name, count in counts.items():  # none has two more than another that has squares left
            assert all(count <= other + 1 for rest, other in counts.items() if other < room[rest] and rest != name)


def test_a_share_of_the_photographs_validates_and_at_least_one() -> None:
    for number, share, wanted in ((2, 0.1, 1), (20, 0.1, 2), (100, 0.25, 25), (3, 0.99, 2)):
        photos = [Photo(f"p{n}", "", 64, 64) for n in range(number)]
        choose_validation(photos, share, 0)
        assert sum(photo.split == "validation" for photo in photos) == wanted
        assert sum(photo.split == "train" for photo in photos) == number - wanted
    assert split_counts(2, 0.1) == (1, 1)
    photos = [Photo(f"p{n}", "", 64, 64) for n in range(10)]
    chosen = set()
    for seed in range(60):  # by the seed, not by the name
        choose_validation(photos, 0.1, seed)
        chosen |= {photo.name for photo in photos if photo.split == "validation"}
    assert len(chosen) == 10


# ---- bad input ----------------------------------------------------------------------------------------------------


def test_a_size_that_the_base_cannot_take_is_refused_with_what_works(four: Path, tmp_path: Path) -> None:
    base = LinearBase()
    base.multiple = 48
    with pytest.raises(MlkitError, match=r"size 64 is not a multiple of 48 px, as base linear needs; 48 or 96 would"):
        build_dataset([four], tmp_path / "out", build=build_of(size=64), base=base)
    with pytest.raises(MlkitError, match="48 would work"):
        build_dataset([four], tmp_path / "out", build=build_of(size=32), base=base)
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_go_together_are_refused(four: Path, tmp_path: Path) -> None:
    with pytest.raises(MlkitError, match="leave out --source"):
        build_dataset([four], tmp_path / "out", build=build_of(pairs="from-base"), base=LinearBase())
    with pytest.raises(MlkitError, match="count 12 is a number of pairs"):
        build_dataset([four], tmp_path / "out", build=build_of(pairs="none"))
    with pytest.raises(MlkitError, match="count 1 leaves no pair for validation; make 2 or more"):
        build_dataset([four], tmp_path / "out", build=build_of(count=1), base=LinearBase())


def test_broken_photographs_are_refused_or_skipped_by_name(four: Path, tmp_path: Path) -> None:
    (four / "cut.png").write_bytes((four / "p0.png").read_bytes()[:200])
    (four / "empty.jpg").touch()
    (four / "notes.txt").write_text("x")
    with pytest.raises(DataError) as caught:
        build_dataset([four], tmp_path / "out", build=SMALL, base=LinearBase())
    assert "cut.png" in str(caught.value)
    assert "empty.jpg is empty" in str(caught.value)
    assert "2 photographs are broken; remove them or use --skip-broken" in str(caught.value)
    assert not (tmp_path / "out").exists()
    report = build_dataset([four], tmp_path / "out", build=SMALL, base=LinearBase(), skip_broken=True)
    assert len(report.broken) == 2
    assert any("notes.txt" in line for line in report.lines)
    assert report.manifest.splits == {"train": 9, "validation": 3}
    (four / "only").mkdir()
    with pytest.raises(DataError, match="the one file cannot be used"):
        build_dataset([four / "cut.png"], tmp_path / "b", build=SMALL, base=LinearBase(), skip_broken=True)


def test_equal_files_are_used_once_and_equal_names_apart(four: Path, tmp_path: Path) -> None:
    shutil.copy(four / "p0.png", four / "twin.png")
    photograph(four / "sub/p1.png", seed=9)
    report = build_dataset([four], tmp_path / "out", build=build_of(pairs="none", count=None))
    names = [photo["name"] for photo in report.manifest.details["photographs"]]
    assert sorted(names) == ["p0", "p1", "p1-2", "p2", "p3"]
    assert any("twin.png is the same file as" in line for line in report.lines)


def test_what_is_missing_empty_or_too_small_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone does not exist; give photographs"):
        build_dataset([tmp_path / "gone"], tmp_path / "out", build=SMALL, base=LinearBase())
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no images in"):
        build_dataset([tmp_path / "none"], tmp_path / "out", build=SMALL, base=LinearBase())
    one = photograph(tmp_path / "one.png")
    with pytest.raises(DataError, match=r"only one is left, and validation needs a photograph of its own; give two"):
        build_dataset([one], tmp_path / "out", build=SMALL, base=LinearBase())
    tiny = photograph(tmp_path / "tiny.png", 20, 90)
    with pytest.raises(DataError, match=r"all photographs are smaller than 32 px, the largest of 90 x 20 px"):
        build_dataset([tiny], tmp_path / "out", build=SMALL, base=LinearBase())
    assert not (tmp_path / "out").exists()


def test_a_small_photograph_is_left_out_and_said(four: Path, tmp_path: Path) -> None:
    photograph(four / "tiny.png", 20, 90)
    report = build_dataset([four], tmp_path / "out", build=build_of(reduce=(1, 4)), base=LinearBase())
    assert "tiny: 90 x 20 px, left out: smaller than 32 px" in report.lines
    assert "p0: 140 x 100 px, not used at reduction 4: smaller than 32 px" in report.lines


def test_a_folder_in_use_is_refused_and_left_alone(four: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="is not empty"):
        build_dataset([four], out, build=SMALL, base=LinearBase())
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_the_base_is_opened_only_when_sources_and_folder_are_fit(four: Path, tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("opened")

    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(DataError, match="is not empty"):
        build_dataset([four], tmp_path / "full", build=SMALL, open_with=never)
    with pytest.raises(DataError, match="does not exist"):
        build_dataset([tmp_path / "gone"], tmp_path / "out", build=SMALL, open_with=never)
    build_dataset([four], tmp_path / "none", build=build_of(pairs="none", count=None), open_with=never)


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_latents_that_cannot_be_stored_stop_the_build_by_name(four: Path, tmp_path: Path, value: float) -> None:
    base = LinearBase(rate=value)
    with pytest.raises(NonFiniteError, match=r"base linear gives latents up to .* for pair 000000"):
        build_dataset([four], tmp_path / "out", build=SMALL, base=base)
    with pytest.raises(NonFiniteError, match="for pair 000000"):
        build_dataset(None, tmp_path / "out", build=build_of(pairs="from-base"), base=base)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_build_leaves_nothing(four: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("pairs") and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset([four], tmp_path / "deep/out", build=SMALL, base=LinearBase(), progress=stop)
    assert not (tmp_path / "deep").exists()


def test_a_build_does_not_touch_the_global_generators(
    four: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mlkit")
    base = LinearBase()
    before = torch.random.get_rng_state()
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    report = build_dataset([four], tmp_path / "out", build=build_of(degradation="real"), base=base)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    assert [record.message for record in caplog.records] == report.lines

"""Claims of tasks/demosaic/dataset.py and frames.py; RAW files are read in test_raw.py, here they are planted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from scipy.ndimage import laplace

from mlkit.data.manifest import DatasetManifest, verify_manifest
from mlkit.data.store import Store
from mlkit.errors import DataError, MlkitError
from mlkit.seeding import generator
from mlkit.tasks.demosaic import frames, torture, xtrans
from mlkit.tasks.demosaic.dataset import BuildReport, build_dataset
from mlkit.tasks.demosaic.dng import write_cfa_dng
from mlkit.tasks.demosaic.items import LINEAR, PHOTOGRAPHS, SENSOR, SHARP, TORTURE
from mlkit.tasks.demosaic.raw import RawFrame
from mlkit.tasks.demosaic.settings import DemosaicBuild, DemosaicData
from mlkit.tasks.demosaic.source import MosaicSource

BAYER = np.asarray([[0, 1], [1, 2]], np.uint8)


def photograph(path: Path, height: int = 110, width: int = 150, seed: int = 0, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).random((height // 4 + 1, width // 4 + 1, 3))
    smooth = Image.fromarray((values * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    smooth.save(path, **options)
    return path


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for number in range(3):
        photograph(tmp_path / f"in/p{number}.png", 110 + 8 * number, 160 - 10 * number, seed=number)
    return tmp_path / "in"


def built(source: Path | list[Path] | None, out: Path, *, skip_broken: bool = False, **values: Any) -> BuildReport:
    sources = [source] if isinstance(source, Path) else source
    build = DemosaicBuild.model_validate({"size": 48, "val_share": 0.3} | values)
    return build_dataset(sources, out, build=build, skip_broken=skip_broken)


def items(data: DatasetManifest, **wanted: Any) -> list[dict[str, Any]]:
    return [item for item in data.details["items"] if all(item[key] == value for key, value in wanted.items())]


# ---- photographs of 8 bit ----------------------------------------------------------------------------------------


def test_photographs_are_stored_at_each_reduction_and_split_whole(three: Path, tmp_path: Path) -> None:
    report = built(three, tmp_path / "d", reduce=(1, 2))
    data = report.manifest
    verify_manifest(data)
    assert [(item["name"], item["reduction"]) for item in items(data)] == [
        (f"p{number}", reduction) for number in range(3) for reduction in (1, 2)
    ]
    splits = {item["name"]: {other["split"] for other in items(data, name=item["name"])} for item in items(data)}
    assert sorted(min(split) for split in splits.values()) == ["train", "train", "validation"]
    assert all(len(split) == 1 for split in splits.values())
    store = Store(data.folder, PHOTOGRAPHS)
    whole = np.asarray(Image.open(three / "p1.png"))
    first, half = items(data, name="p1")
    assert np.array_equal(store[first["number"]], whole)
    means = whole[:118, :150].reshape(59, 2, 75, 2, 3).mean(axis=(1, 3))
    assert np.abs(store[half["number"]] - means).max() <= 0.5
    for split in ("train", "validation"):
        assert len(MosaicSource(data, split, DemosaicData(crop=48))) == data.splits[split]


def test_downsample_multiplies_the_reductions(three: Path, tmp_path: Path) -> None:
    data = built(three, tmp_path / "d", downsample=2, reduce=(1, 3), size=50).manifest
    assert {item["reduction"] for item in items(data)} == {2}  # 6 would be smaller than 50 px
    assert data.preprocessing["downsample"] == 2


def test_equal_input_and_options_give_an_equal_hash(three: Path, tmp_path: Path) -> None:
    mixed = {"torture": 26, "mix": {"real": 0.6, "sharp": 0.2, "torture": 0.2}}
    first = built(three, tmp_path / "a", **mixed).manifest
    elsewhere = shutil.copytree(three, tmp_path / "elsewhere")
    assert built(elsewhere, tmp_path / "b", **mixed).manifest.sha256 == first.sha256
    assert built(three, tmp_path / "c", **mixed, seed=1).manifest.sha256 != first.sha256
    assert str(tmp_path) not in json.dumps(first.details)


def test_a_profile_is_honoured(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    ramps = np.stack(np.broadcast_arrays(*np.ogrid[60:180:2, 60:220:2], 100), axis=2).astype(np.uint8)
    for number in range(2):
        Image.fromarray(ramps + np.uint8(number)).save(tmp_path / f"in/p{number}.png", icc_profile=exchanged_profile())
    data = built(tmp_path / "in", tmp_path / "d").manifest
    assert np.abs(Store(data.folder, PHOTOGRAPHS)[0].astype(int) - ramps[..., [1, 0, 2]]).max() <= 1


def exchanged_profile() -> bytes:
    """sRGB's profile with the primaries of red and green exchanged: whoever honours it exchanges the channels."""
    block = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(block[128:132], "big")
    places = {bytes(block[132 + 12 * k : 136 + 12 * k]): 136 + 12 * k for k in range(count)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    block[red : red + 8], block[green : green + 8] = block[green : green + 8], block[red : red + 8]
    return bytes(block)


def test_broken_files_are_named_and_skipped_on_request(three: Path, tmp_path: Path) -> None:
    (three / "bad.png").write_bytes(b"no picture")
    (three / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"bad\.png") as caught:
        built(three, tmp_path / "d")
    assert "1 photograph is broken; remove it or use --skip-broken" in caught.value.problems[-1]
    assert not (tmp_path / "d").exists()
    report = built(three, tmp_path / "d", skip_broken=True)
    assert len(report.broken) == 1 and len(report.manifest.details["photographs"]) == 3
    assert any("1 file of other types not read: notes.txt" in line for line in report.lines)


def test_nothing_to_build_from_is_said(tmp_path: Path) -> None:
    for number in range(2):
        photograph(tmp_path / f"in/p{number}.png", 30, 30, seed=number)
    with pytest.raises(DataError, match=r"all photographs are smaller than 48 px, the largest of 30 x 30 px"):
        built(tmp_path / "in", tmp_path / "d")
    with pytest.raises(DataError, match=r"no/such does not exist"):
        built(Path("no/such"), tmp_path / "d")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images in .*empty"):
        built(tmp_path / "empty", tmp_path / "d")


# ---- the mix -----------------------------------------------------------------------------------------------------


def test_sharp_squares_are_the_fifth_with_most_detail(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        values = rng.integers(0, 256, (240, 240, 3))
        contrast = np.kron(rng.random((5, 5)), np.ones((48, 48)))[..., None]
        path = tmp_path / f"in/p{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((128 + (values - 128) * contrast).astype(np.uint8)).save(path)
    data = built(tmp_path / "in", tmp_path / "d", mix={"real": 0.5, "sharp": 0.5}).manifest
    listed = np.load(data.folder / SHARP)
    store, scores = Store(data.folder, PHOTOGRAPHS), {}
    for place, item in enumerate(items(data)):
        if item["split"] == "train":
            luma = store[item["number"]] @ np.asarray([0.299, 0.587, 0.114])
            for y in range(0, 240, 48):
                for x in range(0, 240, 48):
                    scores[place, y, x] = laplace(luma[y : y + 48, x : x + 48])[1:-1, 1:-1].var()
    expected = sorted(sorted(scores, key=lambda square: -scores[square])[:10])
    assert len(scores) == 50 and [tuple(square) for square in listed.tolist()] == expected
    assert data.splits["train"] == 50


def test_patterns_take_turns_and_each_family_validates(tmp_path: Path) -> None:
    report = built(None, tmp_path / "d", torture=52, mix={"torture": 1.0}, val_share=0.25)
    data = report.manifest
    assert data.label == "simulated" and data.splits == {"train": 39, "validation": 13}
    assert {item["family"] for item in items(data, split="validation")} == set(torture.FAMILIES)
    assert np.array_equal(Store(data.folder, TORTURE)[30], torture.pattern(30, 48, 0))
    with Image.open(data.folder / "torture.png") as sheet:
        assert sheet.size[1] > 13 * 96
    assert "torture.png" in data.files
    source = MosaicSource(data, "train", DemosaicData(crop=48))
    assert source.sample_id(0) == "torture/stripes/000013" and source.sample(0, generator(0))["image"].shape[1] == 48


def test_too_few_patterns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing is left for validation: .*use --torture 26 or more"):
        built(None, tmp_path / "d", torture=13, mix={"torture": 1.0})
    with pytest.raises(MlkitError, match=r"mix torture=1 uses no photographs; leave out --source"):
        built(tmp_path, tmp_path / "d", torture=26, mix={"torture": 1.0})


def test_the_embedded_sample_is_photographs_and_26_patterns(tmp_path: Path) -> None:
    report = built(None, tmp_path / "d", size=192, val_share=0.1)
    data = report.manifest
    assert data.label == "embedded sample"
    assert len(items(data, group="real")) == 8 and len(items(data, group="torture", split="train")) == 13
    assert len(MosaicSource(data, "validation", DemosaicData())) == data.splits["validation"]


# ---- deep images -------------------------------------------------------------------------------------------------


def test_16_bit_images_keep_their_depth_in_linear_light(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rng, truth = np.random.default_rng(0), {}
    for number in range(2):
        values = rng.integers(0, 65536, (70, 90, 3), dtype=np.uint16)
        tifffile.imwrite(tmp_path / f"in/p{number}.tif", values, photometric="rgb")
        encoded = values / 65535
        truth[f"p{number}.tif"] = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    report = built(tmp_path / "in", tmp_path / "d")
    data, store = report.manifest, Store(tmp_path / "d", LINEAR)
    assert "2 deep images in linear light, as float16" in report.lines
    assert PHOTOGRAPHS not in {item["store"] for item in items(data)} and f"{PHOTOGRAPHS}.npy" not in data.files
    for item in items(data):
        error = np.abs(store[item["number"]].astype(np.float64) - truth[item["name"]])
        assert (error <= np.spacing(truth[item["name"]].astype(np.float16))).all()


def test_deep_and_shallow_images_split_together(three: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (70, 90, 3), dtype=np.uint16)
    tifffile.imwrite(three / "p1.tif", values, photometric="rgb")
    data = built(three, tmp_path / "d", val_share=0.5).manifest
    assert [photo["name"] for photo in data.details["photographs"]] == ["p0", "p1", "p1.tif", "p2"]
    assert sorted(photo["split"] for photo in data.details["photographs"]) == ["train"] * 2 + ["validation"] * 2
    for item in items(data):
        assert item["split"] == next(
            photo["split"] for photo in data.details["photographs"] if photo["name"] == item["name"]
        )


def test_means_over_areas_are_of_light() -> None:
    light = np.random.default_rng(0).random((13, 11, 3)).astype(np.float32)
    expected = [[light[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean(axis=(0, 1)) for x in range(3)] for y in range(4)]
    assert np.abs(frames.reduced(light, 3) - np.asarray(expected)).max() < 1e-6
    assert frames.reduced(light, 1) is light


# ---- RAW files ---------------------------------------------------------------------------------------------------


def frame_of(path: Path) -> RawFrame:
    """What a file with this name stands for: its first letter is the filter, x or b."""
    is_xtrans = path.name.startswith("x")
    rng = np.random.default_rng(len(path.name) + ord(path.name[-5]))
    raw = rng.integers(200, 16384, (130, 140))
    return RawFrame(
        path=path,
        camera="FUJIFILM X-T2" if is_xtrans else "NIKON D750",
        mosaic_hw=((raw - 1024.0) / (16383.0 - 1024.0)).astype(np.float32),
        pattern=xtrans.colors(6, 6, (2, 3)) if is_xtrans else BAYER,
        wb=(2.0, 1.0, 1.5),
        camera_to_srgb=np.eye(3),
        notes=("a note",),
        black=1024.0,
        white=16383.0,
    )


def target_of(path: Path) -> np.ndarray:
    return np.random.default_rng(1).random((130, 140, 3)).astype(np.float32) + len(path.name)


@pytest.fixture
def raws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(frames, "read_raw", frame_of)
    monkeypatch.setattr(frames, "libraw_rgb", target_of)
    (tmp_path / "raws").mkdir()
    for name in ("x1.RAF", "x2.raf", "x30.dng"):
        (tmp_path / "raws" / name).write_bytes(name.encode())
    return tmp_path / "raws"


def test_a_cameras_own_mosaic_is_stored_exactly(raws: Path, tmp_path: Path) -> None:
    report = built(raws, tmp_path / "d", teacher="libraw", reduce=(1, 2))
    data = report.manifest
    line = "teacher: LibRaw, whose X-Trans interpolation is Markesteijn's 3-pass (DHT, AHD and default are the same for"
    assert any(text.startswith(line) for text in report.lines)
    assert any("agreement with LibRaw, not with a truth" in text for text in report.lines)
    assert "x1.RAF: a note" in report.lines
    for item in items(data, store=SENSOR):
        path = raws / item["name"]
        mosaic = np.rint(frame_of(path).mosaic_hw.astype(np.float64) * 15359 + 1024).astype(np.uint16)
        assert np.array_equal(Store(data.folder, SENSOR)[item["number"]], mosaic)
        light = target_of(path) * np.asarray([2.0, 1.0, 1.5], np.float32)
        assert np.array_equal(Store(data.folder, LINEAR)[item["target"]], light.astype(np.float16))
        assert (item["phase"], item["black"], item["white"]) == ([2, 3], 1024, 16383) and item["wb"] == [2, 1, 1.5]
    assert len(items(data, store=SENSOR)) == 3 and len(items(data, store=LINEAR, reduction=2)) == 3
    sample = MosaicSource(data, "validation", DemosaicData()).sample(0, generator(0))
    assert sample["mosaic"].shape == (1, 48, 48) and sample["image"].max() > 1


def test_smaller_targets_are_means_that_are_mosaicked_anew(raws: Path, tmp_path: Path) -> None:
    data = built(raws, tmp_path / "d", teacher="libraw", downsample=2).manifest
    assert {item["store"] for item in items(data)} == {LINEAR}
    first = items(data, name="x1.RAF")[0]
    light = (target_of(raws / "x1.RAF") * np.asarray([2.0, 1.0, 1.5])).reshape(65, 2, 70, 2, 3).mean(axis=(1, 3))
    assert Store(data.folder, LINEAR)[first["number"]] == pytest.approx(light, rel=1e-3)


@pytest.mark.parametrize("teacher", ["libraw", "binned"])
def test_real_files_are_read_by_libraw_from_their_own_phase_on(teacher: str, tmp_path: Path) -> None:
    (tmp_path / "raws").mkdir()
    y, x = np.mgrid[:660, :672] / 100
    wb, white, phase = (2.0, 1.0, 1.6), 16383, (2, 4)
    waves = [0.5 + 0.4 * np.sin(y * (k + 1)) * np.cos(x - k) for k in range(3)]
    light = np.stack(waves, axis=2) * np.asarray([1.5, 1.0, 0.9])  # after white balance; bright red is above 1
    sites = np.take_along_axis(light / wb, xtrans.colors(660, 672, phase)[..., None], axis=2)[..., 0]
    for number in range(2):
        levels = np.rint(sites * (white - 1024) + 1024 + number).astype(np.uint16)
        pattern = xtrans.colors(6, 6, phase)
        write_cfa_dng(tmp_path / f"raws/{number}.dng", levels, pattern, black=1024, white=white, wb=wb)
    data = built(tmp_path / "raws", tmp_path / "d", teacher=teacher, val_share=0.5).manifest
    source = MosaicSource(data, "train", DemosaicData(crop=48))
    for k in range(8):
        sample = source.sample(k % len(source), generator(0, k))
        mosaic, image = sample["mosaic"][0].numpy(), sample["image"].numpy()
        measured = xtrans.mosaic(np.moveaxis(image, 0, 2), tuple(sample["phase"].tolist()))
        assert np.abs(measured - mosaic).max() < (
            0.001 if teacher == "libraw" else 1e-6
        )  # LibRaw keeps what is measured
    if teacher == "libraw":  # smooth, so that LibRaw's interpolation is near the truth
        target = Store(data.folder, LINEAR)[0].astype(np.float64)
        assert np.abs(target - light)[8:-8, 8:-8].max() < 0.02 and target.max() > 1
        assert {tuple(item["phase"]) for item in items(data)} == {phase}
        return
    cells = light[1:655, 2:668].reshape(109, 6, 111, 6, 3).mean(axis=(1, 3))  # from where a 3 x 3 cell begins
    assert np.abs(Store(data.folder, LINEAR)[0] - cells).max() < 0.02


@pytest.mark.parametrize(("name", "side"), [("x1.RAF", 6), ("b1.NEF", 2)])
def test_binned_targets_are_means_of_each_colours_sites(name: str, side: int) -> None:
    frame = frame_of(Path(name))
    made = frames.binned(frame.mosaic_hw, frame.pattern)
    height, width = 130 // side, 140 // side
    assert made.shape == (height, width, 3)
    top, left = (-frame.phase[0] % 3, -frame.phase[1] % 3) if side == 6 else (0, 0)
    frame = replace(
        frame, mosaic_hw=frame.mosaic_hw[top:, left:], pattern=np.roll(frame.pattern, (-top, -left), (0, 1))
    )
    sites = np.tile(frame.pattern, (height, width))
    for y, x in ((0, 0), (height - 1, width - 1), (3, 5)):
        cell = (slice(side * y, side * y + side), slice(side * x, side * x + side))
        for color in range(3):
            values = [v for v, c in zip(frame.mosaic_hw[cell].flat, sites[cell].flat, strict=True) if c == color]
            assert made[y, x, color] == pytest.approx(sum(values) / len(values), rel=1e-5)


@pytest.mark.parametrize("phase", [(0, 0), (1, 4), (2, 2), (0, 5)])
def test_binned_colours_of_xtrans_lie_on_one_another(phase: tuple[int, int]) -> None:
    ramp = np.add.outer(np.arange(60) / 60, np.arange(66) / 40).astype(np.float32)
    made = frames.binned(ramp, xtrans.colors(6, 6, phase))  # a grey ramp stays grey
    assert np.abs(made - made[..., :1]).max() < 1e-6


def test_raw_files_that_do_not_suit_the_teacher_are_named(raws: Path, tmp_path: Path) -> None:
    (raws / "b1.NEF").write_bytes(b"bayer")
    with pytest.raises(DataError, match=r"b1.NEF is a Bayer file \(NIKON D750\), whose mosaic is no X-Trans one; with"):
        built(raws, tmp_path / "d", teacher="libraw")
    with pytest.raises(DataError, match=r"x1.RAF is a RAW file, and --teacher self is for images that are RGB already"):
        built(raws, tmp_path / "d")
    with pytest.raises(DataError, match=r"all images are smaller than 480 px: x1.RAF \(140 x 130 px\), x2.raf"):
        built([raws / "x1.RAF", raws / "x2.raf"], tmp_path / "d", teacher="libraw", size=480)
    report = built(raws, tmp_path / "d", teacher="libraw", downsample=2)
    assert "teacher of Bayer files: LibRaw's AHD, made smaller" in report.lines
    (raws / "b2.NEF").write_bytes(b"other")
    report = built(raws, tmp_path / "binned", teacher="binned")  # of X-Trans a sixth of the size is left, too little
    assert [photo["name"] for photo in report.manifest.details["photographs"]] == ["b1.NEF", "b2.NEF"]
    assert any("x1.RAF: 23 x 21 px, left out: smaller than 48 px" in line for line in report.lines)
    assert any(line.startswith("teacher: binned, means of each colour over whole cells") for line in report.lines)

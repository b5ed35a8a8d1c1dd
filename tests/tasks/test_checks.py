"""Every task's dataset as it is built passes its own checks; each planted fault is named with its file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lensfiles import photograph
from mlkit.data.checking import sample_problems
from mlkit.data.limit import Limit
from mlkit.data.manifest import DatasetManifest, open_manifest
from mlkit.tasks import load_task
from planted import duplicates, edited, header_problems, rebuilt, stored_problems
from rawfiles import raw_levels
from running import Job, build_sample, settings_of

Copied = Callable[[str], DatasetManifest]


def _grids(out: Path) -> None:
    from mlkit.tasks.bvae.dataset import build_dataset
    from mlkit.tasks.bvae.settings import BvaeBuild

    build_dataset("synthetic", out, build=BvaeBuild(grids=80))


def _photographs(out: Path) -> list[Path]:
    """Write six different photographs of 220 x 300 px."""
    paths = [out / f"p{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        photograph(path, 220, 300, seed=number)
    return paths


def _mosaics(out: Path) -> None:
    from mlkit.tasks.demosaic.dataset import build_dataset
    from mlkit.tasks.demosaic.settings import DemosaicBuild

    paths = _photographs(out.with_name("demosaic-photos"))
    build_dataset(paths, out, build=DemosaicBuild.model_validate({"size": 96, "reduce": (1,), "mix": {}}))


def _pairs(out: Path) -> None:
    from mlkit.tasks.lens.dataset import build_dataset
    from mlkit.tasks.lens.settings import LensBuild

    folder = out.with_name("lens-pairs")
    for number in range(4):
        for side in ("distorted", "corrected"):
            photograph(folder / side / f"a{number}.png", 160, 200, seed=number)
    build_dataset(None, out, build=LensBuild.model_validate({"smallest": 64}), pairs=folder)


BUILDS: dict[str, Callable[[Path], None]] = {
    "sr": lambda out: build_sample("sr", out),
    "bvae": _grids,
    "demosaic": _mosaics,
    "lens": _pairs,
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Copied:
    """Return a copy of a task's small dataset that a test may break; each is built once."""
    folder = tmp_path_factory.mktemp("datasets")

    def copy(task: str) -> DatasetManifest:
        if not (folder / task).exists():
            BUILDS[task](folder / task)
        return open_manifest(shutil.copytree(folder / task, tmp_path_factory.mktemp("copied") / task))

    return copy


def checks_of(data: DatasetManifest) -> Any:
    from mlkit.task import checks_of as of_task

    return of_task(task_of(data), data)


def task_of(data: DatasetManifest) -> Any:
    more = {"model.classes": data.preprocessing["classes"]} if data.task == "bvae" else {}
    crop = {"data.crop": 48} if data.task == "demosaic" else {}
    return load_task(settings_of(Job(data.task, data.folder, {"train.steps": 1, **more, **crop})))


def of_samples(data: DatasetManifest) -> list[str]:
    task, checks = task_of(data), checks_of(data)
    sources = {"train": task.train_source(data), "validation": task.eval_source(data)}
    return [
        problem
        for part, source in sources.items()
        for problem in sample_problems(checks, data, part, source, 0, Limit(60.0))
    ]


@pytest.mark.parametrize("task", BUILDS)
def test_a_dataset_as_it_is_built_has_no_faults(task: str, copied: Copied) -> None:
    data = copied(task)
    checks = checks_of(data)
    assert stored_problems(checks) == [] and of_samples(data) == [] and duplicates(checks) == []


# ---- sr ----------------------------------------------------------------------------------------------------------


def test_sr_half_a_pair_a_cut_and_a_small_picture_are_named(copied: Copied) -> None:
    data = copied("sr")
    missing, cut, small = (data.folder / "lr_up" / f"{number:06d}.png" for number in (3, 5, 7))
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:-40])
    Image.open(small).resize((16, 16)).save(small)
    found = header_problems(checks_of(data))
    assert sorted(found) == [
        f"{missing} cannot be read (No such file or directory): the pair lacks it; build the dataset again",
        f"{cut} is cut: it ends within the picture; build the dataset again",
        f"{small} has another scale: it is 16 x 16 px instead of 64 x 64",
    ]


def test_sr_exchanged_halves_are_no_pair(copied: Copied) -> None:
    data = copied("sr")
    first, second = (data.folder / "lr_up" / f"{number:06d}.png" for number in (2, 9))
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    found = sorted(stored_problems(checks_of(data)))
    assert [problem.partition(":")[0] for problem in found] == [str(first), str(second)]
    assert all("the two pictures are no pair: their correlation is" in problem for problem in found)


@pytest.mark.parametrize("scale", [1, 2])
def test_sr_a_low_resolution_picture_with_too_much_detail_has_another_scale(scale: int, copied: Copied) -> None:
    data = copied("sr")
    path = data.folder / "lr_up" / "000004.png"
    image = Image.open(data.folder / "x0" / "000004.png")
    small = image.resize((64 // scale, 64 // scale), Image.Resampling.BICUBIC)
    small.resize((64, 64), Image.Resampling.BICUBIC).save(path)
    (problem,) = stored_problems(checks_of(data))
    assert problem.startswith(f"{path}: the low-resolution picture has another scale: it has ")


def test_sr_a_zoomed_low_resolution_picture_has_another_scale(copied: Copied) -> None:
    data = copied("sr")
    image = Image.open(data.folder / "x0" / "000004.png")
    inner = image.crop((16, 16, 48, 48)).resize((16, 16), Image.Resampling.BICUBIC)
    inner.resize((64, 64), Image.Resampling.BICUBIC).save(data.folder / "lr_up" / "000004.png")
    (problem,) = stored_problems(checks_of(data))
    assert "lr_up/000004.png" in problem and "it shows the middle of its image, enlarged" in problem


def test_sr_nan_in_a_latent_is_named(copied: Copied) -> None:
    data = copied("sr")
    count = data.splits["train"] + data.splits["validation"]

    def spoil(values: np.ndarray) -> None:
        values.reshape(count, 3, -1)[6, 0] = np.nan

    edited(data.folder / "triples.npy", spoil)
    (problem,) = of_samples(rebuilt(data))
    assert "pair 000006" in problem and "triples.npy" in problem and "values of 'eps' are NaN" in problem


def test_sr_a_validation_picture_among_the_training_ones_is_named(copied: Copied) -> None:
    data = copied("sr")
    held, train = (data.folder / "x0" / f"{number:06d}.png" for number in (1, data.splits["validation"] + 2))
    Image.open(held).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(train)
    (pair,) = duplicates(checks_of(data))
    assert (pair.train, pair.validation) == (str(train), str(held))


# ---- demosaic ----------------------------------------------------------------------------------------------------


def test_demosaic_a_mosaic_told_at_another_phase_is_named(copied: Copied) -> None:
    data = copied("demosaic")
    settings = settings_of(
        Job("demosaic", data.folder, {"train.steps": 1, "data.crop": 48, "data.phase_error": [1, 0]})
    )
    task = load_task(settings)
    found = list(sample_problems(checks_of(data), data, "train", task.train_source(data), 0, Limit(60.0)))
    assert found and all("the mosaic is said to begin at row" in problem for problem in found)
    assert str(data.folder) in found[0] and "data.phase_error or the loader shifts it" in found[0]


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """Return a dataset of two cameras' own mosaics, phase (1, 4), as LibRaw reads them."""
    from mlkit.tasks.demosaic import xtrans
    from mlkit.tasks.demosaic.dataset import build_dataset
    from mlkit.tasks.demosaic.settings import DemosaicBuild
    from rawfiles import write_dng

    folder = tmp_path_factory.mktemp("cameras")
    wb, phase = np.asarray((2.0, 1.0, 1.6)), (1, 4)
    for number in range(2):
        path = folder / f"photo{number}.png"
        photograph(path, 660, 672, seed=number)
        light = (np.asarray(Image.open(path).convert("RGB"), np.float64) / 255) ** 2.2
        sites = np.take_along_axis(light / wb, xtrans.colors(660, 672, phase)[..., None], axis=2)[..., 0]
        pattern = np.array([1, 0, 2])[[[{0: 1, 1: 0, 2: 2}[int(color)] for color in row]
                                       for row in xtrans.colors(6, 6, phase)]]  # fmt: skip
        write_dng(folder / f"{number}.dng", raw_levels(sites), pattern.astype(np.uint8), wb=tuple(wb))
        path.unlink()
    build = DemosaicBuild.model_validate({"size": 96, "reduce": (1,), "teacher": "libraw", "val_share": 0.5, "mix": {}})
    return build_dataset([folder], folder / "data", build=build).manifest


def test_demosaic_a_cameras_mosaic_at_its_phase_is_good(cameras: DatasetManifest) -> None:
    assert {tuple(item["phase"]) for item in cameras.details["items"]} == {(1, 4)}
    assert stored_problems(checks_of(cameras)) == []


@pytest.mark.parametrize("phase", [(1, 1), (0, 4), (2, 5)])
def test_demosaic_a_wrong_phase_in_the_manifest_is_named(
    phase: tuple[int, int], cameras: DatasetManifest, tmp_path: Path
) -> None:
    data = open_manifest(shutil.copytree(cameras.folder, tmp_path / "data"))
    wrong = data.details["items"][0]["name"]

    def change(details: dict[str, Any], preprocessing: dict[str, Any]) -> None:
        details["items"][0]["phase"] = list(phase)

    (problem,) = stored_problems(checks_of(rebuilt(data, change)))
    assert problem.startswith(f"{data.folder / 'sensor.npy'}: {wrong} has a wrong colour filter phase: ")


def test_demosaic_a_file_that_names_a_wrong_phase_itself_is_named(cameras: DatasetManifest, tmp_path: Path) -> None:
    """Its picture was then made at the wrong phase as well: only neighbouring sites tell."""
    from mlkit.tasks.demosaic import xtrans

    data = open_manifest(shutil.copytree(cameras.folder, tmp_path / "data"))
    entry = data.details["items"][0]

    def change(details: dict[str, Any], preprocessing: dict[str, Any]) -> None:
        details["items"][0]["phase"] = [0, 3]

    height, width = entry["height"], entry["width"]
    levels = np.load(data.folder / "sensor.npy")[: height * width].reshape(height, width)
    linear = (levels.astype(np.float64) - entry["black"]) / (entry["white"] - entry["black"])
    told = xtrans.colors(height, width, (0, 3))
    target = np.zeros((height, width, 3), np.float16)
    for color in range(3):
        target[told == color, color] = (linear * entry["wb"][color])[told == color]

    def spoil(values: np.ndarray) -> None:
        index = np.load(data.folder / "linear.index.npy")[entry["target"]]
        values[index[0] : index[0] + target.size] = target.ravel()

    edited(data.folder / "linear.npy", spoil)
    (problem,) = stored_problems(checks_of(rebuilt(data, change)))
    assert entry["name"] in problem and "is said to begin at row" in problem


def test_demosaic_a_photograph_in_both_parts_is_named(copied: Copied, tmp_path: Path) -> None:
    from mlkit.tasks.demosaic.dataset import build_dataset
    from mlkit.tasks.demosaic.settings import DemosaicBuild

    paths = _photographs(tmp_path / "photos")
    twins = [path.with_name(f"twin-{path.stem}.jpg") for path in paths]
    for path, twin in zip(paths, twins, strict=True):
        Image.open(path).convert("RGB").save(twin, quality=60)
    build = DemosaicBuild.model_validate({"size": 96, "reduce": (1,), "val_share": 0.5, "mix": {}})
    data = build_dataset([*paths, *twins], tmp_path / "d", build=build).manifest
    parts = {photo["name"]: photo["split"] for photo in data.details["items"]}
    leaked = {name for name in (path.stem for path in paths) if parts[name] != parts[f"twin-{name}"]}
    found = duplicates(checks_of(data))
    assert leaked and {pair.train.rpartition(" ")[2].removeprefix("twin-") for pair in found} == leaked
    assert all(str(data.folder / "photographs.npy") in pair.train + pair.validation for pair in found)


# ---- lens --------------------------------------------------------------------------------------------------------


def test_lens_exchanged_halves_and_photographs_in_both_parts_are_named(copied: Copied) -> None:
    data = copied("lens")
    index = np.load(data.folder / "pairs.index.npy")
    size = int(np.prod(index[0, 2:5]))
    places = [int(first) for first in index[:, 0]]

    def exchange(values: np.ndarray) -> None:  # the corrected halves of the pairs 0 and 1
        kept = values[places[1] : places[1] + size].copy()
        values[places[1] : places[1] + size] = values[places[3] : places[3] + size]
        values[places[3] : places[3] + size] = kept

    edited(data.folder / "pairs.npy", exchange)
    names = [pair["name"] for pair in data.details["pairs"]]
    found = stored_problems(checks_of(rebuilt(data)))
    assert sorted(found) == [
        f"{data.folder / 'pairs.npy'}: pair {name} shows two pictures: its halves have next to nothing in common"
        for name in names[:2]
    ]

    def copy(values: np.ndarray) -> None:  # pair 0 becomes what another part's pair is
        other = next(
            n for n, pair in enumerate(data.details["pairs"]) if pair["split"] != data.details["pairs"][0]["split"]
        )
        values[places[1] : places[1] + size] = values[places[2 * other + 1] : places[2 * other + 1] + size]

    edited(data.folder / "pairs.npy", copy)
    assert len(duplicates(checks_of(rebuilt(data)))) >= 1


# ---- bvae --------------------------------------------------------------------------------------------------------


def test_bvae_a_class_that_is_none_and_a_grid_in_both_parts_are_named(copied: Copied) -> None:
    data = copied("bvae")
    classes = data.preprocessing["classes"]
    names = [name.decode() for name in np.load(data.folder / "names.npy").tolist()]
    train, held = (np.load(data.folder / f"{part}.npy") for part in ("train", "validation"))
    index = np.load(data.folder / "grids.index.npy")

    def spoil(values: np.ndarray) -> None:
        values[index[train[1], 0] + 3] = classes + 2

    edited(data.folder / "grids.npy", spoil)
    grids = data.folder / "grids.npy"
    assert stored_problems(checks_of(rebuilt(data))) == [
        f"{grids}: grid {names[train[1]]} has the class {classes + 2}, and the dataset says {classes} of them, from 0"
    ]
    moved = train.copy()
    moved[0] = held[2]
    np.save(data.folder / "train.npy", moved)
    (pair,) = duplicates(checks_of(rebuilt(open_manifest_of(data))))
    assert pair.train == pair.validation == f"{grids}: grid {names[held[2]]}"


def open_manifest_of(data: DatasetManifest) -> DatasetManifest:
    return open_manifest(data.folder) if (data.folder / "manifest.json").exists() else data


# ---- sar ---------------------------------------------------------------------------------------------------------


def test_sar_scenes_outside_the_range_and_twice_in_the_data_are_named(tmp_path: Path) -> None:
    from mlkit.tasks.sar.dataset import build_dataset
    from mlkit.tasks.sar.settings import SarBuild

    draw = np.random.default_rng(0)
    ramp = np.linspace(0.1, 3, 256)
    scenes = {name: (draw.gamma(4, 0.25, (256, 256)) * turn).astype(np.float32)
              for name, turn in (("a", ramp), ("b", ramp[:, None]))}  # fmt: skip
    scenes["c"] = np.ascontiguousarray(scenes["a"][:, ::-1]) * np.float32(1.001)  # a mirrored: another file
    for name, values in scenes.items():
        np.save(tmp_path / f"{name}.npy", values)
    build = SarBuild(patch=64, stride=64, block=64, guard=0)
    data = build_dataset([tmp_path / f"{name}.npy" for name in scenes], tmp_path / "d", build=build).manifest
    checks = checks_of(data)
    assert stored_problems(checks) == []
    store = data.folder / "scenes.npy"
    found = {frozenset((pair.train, pair.validation)) for pair in duplicates(checks)}
    assert found == {frozenset((f"{store}: scene a", f"{store}: scene c"))}

    def narrow(details: dict[str, Any], preprocessing: dict[str, Any]) -> None:
        preprocessing["db_min"], preprocessing["db_max"] = -80.0, -40.0

    wrong = stored_problems(checks_of(rebuilt(data, narrow)))
    assert len(
        wrong
    ) == 3 and f"{store}: scene a has another scale: 100 % of it lies outside -80.0 to -40.0 dB" in "".join(wrong)

"""`mlkit dataset build sar`: every refusal as the user reads it, its exit code, and that nothing is written then."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlkit.data.building import dataset_folder, sweep
from mlkit.data.store import StoreWriter
from mlkit.errors import DataError

Mlkit = Callable[..., Any]
ACCEPTED = (
    "GeoTIFF/TIFF (.tif, .tiff), NumPy (.npy: [H,W] float or complex, [H,W,C], covariance [H,W,C,C]), 8/16-bit PNG"
)
SIZES = ("--patch", 64, "--stride", 64, "--guard", 16)
NOTHING_TO_BUILD = "the one file cannot be used, so there is nothing to build"


@pytest.fixture
def scene(runs: Path, tmp_path: Path) -> Path:
    """Return a folder with one scene; it is also the current folder's in/."""
    folder = tmp_path / "in"
    folder.mkdir()
    speckle = np.random.default_rng(0).gamma(4.4, 0.02, (200, 240)).astype(np.float32)
    np.save(folder / "scene.npy", speckle + np.float32(1e-6))
    return folder


def built(mlkit: Mlkit, *arguments: object) -> Any:
    return mlkit("dataset", "build", "sar", *arguments)


def sentences_of(result: Any) -> list[str]:
    """Return what "mlkit: ..." lines tell of the problems, without the prefix."""
    return [line.removeprefix("mlkit: ") for line in result.err.splitlines() if line.startswith("mlkit: ")]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def unboxed(err: str) -> str:
    """Return the text of Typer's error box as one line."""
    return " ".join(" ".join(line.strip("│╭╮╰╯─ ") for line in err.splitlines()).split())


# ---- what works -----------------------------------------------------------------------------------------------------


def test_it_says_what_was_decided_and_what_to_type_next(mlkit: Mlkit, scene: Path) -> None:
    result = built(mlkit, "--source", scene, "--out", "data/one", *SIZES)
    assert result.code == 0
    manifest = json.loads(Path("data/one/manifest.json").read_text())
    low, high = manifest["preprocessing"]["db_min"], manifest["preprocessing"]["db_max"]
    train, validation = manifest["splits"]["train"], manifest["splits"]["validation"]
    assert result.out.splitlines() == [
        "scene: 240 x 200 px, intensity, the default for nonnegative fractions (--kind amplitude halves the dB range)",
        f"1 scene: {train} training and {validation} validation patches of 64 px; {low:.3f} to {high:.3f} dB become "
        "0 to 1",
        f"warning: scores of {validation} validation patches say little; use a smaller --patch, more scenes or more "
        "--val-share",
        f"data/one: sha256 {manifest['sha256'][:12]}",
        "next: mlkit train --preset baseline_c16 --data data/one",
    ]
    assert result.err.splitlines()[-1] == "hashes: 1/1 done"


def test_equal_input_and_options_give_an_equal_hash(mlkit: Mlkit, scene: Path) -> None:
    hashes = [
        json.loads(built(mlkit, "--source", scene, "--out", name, "--json", *SIZES, *more).out)["sha256"]
        for name, more in (("a", ()), ("b", ()), ("c", ("--seed", 1)), ("d", ("--percentiles", 2, 98)))
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_sources_are_also_taken_without_their_option(mlkit: Mlkit, scene: Path) -> None:
    shutil.copy(scene / "scene.npy", scene / "twin.npy")
    np.save(scene / "other.npy", np.load(scene / "scene.npy")[::-1])
    first = built(mlkit, "--source", scene / "scene.npy", scene / "other.npy", "--out", "a", "--json", *SIZES)
    second = built(mlkit, "--source", scene, "--out", "b", "--json", *SIZES)
    first, second = json.loads(first.out), json.loads(second.out)
    assert first["sha256"] == second["sha256"]
    assert any("twin.npy is the same file as" in line for line in second["notes"])


# ---- sources --------------------------------------------------------------------------------------------------------


def refuse_nothing_written(result: Any, folder: Path, code: int, *sentences: str) -> None:
    assert (result.code, sentences_of(result)) == (code, list(sentences))
    assert result.out == ""
    assert sorted(path.name for path in folder.iterdir()) == ["in"]


def test_a_missing_path(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    result = built(mlkit, "--source", "gone.tif", "--source", scene, "--out", "data/new")
    refuse_nothing_written(
        result, tmp_path, 4, "gone.tif does not exist; give SAR images or a folder of them"
    )  # and not in part


def test_an_empty_folder(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    (scene / "empty").mkdir()
    result = built(mlkit, "--source", "in/empty", "--out", "new")
    refuse_nothing_written(result, tmp_path, 4, f"folder in/empty holds no SAR image; accepted are {ACCEPTED}")


def test_a_file_of_another_type(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    (scene / "notes.txt").write_text("hello")
    result = built(mlkit, "--source", "in/notes.txt", "--out", "data/new")
    sentence = f"in/notes.txt is of type '.txt', which is not read; accepted are {ACCEPTED}"
    refuse_nothing_written(result, tmp_path, 4, sentence, NOTHING_TO_BUILD)


def test_a_scene_of_nan(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    np.save(scene / "nan.npy", np.full((300, 300), np.nan, np.float32))
    result = built(mlkit, "--source", "in/nan.npy", "--out", "new")
    sentence = "in/nan.npy (nan) has no valid pixel: 0 no-data, 90000 NaN and 0 negative values, read as intensity"
    refuse_nothing_written(result, tmp_path, 4, sentence, NOTHING_TO_BUILD)


def test_a_scene_smaller_than_a_patch(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    np.save(scene / "small.npy", np.load(scene / "scene.npy")[:40, :50])
    result = built(mlkit, "--source", "in/small.npy", "--out", "new")
    sentence = "all scenes are smaller than a patch of 256 px, the largest of 50 x 40 px; use a smaller --patch"
    refuse_nothing_written(result, tmp_path, 4, sentence)


def test_a_scene_that_cannot_be_divided(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    # 80 is the largest multiple of 16 in half of 240 px less the guard of 32
    result = built(mlkit, "--source", "in", "--out", "new", "--patch", 128)
    refuse_nothing_written(
        result,
        tmp_path,
        4,
        "no validation patch of 128 px is left in 1 scene of 240 x 200 px; use --patch 80 or less, or add scenes",
    )


def test_values_that_cannot_be_meant(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    result = built(mlkit, "--source", "in", "--out", "new", "--kind", "slc")
    sentence = (
        "in/scene.npy holds real (float32) values, which cannot be read as slc; use --kind auto or amplitude, "
        "intensity or db"
    )
    refuse_nothing_written(result, tmp_path, 4, sentence, NOTHING_TO_BUILD)


def test_a_broken_file_is_named_and_left_out_with_4_unless_that_is_accepted(
    mlkit: Mlkit, scene: Path, tmp_path: Path
) -> None:
    (scene / "bad.tif").write_bytes(b"II*\0garbage")
    result = built(mlkit, "--source", "in", "--out", "new", *SIZES)
    broken = "in/bad.tif is broken or truncated: it holds no image"
    told = "1 broken image left out of new; mend and build again, or accept it with --skip-broken"
    assert (result.code, sentences_of(result)) == (4, [broken, told])
    assert "tifffile" not in result.err  # what libraries log of it is not the user's concern
    skipped = built(mlkit, "--source", "in", "--out", "accepted", "--skip-broken", *SIZES)
    assert skipped.code == 0
    assert f"skipped: {broken}" in skipped.out.splitlines()
    (scene / "bad.tif").unlink()
    whole = built(mlkit, "--source", "in", "--out", "whole", *SIZES)
    assert result.out.splitlines()[-2].split()[-1] == whole.out.splitlines()[-2].split()[-1]
    assert skipped.out.splitlines()[-2].split()[-1] == whole.out.splitlines()[-2].split()[-1]  # the sha256


def test_all_broken_files_are_named_at_once(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    (scene / "a.npy").write_bytes(b"\x93NUMPY")
    (scene / "b.npy").write_bytes(b"\x93NUM")
    result = built(mlkit, "--source", "in", "--out", "new", *SIZES)
    assert result.code == 4
    assert [sentence.split()[0] for sentence in sentences_of(result)] == ["in/a.npy", "in/b.npy", "2"]
    assert sentences_of(result)[2] == (
        "2 broken images left out of new; mend and build again, or accept it with --skip-broken"
    )


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentences"),
    [
        (
            ("--percentiles", 99, 1),
            ["percentiles 99 and 1 do not rise; give a lower and a higher one, such as 1 and 99"],
        ),
        (
            ("--percentiles", -1, 101),
            [
                "--percentiles = -1.0: input should be greater than or equal to 0",
                "--percentiles = 101.0: input should be less than or equal to 100",
            ],
        ),
        (("--percentiles", "nan", 99), ["--percentiles = nan: input should be a finite number"]),
        (("--subset", 0), ["--subset = 0.0: input should be greater than 0"]),
        (
            ("--subset", 1.5, "--val-share", 1),
            [
                "--val-share = 1.0: input should be less than 1",
                "--subset = 1.5: input should be less than or equal to 1",
            ],
        ),
        (("--val-share", 0), ["--val-share = 0.0: input should be greater than 0"]),
        (("--max-nodata", 1), ["--max-nodata = 1.0: input should be less than 1"]),
    ],
)
def test_values_out_of_range_are_all_named(
    mlkit: Mlkit, scene: Path, tmp_path: Path, options: tuple[object, ...], sentences: list[str]
) -> None:
    result = built(mlkit, "--source", "in", "--out", "new", *options)
    refuse_nothing_written(result, tmp_path, 2, *sentences)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--patch", 8), "Invalid value for '--patch'"),
        (("--kind", "foo"), "Invalid value for '--kind'"),
        (("--percentiles", 1), "Option '--percentiles' requires 2 arguments"),
        (("--colour",), "No such option: --colour"),
    ],
)
def test_options_that_cannot_be_read(
    mlkit: Mlkit, scene: Path, tmp_path: Path, options: tuple[object, ...], told: str
) -> None:
    result = built(mlkit, "--source", "in", "--out", "new", *options)
    assert result.code == 2
    assert told in unboxed(result.err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


# ---- the place ------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_refused_untouched(mlkit: Mlkit, scene: Path) -> None:
    before = files_of(scene)
    result = built(mlkit, "--source", "in", "--out", "in", *SIZES)
    assert (result.code, sentences_of(result)) == (4, ["folder in is not empty; choose another --out or empty it"])
    assert files_of(scene) == before
    result = built(mlkit, "--source", "in", "--out", "in/scene.npy", *SIZES)
    assert (result.code, sentences_of(result)) == (4, ["in/scene.npy is a file, not a folder; choose another --out"])
    assert files_of(scene) == before


def test_a_place_below_a_file(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    result = built(mlkit, "--source", "in", "--out", "in/scene.npy/new", *SIZES)
    refuse_nothing_written(result, tmp_path, 4, "cannot write in/scene.npy/new: Not a directory")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_place_that_may_not_be_written(
    mlkit: Mlkit, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    mkdir = os.mkdir

    def refuse(path: Any, *more: Any) -> None:  # as root every folder can be written, so the system is played
        if ".partial-new-" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        mkdir(path, *more)

    monkeypatch.setattr(os, "mkdir", refuse)
    result = built(mlkit, "--source", "in", "--out", "new", *SIZES)
    sentence = f"cannot write new: {os.strerror(number)}; choose a folder that you may write to"
    refuse_nothing_written(result, tmp_path, 4, sentence)


def test_a_full_disk(mlkit: Mlkit, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: StoreWriter, values: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(StoreWriter, "add", full)
    result = built(mlkit, "--source", "in", "--out", "deep/er/new", *SIZES)
    assert result.code == 4
    (sentence,) = sentences_of(result)
    assert re.fullmatch(
        r"cannot write deep/er/new: the disk is full \(\d+ MB free\); free some space and try again", sentence
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]  # nor are the folders on the way left


# ---- interruptions --------------------------------------------------------------------------------------------------

# The command in a process of its own, which stops in the middle of the build and says so.
STOPPING = """
import sys, time
from mlkit.commands import display
def stop(self, text, done, total):
    print("building", flush=True)
    time.sleep(60)
display.Counting.__call__ = stop
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits it ignored
from mlkit.__main__ import main
sys.argv[0] = "mlkit"
main()
"""


@pytest.fixture
def stopped(scene: Path) -> Any:
    """Return a process that has begun to build in/ into deep/new and waits."""
    command = ["dataset", "build", "sar", "--source", "in", "--out", "deep/new", *map(str, SIZES)]
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPING, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "building\n", process.communicate()
    yield process
    process.kill()
    process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_nothing_behind(
    stopped: subprocess.Popen[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    assert names(tmp_path) == ["deep", "in"]
    stopped.send_signal(number)
    _, err = stopped.communicate(timeout=20)
    assert stopped.returncode == code
    assert "Traceback" not in err
    assert names(tmp_path) == ["in"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_what_a_killed_build_left_is_removed_by_the_next_one_there_and_a_running_one_is_not(
    stopped: subprocess.Popen[str], mlkit: Mlkit, tmp_path: Path
) -> None:
    deep = tmp_path / "deep"
    (left,) = deep.iterdir()
    assert left.name.startswith(".partial-new-")
    assert sweep(deep / "new") == 0 and left.is_dir()  # it still runs
    elsewhere = built(mlkit, "--source", "in", "--out", "deep/new-2", *SIZES)
    assert elsewhere.code == 0 and left.is_dir()
    stopped.kill()
    stopped.wait()
    assert names(deep) == [left.name, "new-2"]
    assert built(mlkit, "--source", "in", "--out", "deep/new-3", *SIZES).code == 0
    assert left.is_dir()  # of another place
    (deep / ".partial-new-notours").mkdir()
    assert built(mlkit, "--source", "in", "--out", "deep/new", *SIZES).code == 0
    assert names(deep) == [".partial-new-notours", "new", "new-2", "new-3"]


def test_a_refused_build_sweeps_nothing(tmp_path: Path) -> None:
    left = tmp_path / ".partial-new-0123abcd"
    left.mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").touch()
    with pytest.raises(DataError, match="is not empty"), dataset_folder(tmp_path / "new"):
        pass
    assert left.is_dir()


def test_folders_on_the_way_stay_when_something_else_lies_in_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), dataset_folder(tmp_path / "a/b/new"):
        (tmp_path / "a/mine").touch()
        raise ValueError("inside")
    assert names(tmp_path / "a") == ["mine"]

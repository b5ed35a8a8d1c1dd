"""Grids from files: every format, and one sentence for everything that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlkit.errors import DataError
from mlkit.tasks.bvae.readers import arc_grids, find_files, in_their_places, read_grids

TASK = {
    "train": [{"input": [[0, 1], [2, 3]], "output": [[4, 4, 4]]}],
    "test": [{"input": [[9]]}],  # its answer is kept back
}
NAMES = ["train0.input", "train0.output", "test0.input"]
FROM_0_TO_9 = "labels are whole numbers from 0 to 9"
OUT_OF_RANGE = "is out of range; with 10 classes labels are 0 to 9"


def _written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, np.ndarray) and path.suffix == ".npy":
        np.save(path, content)
    elif isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    else:
        path.write_text(json.dumps(content))
    return path


def test_an_arc_task_gives_all_its_grids_under_its_name(tmp_path: Path) -> None:
    grids = read_grids(_written(tmp_path, "007bbfb7.json", TASK), 10)
    assert [(grid.task, grid.name) for grid in grids] == [
        ("007bbfb7", "007bbfb7/train0.input"),
        ("007bbfb7", "007bbfb7/train0.output"),
        ("007bbfb7", "007bbfb7/test0.input"),
    ]
    assert grids[0].labels_hw.tolist() == [[0, 1], [2, 3]]
    assert grids[1].labels_hw.shape == (1, 3)
    assert grids[0].labels_hw.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("one.json", [[0, 1], [2, 3]], ["one"]),
        ("many.json", [[[0, 1]], [[2], [3]]], ["many/0", "many/1"]),
        ("all.json", {"a": TASK, "b": TASK}, [f"{task}/{name}" for task in "ab" for name in NAMES]),
        ("one.npy", np.array([[0, 1], [2, 3]]), ["one"]),
        ("many.npy", np.zeros((2, 3, 4), np.int64), ["many/0", "many/1"]),
        ("float.npy", np.array([[0.0, 1.0]]), ["float"]),
        ("grey.png", np.array([[0, 1], [2, 9]], np.uint8), ["grey"]),
    ],
)
def test_grids_are_read_from_every_format(tmp_path: Path, name: str, content: Any, names: list[str]) -> None:
    assert [grid.name for grid in read_grids(_written(tmp_path, name, content), 10)] == names


def test_a_palette_image_gives_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 3], [7, 1]], np.uint8)).convert("L").convert("P")
    image.putdata([0, 3, 7, 1])
    image.save(tmp_path / "p.png")
    assert read_grids(tmp_path / "p.png", 10)[0].labels_hw.tolist() == [[0, 3], [7, 1]]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "a.json",
            {"train": [{"input": [[0, 1], [2, 11]], "output": [[0]]}]},
            "{path}, a/train0.input: class 11 at row 1, column 1 " + OUT_OF_RANGE,
        ),
        ("a.json", [[0, -1]], "{path}, a: class -1 at row 0, column 1 " + OUT_OF_RANGE),
        (
            "a.json",
            [[0, 1, 2], [0, 1, 2], [0, 1]],
            "{path}, a: rows differ in length, row 0 has 3 cells and row 2 has 2",
        ),
        ("a.json", "", "{path} is empty"),
        ("a.npy", b"", "{path} is empty"),
        ("a.json", "[[0, 1", "{path} is no JSON: *"),
        (
            "a.json",
            {"name": "x"},
            "{path} holds no ARC task ('train' and 'test' with 'input' and 'output') and no grid",
        ),
        ("a.json", {"train": [], "test": []}, "{path} holds no grid"),
        ("a.json", {"train": {"input": 1}}, "{path}, a: 'train' is no list of pairs with 'input' and 'output'"),
        ("a.json", [], "{path}, a: a grid is a list of rows of labels, such as [[0, 1], [2, 0]]"),
        ("a.json", [[]], "{path}, a: a grid has rows and columns, this one has the shape (1, 0)"),
        ("a.json", [[0, 0.5]], "{path}, a: " + FROM_0_TO_9),
        ("a.json", [[True, False]], "{path}, a: " + FROM_0_TO_9),
        ("a.json", [["1"]], "{path}, a: " + FROM_0_TO_9),
        ("a.json", [[10**30]], "{path}, a: *"),
        (
            "a.npy",
            np.zeros((2, 2, 2, 2)),
            "{path} holds an array of the shape (2, 2, 2, 2); labels are [H, W] or [N, H, W]",
        ),
        ("a.npy", np.array([[0.5, 1.0]]), "{path}, a: " + FROM_0_TO_9 + ", not float64 values"),
        ("a.npy", np.array([[np.nan]]), "{path}, a: " + FROM_0_TO_9 + ", not float64 values"),
        ("a.npy", b"not an array", "{path} is no NPY file with an array of numbers"),
        (
            "a.png",
            np.zeros((2, 2, 3), np.uint8),
            "{path} has colours (RGB), not labels; give a grey or palette PNG of labels",
        ),
        ("a.png", b"\x89PNG\r\n\x1a\nbroken", "{path} is no PNG: *"),
        ("a.txt", "0 1", "{path} is a .txt file; accepted are JSON (ARC tasks or plain grids), NPY and PNG (labels)"),
    ],
)
def test_a_file_that_is_no_grid_is_told_in_one_sentence(tmp_path: Path, name: str, content: Any, told: str) -> None:
    path = _written(tmp_path, name, content)
    with pytest.raises(DataError) as raised:
        read_grids(path, 10)
    (problem,) = raised.value.problems
    expected = told.format(path=path)
    assert problem == expected if not expected.endswith("*") else problem.startswith(expected[:-1])
    assert "\n" not in problem


def test_a_missing_file_and_a_folder_without_grids_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as raised:
        find_files([tmp_path / "nowhere", tmp_path / "empty"])
    assert [problem.split(" ")[-1] for problem in raised.value.problems] == ["grids", "(labels)"]
    assert raised.value.problems[0] == (f"{tmp_path / 'nowhere'} does not exist; give files or folders of grids")


def test_files_are_found_in_an_order_that_no_folder_decides(tmp_path: Path) -> None:
    for name in ("z/a.json", "a/b.json", ".hidden/c.json", "a/.d.json", "readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[[0]]")
    assert [path.name for path in find_files([tmp_path, tmp_path / "z"])] == ["a.json", "b.json"]


@pytest.mark.parametrize("content", [TASK, {"a": TASK, "b": TASK}, [[0, 1]], [[[0]], [[1]]]])
def test_grids_go_back_to_where_they_were_read_from(tmp_path: Path, content: Any) -> None:
    grids = read_grids(_written(tmp_path, "x.json", content), 10)
    assert in_their_places(content, iter([grid.labels_hw for grid in grids])) == content


def test_arc_is_whole() -> None:
    grids = list(arc_grids(1))
    assert len({grid.task for grid in grids}) == 800  # 400 training and 400 evaluation tasks (Chollet 2019)
    assert len({grid.name for grid in grids}) == len(grids) == 7000
    assert max(max(grid.labels_hw.shape) for grid in grids) == 30
    first = next(grid for grid in grids if grid.name == "007bbfb7/train0.input")
    assert first.labels_hw.tolist() == [[0, 7, 7], [7, 7, 7], [0, 7, 7]]

"""Claims of data/store.py."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlkit.data.store import Store, StoreWriter, index_path, values_path
from mlkit.errors import DataError


def write(folder: Path, items: list[np.ndarray], dtype: str = "float32") -> Store:
    with StoreWriter(folder, "s", dtype) as writer:
        for number, item in enumerate(items):
            assert writer.add(item.astype(dtype)) == number
    return Store(folder, "s")


@settings(max_examples=40, deadline=None)
@given(
    items=st.lists(
        hnp.arrays(np.int32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)), min_size=0, max_size=6
    )
)
def test_items_come_back_with_their_own_shapes(tmp_path_factory: pytest.TempPathFactory, items: list) -> None:
    store = write(tmp_path_factory.mktemp("s"), items, "int32")
    assert len(store) == len(items)
    for item, read in zip(items, store, strict=True):
        assert read.shape == item.shape
        np.testing.assert_array_equal(read, item)


def test_values_are_a_plain_numpy_file(tmp_path: Path) -> None:
    write(tmp_path, [np.arange(6.0).reshape(2, 3), np.arange(4.0)])
    np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), [0, 1, 2, 3, 4, 5, 0, 1, 2, 3])


def test_items_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    item = write(tmp_path, [np.ones((4, 4))])[0]
    with pytest.raises(ValueError, match="read-only"):
        item[0, 0] = 2
    assert item[1:3, 1:3].base is not None


def test_non_contiguous_items_are_stored_in_row_order(tmp_path: Path) -> None:
    item = np.arange(12.0).reshape(3, 4).T
    np.testing.assert_array_equal(write(tmp_path, [item])[0], item)


def test_a_pickled_store_carries_no_values_and_opens_again(tmp_path: Path) -> None:
    store = write(tmp_path, [np.arange(100_000.0)])
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    np.testing.assert_array_equal(pickle.loads(packed)[0], store[0])


def test_open_time_does_not_grow_with_the_number_of_items(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    for folder, count in ((few, 10), (many, 200_000)):
        folder.mkdir()
        with StoreWriter(folder, "s", "uint8") as writer:
            item = np.zeros(3, np.uint8)
            for _ in range(count):
                writer.add(item)

    def open_s(folder: Path) -> float:
        started = time.perf_counter()
        Store(folder, "s")
        return time.perf_counter() - started

    assert min(open_s(many) for _ in range(9)) < 5 * min(open_s(few) for _ in range(9))


def test_negative_numbers_count_from_the_end_and_others_are_refused(tmp_path: Path) -> None:
    store = write(tmp_path, [np.zeros(2), np.ones(3)])
    assert store[-1].shape == (3,)
    with pytest.raises(IndexError, match="2 items"):
        store[2]


def test_a_cut_or_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, [np.zeros((100, 100))])
    path = values_path(tmp_path, "s")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"s\.npy is damaged"):
        Store(tmp_path, "s")
    index_path(tmp_path, "s").unlink()
    path.unlink()
    with pytest.raises(DataError, match=r"s\.npy does not exist; build the dataset again"):
        Store(tmp_path, "s")


def test_values_of_another_build_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [np.zeros(5)])
    np.save(values_path(tmp_path, "s"), np.zeros(9, np.float32))
    with pytest.raises(DataError, match="index and values differ"):
        Store(tmp_path, "s")

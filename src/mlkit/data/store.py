"""Arrays of different shapes packed in one memory-mapped file: opened in constant time, read without decoding.

`<name>.npy` holds the values of all items one after the other (a plain 1-D NumPy file, so that its type is in it and
any tool can read it). `<name>.index.npy` holds int64 [N, 6]: first value, number of axes, four lengths.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mlkit.errors import DataError

MAX_AXES = 4
_INDEX_COLUMNS = 2 + MAX_AXES


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a finished store holds."""

    name: str
    num_items: int
    num_values: int
    num_bytes: int


def values_path(folder: Path, name: str) -> Path:
    """Return where the values of store `name` lie."""
    return folder / f"{name}.npy"


def index_path(folder: Path, name: str) -> Path:
    """Return where the index of store `name` lies."""
    return folder / f"{name}.index.npy"


class StoreWriter:
    """Writes items one by one in constant memory; the caller's `atomic_folder` makes the whole dataset atomic."""

    def __init__(self, folder: Path, name: str, dtype: DTypeLike) -> None:
        self._folder = folder
        self.name = name
        self.dtype = np.dtype(dtype)
        assert not self.dtype.hasobject, "a store holds numbers, not Python objects"
        self._index = array("q")
        self._num_values = 0
        self._handle = values_path(folder, name).open("wb")
        self._write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._index) // _INDEX_COLUMNS

    def _write_header(self) -> None:
        # NumPy pads the header so that a longer first axis still fits in it: it is written again at the end.
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self._handle, header | {"shape": (self._num_values,)})

    def add(self, values: NDArray[Any]) -> int:
        """Append an array of 0 to 4 axes and the store's own type; returns its item number."""
        assert not self._handle.closed, "the store is closed"
        assert values.dtype == self.dtype, f"store {self.name} holds {self.dtype}, not {values.dtype}"
        assert values.ndim <= MAX_AXES, f"an item has at most {MAX_AXES} axes, not {values.ndim}"
        self._handle.write(np.ascontiguousarray(values).data)
        self._index.extend((self._num_values, values.ndim, *values.shape, *([0] * (MAX_AXES - values.ndim))))
        self._num_values += values.size
        return len(self) - 1

    def close(self) -> StoreInfo:
        """Write header and index; returns what the store holds. A second call changes nothing."""
        if not self._handle.closed:
            body = self._handle.tell() - self._num_values * self.dtype.itemsize
            self._handle.seek(0)
            self._write_header()
            assert self._handle.tell() == body, "the header of the values changed its length"
            self._handle.close()
            rows = np.frombuffer(self._index, dtype=np.int64).reshape(-1, _INDEX_COLUMNS)
            np.save(index_path(self._folder, self.name), rows, allow_pickle=False)
        return StoreInfo(self.name, len(self), self._num_values, self._num_values * self.dtype.itemsize)


def open_array(path: Path, what: str) -> NDArray[Any]:
    """Return a .npy file as a read-only array over the file: nothing is read before it is used.

    Raises:
        DataError: when it is missing, damaged or shorter than its header says.
    """
    try:
        opened: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{what} {path} does not exist; build the dataset again") from None
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{what} {path} is damaged ({error}); build the dataset again") from error
    # A plain array slices several times faster than numpy.memmap, whose every view runs Python code.
    return opened.view(np.ndarray)


class Store:
    """Item i of a store as a read-only view of the file with its own shape; a crop of it reads only that crop.

    Two files are mapped however many items there are. A pickled store holds its place only and opens again.
    """

    __slots__ = ("_index", "_values", "folder", "name")

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self._values = open_array(values_path(folder, name), "store")
        self._index = open_array(index_path(folder, name), "store index")
        if self._index.ndim != 2 or self._index.shape[1] != _INDEX_COLUMNS or self._values.ndim != 1:
            raise DataError(f"store {name} in {folder} is damaged: its index has shape {self._index.shape}")
        if len(self._index):
            last = int(self._index[-1, 0]) + int(np.prod(self._index[-1, 2 : 2 + int(self._index[-1, 1])]))
            if last != len(self._values):
                raise DataError(
                    f"store {name} in {folder} is damaged: index and values differ; build the dataset again"
                )

    def __getstate__(self) -> tuple[Path, str]:
        return self.folder, self.name

    def __setstate__(self, state: tuple[Path, str]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._values.dtype

    def __len__(self) -> int:
        return len(self._index)

    def shape(self, item: int) -> tuple[int, ...]:
        """Return the shape of item `item` without touching its values."""
        row = self._row(item)
        return tuple(row[2 : 2 + row[1]])

    def __getitem__(self, item: int) -> NDArray[Any]:
        first, axes, *lengths = self._row(item)
        shape = lengths[:axes]
        size = 1
        for length in shape:
            size *= length
        return self._values[first : first + size].reshape(shape)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[item] for item in range(len(self)))

    def _row(self, item: int) -> list[int]:
        if not -len(self._index) <= item < len(self._index):
            raise IndexError(f"store {self.name} has {len(self._index)} items, not item {item}")
        row: list[int] = self._index[item].tolist()
        return row

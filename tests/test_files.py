"""A file or folder that exists is complete, whatever fails; and every failure is one sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlkit.errors import DataError
from mlkit.files import (
    atomic_file,
    atomic_folder,
    existing_parent,
    read_json,
    remove_partials,
    sha256_file,
    sha256_json,
    sync,
    write_json,
    write_text,
)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int, at: int = 1) -> None:
    """Let the at-th call of os.<name> fail with an error number."""
    real, left = getattr(os, name), [at]

    def act(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, act)


class Killed(BaseException):
    """Ends a block as nothing can catch."""


# ---- files ---------------------------------------------------------------------------------------------------


def test_a_file_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with atomic_file(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        assert partial.parent == path.parent and partial.name.startswith(".partial-")  # the same file system
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == {"deep", "deep/er", "deep/er/a.txt"}


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, Killed])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as partial:
        partial.write_text("new")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    failing(monkeypatch, operation, errno.ENOSPC)
    with pytest.raises(DataError) as caught:
        write_text(path, "new")
    assert re.fullmatch(
        rf"cannot write {re.escape(str(path))}: the disk is full \(\d+ MB free\); free some space and try again",
        str(caught.value),
    )
    assert caught.value.exit_code == 4
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize(
    ("code", "text"), [(errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only file system")]
)
def test_a_folder_that_cannot_be_written_to_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str
) -> None:
    failing(monkeypatch, "mkdir", code)
    with pytest.raises(DataError) as caught:
        write_text(tmp_path / "new" / "a.txt", "text")
    assert str(caught.value) == (
        f"cannot write {tmp_path / 'new' / 'a.txt'}: {text}; choose a folder that you may write to"
    )
    assert names(tmp_path) == set()


def test_another_error_is_told_in_the_words_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(DataError) as caught:
        write_text(tmp_path / "a.txt", "text")
    assert str(caught.value) == f"cannot write {tmp_path / 'a.txt'}: {os.strerror(errno.EIO)}"


@pytest.mark.skipif(os.name != "posix", reason="the words of POSIX")
@pytest.mark.parametrize("below", ["a.txt", "deep/a.txt"])
def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"cannot write .*taken/.*: (File exists|Not a directory)"):
        write_text(tmp_path / "taken" / below, "text")
    with (
        pytest.raises(DataError, match=r"cannot write .*taken/.*: Not a directory"),
        atomic_folder(tmp_path / "taken" / below),
    ):
        pass
    assert (tmp_path / "taken").read_text() == "a file"


def order_of(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> list[str]:
    """Return the syncs and renames of an action, with the kind of what they were called on."""
    events: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def recorded_sync(handle: int) -> None:
        events.append("sync " + Path(f"/proc/self/fd/{handle}").readlink().name.split("-")[0])
        real_sync(handle)

    def recorded_replace(source: Any, target: Any) -> None:
        events.append(f"rename to {Path(target).name.rsplit('-', 1)[0]}")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    act()
    return events


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name what is synced")
def test_contents_are_durable_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path.name.split("-")[0]
    assert order_of(monkeypatch, lambda: write_text(tmp_path / "a.txt", "text")) == [
        "sync .partial",
        "rename to a.txt",
        f"sync {home}",
    ]

    def folder() -> None:
        with atomic_folder(tmp_path / "f", replace=True) as partial:
            (partial / "one.txt").write_text("1")
            (partial / "sub").mkdir()
            (partial / "sub" / "two.txt").write_text("2")

    made = ["sync one.txt", "sync sub", "sync two.txt", "sync .partial"]
    assert order_of(monkeypatch, folder) == [*made, "rename to f", f"sync {home}"]
    assert order_of(monkeypatch, folder) == [*made, "rename to .partial-old-f", "rename to f", f"sync {home}"]


# ---- folders -------------------------------------------------------------------------------------------------


def fill(path: Path, text: str, *, replace: bool = False) -> None:
    with atomic_folder(path, replace=replace) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a.txt").write_text(text)


def test_a_folder_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "made"
    with atomic_folder(path) as partial:
        (partial / "a.txt").write_text("text")
        assert not path.exists() and partial.parent == path.parent
    assert names(tmp_path) == {"deep", "deep/made", "deep/made/a.txt"}


def test_an_existing_folder_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    fill(tmp_path / "made", "old")
    with pytest.raises(DataError, match="cannot write"):
        fill(tmp_path / "made", "new")
    assert (tmp_path / "made/sub/a.txt").read_text() == "old"
    fill(tmp_path / "made", "new", replace=True)
    assert (tmp_path / "made/sub/a.txt").read_text() == "new"
    assert names(tmp_path) == {"made", "made/sub", "made/sub/a.txt"}


@pytest.mark.parametrize("operation", ["mkdir", "fsync", "replace"])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_full_disk_at_any_operation_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, at: int
) -> None:
    fill(tmp_path / "made", "old")
    with monkeypatch.context() as full:
        failing(full, operation, errno.ENOSPC, at)
        try:
            fill(tmp_path / "made", "new", replace=True)
        except DataError as error:
            assert "the disk is full" in str(error)
            expected = {"new"} if (operation, at) == ("fsync", 4) else {"old"}
        else:
            assert (operation, at) in {("mkdir", 3), ("mkdir", 4), ("replace", 3), ("replace", 4)}
            expected = {"new"}
    assert (tmp_path / "made/sub/a.txt").read_text() in expected
    assert names(tmp_path) == {"made", "made/sub", "made/sub/a.txt"}


def test_a_block_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Killed), atomic_folder(tmp_path / "made") as partial:
        (partial / "a.txt").write_text("text")
        raise Killed
    assert names(tmp_path) == set()


def test_what_kills_left_behind_is_removed_and_counted(tmp_path: Path) -> None:
    (tmp_path / ".partial-ckpt-5-0a1b2c3d" / "deep").mkdir(parents=True)
    (tmp_path / ".partial-ckpt-5-0a1b2c3d" / "deep" / "a.txt").write_text("half")
    (tmp_path / ".partial-run.json-0a1b2c3d").write_text("half")
    (tmp_path / "kept.txt").write_text("whole")
    assert remove_partials(tmp_path) == 2
    assert names(tmp_path) == {"kept.txt"}
    assert remove_partials(tmp_path) == 0


def test_sync_takes_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    sync(tmp_path / "a.txt")
    sync(tmp_path)


def test_the_nearest_existing_folder_is_found(tmp_path: Path) -> None:
    assert existing_parent(tmp_path / "a" / "b") == tmp_path
    assert existing_parent(tmp_path) == tmp_path


# ---- JSON and hashes -----------------------------------------------------------------------------------------


def test_json_is_written_with_unix_line_ends_and_read_back(tmp_path: Path) -> None:
    value = {"format_version": 1, "name": "\u00e9", "list": [1.5, None, True]}
    path = write_json(tmp_path / "a.json", value)
    assert path == tmp_path / "a.json" and b"\r" not in path.read_bytes() and path.read_bytes().endswith(b"}\n")
    assert read_json(path, "thing", 1) == value
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_json_refuses_what_is_no_number_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"format_version": 1})
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "a.json", {"format_version": 1, "value": bad})
    assert read_json(tmp_path / "a.json", "thing", 1) == {"format_version": 1}
    assert names(tmp_path) == {"a.json"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b'{"format_version": 1, "name": "a',
            "is damaged: Unterminated string starting at: line 1 column 31 (char 30)",
        ),
        (b"", "is damaged: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff\x00", "is damaged: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[1]", "is damaged: it has no format_version"),
        (b'{"name": "a"}', "is damaged: it has no format_version"),
        (b'{"format_version": "1"}', "is damaged: it has no format_version"),
        (b'{"format_version": 3}', "has format version 3, this mlkit reads up to 2; update mlkit"),
    ],
)
def test_a_json_file_that_cannot_be_used_is_told_with_the_reason(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path, "thing", 2)
    assert str(caught.value) == f"thing {path} {sentence}"


def test_a_json_file_that_is_absent_or_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_json(tmp_path / "a.json", "thing", 1)
    assert str(caught.value) == f"thing {tmp_path / 'a.json'} does not exist"
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path, "thing", 1)


def test_hashes_are_those_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    large = os.urandom(3_000_001)
    (tmp_path / "large").write_bytes(large)
    assert sha256_file(tmp_path / "large") == hashlib.sha256(large).hexdigest()


def test_equal_values_hash_equal_whatever_the_order_of_keys() -> None:
    one = {"b": [1, 2.5, None], "a": {"y": 1, "x": True}}
    two = {"a": {"x": True, "y": 1}, "b": [1, 2.5, None]}
    assert sha256_json(one) == sha256_json(two)
    written = b'{"a":{"x":true,"y":1},"b":[1,2.5,null]}'
    assert sha256_json(one) == hashlib.sha256(written).hexdigest()
    assert sha256_json({**one, "b": [2.5, 1, None]}) != sha256_json(one)
    with pytest.raises(ValueError, match="JSON"):
        sha256_json(math.nan)

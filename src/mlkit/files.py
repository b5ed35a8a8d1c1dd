"""Files that are never half-written: everything is made beside its final place, synced, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlkit.errors import DataError, MlkitError, NewerFormatError

PARTIAL_PREFIX = ".partial-"  # what an interrupted write may leave behind; never read, removed by the next writer


def sync(path: Path) -> None:
    """Flush a file or folder to the disk. Windows cannot sync a folder, and there a rename is durable anyway."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the block ends well, and nothing remains when it does not.

    Raises:
        MlkitError: when the place cannot be written (no permission, disk full), in one sentence.
    """
    partial = path.parent / f"{PARTIAL_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # the folder may be a file, and then the error above is the one to tell
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder to fill; it becomes `path` in one rename, so that a folder that exists is complete.

    Args:
        path: the final place; it must not exist unless `replace`.
        replace: take the place of an existing folder, which is removed after the new one is there.
    """
    partial = path.parent / f"{PARTIAL_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in sorted(partial.rglob("*")):
            sync(file)
        sync(partial)
        if replace and path.exists():
            old = path.parent / f"{PARTIAL_PREFIX}old-{path.name}-{uuid.uuid4().hex[:8]}"
            path.replace(old)
            try:
                partial.replace(path)
            except OSError:
                old.replace(path)  # the older one rather than none
                raise
            shutil.rmtree(old)
        else:
            partial.replace(path)
        sync(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[bool | None]:
    """Yield whether this process holds the folder: False while another does, None where folders cannot be locked.

    The system lets go of it when the process dies, however it dies. Windows and some network disks have no such lock.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield None
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held: bool | None = True
        except BlockingIOError:
            held = False
        except OSError:
            held = None
        yield held
    finally:
        os.close(handle)


def remove_partials(folder: Path) -> int:
    """Remove what interrupted writes left in `folder`; returns how many."""
    leftovers = list(folder.glob(f"{PARTIAL_PREFIX}*"))
    for leftover in leftovers:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    return len(leftovers)


def write_error(path: Path, error: OSError) -> MlkitError:
    """Return the one sentence for a write that failed."""
    if error.errno == errno.ENOSPC:
        free_mb = shutil.disk_usage(existing_parent(path)).free / 1e6
        return DataError(
            f"cannot write {path}: the disk is full ({free_mb:.0f} MB free); free some space and try again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DataError(f"cannot write {path}: {os.strerror(error.errno)}; choose a folder that you may write to")
    return DataError(f"cannot write {path}: {error.strerror or error}")


def existing_parent(path: Path) -> Path:
    """Return the nearest folder on the way up that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def write_text(path: Path, text: str) -> None:
    """Write text (UTF-8, "\\n") atomically."""
    with atomic_file(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write JSON atomically; NaN and infinity are refused, since JSON has no such numbers. Returns the path."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
    return path


def read_json(path: Path, what: str, newest_format: int) -> dict[str, Any]:
    """Read a JSON object that carries `format_version`.

    Args:
        path: the file.
        what: its name in messages, such as "checkpoint".
        newest_format: the newest version that this mlkit reads; a newer one is refused by name.

    Raises:
        DataError: when it is missing, not JSON, not an object, or newer.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{what} {path} does not exist") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{what} {path} is damaged: {error}") from error
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {error.strerror}") from error
    version = value.get("format_version") if isinstance(value, dict) else None
    if not isinstance(version, int):
        raise DataError(f"{what} {path} is damaged: it has no format_version")
    if version > newest_format:
        raise NewerFormatError(
            f"{what} {path} has format version {version}, this mlkit reads up to {newest_format}; update mlkit"
        )
    return dict(value)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON: equal values give equal hashes, whatever the key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

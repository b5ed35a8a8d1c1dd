"""A dataset folder while it is built: refused where something lies, published in one rename, swept after kills."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlkit.errors import DataError
from mlkit.files import PARTIAL_PREFIX, atomic_folder, locked


@contextmanager
def dataset_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to build in; it becomes `out` when the block ends well, and nothing remains when it does not.

    A process that is killed cannot clean up: what it left beside `out` is removed by the next build to the same place.

    Raises:
        DataError: when `out` is a file or holds something; nothing is touched then.
    """
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"folder {out} is not empty; choose another --out or empty it")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, not a folder; choose another --out")
    sweep(out)
    made = [parent for parent in out.absolute().parents if not parent.exists()]
    try:
        # what may be replaced is empty
        with atomic_folder(out, replace=True) as folder, locked(folder):
            yield folder
    except BaseException:
        for parent in made:
            with suppress(OSError):  # somebody else may have put something into it
                parent.rmdir()
        raise


def sweep(out: Path) -> int:
    """Remove what killed builds to `out` left beside it; returns how many. A build that still runs is left alone."""
    if not out.parent.is_dir():
        return 0
    leftover = re.compile(rf"{re.escape(PARTIAL_PREFIX)}(old-)?{re.escape(out.name)}-[0-9a-f]{{8}}")
    removed = 0
    for path in out.parent.iterdir():
        if leftover.fullmatch(path.name) and path.is_dir():
            with locked(path) as is_ours:
                if is_ours:
                    shutil.rmtree(path, ignore_errors=True)
                    removed += 1
    return removed

"""What `mlkit infer lens` is to work on and where the results go; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlkit.errors import MlkitError
from mlkit.imaging.jobs import placed, refuse_equal_names

MARK = "_corrected"  # in the names of results
_GRID = f"{MARK}_grid"


@dataclass(frozen=True, slots=True)
class Options:
    """What is made of each photograph.

    strength: share of the correction, 0 to 1.
    grid: draw before, after, their difference, the flow and the Jacobian.
    zoom: enlarge until no pixel lacks a source.
    sure: how likely it must be that the lens that lines tell is nearer to the truth than none, 0 to 1; None: as the
        checkpoint's `model.sure` says.
    force: apply maps that are unsafe.
    strict: fail where a result cannot hold all that its input has.
    """

    strength: float = 1.0
    grid: bool = False
    zoom: bool = False
    sure: float | None = None
    force: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One photograph and where its results go."""

    path: Path
    image: Path
    grid: Path | None

    @property
    def results(self) -> tuple[Path, ...]:
        """All files, in the order in which they are written."""
        return (self.image,) if self.grid is None else (self.image, self.grid)

    @property
    def is_done(self) -> bool:
        """Whether all results are there."""
        return all(path.exists() for path in self.results)

    def megapixels(self) -> float:
        """Return the size as the file's header tells it, in megapixels; 0 when it does not."""
        from PIL import Image

        try:
            with Image.open(self.path) as image:
                return image.width * image.height / 1e6
        except Exception:  # noqa: BLE001 - only the progress needs it; the error comes when the file is read
            return 0.0


def options_of(*, strength: float, grid: bool, zoom: bool, sure: float | None, force: bool, strict: bool) -> Options:
    """Return checked options.

    Raises:
        MlkitError: for a strength or a sureness outside 0 to 1.
    """
    if sure is not None and not (math.isfinite(sure) and 0.0 <= sure <= 1.0):
        raise MlkitError(f"--sure {sure:g} is not between 0 and 1; 0 follows lines however little they tell")
    if not (math.isfinite(strength) and 0.0 <= strength <= 1.0):
        raise MlkitError(f"--strength {strength:g} is not between 0 and 1; 1 is the whole correction")
    return Options(strength, grid, zoom, sure, force, strict)


def find_jobs(given: Sequence[str], out: Path, options: Options) -> list[Job]:
    """Return the photographs to correct and where their results go; a folder's structure is kept below `out`.

    Args:
        given: files, folders and glob patterns.
        out: folder for the results; what lies in it is no input, unless it is named itself.
        options: decide which results there are.

    Raises:
        DataError: when nothing is found.
        MlkitError: when two files would become one.
    """
    jobs = [
        Job(
            path,
            folder / f"{path.stem}{MARK}{path.suffix}",
            folder / f"{path.stem}{_GRID}.png" if options.grid else None,
        )
        for path, folder in placed(given, out, _is_result)
    ]
    refuse_equal_names((job.path, job.results) for job in jobs)
    return jobs


def _is_result(stem: str) -> bool:
    """Return whether a file is named as a result."""
    return any(stem.endswith(mark) and stem != mark for mark in (MARK, _GRID))

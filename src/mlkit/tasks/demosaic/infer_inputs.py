"""What `mlkit infer demosaic` is to work on and where the results go; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlkit.errors import DataError, MlkitError
from mlkit.imaging.inputs import INPUT_SUFFIXES
from mlkit.imaging.jobs import placed, refuse_equal_names
from mlkit.tasks.demosaic.develop import Highlights
from mlkit.tasks.demosaic.raw import RAW_SUFFIXES

Format = Literal["tif", "dng", "png", "jpg"]

MARK = "_rgb"  # in the names of results
_COMPARE = f"{MARK}_compare"
_MOST_STOPS = 16.0


@dataclass(frozen=True, slots=True)
class Options:
    """What is made of each file.

    file_format: of the result.
    linear: linear light in place of sRGB; a DNG always is.
    highlights: what becomes of colours in which a channel is saturated.
    exposure_stops: brighter by so many stops.
    compare: draw LibRaw's result beside it.
    mosaic: the inputs are RGB images, of which mosaics are made first.
    strict: fail where a result cannot hold all that its input has.
    """

    file_format: Format = "tif"
    linear: bool = False
    highlights: Highlights = "clip"
    exposure_stops: float = 0.0
    compare: bool = False
    mosaic: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One file and where its results go."""

    path: Path
    image: Path
    compare: Path | None

    @property
    def results(self) -> tuple[Path, ...]:
        """All files, in the order in which they are written."""
        return (self.image,) if self.compare is None else (self.image, self.compare)

    @property
    def is_done(self) -> bool:
        """Whether all results are there."""
        return all(path.exists() for path in self.results)

    def megapixels(self) -> float:
        """Return the size of the picture as the file's header tells it, in megapixels; 0 when it does not."""
        try:
            if self.path.suffix.lower() in RAW_SUFFIXES:
                import rawpy

                with rawpy.imread(str(self.path)) as raw:
                    return float(raw.sizes.width * raw.sizes.height) / 1e6
            from PIL import Image

            with Image.open(self.path) as image:
                return image.width * image.height / 1e6
        except Exception:  # noqa: BLE001 - only the progress needs it; the error comes when the file is read
            return 0.0


def options_of(
    *,
    file_format: Format,
    linear: bool,
    highlights: Highlights,
    exposure_stops: float,
    compare: bool,
    mosaic: bool,
    strict: bool,
) -> Options:
    """Return checked options.

    Raises:
        MlkitError: with a sentence for each that cannot be meant.
    """
    problems = []
    if linear and file_format in ("png", "jpg"):
        problems.append(
            f"--linear does not suit --format {file_format}, whose values are sRGB; tif or dng hold linear light"
        )
    if not (math.isfinite(exposure_stops) and abs(exposure_stops) <= _MOST_STOPS):
        problems.append(f"--exposure {exposure_stops:g} is not within {_MOST_STOPS:g} stops; 1 is twice as bright")
    if mosaic and file_format == "dng":
        problems.append("--mosaic makes no DNG, since RGB images have no camera; give --format tif, png or jpg")
    if mosaic and exposure_stops:
        problems.append("--exposure would change what --mosaic compares with the truth; leave one of them out")
    if file_format == "dng" and (exposure_stops or highlights != "clip"):
        problems.append(
            "a DNG holds what the sensor measured, without --exposure and --highlights; leave them to the program that "
            "opens it"
        )
    if problems:
        raise MlkitError(*problems)
    is_linear = linear or file_format == "dng"
    return Options(file_format, is_linear, highlights, exposure_stops, compare, mosaic, strict)


def find_jobs(given: Sequence[str], out: Path, options: Options) -> list[Job]:
    """Return the files to demosaic and where their results go; a folder's structure is kept below `out`.

    Args:
        given: files, folders and glob patterns.
        out: folder for the results; what lies in it is no input, unless it is named itself.
        options: decide which results there are, and whether inputs are RAW files or RGB images.

    Raises:
        DataError: when nothing is found, or a file that was named is RGB where RAW is asked for or the reverse.
        MlkitError: when two files would become one.
    """
    found = placed(given, out, _is_result, INPUT_SUFFIXES if options.mosaic else RAW_SUFFIXES)
    problems = [problem for path, _ in found if (problem := _unfit(path, is_mosaic=options.mosaic))]
    if problems:
        raise DataError(*problems)
    jobs = [
        Job(
            path,
            folder / f"{path.stem}{MARK}.{options.file_format}",
            folder / f"{path.stem}{_COMPARE}.png" if options.compare else None,
        )
        for path, folder in found
    ]
    refuse_equal_names((job.path, job.results) for job in jobs)
    return jobs


def _unfit(path: Path, *, is_mosaic: bool) -> str:
    """Return why a file is of the wrong kind, told from its name; the empty string when it is not."""
    suffix = path.suffix.lower()
    if is_mosaic and suffix in RAW_SUFFIXES:
        return f"{path} is a RAW file, a mosaic already; leave --mosaic out"
    if not is_mosaic and suffix in INPUT_SUFFIXES:
        return f"{path} is an RGB image, no RAW file; --mosaic makes a mosaic of it first, to see what is lost"
    return ""


def _is_result(stem: str) -> bool:
    """Return whether a file is named as a result."""
    return any(stem.endswith(mark) and stem != mark for mark in (MARK, _COMPARE))

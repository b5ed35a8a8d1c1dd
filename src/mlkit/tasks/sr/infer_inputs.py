"""What `mlkit infer sr` is to work on and where the results go; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal

from mlkit.errors import MlkitError
from mlkit.imaging.jobs import placed, refuse_equal_names
from mlkit.imaging.writing import FORMATS

ColorFix = Literal["wavelet", "adain", "none"]
MARK = "_sr"  # in the names of results
_MOST_VALUES = 32


@dataclass(frozen=True, slots=True)
class Options:
    """What is made of each image."""

    scale: float = 4.0
    sr_scales: tuple[float, ...] = (1.0,)
    steps: int = 1
    color_fix: ColorFix = "none"
    compare: bool = False
    strict: bool = False

    @property
    def shown(self) -> int:
        """Which of the results is shown: that whose sr_scale is nearest to 1."""
        return min(range(len(self.sr_scales)), key=lambda index: abs(self.sr_scales[index] - 1.0))


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the results of one image go."""

    images: tuple[Path, ...]  # one for each sr_scale
    strip: Path | None  # of several values side by side
    compare: Path | None

    @property
    def all(self) -> tuple[Path, ...]:
        """All files, in the order in which they are written."""
        return (*self.images, *(path for path in (self.strip, self.compare) if path is not None))

    @property
    def exist(self) -> bool:
        """Whether all of them are there."""
        return all(path.exists() for path in self.all)


@dataclass(frozen=True, slots=True)
class Job:
    """One image and where its results go."""

    path: Path
    targets: Targets

    def megapixels(self, scale: float) -> float:
        """Return the size of the result as the file's header tells it, in megapixels; 0 when it does not."""
        from PIL import Image

        try:
            with Image.open(self.path) as image:
                width, height = image.size
        except Exception:  # noqa: BLE001 - only the progress needs it; the error comes when the image is read
            return 0.0
        return round(width * scale) * round(height * scale) / 1e6


def parse_sr_scales(text: str) -> tuple[float, ...]:
    """Return the values of "1.2", "0.5,1,1.5" or "0.5:1.5:0.25" (both ends included), in order and each once.

    Raises:
        MlkitError: for what is no such list, a value that is negative or not finite, or too many.
    """
    values: dict[Decimal, None] = {}
    for part in text.split(","):
        try:
            numbers = [Decimal(number.strip()) for number in part.split(":")]
        except InvalidOperation:
            raise MlkitError(
                f"--sr-scale '{text}' is neither a number such as 1.2, nor a list such as 0.5,1, nor a range such as "
                "0.5:1.5:0.25"
            ) from None
        if not all(number.is_finite() and number >= 0 for number in numbers):
            raise MlkitError(f"--sr-scale '{text}': {part.strip()} is not 0 or more; 0 restores nothing, 1 as trained")
        values |= dict.fromkeys(numbers if len(numbers) == 1 else _range(numbers, text))
    if len(values) > _MOST_VALUES:
        raise MlkitError(f"--sr-scale '{text}' is {len(values)} values; {_MOST_VALUES} are the most")
    return tuple(map(float, values))


def _range(numbers: Sequence[Decimal], text: str) -> list[Decimal]:
    if len(numbers) != 3:
        raise MlkitError(f"--sr-scale '{text}': a range is FIRST:LAST:STEP, such as 0.5:1.5:0.25")
    first, last, step = numbers
    if step == 0 or last < first:
        raise MlkitError(f"--sr-scale '{text}': a range goes from a smaller to a larger value in steps above 0")
    count = int((last - first) / step) + 1
    return [first + step * index for index in range(min(count, _MOST_VALUES + 1))]


def options_of(*, scale: float, sr_scale: str, steps: int, color_fix: ColorFix, compare: bool, strict: bool) -> Options:
    """Return checked options.

    Raises:
        MlkitError: with a sentence for each that cannot be meant.
    """
    problems = []
    if not (math.isfinite(scale) and scale >= 1):
        problems.append(f"--scale {scale:g} would reduce the image; give 1 (already enlarged) or more")
    sr_scales: tuple[float, ...] = ()
    try:
        sr_scales = parse_sr_scales(sr_scale)
    except MlkitError as error:
        problems += error.problems
    if problems:
        raise MlkitError(*problems)
    return Options(scale, sr_scales, steps, color_fix, compare, strict)


def find_jobs(given: Sequence[str], out: Path, suffix: str | None, options: Options) -> list[Job]:
    """Return the images to restore and where their results go; a folder's structure is kept below `out`.

    Args:
        given: images, folders and glob patterns.
        out: folder for the results; what lies in it is no input, unless it is named itself.
        suffix: of the results; None is that of each input, .png where it has another or none.
        options: decide how many results there are.

    Raises:
        DataError: when nothing is found.
        MlkitError: when two images would become one file.
    """
    found = placed(given, out, _is_result)
    jobs = [Job(path, _targets(path, folder, suffix, options)) for path, folder in found]
    refuse_equal_names((job.path, job.targets.all) for job in jobs)
    return jobs


def _is_result(stem: str) -> bool:
    """Return whether a file is named as a result."""
    own, mark, rest = stem.rpartition(MARK)
    return bool(mark and own) and (rest in ("", "_strip", "_compare") or rest.replace(".", "", 1).isdigit())


def _targets(path: Path, folder: Path, suffix: str | None, options: Options) -> Targets:
    """Return NAME_sr.png, or NAME_sr0.5.png and so on for several values, and the pictures beside them."""
    several = len(options.sr_scales) > 1
    own = path.suffix.lower()
    ending = suffix or (own if any(own in known.suffixes for known in FORMATS) else ".png")
    names = [f"{path.stem}{MARK}{f'{sr_scale:g}' if several else ''}{ending}" for sr_scale in options.sr_scales]
    return Targets(
        tuple(folder / name for name in names),
        folder / f"{path.stem}{MARK}_strip.png" if several else None,
        folder / f"{path.stem}{MARK}_compare.png" if options.compare else None,
    )

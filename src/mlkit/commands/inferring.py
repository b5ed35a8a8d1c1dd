"""What `mlkit infer` does around each file where a task makes pictures of pictures: progress, errors, what is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from mlkit.commands.options import ended_by_signal
from mlkit.commands.preview import Pace, show, shows_pictures
from mlkit.errors import DataError, MemoryShortError, MlkitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PREVIEWS = 3  # pictures on a terminal; more would hide the lines


class HasPath(Protocol):
    """One file of the user's."""

    @property
    def path(self) -> Path: ...


Job = TypeVar("Job", bound=HasPath)
Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # (rows done, all rows)
Say = Callable[[str], None]
Make = Callable[[Job, Progress, Say], "tuple[Result, NDArray[np.float32]]"]


def infer_files(
    jobs: Sequence[Job],
    open_model: Callable[[], Make[Job, Result]],
    *,
    megapixels: Callable[[Job], float],
    tell: Callable[[Job, Result], None],
    as_dict: Callable[[Job, Result], Mapping[str, Any]],
    skipped: Sequence[str],
    short: str,
    preview: bool,
    as_json: bool,
) -> None:
    """Make the result of every job, one after the other; a broken file does not stop the others.

    Args:
        jobs: what is to be done; without any the model is not opened.
        open_model: returns what makes the result of a job, and a picture [H, W, 3] of it to show.
        megapixels: of a job's result, as far as they are known.
        tell: prints what was made.
        as_dict: the same for JSON.
        skipped: inputs whose results exist, for JSON.
        short: what to do when a file does not fit into memory.
        preview: show the first pictures on a terminal that can.
        as_json: print one JSON object at the end, and nothing else.

    Raises:
        DataError: of all files that failed, when one of them is broken; else the first one's own kind of error.
    """
    told: list[Mapping[str, Any]] = []
    errors: list[MlkitError] = []
    if jobs:
        make = open_model()
        pace = Pace(sum(megapixels(job) for job in jobs))
        shows = preview and not as_json and shows_pictures()
        with ended_by_signal():
            pace.begin()
            try:
                for number, job in enumerate(jobs, start=1):
                    expected_mp = megapixels(job)
                    label = job.path.name if len(jobs) == 1 else f"{job.path.name} ({number}/{len(jobs)})"

                    def progress(rows: int, of: int, label: str = label, expected_mp: float = expected_mp) -> None:
                        pace.update(label, expected_mp * rows / of)

                    try:
                        result, image_hwc = make(job, progress, pace.say)
                    except (MlkitError, MemoryError) as error:
                        out_of_memory = MemoryShortError(f"{job.path}: out of memory{short}")
                        errors.append(error if isinstance(error, MlkitError) else out_of_memory)
                        pace.drop_image(expected_mp)
                        pace.close()
                        continue
                    pace.end_image()
                    pace.close()  # its line is gone while something else is printed
                    told.append(as_dict(job, result))
                    if not as_json:
                        tell(job, result)
                        if shows and len(told) <= _PREVIEWS:
                            show(image_hwc)
            finally:
                pace.close()
    if as_json:
        problems = [problem for error in errors for problem in error.problems]
        typer.echo(json.dumps({"results": told, "skipped": list(skipped), "errors": problems}, indent=2))
    if errors:
        kind = DataError if any(isinstance(error, DataError) for error in errors) else type(errors[0])
        raise kind(*(problem for error in errors for problem in error.problems))

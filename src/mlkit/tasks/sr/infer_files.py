"""One image file through super-resolution: read, restored, written with all it carries, and compared in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import NonFiniteError
from mlkit.imaging.detail import busiest
from mlkit.imaging.grids import Panel, comparison_grid, write_png
from mlkit.imaging.images import Image, open_image
from mlkit.imaging.writing import writing
from mlkit.tasks.sr.infer import Enlarged, Plan, Progress, Say, restore, restored_bands, with_memory
from mlkit.tasks.sr.infer_inputs import Job, Options
from mlkit.tasks.sr.restorer import Restorer

Floats = NDArray[np.float32]

_DETAIL_PX = 96  # of the result, shown beside the whole image
_THUMBNAIL_PX = 400


@dataclass(frozen=True, slots=True)
class FileResult:
    """One restored image file."""

    width: int
    height: int
    seconds: float
    plan: Plan
    notes: tuple[str, ...]  # what a result's format could not hold

    @property
    def mp_per_s(self) -> float:
        """Megapixels of the result a second, from reading to writing."""
        return self.width * self.height / 1e6 / self.seconds

    @property
    def is_tiled(self) -> bool:
        """Whether it was larger than a tile."""
        return max(self.width, self.height) > self.plan.tile


def restore_file(
    restorer: Restorer,
    job: Job,
    plan: Plan,
    options: Options,
    *,
    progress: Progress | None = None,
    say: Say | None = None,
) -> tuple[FileResult, Floats]:
    """Restore one image file into its targets; return what became of it, and a thumbnail of it.

    Results are written while they are made. Only a strip, a comparison and the colour fix "adain" need them whole.

    Raises:
        DataError: when it cannot be read or written, or, under `strict`, a result's format cannot hold all of it.
        NonFiniteError: when the model gives NaN, infinity or black.
        MemoryShortError: when even small tiles do not fit.
    """
    started_s = perf_counter()
    given = open_image(job.path)
    enlarged = Enlarged(given.pixels, options.scale, given.alpha)
    (notes, seen), plan = with_memory(
        lambda plan: _written(restorer, job, given, enlarged, plan, options, progress), restorer, enlarged, plan, say
    )
    if job.targets.strip:
        titles = [f"sr_scale {sr_scale:g}" for sr_scale in options.sr_scales]
        _draw(job.targets.strip, job.path.name, titles, list(seen.images), seen.images[0] - seen.images[-1])
    if job.targets.compare:
        bicubic = np.ascontiguousarray(np.moveaxis(enlarged.rows(0, enlarged.height), 0, 2))
        (base,), plan = restore(
            restorer,
            enlarged,
            plan,
            sr_scales=(options.sr_scales[options.shown],),
            steps=options.steps,
            color_fix=options.color_fix,
            adapted=False,
            say=say,
        )
        made = seen.images[options.shown]
        given_rgb = np.broadcast_to(given.pixels, (*given.pixels.shape[:2], 3))
        titles = ["Input", "Bicubic", "Base SR", "LoRA SR"]
        _draw(job.targets.compare, job.path.name, titles, [given_rgb, bicubic, base, made], made - bicubic)
    seconds = perf_counter() - started_s
    return FileResult(enlarged.width, enlarged.height, seconds, plan, notes), seen.thumbnail()


class _Seen:
    """What is kept of results that are written in bands: every so many pixels, and the whole where pictures want it."""

    def __init__(self, enlarged: Enlarged, options: Options, *, whole: bool) -> None:
        self.images = np.empty((len(options.sr_scales) if whole else 0, enlarged.height, enlarged.width, 3), np.float32)
        self._step = -(-max(enlarged.height, enlarged.width) // _THUMBNAIL_PX)
        self._shown = options.shown
        self._rows: list[Floats] = []
        self.is_black = np.full(len(options.sr_scales), True)

    def add(self, top: int, images: Floats) -> None:
        """Take rows of all results, [S, rows, W, 3]."""
        if len(self.images):
            self.images[:, top : top + images.shape[1]] = images
        self.is_black &= ~images.any(axis=(1, 2, 3))
        self._rows.append(images[self._shown, -top % self._step :: self._step, :: self._step].copy())

    def thumbnail(self) -> Floats:
        """Return the shown result, smaller."""
        return np.concatenate(self._rows)


def _written(
    restorer: Restorer,
    job: Job,
    given: Image,
    enlarged: Enlarged,
    plan: Plan,
    options: Options,
    progress: Progress | None,
) -> tuple[tuple[str, ...], _Seen]:
    """Write all results; return what their formats could not hold, and what is kept of them."""
    seen = _Seen(enlarged, options, whole=bool(job.targets.strip or job.targets.compare))
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                writing(target, given.form(), height=enlarged.height, width=enlarged.width, strict=options.strict)
            )
            for target in job.targets.images
        ]
        for top, images in restored_bands(
            restorer,
            enlarged,
            plan,
            sr_scales=options.sr_scales,
            steps=options.steps,
            color_fix=options.color_fix,
            progress=progress,
        ):
            seen.add(top, images)
            alpha = None if given.alpha is None else enlarged.alpha(top, top + images.shape[1])
            for writer, image in zip(writers, images, strict=True):
                writer.write(image, alpha)
        if seen.is_black.any() and given.pixels.any():  # before any result takes its place
            raise NonFiniteError(f"{job.path}: {restorer.name} makes it all black; its weights are unusable")
    return tuple(dict.fromkeys(warning for writer in writers for warning in writer.warnings)), seen


def _draw(path: Path, heading: str, titles: Sequence[str], images: Sequence[Floats], change: Floats) -> None:
    """Write images side by side, and below them the square in which `change` is largest, enlarged."""
    height, width = change.shape[:2]
    top, left = busiest(change, _DETAIL_PX)
    bottom, right = min(height, top + _DETAIL_PX), min(width, left + _DETAIL_PX)
    rows = [[Panel(title, image) for title, image in zip(titles, images, strict=True)]]
    if (bottom - top, right - left) != (height, width):
        details = []
        for image in images:
            ratio_y, ratio_x = image.shape[0] / height, image.shape[1] / width
            rows_seen = slice(int(top * ratio_y), max(int(top * ratio_y) + 1, round(bottom * ratio_y)))
            columns_seen = slice(int(left * ratio_x), max(int(left * ratio_x) + 1, round(right * ratio_x)))
            details.append(image[rows_seen, columns_seen])
        rows.append([Panel(title, image) for title, image in zip(titles, details, strict=True)])
    write_png(path, comparison_grid(rows, heading=heading))

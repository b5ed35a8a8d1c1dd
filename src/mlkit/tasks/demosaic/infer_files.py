"""One file through demosaicing: read, restored, written with all it carries, and compared in a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError
from mlkit.imaging.grids import image_to_u8
from mlkit.imaging.images import open_image
from mlkit.imaging.light import srgb_to_linear
from mlkit.imaging.metadata import Metadata, upright_exif
from mlkit.imaging.profiles import linear_profile, srgb_profile
from mlkit.imaging.writing import Form, writing
from mlkit.tasks.demosaic.dng import linear_dng
from mlkit.tasks.demosaic.infer import UPRIGHT, Plan, Progress, Say, developed, restored_rows, upright, with_memory
from mlkit.tasks.demosaic.infer_compare import Comparison, libraw_shown
from mlkit.tasks.demosaic.infer_inputs import Job, Options
from mlkit.tasks.demosaic.raw import RawFrame, read_raw
from mlkit.tasks.demosaic.restorer import Restorer
from mlkit.tasks.demosaic.xtrans import PATTERN, PERIOD, mosaic

Floats = NDArray[np.float32]

_THUMBNAIL_PX = 400


@dataclass(frozen=True, slots=True)
class FileResult:
    """One demosaicked file.

    notes: what the file lacks, and what of it the result's format could not hold.
    psnr_db: of an image that was mosaicked, against it; 8-bit sRGB, without a border of 8 px.
    libraw_psnr_db: the same of LibRaw's, where it was compared.
    """

    width: int
    height: int
    camera: str
    seconds: float
    plan: Plan
    notes: tuple[str, ...]
    psnr_db: float | None = None
    libraw_psnr_db: float | None = None

    @property
    def mp_per_s(self) -> float:
        """Megapixels a second, from reading to writing."""
        return self.width * self.height / 1e6 / self.seconds

    @property
    def is_tiled(self) -> bool:
        """Whether it was larger than a tile."""
        return max(self.width, self.height) > self.plan.tile


@dataclass(frozen=True, slots=True)
class _Given:
    """A file as it is worked on: upright."""

    frame: RawFrame
    symmetry: int  # that made it upright
    form: Form  # of the result
    truth: NDArray[np.uint8] | None = None


class _Sink(Protocol):
    """Where rows of a result go: camera RGB, and the same as sRGB where that was made already."""

    def __call__(self, camera_rgb: Floats, shown: Floats | None) -> None: ...


def restore_file(
    restorer: Restorer,
    job: Job,
    plan: Plan,
    options: Options,
    *,
    progress: Progress | None = None,
    say: Say | None = None,
) -> tuple[FileResult, Floats]:
    """Demosaic one file into its targets; return what became of it, and a thumbnail of it.

    Results are written while they are made; of comparisons, and of DNG files, 8 or 16 bits a value are held.

    Raises:
        DataError: when it cannot be read or written, is no X-Trans file, or, under `strict`, a result's format cannot
            hold all of it.
        NonFiniteError: when the network gives NaN or infinity.
        MemoryShortError: when even small tiles do not fit.
    """
    started_s = perf_counter()
    given = _opened_image(job.path, options) if options.mosaic else _opened_raw(job.path, options)
    frame = given.frame
    height, width = frame.mosaic_hw.shape
    libraw = libraw_shown(frame, given.symmetry, options, is_file=not options.mosaic) if job.compare else None

    def attempt(plan: Plan) -> tuple[list[str], Comparison, Floats]:
        compared = Comparison(height, width, given.truth, libraw)
        return _written(restorer, job, given, plan, options, compared, progress)

    (warnings, compared, thumbnail), plan = with_memory(attempt, plan, height=height, width=width, say=say)
    if job.compare:
        compared.draw(job.compare, f"{job.path.name}  {frame.camera}".rstrip())
    result = FileResult(
        width=width,
        height=height,
        camera=frame.camera,
        seconds=perf_counter() - started_s,
        plan=plan,
        notes=(*frame.notes, *warnings),
        psnr_db=compared.psnr_db(),
        libraw_psnr_db=compared.libraw_psnr_db(),
    )
    return result, thumbnail


def _opened_raw(path: Path, options: Options) -> _Given:
    """Return a RAW file's mosaic upright, with what a result of it carries."""
    frame = read_raw(path)
    exif = None if frame.exif is None else upright_exif(frame.exif)
    form = _form(options, Metadata(exif=exif, icc=_profile(options)), source="raw", depth=16)
    return _Given(upright(frame), UPRIGHT[frame.orientation], form)


def _opened_image(path: Path, options: Options) -> _Given:
    """Return the mosaic of an RGB image in linear light: what an X-Trans camera would have measured of it.

    Raises:
        DataError: when the image cannot be read, or is smaller than the pattern.
    """
    image = open_image(path, to_srgb=True)
    height, width = image.pixels.shape[:2]
    if min(height, width) < PERIOD:
        raise DataError(f"image {path} of {width} x {height} px is smaller than the pattern of {PERIOD} x {PERIOD}")
    pixels = np.broadcast_to(image.pixels, (height, width, 3))
    light = srgb_to_linear(pixels).astype(np.float32)
    frame = RawFrame(
        path=path,
        camera="",
        mosaic_hw=mosaic(light),
        pattern=PATTERN,
        wb=(1.0, 1.0, 1.0),
        camera_to_srgb=np.eye(3),
    )
    losses = image.losses
    if image.alpha is not None and float(image.alpha.min()) < 1:
        losses = (*losses, "transparency (left out)")
    metadata = replace(image.metadata, icc=_profile(options))
    form = _form(options, metadata, source=image.source, depth=image.depth, losses=losses)
    return _Given(frame, 0, form, image_to_u8(pixels))


def _profile(options: Options) -> bytes:
    return linear_profile() if options.linear else srgb_profile()


def _form(options: Options, metadata: Metadata, *, source: str, depth: int, losses: tuple[str, ...] = ()) -> Form:
    """Return what a result is besides its pixels.

    A JPEG that was asked for has 8 bits and is compressed; under `strict` it is not what a RAW file fits into.
    """
    if options.file_format == "jpg" and not options.strict:
        source, depth = "jpeg", 8
    return Form(3, 16 if options.linear else min(depth, 16), source=source, metadata=metadata, losses=losses)


def _written(
    restorer: Restorer,
    job: Job,
    given: _Given,
    plan: Plan,
    options: Options,
    compared: Comparison,
    progress: Progress | None,
) -> tuple[list[str], Comparison, Floats]:
    """Write the result; return what its format could not hold, what it is compared by, and a thumbnail."""
    frame = given.frame
    height, width = frame.mosaic_hw.shape
    step = -(-max(height, width) // _THUMBNAIL_PX)
    thumbnails: list[Floats] = []
    warnings: list[str] = []
    with _sink(job.image, given, options, warnings) as write:
        for top, rows in restored_rows(restorer, frame, plan, progress):
            shown = developed(rows, frame, options) if compared.is_needed else None
            thumbnails.append(developed(rows[-top % step :: step, ::step], frame, options))
            if shown is not None:
                compared.add(top, shown)
            write(rows, shown)
    return warnings, compared, np.concatenate(thumbnails)


@contextmanager
def _sink(path: Path, given: _Given, options: Options, warnings: list[str]) -> Iterator[_Sink]:
    """Yield what takes the rows of a result; the file is there when the block ends well."""
    frame = given.frame
    height, width = frame.mosaic_hw.shape
    if options.file_format == "dng":
        make, _, model = frame.camera.partition(" ")
        with linear_dng(
            path,
            height,
            width,
            wb=frame.wb,
            color_matrix=frame.xyz_to_camera,
            make=make,
            model=model or make,
            exif=given.form.metadata.exif,
        ) as rows:
            yield lambda camera_rgb, shown: rows(camera_rgb)
        return
    with writing(path, given.form, height=height, width=width, strict=options.strict) as writer:
        warnings += writer.warnings

        def write(camera_rgb: Floats, shown: Floats | None) -> None:
            if shown is None or options.linear:
                shown = developed(camera_rgb, frame, options, linear=options.linear)
            writer.write(shown)

        yield write

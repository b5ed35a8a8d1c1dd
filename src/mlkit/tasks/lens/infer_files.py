"""One photograph through lens correction: read, judged, corrected at full size, written with all it carries, drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from mlkit.errors import DataError, counted
from mlkit.imaging.alpha import unweighted_by_alpha, weighted_by_alpha
from mlkit.imaging.grids import Panel, comparison_grid, write_png
from mlkit.imaging.images import Image, open_image
from mlkit.imaging.writing import writing
from mlkit.metrics.geometry import jacobian
from mlkit.tasks.lens.corrector import Correction, Corrector, corrected_rows
from mlkit.tasks.lens.geometry import identity_grid
from mlkit.tasks.lens.infer_inputs import Job, Options
from mlkit.tasks.lens.inputs import as_levels, curves_of, refuse_tiny
from mlkit.tasks.lens.pictures import flow_colors, flow_wheel, jacobian_picture, jacobian_scale, with_curves
from mlkit.tasks.lens.safety import Verdict

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]  # (rows done, all rows)

GAIN = 8  # of differences
_WHOLE_PX = 640
_SHOWN_ABOVE = 1e-4
_STRAIGHT, _BENT = 3e-4, 3e-3  # bends of curves that are drawn green and red, in half-diagonals


@dataclass(frozen=True, slots=True)
class FileResult:
    """One photograph.

    verdict: on the map, as it was applied.
    params: of the lens, by name; with r = 1 in the corner.
    largest_px: how far the map moves a place of the photograph at most.
    sure: of `Correction`.
    notes: what was left out and why, and what the result's format could not hold.
    """

    width: int
    height: int
    seconds: float
    verdict: Verdict
    params: dict[str, float]
    largest_px: float
    zoom: float
    sure: float | None
    notes: tuple[str, ...]

    @property
    def mp_per_s(self) -> float:
        """Megapixels a second, from reading to writing."""
        return self.width * self.height / 1e6 / self.seconds


def correct_file(
    corrector: Corrector, job: Job, options: Options, *, progress: Progress | None = None
) -> tuple[FileResult, Floats]:
    """Correct one photograph into its targets; return what became of it, and a thumbnail.

    Where the residual flow makes a map unsafe, the lens parameters alone are taken, if they are safe.

    Raises:
        DataError: when it cannot be read or written, is tiny, its map is unsafe and not forced, or, under `strict`, the
            result's format cannot hold all of it.
        NonFiniteError: when the network gives NaN or infinity.
    """
    started_s = perf_counter()
    image = open_image(job.path)
    height, width = image.pixels.shape[:2]
    refuse_tiny(job.path, image.pixels)
    correction = replace(corrector(image.pixels, sure=options.sure), strength=options.strength)
    correction, verdict, notes = _safe(job.path, correction, options)
    if correction.sure is not None:
        asked = corrector.net.sure if options.sure is None else options.sure
        notes = [*_untold(job.path.name, correction.sure, asked), *notes]
    warnings = _write(job.image, image, correction, options, progress)
    moved = _moves(correction, height, width)
    result = FileResult(
        width=width,
        height=height,
        seconds=perf_counter() - started_s,
        verdict=verdict,
        params=correction.named(),
        largest_px=float(np.hypot(moved[..., 0], moved[..., 1]).max()) * np.hypot(height, width) / 2,
        zoom=correction.zoom,
        sure=correction.sure,
        notes=(*notes, *warnings),
    )
    after = open_image(job.image).pixels
    if job.grid is not None:
        _draw(job, image.pixels, after, correction, result)
    return result, _whole(after, 400)


def _untold(name: str, sure: float, asked: float) -> list[str]:
    """Return what there is to say of lines that are not followed."""
    if sure >= asked:
        return []
    if sure == 0:
        return [f"{name}: no lines were found that could tell the lens"]
    return [
        f"{name}: its lines do not tell the lens ({100 * sure:.0f} % sure, {100 * asked:.0f} % is asked for) and are "
        f"not followed; --sure {math.floor(100 * sure) / 100:g} follows them all the same"
    ]


def _safe(path: Path, correction: Correction, options: Options) -> tuple[Correction, Verdict, list[str]]:
    """Return the correction that may be applied, its verdict, and what there is to say of it."""

    def finished(one: Correction) -> tuple[Correction, Verdict]:
        one = one.zoomed() if options.zoom else one
        return one, one.judged()

    chosen, verdict = finished(correction)
    if verdict.level == "unsafe" and correction.flow is not None:
        alone, judged = finished(correction.without_flow())
        if judged.level != "unsafe":
            return alone, judged, [f"{path.name}: the residual flow is left out, since with it the map is {verdict}"]
    if verdict.level == "unsafe" and not options.force:
        raise DataError(
            f"{path} is not corrected, the map is {verdict}; --force applies it all the same, a lower --strength may do"
        )
    return chosen, verdict, [] if verdict.level == "safe" else [f"{path.name}: {verdict}"]


def _write(path: Path, image: Image, correction: Correction, options: Options, progress: Progress | None) -> list[str]:
    """Write the corrected picture; return what its format could not hold."""
    height, width = image.pixels.shape[:2]
    pixels = image.pixels
    if image.alpha is not None:  # colours of what is transparent must not bleed
        pixels = np.concatenate((weighted_by_alpha(pixels, image.alpha), image.alpha[..., None]), axis=2)
    with writing(path, image.form(), height=height, width=width, strict=options.strict) as writer:
        for top, rows in corrected_rows(pixels, correction):
            if image.alpha is None:
                writer.write(rows)
            else:
                alpha = rows[..., -1]
                colors = unweighted_by_alpha(rows[..., :-1], alpha, shown_above=_SHOWN_ABOVE)
                writer.write(colors, np.ascontiguousarray(alpha))
            if progress:
                progress(top + len(rows), height)
    return writer.warnings


def _moves(correction: Correction, height: int, width: int) -> NDArray[np.float64]:
    """Return how far the map moves places, in half-diagonals, [h, w, 2] at a small size."""
    factor = max(1, max(height, width) // _WHOLE_PX)
    size = (max(2, height // factor), max(2, width // factor))
    moved = (correction.map_of(*size) - identity_grid(*size)) * correction.frame[:, None, None]
    return np.asarray(moved[0].double().numpy())


def _draw(job: Job, before: Floats, after: Floats, correction: Correction, result: FileResult) -> None:
    """Write before, the lines heard, after, |difference|, the flow as a colour wheel, and the Jacobian."""
    height, width = before.shape[:2]
    moved = _moves(correction, height, width)
    largest = float(np.hypot(moved[..., 0], moved[..., 1]).max())
    grid = correction.map_of(moved.shape[0], moved.shape[1])
    det = jacobian(grid)[0].numpy()
    scale = jacobian_scale(max(0.1, round(float(np.abs(det - 1).max()) + 0.05, 1)))
    flow = flow_colors(moved, largest)
    wheel = flow_wheel(max(24, min(moved.shape[:2]) // 5))
    corner = flow[-len(wheel) :, -len(wheel) :]
    corner[:] = np.where((wheel < 1).any(axis=2, keepdims=True), wheel, corner)
    shown = [_whole(picture, _WHOLE_PX) for picture in (before, after)]
    difference = np.clip(np.abs(shown[1] - shown[0]) * GAIN, 0, 1).astype(np.float32)
    heard = []
    if result.sure is not None:
        curves = curves_of(as_levels(before), correction.frame[0])
        drawn = with_curves(shown[0], curves, correction.frame[0], _STRAIGHT, _BENT)
        heard = [Panel("lines", drawn, f"{counted(len(curves), 'curve')}: green become straight, red stay bent")]
    panels = [
        Panel("before", shown[0]),
        *heard,
        Panel("after", shown[1], str(result.verdict.level)),
        Panel(f"|difference| x{GAIN}", difference),
        Panel("flow", flow, f"up to {result.largest_px:.1f} px"),
        Panel("Jacobian", jacobian_picture(det, scale), f"{det.min():.3f} to {det.max():.3f}", scale),
    ]
    about = "  ".join(f"{name} {value:+.4f}" for name, value in result.params.items() if name != "scale")
    footer = f"{about}  scale {result.params['scale']:.4f}" + (f"  zoom {result.zoom:.3f}" if result.zoom > 1 else "")
    footer += "" if result.sure is None else f"  {100 * result.sure:.0f} % sure"
    assert job.grid is not None
    write_png(job.grid, comparison_grid([panels], heading=job.path.name, footer=footer))


def _whole(pixels: Floats, longest: int) -> Floats:
    """Return the picture as RGB, reduced by means over squares to about `longest` px."""
    factor = max(1, -(-max(pixels.shape[:2]) // longest))
    levels = as_levels(pixels)
    small = levels if factor == 1 else np.asarray(Pillow.fromarray(levels).reduce(factor))
    return small.astype(np.float32) / np.float32(255)

"""A mosaic to rows of a picture: upright, demosaicked tile by tile, and developed; in constant memory besides it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import MlkitError
from mlkit.imaging import shrinking
from mlkit.tasks.demosaic.develop import develop_rows
from mlkit.tasks.demosaic.infer_inputs import Options
from mlkit.tasks.demosaic.raw import RawFrame
from mlkit.tasks.demosaic.restorer import TILE_PX, Restorer
from mlkit.tasks.demosaic.xtrans import PERIOD, colors, transformed, transformed_phase

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]  # (rows done, all rows)
Say = Callable[[str], None]
T = TypeVar("T")

UPRIGHT = {1: 0, 2: 4, 3: 2, 4: 6, 5: 5, 6: 3, 7: 7, 8: 1}  # symmetry (see xtrans.py) that undoes EXIF's orientation
_SMALLEST_TILE_PX = 192


@dataclass(frozen=True, slots=True)
class Plan:
    """How a mosaic is cut: side of the tiles in px, with what is computed around them."""

    tile: int = TILE_PX

    def smaller(self, longest: int) -> Plan | None:
        """Return the next plan to try when memory is short; None at the end."""
        tile = min(self.tile, longest) // 2
        return Plan(tile) if tile >= _SMALLEST_TILE_PX else None


def plan_for(restorer: Restorer, tile: int | None = None) -> Plan:
    """Return the side of the tiles, as asked for.

    Raises:
        MlkitError: when tiles would be all margin.
    """
    least = 3 * restorer.radius
    if tile is not None and tile < least:
        raise MlkitError(
            f"--tile {tile} is too small: {restorer.radius} px on each side are margin; give {least} or more"
        )
    return Plan(tile or TILE_PX)


def upright(frame: RawFrame) -> RawFrame:
    """Return the frame as it is to be seen: every turned X-Trans mosaic is one of another phase.

    Raises:
        DataError: when it is no X-Trans one.
    """
    symmetry = UPRIGHT[frame.orientation]
    phase = frame.phase
    if symmetry == 0:
        return frame
    height, width = frame.mosaic_hw.shape
    turned = np.ascontiguousarray(transformed(frame.mosaic_hw, symmetry))
    pattern = colors(PERIOD, PERIOD, transformed_phase(phase, height, width, symmetry))
    return replace(frame, mosaic_hw=turned, pattern=pattern, orientation=1)


def restored_rows(
    restorer: Restorer, frame: RawFrame, plan: Plan, progress: Progress | None = None
) -> Iterator[tuple[int, Floats]]:
    """Yield (first row, camera RGB [rows, W, 3] in linear light) from top to bottom, as the mosaic lies.

    The network gets the mosaic white-balanced, as in training: details are found where colours rise and fall together,
    and those of a sensor do so only then. What is yielded is not balanced.

    Raises:
        DataError: when it is no X-Trans mosaic, or smaller than the pattern.
        NonFiniteError: when the network gives NaN or infinity.
    """
    height, width = frame.mosaic_hw.shape
    multipliers = np.asarray(frame.wb, np.float32)
    balanced = frame.mosaic_hw * multipliers[colors(height, width, frame.phase)]
    for top, rows in restorer.rows(balanced, frame.phase, tile=plan.tile):
        yield top, rows / multipliers
        if progress:
            progress(top + len(rows), height)


def developed(camera_rgb: Floats, frame: RawFrame, options: Options, *, linear: bool = False) -> Floats:
    """Return camera RGB [..., W, 3] as sRGB in [0, 1], encoded unless `linear`."""
    made = develop_rows(
        camera_rgb, frame, highlights=options.highlights, exposure_stops=options.exposure_stops, linear=linear
    )
    return np.clip(made, 0.0, 1.0).astype(np.float32, copy=False)


def with_memory(
    attempt: Callable[[Plan], T], plan: Plan, *, height: int, width: int, say: Say | None = None
) -> tuple[T, Plan]:
    """Return what `attempt` makes under the first plan that fits into memory, and that plan.

    Raises:
        MemoryShortError: when even small tiles do not fit.
    """

    def told(plan: Plan, smaller: Plan) -> None:
        if say:
            say(f"out of memory with tiles of {plan.tile} px, trying {smaller.tile} px")

    return shrinking.with_memory(
        attempt,
        plan,
        lambda plan: plan.smaller(max(height, width)),
        on_retry=told,
        when_short=lambda plan: (
            f"out of memory with tiles of {plan.tile} px, for a picture of {width} x {height} px; free some memory"
        ),
    )

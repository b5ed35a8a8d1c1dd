"""Images of any size through one-step super-resolution: enlarged, restored in overlapping tiles, colours fixed.

Attention sees its whole tile, so tiles are not exactly what the whole image would give: neighbours share `overlap` px,
over which one fades into the other. In memory are the input as it is given and one band of tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from mlkit.errors import MlkitError
from mlkit.imaging import shrinking
from mlkit.imaging.alpha import unweighted_by_alpha, weighted_by_alpha
from mlkit.imaging.tiling import tile_starts, tiled_rows
from mlkit.tasks.sr.colors import fixed_colors
from mlkit.tasks.sr.infer_inputs import ColorFix
from mlkit.tasks.sr.restorer import Restorer
from mlkit.tasks.sr.shifts import shifted

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]  # (rows done, all rows)
Say = Callable[[str], None]
T = TypeVar("T")

SMALL_PARAMETERS = 100_000_000
_SMALL_SIDES = (104, 112, 120)  # px; quality is that of 112
_ATTENTION_PX = 220  # side of a tile in which attention of the small base costs as much as all else
_ALPHA_SHOWN = 1e-4  # of an interpolated alpha; below, a colour divided by it is noise


@dataclass(frozen=True, slots=True)
class Plan:
    """How an image is cut: side and overlap of the tiles in px, how many go through the model at once, and how often.

    shifts: 1, or 2 or 4 to restore each tile so often, on grids of tokens that lie half a token apart, and blend.
    sides: tiles from which each image gets the one that leaves least over; empty: `tile` for all.
    """

    tile: int
    overlap: int
    batch: int
    shifts: int = 1
    sides: tuple[int, ...] = ()

    def fitted(self, height: int, width: int) -> Plan:
        """Return the plan with the side of `sides` that makes least work of an image of this size."""

        def work(side: int) -> float:
            tiles = [len(tile_starts(length, side, self.overlap)) for length in (height, width)]
            return tiles[0] * tiles[1] * side**2 * (1 + (side / _ATTENTION_PX) ** 2)

        return replace(self, tile=min(self.sides, key=work)) if self.sides else self

    def smaller(self, multiple: int, longest: int) -> Plan | None:
        """Return the next plan to try when memory is short: fewer tiles at once, then smaller ones; None at the end.

        Args:
            multiple: px that sides must divide by.
            longest: side of the image, beyond which tiles are not what they are called.
        """
        if self.batch > 1:
            return replace(self, batch=self.batch // 2)
        used = min(self.tile, _up(longest, multiple))
        tile = _up(used // 2, multiple)
        overlap = min(self.overlap, tile // 4 // multiple * multiple)
        return Plan(tile, overlap, 1, self.shifts) if 2 * multiple <= tile < used else None


def plan_for(
    restorer: Restorer,
    tile: int | None = None,
    overlap: int | None = None,
    batch: int | None = None,
    shifts: int = 1,
) -> Plan:
    """Return side, overlap and number of the tiles as they will be used: multiples of what the base asks for.

    Args:
        restorer: a base below 100 M parameters gets eight tiles of about 112 px a worker at once: near the size of
            its training crops, beyond which attention costs more and quality falls. A larger base gets single tiles
            of 1024 px.
        tile, overlap: as asked for, in px; the overlap is by default 8 px for the small base, where 16 px gained
            0.003 dB for a fifth more time, and an eighth of the tile for a large one.
        batch: tiles at once.
        shifts: as in `Plan`.

    Raises:
        MlkitError: when the overlap leaves nothing of the tiles.
    """
    multiple = restorer.multiple
    is_small = restorer.num_parameters < SMALL_PARAMETERS
    side = _up(tile or (112 if is_small else 1024), multiple)
    shared = _up((8 if is_small else side // 8) if overlap is None else overlap, multiple)
    if 2 * shared > side:
        raise MlkitError(f"--overlap {shared} is more than half of tiles of {side} px; give {side // 2} or less")
    sides = tuple(sorted({_up(one, multiple) for one in _SMALL_SIDES})) if is_small and tile is None else ()
    return Plan(side, shared, batch or (8 * restorer.workers if is_small else 1), shifts, sides)


class Enlarged:
    """An image `scale` times as large per side by bicubic interpolation (Keys 1981), made a few rows at a time.

    The same values as `imaging.resize.upscale`, to rounding. With alpha the colours are weighted by it while they are
    interpolated, so that what is transparent does not bleed into what is not.

    Args:
        pixels_hwc: float32 [h, w, 1 or 3] in [0, 1]; grey becomes three equal channels.
        scale: at least 1; sides are rounded to whole pixels.
        alpha_hw: float32 [h, w] in [0, 1].
    """

    def __init__(self, pixels_hwc: Floats, scale: float, alpha_hw: Floats | None = None) -> None:
        if not (math.isfinite(scale) and scale >= 1):
            raise MlkitError(f"an image cannot be enlarged {scale:g} times; give --scale 1 (as it is) or more")
        self._size = pixels_hwc.shape[:2]
        self.height, self.width = (round(side * scale) for side in self._size)
        self.is_grey = pixels_hwc.shape[2] == 1
        self._planes = [Pillow.fromarray(plane) for plane in _planes(pixels_hwc)]
        self._alpha: Pillow.Image | None = None
        self._weighted: list[Pillow.Image] = []
        if alpha_hw is not None:
            self._alpha = Pillow.fromarray(np.ascontiguousarray(alpha_hw, dtype=np.float32))
            if float(alpha_hw.min()) < 1:
                weighted = weighted_by_alpha(pixels_hwc, alpha_hw)
                self._weighted = [Pillow.fromarray(plane) for plane in _planes(weighted)]

    def rows(self, top: int, bottom: int) -> Floats:
        """Return rows `top` to `bottom` (exclusive), [3, rows, W] float32 in [0, 1]."""
        band = np.stack([self._resized(plane, top, bottom) for plane in self._planes])
        if self._weighted:
            assert self._alpha is not None
            weighted_hwc = np.stack([self._resized(plane, top, bottom) for plane in self._weighted], axis=2)
            hidden_hwc = np.moveaxis(band, 0, 2)
            # By the alpha that was interpolated with them: cut to [0, 1] it would shift the colours at edges.
            alpha_hw = self._resized(self._alpha, top, bottom)
            straight = unweighted_by_alpha(weighted_hwc, alpha_hw, hidden_hwc, shown_above=_ALPHA_SHOWN)
            band = np.moveaxis(straight, 2, 0)
        band = np.clip(band, 0.0, 1.0)
        return np.broadcast_to(band, (3, *band.shape[1:])) if self.is_grey else band

    def alpha(self, top: int, bottom: int) -> Floats:
        """Return rows of the enlarged alpha, [rows, W]."""
        assert self._alpha is not None
        return np.clip(self._resized(self._alpha, top, bottom), 0.0, 1.0)

    def _resized(self, plane: Pillow.Image, top: int, bottom: int) -> Floats:
        height, width = self._size
        if (self.height, self.width) == (height, width):
            return np.array(plane.crop((0, top, width, bottom)), dtype=np.float32)
        ratio = height / self.height
        box = (0, top * ratio, width, min(bottom * ratio, height))
        return np.array(plane.resize((self.width, bottom - top), Pillow.Resampling.BICUBIC, box=box), dtype=np.float32)


def restored_bands(
    restorer: Restorer,
    enlarged: Enlarged,
    plan: Plan,
    *,
    sr_scales: Sequence[float] = (1.0,),
    steps: int = 1,
    color_fix: ColorFix = "none",
    adapted: bool = True,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Floats]]:
    """Yield (first row, [S, rows, W, 3] in [0, 1]) from top to bottom, one image for each of S sr_scales.

    Args:
        restorer: the model.
        enlarged: the input.
        plan: how it is cut.
        sr_scales, steps, adapted: as in `Restorer`.
        color_fix: as in `fixed_colors`.
        progress: told the rows.

    Raises:
        NonFiniteError: when the model gives NaN or infinity.
    """
    height, width, channels = enlarged.height, enlarged.width, 3 * len(sr_scales)

    def apply(tiles_nchw: Floats) -> Floats:
        return restorer(tiles_nchw, sr_scales=sr_scales, steps=steps, adapted=adapted)

    def apply_shifted(tiles_nchw: Floats) -> Floats:
        made = shifted(apply, tiles_nchw, plan.shifts, restorer.multiple)
        if 0.0 in sr_scales:  # whose result is the round trip itself
            plain = restorer(tiles_nchw, sr_scales=(0.0,))
            for index in (index for index, sr_scale in enumerate(sr_scales) if sr_scale == 0):
                made[:, 3 * index : 3 * index + 3] = plain
        return made

    tiled = tiled_rows(
        apply_shifted if plan.shifts > 1 else apply,
        enlarged.rows,
        height=height,
        width=width,
        channels_out=channels,
        tile=plan.tile,
        overlap=plan.overlap,
        blend=plan.overlap,
        multiple=restorer.multiple,
        batch=plan.batch,
    )
    for top, band in fixed_colors(tiled, enlarged.rows, height, color_fix):
        images = np.moveaxis(band.reshape(len(sr_scales), 3, -1, width), 1, 3)
        yield top, np.clip(images, 0.0, 1.0)
        if progress:
            progress(top + band.shape[1], height)


def restore(
    restorer: Restorer,
    enlarged: Enlarged,
    plan: Plan,
    *,
    sr_scales: Sequence[float] = (1.0,),
    steps: int = 1,
    color_fix: ColorFix = "none",
    adapted: bool = True,
    say: Say | None = None,
) -> tuple[list[Floats], Plan]:
    """Return a restored image [H, W, 3] in [0, 1] for each sr_scale, and the plan that fitted into memory.

    Args:
        restorer, enlarged, sr_scales, steps, color_fix, adapted: as in `restored_bands`.
        plan: tiles to begin with; smaller ones are tried when memory is short.
        say: told of smaller tiles.

    Raises:
        NonFiniteError: when the model gives NaN or infinity.
        MemoryShortError: when even small tiles do not fit.
    """

    def attempt(plan: Plan) -> list[Floats]:
        made = np.empty((len(sr_scales), enlarged.height, enlarged.width, 3), dtype=np.float32)
        for top, images in restored_bands(
            restorer, enlarged, plan, sr_scales=sr_scales, steps=steps, color_fix=color_fix, adapted=adapted
        ):
            made[:, top : top + images.shape[1]] = images
        return list(made)

    return with_memory(attempt, restorer, enlarged, plan, say)


def with_memory(
    attempt: Callable[[Plan], T], restorer: Restorer, enlarged: Enlarged, plan: Plan, say: Say | None = None
) -> tuple[T, Plan]:
    """Return what `attempt` makes under the first plan that fits into memory, and that plan; see `restore`."""
    longest = max(enlarged.height, enlarged.width)
    plan = plan.fitted(enlarged.height, enlarged.width)

    def told(plan: Plan, smaller: Plan) -> None:
        if say:
            say(
                f"out of memory with {plan.batch} tiles of {plan.tile} px at once, trying {smaller.batch} of "
                f"{smaller.tile} px"
            )

    return shrinking.with_memory(
        attempt,
        plan,
        lambda plan: plan.smaller(restorer.multiple, longest),
        on_retry=told,
        when_short=lambda plan: (
            f"out of memory with single tiles of {plan.tile} px, for a result of {enlarged.width} x "
            f"{enlarged.height} px; free some memory, or ask for fewer values of --sr-scale or a smaller --scale"
        ),
    )


def _up(length: int, multiple: int) -> int:
    """Return the next multiple."""
    return -(-length // multiple) * multiple


def _planes(pixels_hwc: Floats) -> Floats:
    return np.ascontiguousarray(np.moveaxis(pixels_hwc, 2, 0), dtype=np.float32)

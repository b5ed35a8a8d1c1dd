"""The network opened for use: a mosaic of any size in, linear RGB out, tile by tile in constant memory.

What a pixel becomes depends on the mosaic within `radius` px of it. So each tile is computed with that much around it,
cut off again: seams cannot be seen, since up to rounding there are none.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from mlkit.checkpoint import load_weights, open_checkpoint
from mlkit.errors import CheckpointError, DataError, NonFiniteError
from mlkit.tasks.demosaic.model import XTransNet
from mlkit.tasks.demosaic.settings import DemosaicModel
from mlkit.tasks.demosaic.xtrans import CELL, PERIOD, Phase, moved

Floats = NDArray[np.float32]
Precision = Literal["auto", "fp32", "bf16"]
Span = tuple[int, int]

TILE_PX = 1152  # with what is computed around it, which is a fifth of the work; half the side would make it a half


class Restorer:
    """A network that is asked for whole mosaics; in eval mode, without gradients.

    Args:
        net: maps mosaics [B, 1, H, W] and their phases [B, 2] to linear RGB [B, 3, H, W].
        device: where it runs.
        precision: number format of the products; auto is bf16 where the machine has it.
        name: of the checkpoint, for messages.
    """

    def __init__(self, net: XTransNet, *, device: torch.device, precision: Precision = "auto", name: str) -> None:
        self.net = copy.deepcopy(net).to(device).eval().requires_grad_(False)
        self.device, self.name = device, name
        # Of whole cells: beyond an image's last pixel the network fills up cells, as many as its first one leaves.
        self.radius = -(-net.reach // CELL) * CELL
        self.num_parameters = sum(parameter.numel() for parameter in net.parameters())
        self.precision = "bf16" if precision == "bf16" or (precision == "auto" and _has_bf16(device)) else "fp32"
        if self.precision == "bf16":
            _to_bf16(self.net)
        # One thread a tile instead of all threads in each product: they do not wait for one another.
        self.workers = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, mosaic_hw: Floats, phase: Phase, *, tile: int = TILE_PX) -> Floats:
        """Return linear RGB [H, W, 3] float32, not clipped, in the scale of the mosaic.

        Args:
            mosaic_hw: [H, W], linear, each side 6 px or more.
            phase: of its top-left pixel.
            tile: side of the tiles in px.

        Raises:
            DataError: when the mosaic is smaller than the pattern.
            NonFiniteError: when the network gives NaN or infinity.
        """
        made = np.empty((*mosaic_hw.shape, 3), dtype=np.float32)
        for top, rows in self.rows(mosaic_hw, phase, tile=tile):
            made[top : top + len(rows)] = rows
        return made

    def rows(self, mosaic_hw: Floats, phase: Phase, *, tile: int = TILE_PX) -> Iterator[tuple[int, Floats]]:
        """Yield (first row, linear RGB [rows, W, 3]) from top to bottom; see `__call__`."""
        height, width = mosaic_hw.shape
        if min(height, width) < PERIOD:
            raise DataError(
                f"a mosaic of {width} x {height} px is smaller than the pattern; each side must be {PERIOD} px or more"
            )
        bands, columns = (spans(side, tile, self.radius) for side in (height, width))
        places = [(rows, cols) for rows in bands for cols in columns]
        made: Floats | None = None
        for (rows, cols), part in zip(places, self._tiles(mosaic_hw, phase, places), strict=True):
            if made is None:
                made = np.empty((rows[1] - rows[0], width, 3), dtype=np.float32)
            made[:, cols[0] : cols[1]] = part
            if cols[1] == width:
                yield rows[0], made
                made = None

    def _tiles(self, mosaic_hw: Floats, phase: Phase, places: list[tuple[Span, Span]]) -> Iterator[Floats]:
        """Yield the RGB [h, w, 3] of each place, in order."""
        if self.workers == 1 or len(places) == 1:
            for rows, cols in places:
                yield self._tile(mosaic_hw, phase, rows, cols)
            return
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # for all threads of the matrix library, and below for each of OpenMP
        waiting: deque[Future[Floats]] = deque()
        try:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,))
            for rows, cols in places:
                waiting.append(self._pool.submit(self._tile, mosaic_hw, phase, rows, cols))
                if len(waiting) > 2 * self.workers:  # no more ahead: finished tiles cost memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(before)

    def _tile(self, mosaic_hw: Floats, phase: Phase, rows: Span, cols: Span) -> Floats:
        """Return the RGB of a place, computed with what lies around it."""
        top, left = max(0, rows[0] - self.radius), max(0, cols[0] - self.radius)
        seen = mosaic_hw[top : rows[1] + self.radius, left : cols[1] + self.radius]
        given = torch.from_numpy(np.ascontiguousarray(seen, dtype=np.float32))[None, None].to(self.device)
        told = torch.tensor([moved(phase, top, left)], device=self.device)
        with torch.inference_mode():
            rgb = self.net(given, told)[0, :, rows[0] - top : rows[1] - top, cols[0] - left : cols[1] - left]
            made: Floats = rgb.permute(1, 2, 0).cpu().numpy()
        if not np.isfinite(made).all():
            raise NonFiniteError(
                f"{self.name} gives values that are not finite in {self.precision}; try --precision fp32, and if that "
                "does not help its weights are unusable"
            )
        return made


def spans(side: int, tile: int, radius: int) -> list[Span]:
    """Return first and last (exclusive) px of what each tile along an axis is to give, as even as can be.

    They begin at multiples of the pattern's period. Tiles have up to `tile` px with `radius` px around them, and give
    `radius` px at least, however small `tile` is.
    """
    if side <= tile:
        return [(0, side)]
    core = max(tile - 2 * radius, radius) // PERIOD * PERIOD
    count = -(-side // core)
    step = -(-side // count)
    step = -(-step // PERIOD) * PERIOD
    return [(start, min(start + step, side)) for start in range(0, side, step)]


def open_restorer(
    checkpoint: Path | None = None, *, device: torch.device | None = None, precision: Precision = "auto"
) -> Restorer:
    """Return the network of a checkpoint, with averaged weights where there are some; by default that in the package.

    Raises:
        CheckpointError: when it is absent, damaged, or of another task.
        NonFiniteError: when a weight is NaN or infinite.
    """
    folder = embedded_folder() if checkpoint is None else checkpoint
    if checkpoint is None and not (folder / "checkpoint.json").is_file():
        raise CheckpointError(f"this installation has no embedded model ({folder}); give --checkpoint")
    opened = open_checkpoint(folder)
    task = opened.info.get("task")
    if task != "demosaic":
        raise CheckpointError(f"checkpoint {folder} is of task '{task}', not 'demosaic'")
    try:
        settings = DemosaicModel.model_validate(opened.info["settings"]["model"])
    except (KeyError, TypeError, ValidationError) as error:
        told = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else "they are missing"
        raise CheckpointError(
            f"checkpoint {folder} cannot be used: its settings of the model are not of this version of mlkit ({told})"
        ) from error
    net = XTransNet(settings)
    load_weights(net, opened, averaged=True)
    for name, value in net.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise NonFiniteError(
                f"checkpoint {folder} has NaN or infinity in {name}, so it is unusable; give another --checkpoint"
            )
    name = "the embedded model" if checkpoint is None else f"checkpoint {folder}"
    return Restorer(net, device=device or torch.device("cpu"), precision=precision, name=name)


def embedded_folder() -> Path:
    """Return where the checkpoint in the package lies."""
    return Path(__file__).parent / "embedded"


def _to_bf16(net: XTransNet) -> None:
    """Let the network compute what it adds in bf16; the interpolation that it adds to stays in float32."""
    for part in (net.head, net.body, net.tail):
        part.to(torch.bfloat16)
    net.head.register_forward_pre_hook(lambda head, given: (given[0].to(torch.bfloat16),))


def _has_bf16(device: torch.device) -> bool:
    """Return whether products of bf16 are faster than those of float32."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

"""Whole scenes through a SAR autoencoder: any size, tiled without seams, dB in and dB out, georeferencing kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from mlkit.errors import DataError, NonFiniteError
from mlkit.files import atomic_file
from mlkit.imaging.grids import Panel, apply_scale, comparison_grid, grayscale, heat, write_png
from mlkit.imaging.tiling import tiled_rows
from mlkit.tasks.sar.formats import GEO_TAGS
from mlkit.tasks.sar.model import Autoencoder
from mlkit.tasks.sar.readers import OpenScene, open_scenes
from mlkit.tasks.sar.settings import Kind
from mlkit.tasks.sar.source import to_unit

MULTIPLE = 16  # four stages of stride 2
BLEND_PX = 16
_NODATA_TAG = 42113
_PREVIEW_PX = 800  # longest side of each picture in the comparison
_ERROR_SHARE = 0.3

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class SceneResult:
    """One reconstructed scene."""

    path: Path  # float32 GeoTIFF in dB, NaN where the scene has no measurement
    picture: Path
    width: int
    height: int
    seconds: float
    psnr_db: float  # of the normalised dB image, over measured pixels
    share_clipped: float  # of the measured pixels outside the model's dB range
    masked: int
    why: str  # how the kind of values was found


@dataclass(slots=True)
class _Sums:
    """What is counted while bands pass."""

    squared_error: float = 0.0
    pixels: int = 0
    clipped: int = 0
    masked: int = 0


def default_overlap(net: Autoencoder) -> int:
    """Return the overlap at which tiles give what the whole scene would: twice the receptive radius, and the blend."""
    return math.ceil((2 * net.receptive_radius_px + BLEND_PX) / MULTIPLE) * MULTIPLE


def infer_scenes(
    net: Autoencoder,
    preprocessing: Mapping[str, Any],
    path: Path,
    out: Path,
    *,
    kind: Kind = "auto",
    tile: int = 512,
    overlap: int | None = None,
    device: torch.device | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[SceneResult]:
    """Reconstruct each image of a file into `out` as NAME_reconstructed.tif, with NAME_compare.png beside it.

    Args:
        net: maps [1, 1, H, W] in [0, 1] to the same, H and W multiples of 16; in eval mode.
        preprocessing: of the checkpoint: db_min and db_max.
        path: a scene in any format that datasets are built from.
        out: folder, made when absent.
        kind: what the values are.
        tile: side of the tiles in px; enlarged where the overlap needs it, halved when memory is short.
        overlap: px that tiles share; None takes what the receptive field asks for.
        device: where `net` is.
        overwrite: replace results that exist.
        progress: told (text, done rows, all rows).

    Raises:
        DataError: for an unreadable scene, or a result that exists.
        NonFiniteError: when the model gives NaN or infinity.
    """
    scenes = open_scenes(path, kind)
    targets = [(out / f"{_stem(scene)}_reconstructed.tif", out / f"{_stem(scene)}_compare.png") for scene in scenes]
    taken = [str(place) for pair in targets for place in pair if place.exists()]
    if taken and not overwrite:
        raise DataError(f"{taken[0]} exists; give another --out, or --overwrite to replace it")
    shared = default_overlap(net) if overlap is None else math.ceil(overlap / MULTIPLE) * MULTIPLE
    side = max(math.ceil(tile / MULTIPLE) * MULTIPLE, 2 * shared)
    results = []
    for scene, (target, picture) in zip(scenes, targets, strict=True):
        while True:
            try:
                result = _one(net, preprocessing, scene, target, picture, side, shared, device, progress)
                break
            except torch.OutOfMemoryError:
                smaller = side // 2 // MULTIPLE * MULTIPLE
                if smaller <= shared:
                    raise
                if progress:
                    progress(f"out of memory with tiles of {side} px, trying {smaller}", 0, 1)
                side = smaller
        results.append(result)
    return results


def _stem(scene: OpenScene) -> str:
    return scene.name.replace("#", "_")


def _one(
    net: Autoencoder,
    preprocessing: Mapping[str, Any],
    scene: OpenScene,
    target: Path,
    picture: Path,
    side: int,
    overlap: int,
    device: torch.device | None,
    progress: Progress | None,
) -> SceneResult:
    started_s = perf_counter()
    height, width = scene.shape
    db_min, db_max = float(preprocessing["db_min"]), float(preprocessing["db_max"])
    sums = _Sums()
    step = max(1, math.ceil(max(height, width) / _PREVIEW_PX))  # the picture is thinned, the result is not
    original_rows: list[NDArray[np.float32]] = []
    made_rows: list[NDArray[np.float32]] = []

    def apply(tile_chw: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            output: NDArray[np.float32] = net(torch.from_numpy(tile_chw[None]).to(device))[0].float().cpu().numpy()
        if not np.isfinite(output).all():
            raise NonFiniteError(f"{scene.name}: the model gives values that are not finite; its weights are unusable")
        return output

    def read(top: int, bottom: int) -> NDArray[np.float32]:
        db, _ = scene.window(top, 0, bottom - top, width)
        return to_unit(db, db_min, db_max)[None]

    def bands() -> Iterator[NDArray[np.float32]]:
        tiles = tiled_rows(
            apply, read, height=height, width=width, channels_out=1, tile=side, overlap=overlap,
            blend=min(BLEND_PX, overlap), multiple=MULTIPLE,
        )  # fmt: skip
        for top, unit in tiles:
            db, _ = scene.window(top, 0, unit.shape[1], width)
            valid = np.isfinite(db)
            made = (unit[0].clip(0, 1) * np.float32(db_max - db_min) + np.float32(db_min)).astype(np.float32)
            made[~valid] = np.nan
            clipped = (db < db_min) | (db > db_max)
            difference = (made - np.clip(db, db_min, db_max))[valid] / (db_max - db_min)
            sums.squared_error += float(np.square(difference, dtype=np.float64).sum())
            sums.pixels += int(valid.sum())
            sums.clipped += int((clipped & valid).sum())
            sums.masked += int((~valid).sum())
            first = -top % step
            original_rows.append(db[first::step, ::step])
            made_rows.append(made[first::step, ::step])
            if progress:
                progress(scene.name, top + unit.shape[1], height)
            yield from made

    with atomic_file(target) as partial:
        _write_tiff(partial, bands(), (height, width), scene)
    if sums.pixels == 0:
        target.unlink()
        raise DataError(f"{scene.path} ({scene.name}) has no valid pixel, read as {scene.kind}")
    mse = sums.squared_error / sums.pixels
    psnr_db = -10 * math.log10(mse) if mse else math.inf
    _draw(picture, scene.name, np.concatenate(original_rows), np.concatenate(made_rows), db_min, db_max, psnr_db)
    return SceneResult(
        path=target,
        picture=picture,
        width=width,
        height=height,
        seconds=perf_counter() - started_s,
        psnr_db=psnr_db,
        share_clipped=sums.clipped / sums.pixels,
        masked=sums.masked,
        why=scene.why,
    )


def _write_tiff(path: Path, rows: Iterator[NDArray[np.float32]], shape: tuple[int, int], scene: OpenScene) -> None:
    """Write float32 dB from rows, one after the other, with the scene's georeferencing."""
    tags = [tag for tag in scene.geotags or () if tag[0] in GEO_TAGS and tag[0] != _NODATA_TAG]
    nodata = (_NODATA_TAG, 2, 0, "nan", True)
    # Strips of one row come from an iterator, so the whole scene is never in memory.
    strips = (row.tobytes() for row in rows)
    tifffile.imwrite(
        path,
        strips,
        shape=shape,
        dtype=np.float32,
        rowsperstrip=1,
        photometric="minisblack",
        metadata=None,
        description="backscatter in dB, reconstructed",
        software="mlkit",
        extratags=[*((*tag, True) for tag in tags), nodata],
    )


def _draw(
    path: Path,
    name: str,
    original_db: NDArray[np.float32],
    made_db: NDArray[np.float32],
    db_min: float,
    db_max: float,
    psnr_db: float,
) -> None:
    db = grayscale("backscatter (dB)", db_min, db_max)
    error = heat("|difference| (dB)", 0.0, _ERROR_SHARE * (db_max - db_min))
    panels = [
        Panel("Original", apply_scale(original_db, db), "", db),
        Panel("Reconstructed", apply_scale(made_db, db), f"PSNR {psnr_db:.2f} dB over all measured pixels", db),
        Panel("|difference|", apply_scale(np.abs(made_db - original_db), error), "", error),
    ]
    write_png(path, comparison_grid([panels], heading=name))

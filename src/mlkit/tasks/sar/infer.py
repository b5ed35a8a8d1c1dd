"""Whole scenes through a SAR autoencoder: any size, tiled without seams, dB in and dB out, georeferencing kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

from mlkit.errors import DataError, MemoryShortError, NonFiniteError
from mlkit.files import atomic_file
from mlkit.imaging.tiling import tiled_rows
from mlkit.tasks.sar.formats import GEO_TAGS, GeoTag
from mlkit.tasks.sar.model import MULTIPLE, Autoencoder
from mlkit.tasks.sar.readers import OpenScene, open_scenes
from mlkit.tasks.sar.resample import Looks, measure_looks, put_speckle_back
from mlkit.tasks.sar.settings import Kind
from mlkit.tasks.sar.source import to_unit
from mlkit.tasks.sar.summary import Summary

BLEND_PX = 16
RESULT_SUFFIXES = ("_reconstructed", "_compare")
_NODATA_TAG = 42113

Progress = Callable[[str, int, int], None]
Speckle = Literal["none", "resample"]


@dataclass(frozen=True, slots=True)
class SceneResult:
    """One reconstructed scene."""

    path: Path  # float32 GeoTIFF in dB, NaN where the scene has no measurement
    picture: Path
    width: int
    height: int
    tile: int  # side of the tiles that were used, px
    seconds: float
    psnr_db: float  # of the normalised dB image, over measured pixels
    rmse_db: float
    share_clipped: float  # of the measured pixels outside the model's dB range
    masked: int
    why: str  # how the kind of values was found
    speckle: str  # what the result holds of it, in words
    enl_ratio: float  # of the result over the scene; NaN where no window is homogeneous


def default_overlap(net: Autoencoder) -> int:
    """Return the overlap at which tiles give what the whole scene would: twice the receptive radius, and the blend."""
    return _multiple(2 * net.receptive_radius_px + BLEND_PX)


def tile_plan(net: Autoencoder, tile: int | None = None, overlap: int | None = None) -> tuple[int, int]:
    """Return side and overlap of the tiles, in px, as they will be used.

    Args:
        net: what the overlap is for.
        tile: the side asked for; it becomes at least twice the overlap. None: three times the overlap and at least
            512, with which each pixel is computed 2.3 times at most.
        overlap: asked for; None: `default_overlap`.
    """
    shared = default_overlap(net) if overlap is None else _multiple(overlap)
    if tile is None:
        return max(512, 3 * shared), shared
    return max(_multiple(tile), 2 * shared), shared


def infer_scenes(
    net: Autoencoder,
    preprocessing: Mapping[str, Any],
    path: Path,
    out: Path,
    *,
    kind: Kind = "auto",
    tile: int | None = None,
    overlap: int | None = None,
    device: torch.device | None = None,
    speckle: Speckle = "none",
    seed: int = 0,
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
        tile: side of the tiles in px, as in `tile_plan`; halved when memory is short.
        overlap: px that tiles share; None takes what the receptive field asks for.
        device: where `net` is.
        speckle: none leaves what the model made, which is smoother than the scene; resample puts new speckle in place
            of what it lost, so that the number of looks is the scene's.
        seed: of that speckle.
        overwrite: replace results that exist.
        progress: told (text, done rows, all rows).

    Raises:
        DataError: for an unreadable scene, or a result that exists.
        NonFiniteError: when the model gives NaN or infinity.
        MemoryShortError: when even small tiles do not fit.
    """
    scenes = open_scenes(path, kind)
    made, compared = RESULT_SUFFIXES
    targets = [(out / f"{_stem(scene)}{made}.tif", out / f"{_stem(scene)}{compared}.png") for scene in scenes]
    taken = [str(place) for pair in targets for place in pair if place.exists()]
    if taken and not overwrite:
        raise DataError(f"{taken[0]} exists; give another --out, or --overwrite to replace it")
    side, shared = tile_plan(net, tile, overlap)
    results = []
    for scene, (target, picture) in zip(scenes, targets, strict=True):
        while True:
            try:
                results.append(
                    _one(net, preprocessing, scene, target, picture, side, shared, device, speckle, seed, progress)
                )
                break
            except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
                if not _is_out_of_memory(error):
                    raise
            smaller = _smaller(side, shared, scene.shape)
            if smaller is None:
                raise MemoryShortError(
                    f"{path}: out of memory with tiles of {side} px; free some memory, or give --overlap 0, with "
                    "which tiles may be small but show seams"
                )
            if progress:
                progress(f"out of memory with tiles of {side} px, trying {smaller}", 0, 1)
            side = smaller
    return results


def _smaller(side: int, overlap: int, shape: tuple[int, int]) -> int | None:
    """Return half the side, but no less than what still advances a little from tile to tile; None when it is that."""
    used = min(side, _multiple(max(shape)))  # a scene smaller than the tile was one tile of its own size
    smaller = max(used // 2 // MULTIPLE * MULTIPLE, overlap + 4 * MULTIPLE)
    return smaller if smaller < used else None


def _is_out_of_memory(error: BaseException) -> bool:
    # On a CPU torch raises a plain RuntimeError: "DefaultCPUAllocator: can't allocate memory".
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or ("allocate" in text and "memory" in text)


def _multiple(length: int) -> int:
    return math.ceil(length / MULTIPLE) * MULTIPLE


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
    speckle: Speckle,
    seed: int,
    progress: Progress | None,
) -> SceneResult:
    started_s = perf_counter()
    height, width = scene.shape
    db_min, db_max = float(preprocessing["db_min"]), float(preprocessing["db_max"])
    seen = Summary(scene.shape, db_min, db_max)

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
            made = (unit[0].clip(0, 1) * np.float32(db_max - db_min) + np.float32(db_min)).astype(np.float32)
            made[np.isnan(db)] = np.nan
            seen.add(top, db, made)
            if progress:
                progress(scene.name, top + unit.shape[1], height)
            yield from made

    with atomic_file(target) as partial:
        about = f"speckle resampled, seed {seed}" if speckle == "resample" else "no speckle put back"
        write_db_tiff(partial, bands(), (height, width), scene.geotags, f"backscatter in dB, reconstructed, {about}")
        if not seen.num_valid:  # before the result takes its place: an older one stays
            raise DataError(f"{scene.path} ({scene.name}) has no valid pixel, read as {scene.kind}")
        told, looks = _with_speckle(partial, scene, speckle, seed, db_min, db_max)
        if speckle == "resample":
            seen = _seen_again(partial, scene, db_min, db_max)
    seen.draw(picture, scene.name)
    return SceneResult(
        path=target,
        picture=picture,
        width=width,
        height=height,
        tile=side,
        seconds=perf_counter() - started_s,
        psnr_db=seen.psnr_db,
        rmse_db=seen.rmse_db,
        share_clipped=seen.num_clipped / seen.num_valid,
        masked=height * width - seen.num_valid,
        why=scene.why,
        speckle=told,
        enl_ratio=looks.ratio,
    )


def _with_speckle(
    path: Path, scene: OpenScene, speckle: Speckle, seed: int, db_min: float, db_max: float
) -> tuple[str, Looks]:
    """Measure the looks of a written reconstruction, put speckle back where asked for, and tell what was done."""
    made = tifffile.memmap(path, mode="r+" if speckle == "resample" else "r")
    width = scene.shape[1]

    def original(top: int, bottom: int) -> NDArray[np.float32]:
        return scene.window(top, 0, bottom - top, width)[0]

    def result(top: int, bottom: int) -> NDArray[np.float32]:
        return np.asarray(made[top:bottom])

    before = measure_looks(original, result, scene.shape, db_min, db_max)
    known = math.isfinite(before.original) and math.isfinite(before.made)
    if speckle == "none":
        return "none put back" + (f", ENL ratio {before.ratio:.2f}" if known else ""), before
    if not math.isfinite(before.original):
        raise DataError(
            f"{scene.path} ({scene.name}): no window of 25 px is homogeneous enough to measure its speckle; "
            f"use --speckle none"
        )
    if math.isinf(before.missing):
        return f"none missing, so none put back, ENL ratio {before.ratio:.2f}", before
    put_speckle_back(made, scene.name, before, seed)
    made.flush()
    after = measure_looks(original, result, scene.shape, db_min, db_max)
    was = f"{before.ratio:.2f}" if known else "unbounded"
    told = f"resampled to {before.original:.1f} looks, seed {seed}, ENL ratio {after.ratio:.2f} ({was} before)"
    return told, after


def _seen_again(path: Path, scene: OpenScene, db_min: float, db_max: float) -> Summary:
    """Return the summary of a result after speckle was put back."""
    seen = Summary(scene.shape, db_min, db_max)
    made = tifffile.memmap(path, mode="r")
    for top in range(0, scene.shape[0], 256):
        rows = np.array(made[top : top + 256])
        seen.add(top, scene.window(top, 0, len(rows), scene.shape[1])[0], rows)
    return seen


def write_db_tiff(
    path: Path,
    rows: Iterator[NDArray[np.float32]],
    shape: tuple[int, int],
    geotags: Sequence[GeoTag] | None,
    description: str,
) -> None:
    """Write float32 dB from rows, one after the other, with the scene's georeferencing."""
    tags = [tag for tag in geotags or () if tag[0] in GEO_TAGS and tag[0] != _NODATA_TAG]
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
        description=description,
        software="mlkit",
        extratags=[*((*tag, True) for tag in tags), nodata],
    )

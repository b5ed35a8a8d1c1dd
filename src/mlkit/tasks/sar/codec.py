"""Whole scenes to coded latents and back, with a SAR autoencoder: any size, in tiles, georeferencing kept.

The encoder's values are whole numbers; those are coded without loss, and the decoder's network makes the scene of them.
A model without quantised latents gets 8 bits a value and a plain coder.

C latent channels, h and w latent rows and columns, S pixels a latent site.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlkit.errors import DataError, NonFiniteError
from mlkit.files import atomic_file
from mlkit.tasks.sar.coding import decode, encode, level_of, whole_prior
from mlkit.tasks.sar.entropy import LARGEST
from mlkit.tasks.sar.infer import write_db_tiff
from mlkit.tasks.sar.latents import OWN, PLAIN, STEP_UNIT, CodedScene, read_coded, to_bytes
from mlkit.tasks.sar.model import MULTIPLE, Autoencoder
from mlkit.tasks.sar.readers import OpenScene
from mlkit.tasks.sar.source import to_unit

if TYPE_CHECKING:
    from mlkit.checkpoint import Checkpoint
    from mlkit.tasks.sar.settings import SarModel

TILE_PX = 512
_FINEST, _COARSEST = STEP_UNIT // 32, 64 * STEP_UNIT - 1  # steps tried for a rate
_EXACTLY = 1024  # the step for a rate is found to one part in so many

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Codec:
    """A model with what its files name it by."""

    net: Autoencoder
    model_id: str
    model_hash: bytes
    db_min: float
    db_max: float
    device: torch.device
    finest_step: float = _FINEST / STEP_UNIT  # below which the model was never trained, by a factor of two

    @property
    def margin_px(self) -> int:
        """What tiles see beyond their own pixels, so that they give what the whole scene would."""
        return -(-self.net.receptive_radius_px // MULTIPLE) * MULTIPLE


def codec_of(net: Autoencoder, checkpoint: Checkpoint, settings: SarModel, device: torch.device) -> Codec:
    """Return the codec of a checkpoint's model, of these settings."""
    info: Mapping[str, Any] = checkpoint.info
    names = [name for name in ("model.safetensors", "ema.safetensors") if name in info["files"]]
    weights = [info["files"][name]["sha256"] for name in names]
    model_hash = hashlib.blake2b("".join(weights).encode(), digest_size=8).digest()
    limits = info["preprocessing"]
    name = f"{info.get('run', checkpoint.folder.parent.name)} {checkpoint.folder.name}"
    finest = max(_FINEST / STEP_UNIT, settings.quantize_steps[0] / 2)
    return Codec(net, name, model_hash, float(limits["db_min"]), float(limits["db_max"]), device, finest)


# ---- scene to file ---------------------------------------------------------------------------------------------------


def encode_scene(codec: Codec, scene: OpenScene, *, step: float = 1.0, bits_per_px: float | None = None) -> CodedScene:
    """Return a scene as coded latents.

    Args:
        codec: the model.
        scene: what to code.
        step: quantisation step; coarser is fewer bytes. Models trained for whole numbers only.
        bits_per_px: choose the step so that the file has at most so many bits a pixel of the scene; not finer than
            half of what the model was trained for, where more bits would make the scene worse.

    Raises:
        DataError: when no pixel is valid; when a rate is asked of a model that has one only, or cannot be reached.
    """
    db_hw = scene.read().db_hw
    unit_hw = to_unit(db_hw, codec.db_min, codec.db_max)
    masked = np.isnan(db_hw)

    def coded(step_units: int) -> CodedScene:
        coder, level, values = _coded_values(codec, unit_hw, step_units)
        return CodedScene(
            model_hash=codec.model_hash,
            model_id=codec.model_id,
            scene=scene.name,
            kind=scene.kind,
            height=db_hw.shape[0],
            width=db_hw.shape[1],
            channels=codec.net.latent_channels,
            coder=coder,
            step_units=step_units,
            level=level,
            db_min=codec.db_min,
            db_max=codec.db_max,
            geotags=scene.geotags,
            masked_hw=masked if masked.any() else None,
            values=values,
        )

    if bits_per_px is None:
        return coded(min(max(1, round(step * STEP_UNIT)), _COARSEST))
    if codec.net.prior is None:
        raise DataError(
            f"{codec.model_id} was not trained for whole numbers, so it has one rate only; leave out --bits-per-px, or "
            f"use a model such as residual_codec_c16"
        )
    budget = int(bits_per_px * db_hw.size / 8)
    tried: dict[int, CodedScene] = {}

    def size_of(step_units: int) -> int:
        tried[step_units] = coded(step_units)
        return len(to_bytes(tried[step_units]))

    step_units = _step_within(budget, size_of, round(codec.finest_step * STEP_UNIT))
    if step_units is None:
        raise DataError(f"{scene.name} cannot be coded in {budget} bytes ({bits_per_px:g} bit/px); give more")
    return tried[step_units]


def _step_within(budget: int, size_of: Callable[[int], int], finest: int = _FINEST) -> int | None:
    """Return the finest step above `finest`, to one part in 1024, whose file fits; None where the coarsest does not.

    Sizes are close to a power of the step, so each guess is where the power law through the two ends meets the budget,
    moved a little past it, so that the other end closes too; where that is slow, the interval is halved.
    """
    low, high = finest, _COARSEST  # a step that costs more than the budget or is too fine, and one that is neither
    if size_of(high) > budget:
        return None
    sizes: dict[int, int] = {}
    guess, fits, turn = STEP_UNIT, False, 0
    while high - low > (close := max(1, low // _EXACTLY)):
        if low in sizes and high in sizes and sizes[low] > sizes[high] and turn % 4 and turn < 8:
            slope = math.log(sizes[low] / sizes[high]) / math.log(high / low)
            guess = round(low * (sizes[low] / budget) ** (1 / slope))
            guess += -close if fits else close
        elif turn:
            guess = round((low * high) ** 0.5)
        guess = min(max(guess, low + 1), high - 1)
        sizes[guess] = size_of(guess)
        fits = sizes[guess] <= budget
        low, high = (low, guess) if fits else (guess, high)
        turn += 1
    return high


def _coded_values(codec: Codec, unit_hw: Floats, step_units: int) -> tuple[int, int, bytes]:
    latent = latent_of(codec, unit_hw, step_units / STEP_UNIT)
    prior = codec.net.prior
    if prior is not None:
        with torch.no_grad():
            whole = prior.whole(torch.from_numpy(latent).to(codec.device), step_units / STEP_UNIT)
        q = whole.cpu().numpy().astype(np.int64)
        return OWN, level_of(q), encode(q, whole_prior(prior))
    import imagecodecs

    scales = np.abs(latent).max(axis=(1, 2)).astype("<f4") / LARGEST
    values = np.rint(latent / np.where(scales > 0, scales, 1)[:, None, None]).astype(np.int8)
    return PLAIN, 0, scales.tobytes() + bytes(imagecodecs.brotli_encode(values.tobytes(), level=11))


def latent_of(codec: Codec, unit_hw: Floats, step: float) -> Floats:
    """Return the latent of a whole scene, [C, h, w], computed in tiles that see as far as the network does."""
    bottom, right = (-side % MULTIPLE for side in unit_hw.shape)
    padded = np.pad(unit_hw, ((0, bottom), (0, right)), mode="edge")

    def apply(tile: NDArray[Any]) -> Floats:
        with torch.no_grad():
            made = codec.net.encode(torch.from_numpy(np.ascontiguousarray(tile[None])).to(codec.device), step)
        return np.asarray(made[0].float().cpu().numpy())

    stride = codec.net.stride
    rows = [band for _, band in _in_tiles(apply, padded[None], 1, stride, codec.margin_px)]
    latent = np.concatenate(rows, axis=1)
    if not np.isfinite(latent).all():
        raise NonFiniteError(f"{codec.model_id} gives values that are not finite; its weights are unusable")
    return latent


# ---- file to scene ---------------------------------------------------------------------------------------------------


def open_coded(codec: Codec, path: Path) -> CodedScene:
    """Return a coded scene that this model made.

    Raises:
        DataError: for a file that is damaged, or of another model.
    """
    coded = read_coded(path)
    if coded.model_hash != codec.model_hash:
        raise DataError(
            f"{path} was coded by {coded.model_id} ({coded.model_hash.hex()}), not by {codec.model_id} "
            f"({codec.model_hash.hex()}); give the run that made it as --checkpoint"
        )
    if coded.channels != codec.net.latent_channels:
        raise DataError(
            f"{path} has {coded.channels} latent channels, {codec.model_id} has {codec.net.latent_channels}"
        )
    return coded


def decoded_rows(codec: Codec, coded: CodedScene) -> Iterator[tuple[int, Floats]]:
    """Yield (top, rows in dB) of a coded scene, NaN where it holds no measurement.

    Raises:
        DataError: when its values are no such latents.
    """
    latent = _decoded_latent(codec, coded)
    span = np.float32(coded.db_max - coded.db_min)
    step = coded.step_units / STEP_UNIT

    def apply(tile: NDArray[Any]) -> Floats:
        with torch.no_grad():
            made = codec.net.decode(torch.from_numpy(np.ascontiguousarray(tile[None])).to(codec.device), step)
        return np.asarray(made[0].float().cpu().numpy())

    stride = codec.net.stride
    for top, band in _in_tiles(apply, latent, stride, 1, codec.margin_px):
        rows = band[0, : coded.height - top, : coded.width].clip(0, 1) * span + np.float32(coded.db_min)
        if coded.masked_hw is not None:
            rows[coded.masked_hw[top : top + len(rows)]] = np.nan
        if len(rows):
            yield top, rows.astype(np.float32)


def decode_scene(codec: Codec, coded: CodedScene, target: Path) -> float:
    """Write a coded scene as float32 dB GeoTIFF and return the seconds that it took."""
    started_s = perf_counter()
    with atomic_file(target) as partial:
        rows = (row for _, band in decoded_rows(codec, coded) for row in band)
        about = f"backscatter in dB, decoded from coded latents of {coded.model_id}, no speckle put back"
        write_db_tiff(partial, rows, (coded.height, coded.width), coded.geotags, about)
    return perf_counter() - started_s


def psnr_of(codec: Codec, coded: CodedScene, scene: OpenScene) -> float:
    """Return the PSNR of what a coded scene decodes to, of the normalised dB image over measured pixels."""
    squares, count = 0.0, 0
    for top, rows in decoded_rows(codec, coded):
        db, _ = scene.window(top, 0, len(rows), coded.width)
        error = (rows - db.clip(coded.db_min, coded.db_max))[np.isfinite(db)].astype(np.float64)
        squares, count = squares + float(np.square(error).sum()), count + error.size
    if not squares:
        return math.inf
    return 20 * math.log10((coded.db_max - coded.db_min) / math.sqrt(squares / count))


def latent_shape(codec: Codec, coded: CodedScene) -> tuple[int, int, int]:
    """Return C, h and w of a coded scene."""
    height, width = (-(-side // MULTIPLE) * MULTIPLE // codec.net.stride for side in (coded.height, coded.width))
    return coded.channels, height, width


def _decoded_latent(codec: Codec, coded: CodedScene) -> Floats:
    shape = latent_shape(codec, coded)
    prior = codec.net.prior
    wrong = f"{coded.scene}: the coded values do not fit {codec.model_id}; make the file again from the scene"
    if (prior is not None) != (coded.coder == OWN):
        raise DataError(wrong)
    if prior is not None:
        try:
            q = decode(coded.values, shape, whole_prior(prior), coded.level)
        except (ValueError, AssertionError) as error:
            raise DataError(wrong) from error
        with torch.no_grad():
            values = torch.from_numpy(q.astype(np.float32)).to(codec.device)
            return np.asarray(prior.restored(values, coded.step_units / STEP_UNIT).cpu().numpy())
    import imagecodecs

    try:
        scales = np.frombuffer(coded.values, "<f4", count=coded.channels)
        content = imagecodecs.brotli_decode(coded.values[scales.nbytes :])
        values_chw = np.frombuffer(content, np.int8).reshape(shape)
    except (ValueError, RuntimeError) as error:
        raise DataError(wrong) from error
    return np.asarray(values_chw * scales[:, None, None], np.float32)


# ---- tiles -----------------------------------------------------------------------------------------------------------


def _in_tiles(
    apply: Callable[[NDArray[Any]], Floats], source_chw: NDArray[Any], unit_in: int, unit_out: int, margin_px: int
) -> Iterator[tuple[int, Floats]]:
    """Yield (top, band) of apply(source) from tiles with margins; a band spans the width.

    Args:
        apply: a network that maps `unit_in` to `unit_out` sites.
        source_chw: what it is applied to.
        unit_in: pixels a site of the source.
        unit_out: pixels a site of the result; `top` is in these.
        margin_px: what a tile sees beyond its own.
    """
    side, margin = TILE_PX // unit_in, margin_px // unit_in
    height, width = source_chw.shape[1:]
    for top in range(0, height, side):
        bands = []
        for left in range(0, width, side):
            y0, x0 = max(0, top - margin), max(0, left - margin)
            y1, x1 = min(height, top + side + margin), min(width, left + side + margin)
            made = apply(source_chw[:, y0:y1, x0:x1])
            first = [(start - begin) * unit_in // unit_out for start, begin in ((top, y0), (left, x0))]
            count = [min(side, end - start) * unit_in // unit_out for start, end in ((top, height), (left, width))]
            bands.append(made[:, first[0] : first[0] + count[0], first[1] : first[1] + count[1]])
        yield top * unit_in // unit_out, np.concatenate(bands, axis=2)

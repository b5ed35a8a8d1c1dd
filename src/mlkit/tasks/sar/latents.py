"""The file of a coded scene, NAME.mlk: whole numbers in few bytes, and what decoding needs beside the model.

magic 4, version 1, checksum 8 (BLAKE2b of all that follows)
fixed part            model 8 (hash of its weights), rows 4, columns 4, latent channels 1, coder 1, step 2 (in 1/1024),
                      level 2 (mean size of the values, in 1/4096), db_min 8, db_max 8, lengths of the four parts below
words                 model id, scene, kind of its values, separated by zero bytes
geotags               deflated JSON; absent for a scene without
mask                  deflated bits of the pixels that hold no measurement; absent where all do
values                of the coder: the model's own probabilities (0), or scales of each channel and Brotli (1)

Numbers are little-endian. Nothing in it is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError
from mlkit.files import atomic_file
from mlkit.tasks.sar.formats import GeoTag

SUFFIX = ".mlk"
OWN, PLAIN = 0, 1  # coders
STEP_UNIT = 1024  # quantisation steps are multiples of 1/1024
_MAGIC, _VERSION = b"\x93MLK", 1
_START = struct.Struct("<4sB8s")
_FIXED = struct.Struct("<8sIIBBHHddHIII")
_LARGEST_SIDE = 1 << 20
_NOT_WHOLE = "is truncated or was altered (checksum); make it again from the scene"


@dataclass(frozen=True, slots=True)
class CodedScene:
    """What a .mlk file holds."""

    model_hash: bytes  # 8
    model_id: str
    scene: str
    kind: str
    height: int
    width: int
    channels: int
    coder: int
    step_units: int
    level: int
    db_min: float
    db_max: float
    geotags: tuple[GeoTag, ...] | None
    masked_hw: NDArray[np.bool_] | None
    values: bytes


def write_coded(path: Path, coded: CodedScene) -> int:
    """Write the file and return its bytes."""
    content = to_bytes(coded)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_bytes(content)
    return len(content)


def to_bytes(coded: CodedScene) -> bytes:
    """Return the content of the file."""
    words = "\0".join((coded.model_id, coded.scene, coded.kind)).encode()
    tags = b"" if coded.geotags is None else zlib.compress(_tags_to_json(coded.geotags), 9)
    mask = b"" if coded.masked_hw is None else zlib.compress(np.packbits(coded.masked_hw).tobytes(), 9)
    fixed = _FIXED.pack(
        coded.model_hash,
        coded.height,
        coded.width,
        coded.channels,
        coded.coder,
        coded.step_units,
        coded.level,
        coded.db_min,
        coded.db_max,
        len(words),
        len(tags),
        len(mask),
        len(coded.values),
    )
    rest = fixed + words + tags + mask + coded.values
    return _START.pack(_MAGIC, _VERSION, _checksum(rest)) + rest


def read_coded(path: Path) -> CodedScene:
    """Return what a .mlk file holds.

    Raises:
        DataError: when it cannot be read, is none, of a newer version, truncated or altered.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not content.startswith(_MAGIC[: len(content)]) or not content:
        raise DataError(f"{path} holds no coded scene; make one with: mlkit infer sar SCENE --latents OUT{SUFFIX}")
    if len(content) < _START.size + _FIXED.size:
        raise DataError(f"{path} {_NOT_WHOLE}")
    _, version, checksum = _START.unpack_from(content)
    if version > _VERSION:
        raise DataError(f"{path} has format version {version}; this mlkit reads up to {_VERSION}: install a newer one")
    rest = content[_START.size :]
    if version < 1 or checksum != _checksum(rest):
        raise DataError(f"{path} {_NOT_WHOLE}")
    try:
        return _parsed(rest)
    except (ValueError, KeyError, TypeError, struct.error, zlib.error) as error:  # a right checksum over something else
        raise DataError(f"{path} {_NOT_WHOLE}") from error


def _parsed(rest: bytes) -> CodedScene:
    model_hash, height, width, channels, coder, step_units, level, db_min, db_max, *lengths = _FIXED.unpack_from(rest)
    ends = np.cumsum([_FIXED.size, *lengths])
    if ends[-1] != len(rest) or not 0 < height <= _LARGEST_SIDE or not 0 < width <= _LARGEST_SIDE:
        raise ValueError("lengths")
    if coder not in (OWN, PLAIN) or not channels or not step_units or not -math.inf < db_min < db_max < math.inf:
        raise ValueError("fields")
    words, tags, mask, values = (rest[start:end] for start, end in pairwise(ends))
    model_id, scene, kind = words.decode().split("\0")
    masked = None
    if mask:
        bits = np.frombuffer(zlib.decompress(mask), np.uint8)
        masked = np.unpackbits(bits, count=height * width).astype(bool).reshape(height, width)
    return CodedScene(
        model_hash=model_hash,
        model_id=model_id,
        scene=scene,
        kind=kind,
        height=height,
        width=width,
        channels=channels,
        coder=coder,
        step_units=step_units,
        level=level,
        db_min=db_min,
        db_max=db_max,
        geotags=_tags_from_json(zlib.decompress(tags)) if tags else None,
        masked_hw=masked,
        values=values,
    )


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()


def _tags_to_json(geotags: tuple[GeoTag, ...]) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        return list(value) if isinstance(value, tuple) else value

    rows = [[code, kind, count, plain(value)] for code, kind, count, value in geotags]
    return json.dumps(rows, separators=(",", ":")).encode()


def _tags_from_json(content: bytes) -> tuple[GeoTag, ...]:
    def value_of(value: Any) -> Any:
        if isinstance(value, dict):
            return bytes.fromhex(value["bytes"])
        return tuple(value) if isinstance(value, list) else value

    return tuple(
        (int(code), int(kind), int(count), value_of(value)) for code, kind, count, value in json.loads(content)
    )

"""SAR images from files as sigma0-like values in dB, with everything that is no measurement masked as NaN.

Letters: H, W rows and columns, C polarisation channels. intensity = amplitude^2 = |complex|^2; dB = 10 log10 of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlkit.errors import DataError, listing
from mlkit.tasks.sar.formats import GeoTag, RawImage, load_raw
from mlkit.tasks.sar.settings import Kind

_BAND_ROWS = 1024
Decided = Literal["amplitude", "intensity", "slc", "db"]


@dataclass(slots=True)
class Masked:
    """How many pixels were masked, by reason."""

    nodata: int = 0
    nan: int = 0
    negative: int = 0

    @property
    def total(self) -> int:
        return self.nodata + self.nan + self.negative


@dataclass(frozen=True, slots=True)
class Scene:
    """One image, read whole."""

    name: str
    db_hw: NDArray[np.float32]  # NaN where masked
    kind: Decided
    why: str  # one sentence: how the kind was found
    masked: Masked
    geotags: tuple[GeoTag, ...] | None = None  # raw, so that they can be written back unchanged


@dataclass(frozen=True, slots=True)
class OpenScene:
    """One image whose windows are read when asked for; mapped from the file where that stores plain values."""

    path: Path
    name: str
    values_hw: NDArray[Any]
    kind: Decided
    why: str
    nodata: float | None
    geotags: tuple[GeoTag, ...] | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.values_hw.shape[0], self.values_hw.shape[1]

    def window(self, y: int, x: int, height: int, width: int) -> tuple[NDArray[np.float32], Masked]:
        """Return the dB values of a window, NaN where masked, and what was masked in it."""
        masked = Masked()
        db = to_db(self.values_hw[y : y + height, x : x + width], self.kind, self.nodata, masked)
        return db, masked

    def read(self) -> Scene:
        """Return the whole scene; the values pass through in bands of rows, so that memory is the result's.

        Raises:
            DataError: when every pixel is masked.
        """
        db = np.empty(self.shape, np.float32)
        masked = Masked()
        for y in range(0, len(db), _BAND_ROWS):
            db[y : y + _BAND_ROWS] = to_db(self.values_hw[y : y + _BAND_ROWS], self.kind, self.nodata, masked)
        if masked.total == db.size:
            raise DataError(
                f"{self.path} ({self.name}) has no valid pixel: {masked.nodata} no-data, {masked.nan} NaN and "
                f"{masked.negative} negative values, read as {self.kind}"
            )
        return Scene(self.name, db, self.kind, self.why, masked, self.geotags)


def to_db(values_hw: NDArray[Any], kind: Decided, nodata: float | None, masked: Masked) -> NDArray[np.float32]:
    """Return values in dB, NaN where they are no measurement, and add the counts to `masked`.

    No-data is the file's own value and, in all kinds but dB, zero: the logarithm of a filled border would otherwise
    become an extreme that pulls the percentiles.
    """
    if kind == "slc":
        intensity = np.square(values_hw.real, dtype=np.float64) + np.square(values_hw.imag, dtype=np.float64)
    else:
        intensity = values_hw.astype(np.float64)
    is_nodata = _equals(values_hw, nodata)
    if kind != "db":
        is_nodata |= intensity == 0
    is_nan = ~np.isfinite(intensity) & ~is_nodata
    is_negative = (intensity < 0) & ~is_nodata & ~is_nan if kind != "db" else np.zeros_like(is_nan)
    bad = is_nodata | is_nan | is_negative
    masked.nodata += int(is_nodata.sum())
    masked.nan += int(is_nan.sum())
    masked.negative += int(is_negative.sum())
    intensity[bad] = 1.0
    if kind != "db":
        intensity = np.log10(intensity) * (20.0 if kind == "amplitude" else 10.0)
    intensity[bad] = np.nan
    db: NDArray[np.float32] = intensity.astype(np.float32)
    return db


def read_scene(path: Path | str, kind: Kind = "auto") -> Scene:
    """Return the one image of a file; `file.npy#1` names channel 1 of a file with several.

    Raises:
        DataError: when the file is missing, of a wrong type, broken, wholly masked, or has several images.
    """
    text, _, channel = (
        str(path).rpartition("#") if not Path(path).exists() and "#" in str(path) else (str(path), "", "")
    )
    scenes = open_scenes(Path(text), kind)
    if channel:
        chosen = [scene for scene in scenes if scene.name.endswith(f"#{channel}")]
        if not chosen:
            raise DataError(f"{text} has no channel #{channel}; it has {listing([s.name for s in scenes])}")
        return chosen[0].read()
    if len(scenes) > 1:
        raise DataError(f"{text} holds {len(scenes)} images ({listing([s.name for s in scenes])}); name one: {text}#0")
    return scenes[0].read()


def read_scenes(path: Path, kind: Kind = "auto") -> Iterator[Scene]:
    """Yield the images of a file one by one, whole."""
    return (scene.read() for scene in open_scenes(path, kind))


def open_scenes(path: Path, kind: Kind = "auto") -> list[OpenScene]:
    """Return the images of a file, one for each polarisation channel, without reading them where that is possible."""
    raw = load_raw(path)
    scenes = []
    for number, values_hw in enumerate(raw.channels_hw):
        name = f"{path.stem}#{number}" if len(raw.channels_hw) > 1 else path.stem
        sample = _sample(values_hw, raw.nodata)
        decided, why = _decide(path, values_hw.dtype, sample, kind, raw)
        nodata = raw.nodata
        if decided == "db" and nodata is None and (fill := _fill_value(sample)) is not None:
            nodata = fill
            why += f"; {fill:g} dB, which fills many pixels, is no-data"
        scenes.append(OpenScene(path, name, values_hw, decided, why + raw.note, nodata, raw.geotags))
    return scenes


# ---- deciding what the values are ------------------------------------------------------------------------------


def _decide(path: Path, dtype: np.dtype[Any], sample: NDArray[Any], kind: Kind, raw: RawImage) -> tuple[Decided, str]:
    """Return what the values are and one clause that says why.

    Raises:
        DataError: when `kind` cannot be meant for such values, or `auto` cannot tell.
    """
    is_complex = dtype.kind == "c"
    if kind != "auto":
        if is_complex != (kind == "slc"):
            held = "complex" if is_complex else f"real ({dtype})"
            fits = "slc" if is_complex else "amplitude, intensity or db"
            raise DataError(f"{path} holds {held} values, which cannot be read as {kind}; use --kind auto or {fits}")
        return kind, f"{kind}, as asked"
    if is_complex:
        return "slc", f"slc, because the values are complex ({dtype})"
    if raw.is_covariance:
        return "intensity", "intensity, because it is the diagonal of a covariance matrix"
    if not sample.size:
        return "intensity", "intensity, because there is no valid pixel to tell from"
    if dtype.kind in "ui":
        if sample.min() < 0:
            raise DataError(f"{path} holds negative integers, so they are no amplitudes; say what they are with --kind")
        return "amplitude", f"amplitude, because the values are integers ({dtype}), as in Sentinel-1 GRD"
    return _decide_float(path, sample, raw.hint_text)


def _decide_float(path: Path, sample: NDArray[Any], hint_text: str) -> tuple[Decided, str]:
    negative_share = float((sample < 0).mean())
    typical_share = float(((sample >= -60) & (sample <= 30)).mean())
    low = float(np.percentile(sample, 5))
    hint, word = _hint(hint_text)
    if hint == "db" and typical_share > 0.9:
        return "db", f"db, because of '{word}' in the name or metadata and {typical_share:.0%} of values in -60 to 30"
    # Thermal noise removal leaves slightly negative intensities; dB values of a scene go well below -1.
    if negative_share > 0.01 and low < -1:
        if typical_share < 0.9:
            raise DataError(
                f"{path} has {negative_share:.0%} negative values but only {typical_share:.0%} in the -60 to 30 dB of "
                "radar images; say what they are with --kind amplitude, intensity or db"
            )
        return "db", f"db, because {negative_share:.0%} of the values are negative and {typical_share:.0%} in -60 to 30"
    if hint in ("amplitude", "intensity"):
        return hint, f"{hint}, because of '{word}' in the name or metadata"
    if bool(np.all(sample == np.round(sample))) and float(sample.max()) > 1:
        return "amplitude", "amplitude, because the values are whole numbers, as in Sentinel-1 GRD"
    return "intensity", "intensity, the default for nonnegative fractions (--kind amplitude halves the dB range)"


_HINTS: tuple[tuple[Decided, tuple[str, ...]], ...] = (
    ("db", ("db", "decibel", "decibels")),
    ("amplitude", ("amplitude", "amp", "magnitude", "mag")),
    ("intensity", ("intensity", "sigma0", "gamma0", "beta0", "power", "linear")),
)


def _hint(text: str) -> tuple[Decided | None, str]:
    """Return the kind that a word of the text names, dB first ("sigma0_dB" is in dB), and that word."""
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    for kind, names in _HINTS:
        for word in words:
            if word in names:
                return kind, word
    return None, ""


def _sample(values_hw: NDArray[Any], nodata: float | None, most: int = 1_000_000) -> NDArray[Any]:
    """Return about `most` finite values on a regular grid, without the no-data value."""
    step = max(1, int((values_hw.size / most) ** 0.5))
    sample = values_hw[::step, ::step].ravel()
    valid = np.isfinite(sample) & ~_equals(sample, nodata)
    kept: NDArray[Any] = sample[valid]
    return kept if kept.dtype.kind == "c" else kept.astype(np.float64)


def _equals(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Return where values are the no-data value; a float one counts as the file's own type rounds it."""
    if nodata is None:
        return np.zeros(values.shape, bool)
    wanted: Any = nodata
    if values.dtype.kind in "fc":
        with np.errstate(over="ignore"):  # GDAL's smallest float64 beside float32 values: those are -inf
            wanted = np.asarray(nodata).astype(values.dtype)
    equal: NDArray[np.bool_] = values == wanted  # never cast to integers: -9999 would become 55537
    return equal


def _fill_value(sample: NDArray[Any]) -> float | None:
    """Return the value that stands for "no data" in dB values which do not name it: zero, or a minimum under -60 dB.

    Measured dB values hardly ever repeat exactly; 0.1 % of equal ones is a fill.
    """
    if not sample.size:
        return None
    for value in (float(sample.min()), 0.0):
        if (value <= -60 or value == 0) and float((sample == value).mean()) > 0.001:
            return value
    return None

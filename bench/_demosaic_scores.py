"""Scores of demosaic.py: of every way on every image, their means, and what the gains must reach."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from _common import Figure, at_least, at_most, show
from mlkit.evaluation.statistics import Interval, paired_bootstrap, paired_differences
from mlkit.metrics import get_metric

OURS, PLANES, LIBRAW, DEMOSAICNET = "mlkit", "mlkit, planes only", "LibRaw 3-pass", "demosaicnet"
# "@16": without a border of 16 px, as demosaicnet is scored
KEYS = ("cpsnr", "cpsnr@16", "ssim", "psnr_r", "psnr_g", "psnr_b", "texture", "zipper", "cfa_harmonic_db", "cfa_fold")
SHOWN = ("cpsnr", "cpsnr@16", "ssim", "texture", "zipper", "cfa_harmonic_db", "cfa_fold")
OVER_LIBRAW_DB = {"mcmaster18": 1.0, "cbsd68": 1.5}  # first bar
OVER_DEMOSAICNET_DB = {"second bar": 0.0, "third bar": 0.5}
FOLD_LIMIT = 0.5  # of 255
SMOOTH, SMOOTH_LOSS_DB = "retina", 1.0  # demosaicnet loses 4 dB there

Pixels = np.ndarray  # float32 [H, W, 3]


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one way on one image, in the order of KEYS."""

    way: str
    of: str  # the set
    light: str  # "srgb" or "linear": what was mosaicked
    image: str
    values: tuple[float, ...]


def scores_of(made_srgb: Pixels, truth_srgb: Pixels) -> tuple[float, ...]:
    """Return the values of KEYS of images encoded as sRGB."""
    import torch

    from mlkit.metrics import image, mosaic

    assert made_srgb.shape == truth_srgb.shape, f"{made_srgb.shape} made of {truth_srgb.shape}"
    x, y = (torch.from_numpy(np.ascontiguousarray(one)).permute(2, 0, 1)[None] for one in (made_srgb, truth_srgb))
    inner = np.s_[..., 8:-8, 8:-8]
    red, green, blue = mosaic.channel_psnr(x, y)[0]
    found = {
        "cpsnr": mosaic.cpsnr(x, y),
        "cpsnr@16": mosaic.cpsnr(x, y, border=16),
        "ssim": image.ssim(x[inner].clamp(0, 1), y[inner]),
        "psnr_r": red,
        "psnr_g": green,
        "psnr_b": blue,
        "texture": mosaic.texture(x, y),
        "zipper": mosaic.zipper(x, y),
        "cfa_harmonic_db": mosaic.cfa_harmonic_db(x, y),
        "cfa_fold": mosaic.cfa_fold(x, y),
    }
    return tuple(float(found[key]) for key in KEYS)


def column(rows: Sequence[Row], way: str, of: str, light: str, key: str) -> np.ndarray:
    place = KEYS.index(key)
    return np.array([row.values[place] for row in rows if (row.way, row.of, row.light) == (way, of, light)])


def mean_of(rows: Sequence[Row], way: str, of: str, light: str, key: str) -> float:
    values = column(rows, way, of, light, key)
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def runs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return each set with what was mosaicked, in the order of the rows."""
    return list(dict.fromkeys((row.of, row.light) for row in rows))


def ways(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.way for row in rows))


def show_scores(rows: Sequence[Row]) -> None:
    heads = [key.replace(known := key.partition("@")[0], get_metric(known).name) for key in SHOWN]
    for of, light in runs(rows):
        lines = []
        for way in ways(rows):
            means = [mean_of(rows, way, of, light, key) for key in SHOWN]
            digits = [get_metric(key.partition("@")[0]).decimals for key in SHOWN]
            lines.append([way, *(f"{mean:.{places}f}" for mean, places in zip(means, digits, strict=True))])
        print()
        show((f"{of}, {light}", *heads), lines)


def gain(rows: Sequence[Row], over: str, of: str, light: str, key: str = "cpsnr") -> Interval:
    """Return our mean improvement over another way; positive is better."""
    both = (column(rows, way, of, light, key) for way in (over, OURS))
    return paired_bootstrap(paired_differences(*both, get_metric(key.partition("@")[0]).better))


def quality(rows: Sequence[Row]) -> list[Figure]:
    """Return mean cPSNR of all ways, our gains and lattice, and what they must reach."""
    figures = [
        Figure(f"{way}, {of}, {light}, cPSNR", round(mean_of(rows, way, of, light, "cpsnr"), 2), "dB")
        for of, light in runs(rows)
        for way in ways(rows)
    ]
    if OURS not in ways(rows):
        return figures
    for of, light in runs(rows):
        figures.append(_judged("", LIBRAW, of, light, rows, OVER_LIBRAW_DB.get(of) if light == "srgb" else None))
        if DEMOSAICNET in ways(rows):
            for bar, least in OVER_DEMOSAICNET_DB.items():
                if light == "srgb" and of in OVER_LIBRAW_DB:
                    figures.append(_judged(f"{bar}: ", DEMOSAICNET, of, light, rows, least))
            if light != "srgb" or of not in OVER_LIBRAW_DB:
                figures.append(_judged("", DEMOSAICNET, of, light, rows, None))
        fold = mean_of(rows, OURS, of, light, "cfa_fold")
        figures.append(at_most(f"{OURS}, {of}, {light}, CFA lattice", fold, FOLD_LIMIT, "/255"))
        if DEMOSAICNET in ways(rows):
            ratio = fold / mean_of(rows, DEMOSAICNET, of, light, "cfa_fold")
            figures.append(at_most(f"{OURS} over {DEMOSAICNET}, {of}, {light}, CFA lattice", ratio, 1.0))
    for light in {row.light: None for row in rows if row.image == SMOOTH}:
        first, ours = (
            next(row.values[0] for row in rows if (row.way, row.image, row.light) == (way, SMOOTH, light))
            for way in (LIBRAW, OURS)
        )
        name = f"{OURS} over {LIBRAW}, {SMOOTH}, {light}, cPSNR"
        figures.append(at_least(name, ours - first, -SMOOTH_LOSS_DB, "dB"))
    return figures


def _judged(bar: str, over: str, of: str, light: str, rows: Sequence[Row], least: float | None) -> Figure:
    found = gain(rows, over, of, light)
    name = f"{bar}{OURS} over {over}, {of}, {light}, cPSNR"
    if least is None:
        return Figure(name, in_words(found), "dB")
    # with its interval above 0, or by its mean where there are too few images for an interval
    reached = bool(found.mean >= least and not found.low <= 0)
    return Figure(name, in_words(found), "dB", f">= {least:g}, interval above 0", reached)


def in_words(found: Interval) -> str:
    return f"{found.mean:.3g}" + ("" if np.isnan(found.low) else f" ({found.low:.3g} to {found.high:.3g})")


def write_scores(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("way", "set", "light", "image", *KEYS))
        for row in rows:
            table.writerow((row.way, row.of, row.light, row.image, *(f"{value:.5f}" for value in row.values)))


def read_scores(path: Path) -> list[Row]:
    """Return what `write_scores` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(line["way"], line["set"], line["light"], line["image"], tuple(float(line[key]) for key in KEYS))
            for line in csv.DictReader(file)
        ]

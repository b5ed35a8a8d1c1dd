"""The picture of demosaic.py: squares with much detail, as they are and as each way makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from _demosaic_scores import DEMOSAICNET, LIBRAW, OURS, Pixels, scores_of
from mlkit.imaging.detail import busiest
from mlkit.imaging.grids import Panel, comparison_grid, write_png
from mlkit.tasks.demosaic.xtrans import mosaic

PICTURED = ("coffee", "astronaut", "rocket", "chelsea")
CROP_PX = 96
Way = Callable[[Pixels, Pixels], Pixels]  # (mosaic [H, W], truth [H, W, 3]) -> made [H, W, 3]


def mosaicked(image: Pixels) -> Pixels:
    """Return the mosaic in steps of 16 bits, which is what a DNG holds."""
    return np.round(mosaic(image) * np.float32(65535)) / np.float32(65535)


def draw(path: Path, ways: Mapping[str, Way], images: Mapping[str, Pixels]) -> None:
    """Draw of each photograph the square with most detail: the truth, and what the ways make of its mosaic."""
    chosen = {"truth": None} | {name: ways[name] for name in (LIBRAW, DEMOSAICNET, OURS) if name in ways}
    rows = []
    for name in [one for one in images if one in PICTURED]:
        truth, given = images[name], mosaicked(images[name])
        top, left = busiest(np.diff(truth, axis=0)[:, :-1] + np.diff(truth, axis=1)[:-1], CROP_PX)
        square = np.s_[top : top + CROP_PX, left : left + CROP_PX]
        panels = []
        for title, way in chosen.items():
            made = truth if way is None else way(given, truth)
            note = "" if way is None else f"{scores_of(made, truth)[0]:.2f} dB"
            panels.append(Panel(title, np.clip(made[square], 0, 1), note))
        rows.append(panels)
    footer = f"Squares of {CROP_PX} px with the most detail; cPSNR is that of the whole photographs (scikit-image's)."
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, comparison_grid(rows, footer=footer))
    print(f"drawn: {path}")

"""The picture of bvae.py: held-out grids, and what each way makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from _bvae_peers import Grids, Labels
from mlkit.imaging.grids import Panel, comparison_grid, write_png
from mlkit.tasks.bvae.pictures import cropped, draw_grid

NUM_ROWS = 6
BUSY = (0.15, 0.9)  # share of cells that are not background: grids with something to see
CELLS = (8, 20)  # the longer side


def draw(path: Path, held: Grids, ways: Mapping[str, Labels]) -> None:
    """Draw grids of different tasks, evenly spaced over those with something to see."""
    chosen: dict[str, int] = {}
    for index, (labels, valid) in enumerate(zip(held.labels, held.valid, strict=True)):
        area = labels[cropped(labels, valid)]
        busy = float((area != held.background).mean())
        if CELLS[0] <= max(area.shape) <= CELLS[1] and BUSY[0] <= busy <= BUSY[1]:
            chosen.setdefault(held.names[index].partition("/")[0], index)
    places = list(chosen.values())
    rows, names = [], []
    for place in range(min(NUM_ROWS, len(places))):
        index = places[place * len(places) // min(NUM_ROWS, len(places))]
        area = cropped(held.labels[index], held.valid[index])
        truth = held.labels[index][area]
        panels = [Panel("original", draw_grid(truth, held.classes), role="given")]
        for title, made in ways.items():
            wrong = made[index][area] != truth
            note = f"{100 * (1 - np.mean(wrong)):.1f} % right"
            panels.append(Panel(title, draw_grid(made[index][area], held.classes, wrong_hw=wrong), note, role="made"))
        rows.append(panels)
        names.append(held.names[index])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, comparison_grid(rows, labels=names, footer="Held-out tasks of ARC-AGI-1; wrong cells are dotted."))
    print(f"drawn: {path}")

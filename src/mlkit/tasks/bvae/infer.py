"""Reconstructs a user's grids, draws new ones from the prior, and walks along each latent dimension."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlkit.errors import DataError
from mlkit.files import atomic_file, write_text
from mlkit.imaging.grids import Panel, comparison_grid, write_png
from mlkit.metrics import labels as label_metrics
from mlkit.seeding import generator
from mlkit.tasks.bvae.model import BetaVae
from mlkit.tasks.bvae.pictures import draw_grid, shares_text
from mlkit.tasks.bvae.readers import Grid, Labels, in_their_places, read_grids
from mlkit.tasks.bvae.source import padded

RESULT_SUFFIXES = ("_reconstructed", "_compare")
WALK = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # standard deviations of the prior: 99.7 % of it lies between
_BATCH = 64
_ROWS = 12  # of a picture; a longer one is hard to look at, and a file may hold thousands of grids


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file."""

    path: Path
    picture: Path
    num_grids: int
    num_drawn: int  # in the picture
    accuracy: float  # mean of the grids
    majority_share: float
    object_accuracy: float  # NaN where all is background
    num_exact: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """What `sample_prior` and `traverse` made."""

    file: Path
    picture: Path
    num: int  # grids, or latent dimensions, in the picture


def reconstruct_file(
    net: BetaVae, preprocessing: Mapping[str, Any], path: Path, out: Path, *, overwrite: bool = False
) -> FileResult:
    """Write NAME_reconstructed.json, .npy or .png as the file was, and NAME_compare.png; returns how well it went.

    Args:
        net: in eval mode.
        preprocessing: of the checkpoint: classes, background.
        path: a file as datasets are built from.
        out: folder, made when absent.
        overwrite: replace results that exist.

    Raises:
        DataError: for an unreadable file, a class or a size that the model does not have, a result that exists.
    """
    grids = read_grids(path, net.classes)
    for grid in grids:
        height, width = grid.labels_hw.shape
        if max(height, width) > net.side:
            raise DataError(
                f"{path}, {grid.name} has {width} x {height} cells; this model takes up to {net.side} x {net.side}"
            )
    target, picture = (out / f"{path.stem}{name}" for name in (f"_reconstructed{path.suffix.lower()}", "_compare.png"))
    refuse_existing([target, picture], overwrite)
    made = [_cut(labels, grid) for labels, grid in zip(_reconstructed(net, grids), grids, strict=True)]
    background = int(preprocessing["background"])
    scores = [_scores(one, grid.labels_hw, background) for one, grid in zip(made, grids, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    _write(path, target, made)
    rows = [_row(grid, one, figures, net.classes) for grid, one, figures in zip(grids, made, scores, strict=True)]
    rest = f"; {len(rows) - _ROWS} more grids in {target.name}" if len(rows) > _ROWS else ""
    names = [grid.name for grid in grids[:_ROWS]]
    write_png(picture, comparison_grid(rows[:_ROWS], heading=f"{path.name}{rest}", labels=names))
    columns = np.array(scores)
    objects = columns[:, 2][~np.isnan(columns[:, 2])]
    return FileResult(
        path=target,
        picture=picture,
        num_grids=len(grids),
        num_drawn=min(len(rows), _ROWS),
        accuracy=float(columns[:, 0].mean()),
        majority_share=float(columns[:, 1].mean()),
        object_accuracy=float(objects.mean()) if len(objects) else float("nan"),
        num_exact=int((columns[:, 0] == 1).sum()),
    )


def sample_prior(net: BetaVae, count: int, out: Path, *, seed: int = 0, overwrite: bool = False) -> Drawn:
    """Write `count` grids drawn from the prior as samples.json (a list of grids) and samples.png.

    A grid depends on (seed, its number) alone. It fills the model's whole side: the size of a grid is not modelled.
    """
    files = out / "samples.json", out / "samples.png"
    refuse_existing(files, overwrite)
    z = np.stack([generator(seed, "prior", index).standard_normal(net.latent) for index in range(count)])
    grids = _decoded(net, z)
    out.mkdir(parents=True, exist_ok=True)
    write_text(files[0], json.dumps([grid.tolist() for grid in grids]) + "\n")
    columns = min(6, count)
    panels = [Panel(f"sample {index}", draw_grid(grid, net.classes)) for index, grid in enumerate(grids)]
    shown = min(count, columns * _ROWS)
    rows = [panels[start : start + columns] for start in range(0, shown, columns)]
    write_png(files[1], comparison_grid(rows, heading=f"Drawn from the prior, seed {seed}"))
    return Drawn(*files, shown)


def traverse(net: BetaVae, grid: Grid | None, out: Path, *, overwrite: bool = False) -> Drawn:
    """Write traverse.json and traverse.png: for each latent dimension what changes as it goes from -3 to 3.

    The other dimensions stay at the posterior mean of `grid`; None: at 0, the middle of the prior. The picture has the
    dimensions first that change most cells; the file has all.
    """
    files = out / "traverse.json", out / "traverse.png"
    refuse_existing(files, overwrite)
    base = np.zeros(net.latent) if grid is None else _encoded(net, [grid])[0]
    z = np.repeat(base[None], net.latent * len(WALK), axis=0).reshape(net.latent, len(WALK), net.latent)
    for index in range(net.latent):
        z[index, :, index] = WALK
    made = _decoded(net, z.reshape(-1, net.latent))
    if grid is not None:
        made = [_cut(labels, grid) for labels in made]
    walks = [made[start : start + len(WALK)] for start in range(0, len(made), len(WALK))]
    changed = [float(np.mean(walk[0] != walk[-1])) for walk in walks]
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "values": list(WALK),
        "from": "the middle of the prior" if grid is None else grid.name,
        "dimensions": [
            {"dimension": index, "changed_share": changed[index], "grids": [labels.tolist() for labels in walk]}
            for index, walk in enumerate(walks)
        ],
    }
    write_text(files[0], json.dumps(content) + "\n")
    shown = _most_changing(net, changed)
    rows = [
        [
            Panel(f"{value:+g}" if value else "0", draw_grid(labels, net.classes, picture_px=192))
            for value, labels in zip(WALK, walks[index], strict=True)
        ]
        for index in shown
    ]
    names = [f"{_place(net, index)}\n{100 * changed[index]:.0f} % of cells change" for index in shown]
    start = "the middle of the prior" if grid is None else grid.name
    which = "of each channel the site that changes most" if net.is_map else f"the {len(shown)} that change most"
    rest = f" ({which}, of {net.latent} dimensions)" if len(shown) < net.latent else ""
    heading = f"One latent dimension at a time, from {start}{rest}"
    write_png(files[1], comparison_grid(rows, heading=heading, labels=names))
    return Drawn(*files, len(shown))


def _most_changing(net: BetaVae, changed: Sequence[float]) -> list[int]:
    """Return the dimensions to draw, those first that change most; of a map one site of each channel: all do alike."""
    sites = net.quarter**2 if net.is_map else 1
    channels = [range(first, first + sites) for first in range(0, net.latent, sites)]
    best = [max(channel, key=lambda index: changed[index]) for channel in channels]
    return sorted(best, key=lambda index: -changed[index])[:_ROWS]


def _place(net: BetaVae, index: int) -> str:
    """Return a latent dimension in words; of a map with the cells that lie at its site."""
    if not net.is_map:
        return f"latent {index}"
    channel, site = divmod(index, net.quarter**2)
    row, column = (4 * place for place in divmod(site, net.quarter))
    return f"latent {index}, channel {channel}\nrows {row} to {row + 3}, columns {column} to {column + 3}"


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """Raise where a result would replace one that exists."""
    taken = [str(path) for path in paths if path.exists()]
    if taken and not overwrite:
        raise DataError(f"{taken[0]} exists; give another --out, or --overwrite to replace it")


def single_grid(net: BetaVae, path: Path) -> Grid:
    """Return the first grid of a file, for a traverse; refuses what the model cannot take."""
    grid = read_grids(path, net.classes)[0]
    if max(grid.labels_hw.shape) > net.side:
        height, width = grid.labels_hw.shape
        raise DataError(f"{path}, {grid.name} has {width} x {height} cells; this model takes up to {net.side}")
    return grid


# ---------------------------------------------------------------------------------------------- inside


def _device(net: BetaVae) -> torch.device:
    return next(net.parameters()).device


def _batches(net: BetaVae, grids: Sequence[Grid]) -> list[Tensor]:
    squares = [torch.from_numpy(padded(grid.labels_hw, net.side, net.classes)) for grid in grids]
    return [torch.stack(squares[start : start + _BATCH]) for start in range(0, len(squares), _BATCH)]


def _reconstructed(net: BetaVae, grids: Sequence[Grid]) -> list[Labels]:
    with torch.no_grad():
        made = [net(batch.to(_device(net)))[0].argmax(dim=1).cpu() for batch in _batches(net, grids)]
    return list(torch.cat(made).numpy().astype(np.uint8))


def _encoded(net: BetaVae, grids: Sequence[Grid]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return torch.cat([net.encode(batch.to(_device(net)))[0].cpu() for batch in _batches(net, grids)]).numpy()


def _decoded(net: BetaVae, z: np.ndarray[Any, Any]) -> list[Labels]:
    latents = torch.from_numpy(z.astype(np.float32))
    with torch.no_grad():
        made = [
            net.decode(latents[start : start + _BATCH].to(_device(net))).argmax(dim=1).cpu()
            for start in range(0, len(latents), _BATCH)
        ]
    return list(torch.cat(made).numpy().astype(np.uint8))


def _cut(labels_ss: Labels, grid: Grid) -> Labels:
    height, width = grid.labels_hw.shape
    return labels_ss[:height, :width]


def _scores(made: Labels, labels: Labels, background: int) -> tuple[float, float, float]:
    """Return accuracy, majority share and non-background accuracy of one grid."""
    one, other = torch.from_numpy(made)[None], torch.from_numpy(labels)[None]
    valid = torch.ones_like(other, dtype=torch.bool)
    return (
        float(label_metrics.accuracy(one, other, valid)),
        float(label_metrics.class_share(other, valid, background)),
        float(label_metrics.accuracy_without(one, other, valid, background)),
    )


def _row(grid: Grid, made: Labels, scores: tuple[float, float, float], classes: int) -> list[Panel]:
    accuracy, majority, objects = scores
    note = shares_text([("accuracy", accuracy)]) + "\n" + shares_text([("non-background", objects)])
    return [
        Panel("Original", draw_grid(grid.labels_hw, classes), shares_text([("majority share", majority)])),
        Panel(
            "Reconstruction, wrong cells dotted",
            draw_grid(made, classes, wrong_hw=made != grid.labels_hw),
            note.rstrip(),
        ),
    ]


def _write(path: Path, target: Path, made: Sequence[Labels]) -> None:
    """Write reconstructed grids as the file that they came from holds its own."""
    if target.suffix == ".json":
        content = in_their_places(json.loads(path.read_text(encoding="utf-8")), iter(made))
        write_text(target, json.dumps(content) + "\n")
    elif target.suffix == ".npy":
        file = io.BytesIO()
        stacked = np.load(path, allow_pickle=False).ndim == 3
        np.save(file, np.stack(made) if stacked else made[0])
        with atomic_file(target) as partial:
            partial.write_bytes(file.getvalue())
    else:
        write_png(target, made[0])

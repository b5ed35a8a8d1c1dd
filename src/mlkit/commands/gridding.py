"""Grids on request: of one checkpoint, or a time line of all that a run kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.commands.opened import OpenedModel, dataset_of, evaluate_opened, open_model, pick_device
from mlkit.commands.session import say
from mlkit.commands.showing import Gallery, write_history
from mlkit.errors import CheckpointError
from mlkit.evaluation.evaluate import grid_picture, indices_of_ids, spread_indices
from mlkit.imaging.grids import Panel, comparison_grid, of_role, write_png
from mlkit.imaging.images import list_images
from mlkit.runs.folders import checkpoints, resolve_run
from mlkit.settings import Places
from mlkit.task import Source

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class GridRequest:
    """What `mlkit eval grid` was asked for."""

    path: Path
    ids: tuple[str, ...]
    images_dir: Path | None
    upscale: int
    fit_multiple: int
    timeline: bool
    images: int
    data: Path | None
    out: Path | None
    device: str
    html: Path | None = None  # folder of the time line's page


def draw_grid(request: GridRequest) -> None:
    """Draw and write a grid, and say where it is."""
    ref = resolve_run(str(request.path), Places().runs_dir)
    device, sentence = pick_device(request.device)
    if sentence:
        say(sentence)
    if request.timeline:
        out = _draw_timeline(request, ref.folder, device)
    else:
        opened = open_model(ref.chosen_checkpoint(), device)
        out = request.out or opened.checkpoint.folder / "grid.png"
        source, indices, label = _source(request, opened)
        shown = evaluate_opened(opened, source, indices, panels_of=indices)
        heading = f"{ref.folder.name}  step {opened.checkpoint.step}" + (f"  ({label} data)" if label else "")
        write_png(out, grid_picture(shown, indices, heading))
    say(f"written: {out}")


def _draw_timeline(request: GridRequest, run: Path, device: torch.device) -> Path:
    """Write the picture and the page of all checkpoints of a run; returns the picture."""
    folders = checkpoints(run)
    if not folders:
        raise CheckpointError(f"run {run} has no complete checkpoint yet; wait for the first one, or train it again")
    out = request.out or run / "grids" / "timeline.png"
    rows: list[list[Panel]] = []
    labels: list[str] = []
    label = ""
    gallery = Gallery()
    for place, folder in enumerate(folders):
        opened = open_model(folder, device)
        source, indices, label = _source(request, opened)
        shown = evaluate_opened(opened, source, indices, panels_of=indices)
        # A column an image, a row a checkpoint; what the images are stands in the first rows.
        titles = [source.sample_id(index) for index in indices]
        if place == 0:
            given = zip(*(of_role(shown.panels[index], "given") for index in indices), strict=True)
            for panels in given:
                rows.append(_titled(panels, titles))
                labels.append(panels[0].title)
        rows.append(_titled([of_role(shown.panels[index], "made")[0] for index in indices], titles))
        labels.append(f"step {opened.checkpoint.step}")
        gallery.next_model(labels[-1])
        for title, index in zip(titles, indices, strict=True):
            gallery.add(title, shown.panels[index])
    heading = f"{run.name}: every kept checkpoint" + (f"  ({label} data)" if label else "")
    write_png(out, comparison_grid(rows, heading=heading, labels=labels))
    page = write_history(request.html or out.with_suffix(""), run, folders, gallery)
    say(f"page: {page}")
    return out


def _titled(panels: Sequence[Panel], titles: Sequence[str]) -> list[Panel]:
    return [replace(panel, title=title) for panel, title in zip(panels, titles, strict=True)]


def _source(request: GridRequest, opened: OpenedModel) -> tuple[Source, list[int], str]:
    """Return what to show: named samples, the user's images, or some validation samples; and the data's label."""
    data = dataset_of(opened.checkpoint, request.data)
    if request.images_dir is not None and not request.ids:
        paths = list_images(request.images_dir, opened.task.image_suffixes)
        source = opened.task.images_source(data, paths, upscale=request.upscale, fit_multiple=request.fit_multiple)
        return source, list(range(len(source))), ""
    source = opened.task.eval_source(data)
    if request.ids:
        return source, indices_of_ids(source, request.ids), data.label
    return source, spread_indices(len(source), request.images), data.label

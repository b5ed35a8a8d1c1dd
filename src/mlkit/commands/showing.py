"""What models make of images, one image at a time, as pictures for a page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlkit.commands.opened import OpenedModel, dataset_of, evaluate_opened, open_model, pick_device
from mlkit.evaluation.comparison import Comparison, compare_checkpoints
from mlkit.evaluation.evaluate import indices_of_ids
from mlkit.evaluation.scores import Candidate
from mlkit.evaluation.statistics import improvements
from mlkit.imaging.grids import Panel, of_role, truth_of
from mlkit.metrics import METRICS
from mlkit.report.content import Shown, ShownImage
from mlkit.report.pictures import ERROR_GAIN, error_map, picture
from mlkit.runs.folders import checkpoint_step, primary_metric
from mlkit.task import Source

Samples = Callable[[OpenedModel], tuple[Source, Sequence[int]]]


@dataclass(slots=True)
class _Image:
    """An image while model after model adds to it."""

    id: str
    given: list[Shown]
    made: list[Shown] = field(default_factory=list)
    errors: list[Shown] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Gallery:
    """Images to which model after model adds what it makes of them; only finished pictures are kept."""

    def __init__(self) -> None:
        self._images: list[_Image] = []
        self._place = -1

    def next_model(self, name: str) -> None:
        """Begin with the next model."""
        self._place, self._name, self._row = self._place + 1, name, 0

    def add(self, sample_id: str, panels: Sequence[Panel]) -> None:
        """Add what the model made of its next image; the images are the same for all models."""
        if self._place == 0:
            given = [Shown(_line(panel.title), picture(panel.image_hwc)) for panel in of_role(panels, "given")]
            self._images.append(_Image(sample_id, given))
        _add(self._images[self._row], panels, self._name, self._place)
        self._row += 1

    def images(self, *, with_notes: bool = False) -> list[ShownImage]:
        """Return the images; `with_notes` with what their panels say, for where no table does."""
        return [
            ShownImage(one.id, one.given, one.made, one.errors, "  ".join(one.notes) if with_notes else "")
            for one in self._images
        ]


def show_images(models: Sequence[tuple[str, Path]], samples: Samples, device: str = "auto") -> list[ShownImage]:
    """Return what each model makes of some images; one model is in memory at a time, and one image's panels.

    Args:
        models: name and checkpoint of each.
        samples: the images for a model; the same ones for all.
        device: auto, cpu, cuda or mps.
    """
    gallery = Gallery()
    for name, folder in models:
        opened = open_model(folder, pick_device(device)[0])
        source, indices = samples(opened)
        gallery.next_model(name)
        for index in indices:
            shown = evaluate_opened(opened, source, [index], panels_of=[index])
            gallery.add(source.sample_id(index), shown.panels[index])
    return gallery.images()


def _add(image: _Image, panels: Sequence[Panel], name: str, place: int) -> None:
    """Add what a model made: its result, other pictures of the same size, and where it is wrong."""
    (result,) = of_role(panels, "made")
    shape = result.image_hwc.shape
    details = of_role(panels, "detail")
    for panel in details:
        if panel.image_hwc.shape == shape and not panel.title.startswith("|") and panel.scale is None:
            image.made.append(Shown(f"{name}: {_line(panel.title)}", picture(panel.image_hwc), place))
    image.made.append(Shown(name, picture(result.image_hwc), place))
    truth = truth_of(panels)
    own = next((panel for panel in details if panel.title.startswith("|")), None)
    if own is not None:
        image.errors.append(Shown(_map_title(own, name), picture(own.image_hwc), place))
    elif truth is not None and truth.image_hwc.shape == shape:
        wrong = picture(error_map(result.image_hwc, truth.image_hwc))
        image.errors.append(Shown(f"|error| x{ERROR_GAIN} of {name}", wrong, place))
    if result.note:
        image.notes.append(f"{name}: {_line(result.note)}.")


def _map_title(panel: Panel, name: str) -> str:
    """Return "|error| x8 of a", or with a colour scale "|difference| (dB) of a, 0 to 8.36"."""
    title, scale = _line(panel.title), panel.scale
    if scale is None:
        return f"{title} of {name}"
    title = scale.label if scale.label.startswith(title) else f"{title}, {scale.label}"
    return f"{title} of {name}, {scale.vmin:.3g} to {scale.vmax:.3g}"


def _line(text: str) -> str:
    return " ".join(text.split())


def validation_samples(ids: Sequence[str], data: Path | None) -> Samples:
    """Return the samples of these ids of each model's own validation part."""

    def samples(opened: OpenedModel) -> tuple[Source, Sequence[int]]:
        source = opened.task.eval_source(dataset_of(opened.checkpoint, data))
        return source, indices_of_ids(source, ids)

    return samples


def telling_images(comparison: Comparison, most: int) -> list[str]:
    """Return the ids of the images to show: the worst ones for any model first, and at the end the best one.

    An image counts by its least improvement over the first model.
    """
    import numpy as np

    key, (first, *others) = comparison.main, comparison.rows
    gains = np.stack([improvements(first.values[key], row.values[key], METRICS[key].better) for row in others])
    least = np.where(np.isnan(gains), np.inf, gains).min(axis=0)  # unknown ones come last
    order = [comparison.ids[place] for place in np.argsort(least, kind="stable")]
    known = int(np.isfinite(least).sum())
    if len(order) <= most or known <= most:
        return order[:most]
    return [*order[: most - 1], order[known - 1]] if most > 1 else order[:1]


def named(comparison: Comparison) -> list[tuple[str, Path]]:
    """Return name and checkpoint of each row; of a group of seeds its first run stands for it."""
    return [(row.name, row.checkpoint) for row in comparison.rows]


def write_history(folder: Path, run: Path, checkpoints: Sequence[Path], gallery: Gallery) -> Path:
    """Write the page of a run's checkpoints over time; with their scores where all of them have some."""
    from mlkit.report.page import write_page
    from mlkit.report.trainings import Model, read_training

    candidates = [Candidate(f"step {checkpoint_step(one)}", one, primary=primary_metric(run)) for one in checkpoints]
    comparison = None
    if len(candidates) > 1 and all((one / "eval.json").is_file() for one in checkpoints):
        comparison = compare_checkpoints(candidates)
    shown = gallery.images(with_notes=True)
    return write_page(
        folder,
        comparison=comparison,
        models=[Model(one.name, [read_training(one.name, one.checkpoint)]) for one in candidates],
        images=shown,
        command=shlex.join(["mlkit", *sys.argv[1:]]),
        heading_text=f"{run.resolve().name} over time",
        over_time=True,
    )

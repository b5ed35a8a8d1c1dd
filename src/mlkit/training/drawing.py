"""Pictures of a checkpoint: the grid that every task gets, and the files of a task that also draws its training part.

None of it changes training: pictures draw from generators of their own, and a failure is counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.checkpoint import Checkpoint
from mlkit.evaluation.evaluate import Evaluation, evaluate, grid_picture, indices_of_ids, spread_indices
from mlkit.imaging.grids import beside, write_png
from mlkit.imaging.images import list_images
from mlkit.task import DrawsTraining
from mlkit.training.hooks import failed
from mlkit.training.state import Run, TrainState

if TYPE_CHECKING:
    from mlkit.task import Source
    from mlkit.training.tracking import Trackers


def draw(run: Run, state: TrainState, saved: Checkpoint, scored: Evaluation | None, trackers: Trackers | None) -> None:
    """Write the pictures beside a checkpoint; a failure is logged, counted and repeated at the end."""
    if not run.task.settings.checkpoint.grid:
        return
    run.progress.stage("drawing")
    try:
        _draw_grid(run, saved, scored, trackers)
        _draw_files(run, state, saved, scored)
    except Exception:  # noqa: BLE001 - named, counted, and raised where strict_hooks asks for it
        failed(run, None, "grid", saved.step)
    run.progress.stage("")


def finish_drawing(run: Run, state: TrainState, saved: Checkpoint, trackers: Trackers | None) -> None:
    """Draw a restored checkpoint where a kill came between saving and drawing."""
    paths = [saved.folder / "grid.png", *_files(run, state, saved)]
    if not all(path.exists() for path in paths):
        draw(run, state, saved, None, trackers)


def grid_indices(run: Run) -> list[int]:
    """Return which validation samples the grid shows: the ids of the settings, else some that are scored anyway."""
    settings = run.task.settings.checkpoint
    if settings.eval_ids:
        return indices_of_ids(run.eval_source, settings.eval_ids)
    indices = scored_indices(run)  # pictures of samples that are scored anyway cost no forward pass
    return [indices[place] for place in spread_indices(len(indices), settings.grid_images)]


def scored_indices(run: Run) -> list[int]:
    """Return which validation samples are scored."""
    return spread_indices(len(run.eval_source), run.task.settings.eval.max_samples)


def _draw_grid(run: Run, saved: Checkpoint, scored: Evaluation | None, trackers: Trackers | None) -> None:
    indices = [] if _outside_images(run) else grid_indices(run)
    if scored is None or not indices or not set(indices) <= scored.panels.keys():
        source, indices = _grid_source(run)
        scored = _drawn(run, source, indices)
    picture = grid_picture(scored, indices, f"{run.name}  step {saved.step}{_label(run)}")
    write_png(saved.folder / "grid.png", picture, run.folder / "grids" / f"grid_{saved.step:08d}.png")
    if trackers is not None:
        trackers.log_image("grid", picture, saved.step)


def _draw_files(run: Run, state: TrainState, saved: Checkpoint, scored: Evaluation | None) -> None:
    """Write the pictures that the task names, training samples at the left and validation samples at the right."""
    if not isinstance(run.task, DrawsTraining):
        return
    source = run.task.plain_train_source(run.data)
    shown = min(run.task.grid_files.train_images, run.task.settings.checkpoint.grid_images)
    train = spread_indices(len(source), shown)
    held = grid_indices(run)
    if scored is None or not set(held) <= scored.panels.keys():
        scored = _drawn(run, run.eval_source, held)
    heading = f"{run.name}  step {saved.step}, epoch {_epoch(run, state)}{_label(run)}"
    parts = (f"{heading}: training", _drawn(run, source, train), train), ("validation", scored, held)
    picture = beside([grid_picture(shown, indices, heading) for heading, shown, indices in parts])
    first, *others = _files(run, state, saved)
    write_png(first, picture, *others)
    for path in (first, *others):
        run.progress.say(f"[VISUALIZATION] Saved: {path}")


def _files(run: Run, state: TrainState, saved: Checkpoint) -> list[Path]:
    if not isinstance(run.task, DrawsTraining):
        return []
    named = run.task.grid_files
    names = [named.by_epoch.format(epoch=_epoch(run, state))]
    if state.best_step == saved.step:
        names.append(named.best)
    return [saved.folder / name for name in names]


def _epoch(run: Run, state: TrainState) -> int:
    return state.samples_seen // len(run.source)


def _label(run: Run) -> str:
    return f"  ({run.data.label} data)" if run.data.label else ""


def _outside_images(run: Run) -> bool:
    settings = run.task.settings.checkpoint
    return bool(settings.eval_images_dir) and not settings.eval_ids


def _grid_source(run: Run) -> tuple[Source, list[int]]:
    """Return what the grid shows: ids from the settings, else a folder of images, else some validation samples."""
    settings = run.task.settings.checkpoint
    if _outside_images(run):
        assert settings.eval_images_dir is not None
        source = run.task.images_source(
            run.data,
            list_images(Path(settings.eval_images_dir), run.task.image_suffixes),
            upscale=settings.eval_input_upscale,
            fit_multiple=settings.eval_fit_multiple,
        )
        return source, list(range(min(len(source), max(settings.grid_images, 1))))
    return run.eval_source, grid_indices(run)


def _drawn(run: Run, source: Source, indices: list[int]) -> Evaluation:
    # Images of any size: one at a time, since a batch needs equal sizes.
    with run.ema.applied(run.net):
        return evaluate(
            run.task,
            run.net,
            source,
            device=run.accelerator.device,
            batch_size=1,
            indices=indices,
            panels_of=indices,
        )

"""What happens around a checkpoint: scores, the best one, early stopping, the grid. None of it changes training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.checkpoint import Checkpoint, open_checkpoint, step_of
from mlkit.errors import CheckpointError, MlkitError
from mlkit.evaluation.evaluate import (
    Evaluation,
    evaluate,
    grid_picture,
    indices_of_ids,
    report_json,
    spread_indices,
)
from mlkit.imaging.grids import write_png
from mlkit.imaging.images import list_images
from mlkit.metrics import METRICS, goodness
from mlkit.training.forgetting import PREFIX
from mlkit.training.state import Run, TrainState

if TYPE_CHECKING:
    from mlkit.task import Source
    from mlkit.training.tracking import Trackers

log = logging.getLogger(__name__)

__all__ = ["Evaluation"]


def score(run: Run, state: TrainState) -> Evaluation | None:
    """Return the scores of the validation part with the averaged weights; None when it failed (said and counted)."""
    indices = _scored_indices(run)
    try:
        drawn = set(_grid_indices(run)) & set(indices) if run.main and run.task.settings.checkpoint.grid else set()
        result = _evaluated(run, run.eval_source, indices, sorted(drawn), "evaluating")
    except Exception:  # noqa: BLE001 - named, counted, and raised where strict_hooks asks for it
        _failed(run, state, "evaluation", state.step)
        return None
    for failure in result.failures:
        _report(run, state, f"{failure} at step {state.step}; the traceback is in run.log")
    return result


def score_guarded(run: Run, state: TrainState) -> Evaluation | None:
    """Return the scores of the data that must not be forgotten; None when there are none, or it failed (counted)."""
    if run.guard is None:
        return None
    try:
        indices = spread_indices(len(run.guard.source), run.task.settings.eval.max_samples)
        return _evaluated(run, run.guard.source, indices, [], "guard")
    except Exception:  # noqa: BLE001 - named, counted, and raised where strict_hooks asks for it
        _failed(run, state, "guard", state.step)
        return None


def begin_guard(run: Run, state: TrainState) -> dict[str, float]:
    """Record in `state` what the weights that the run starts from score on the guarded data; returns it by its key."""
    assert run.guard is not None
    means = run.guard.means(score_guarded(run, state))
    value = means.get(run.guard.key, math.nan)
    if math.isfinite(value):
        state.guard_start, state.guard_sha256 = value, run.guard.data.sha256
        run.progress.say(run.guard.beginning(value))
    return means


def watch(run: Run, state: TrainState, means: Mapping[str, float]) -> None:
    """Tell and count forgetting; it never ends training."""
    if run.guard is None or run.guard.key not in means:
        return
    warning = run.guard.warning(state.guard_start, means[run.guard.key])
    if warning:
        state.guard_warnings += 1
        run.progress.say(f"warning at step {state.step}: {warning}")
        log.warning("step %d: %s", state.step, warning)


def _evaluated(run: Run, source: Source, indices: list[int], drawn: list[int], what: str) -> Evaluation:
    settings = run.task.settings
    with run.ema.applied(run.net):
        result = evaluate(
            run.task,
            run.net,
            source,
            device=run.accelerator.device,
            batch_size=settings.eval.batch_size or settings.train.batch_size,
            indices=indices,
            panels_of=drawn,
            progress=lambda done, total: run.progress.stage(f"{what} {done}/{total}"),
        )
    run.progress.stage("")
    return result


def take_note(run: Run, state: TrainState, means: Mapping[str, float]) -> None:
    """Record in `state` the best value, and how long early stopping's metric has not got better."""
    settings = run.task.settings.eval
    primary = means[run.task.primary_metric]
    best = math.isfinite(primary) and (
        state.best is None or goodness(run.task.primary_metric, primary) > goodness(run.task.primary_metric, state.best)
    )
    if best:
        state.best, state.best_step = primary, state.step
    run.progress.scores(state.step, means, best)
    if settings.early_stop_patience is None:
        return
    watched = means.get(settings.early_stop_metric, math.nan)
    if not math.isfinite(watched):  # nothing to judge by: no reason to stop
        _report(
            run,
            state,
            f"early stopping cannot see {settings.early_stop_metric}: this task has no such score, or no image has one",
        )
        return
    gain = math.inf
    if state.watched_best is not None:
        gain = goodness(settings.early_stop_metric, watched) - goodness(settings.early_stop_metric, state.watched_best)
    if gain > settings.early_stop_min_delta:
        state.watched_best, state.evaluations_without_gain = watched, 0
    else:
        state.evaluations_without_gain += 1


def patience_is_over(run: Run, state: TrainState) -> bool:
    """Return whether early stopping ends the training here."""
    patience = run.task.settings.eval.early_stop_patience
    return patience is not None and state.evaluations_without_gain >= patience


def draw(run: Run, saved: Checkpoint, scored: Evaluation | None, trackers: Trackers | None) -> None:
    """Write grid.png beside a checkpoint; a failure is logged, counted and repeated at the end."""
    settings = run.task.settings.checkpoint
    if not settings.grid:
        return
    run.progress.stage("drawing")
    try:
        indices = [] if _outside_images(run) else _grid_indices(run)
        if scored is None or not indices or not set(indices) <= scored.panels.keys():
            scored = _grid_only(run)
            indices = scored.indices
        heading = f"{run.name}  step {saved.step}" + (f"  ({run.data.label} data)" if run.data.label else "")
        picture = grid_picture(scored, indices, heading)
        write_png(saved.folder / "grid.png", picture)
        write_png(run.folder / "grids" / f"grid_{saved.step:08d}.png", picture)
        if trackers is not None:
            trackers.log_image("grid", picture, saved.step)
    except Exception:  # noqa: BLE001 - named, counted, and raised where strict_hooks asks for it
        _failed(run, None, "grid", saved.step)
    run.progress.stage("")


def finish_hooks(run: Run, saved: Checkpoint, trackers: Trackers | None) -> None:
    """Draw the grid of a restored checkpoint where a kill came between saving and drawing."""
    if run.task.settings.checkpoint.grid and not (saved.folder / "grid.png").exists():
        draw(run, saved, None, trackers)


def eval_report(run: Run, state: TrainState, scored: Evaluation, guarded: Evaluation | None) -> str:
    """Return eval.json of a checkpoint."""
    facts = {"guard": run.guard.report(guarded, state.guard_start)} if run.guard and guarded else {}
    return report_json(
        scored,
        task=run.task.settings.task,
        step=state.step,
        split="validation",
        protocol=run.task.settings.eval.protocol,
        dataset_sha256=run.data.sha256,
        dataset_label=run.data.label,
        **facts,
    )


def stored_score(folder: Path, metric: str) -> float | None:
    """Return how good a checkpoint is by its stored mean of `metric`, higher is better; None without one."""
    try:
        info = open_checkpoint(folder, verify=False).info
    except CheckpointError:
        log.warning("%s (step %s) cannot be read, so it has no score", folder, step_of(folder))
        return None
    value = info.get("scores", {}).get(metric)
    return None if value is None else goodness(metric, value)


def finite(means: Mapping[str, float]) -> dict[str, float]:
    """Return the means that are numbers, those of guarded data too: JSON has no NaN."""
    known = {key: value for key, value in means.items() if key.removeprefix(PREFIX) in METRICS}
    return {key: value for key, value in known.items() if math.isfinite(value)}


def _outside_images(run: Run) -> bool:
    settings = run.task.settings.checkpoint
    return bool(settings.eval_images_dir) and not settings.eval_ids


def _scored_indices(run: Run) -> list[int]:
    return spread_indices(len(run.eval_source), run.task.settings.eval.max_samples)


def _grid_indices(run: Run) -> list[int]:
    settings = run.task.settings.checkpoint
    if settings.eval_ids:
        return indices_of_ids(run.eval_source, settings.eval_ids)
    indices = _scored_indices(run)  # pictures of samples that are scored anyway cost no forward pass
    return [indices[place] for place in spread_indices(len(indices), settings.grid_images)]


def grid_source(run: Run) -> tuple[Source, list[int]]:
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
    return run.eval_source, _grid_indices(run)


def _grid_only(run: Run) -> Evaluation:
    source, indices = grid_source(run)
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


def _failed(run: Run, state: TrainState | None, what: str, step: int) -> None:
    if run.task.settings.checkpoint.strict_hooks:
        raise  # called from an except block: tests and CI want the failure itself
    log.exception("%s failed at step %d; training goes on", what, step)
    run.failures.append(f"{what} at step {step} failed; the traceback is in run.log")
    run.progress.say(f"{what} failed at step {step}: see run.log; training goes on")
    if state is not None:
        state.hooks_failed += 1


def _report(run: Run, state: TrainState, failure: str) -> None:
    """Tell a failure that does not end training, once, count it, and keep it for the closing words."""
    if run.task.settings.checkpoint.strict_hooks:
        raise MlkitError(failure)
    state.hooks_failed += 1
    if failure not in run.failures:
        run.failures.append(failure)
        run.progress.say(failure)

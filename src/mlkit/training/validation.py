"""What happens around a checkpoint: scores, the best one, early stopping. None of it changes training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit.checkpoint import open_checkpoint, step_of
from mlkit.errors import CheckpointError
from mlkit.evaluation.evaluate import Evaluation, evaluate, report_json, spread_indices
from mlkit.metrics import METRICS, goodness
from mlkit.task import WarnsLater
from mlkit.training.drawing import grid_indices, scored_indices
from mlkit.training.forgetting import PREFIX
from mlkit.training.hooks import failed, report
from mlkit.training.state import Run, TrainState

if TYPE_CHECKING:
    from mlkit.task import Source

log = logging.getLogger(__name__)

__all__ = ["Evaluation"]


def score(run: Run, state: TrainState) -> Evaluation | None:
    """Return the scores of the validation part with the averaged weights; None when it failed (said and counted)."""
    indices = scored_indices(run)
    try:
        drawn = set(grid_indices(run)) & set(indices) if run.main and run.task.settings.checkpoint.grid else set()
        result = _evaluated(run, run.eval_source, indices, sorted(drawn), "evaluating")
    except Exception:  # noqa: BLE001 - named, counted, and raised where strict_hooks asks for it
        failed(run, state, "evaluation", state.step)
        return None
    for failure in result.failures:
        report(run, state, f"{failure} at step {state.step}; the traceback is in run.log")
    _warn(run, state, result)
    return result


def _warn(run: Run, state: TrainState, result: Evaluation) -> None:
    """Tell what a whole set says is wrong, once a kind; the last evaluation's are told again at the end."""
    if isinstance(run.task, WarnsLater) and state.step < run.task.warns_from:
        return
    run.warnings = [f"validation at step {state.step}: {warning}" for warning in result.warnings]
    for warning in result.warnings:
        kind = warning.partition(":")[0]
        if kind not in run.warned:
            run.warned.add(kind)
            run.progress.say(f"warning at step {state.step}: validation: {warning}")
            log.warning("step %d: validation: %s", state.step, warning)


def score_guarded(run: Run, state: TrainState) -> Evaluation | None:
    """Return the scores of the data that must not be forgotten; None when there are none, or it failed (counted)."""
    if run.guard is None:
        return None
    try:
        indices = spread_indices(len(run.guard.source), run.task.settings.eval.max_samples)
        return _evaluated(run, run.guard.source, indices, [], "guard")
    except Exception:  # noqa: BLE001 - named, counted, and raised where strict_hooks asks for it
        failed(run, state, "guard", state.step)
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
    run.progress.stage(f"{what} 0/{len(indices)}")
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
        report(
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

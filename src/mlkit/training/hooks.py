"""What a hook that failed does: it is logged, said, counted, told again at the end, and ends no training."""

from __future__ import annotations

import logging

from mlkit.errors import MlkitError
from mlkit.training.state import Run, TrainState

log = logging.getLogger(__name__)


def failed(run: Run, state: TrainState | None, what: str, step: int) -> None:
    """Keep the failure that is being handled; called from an except block."""
    if run.task.settings.checkpoint.strict_hooks:
        raise  # tests and CI want the failure itself
    log.exception("%s failed at step %d; training goes on", what, step)
    run.failures.append(f"{what} at step {step} failed; the traceback is in run.log")
    run.progress.say(f"{what} failed at step {step}: see run.log; training goes on")
    if state is not None:
        state.hooks_failed += 1


def report(run: Run, state: TrainState, failure: str) -> None:
    """Tell a failure that does not end training, once, count it, and keep it for the closing words."""
    if run.task.settings.checkpoint.strict_hooks:
        raise MlkitError(failure)
    state.hooks_failed += 1
    if failure not in run.failures:
        run.failures.append(failure)
        run.progress.say(failure)

"""The forgetting guard: older data, scored beside the new ones, and compared with the value at the start.

A run that was started from the weights of another may lose what those could do. It goes on, but it does so aloud.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlkit.data.manifest import DatasetManifest
from mlkit.data.opening import open_named
from mlkit.errors import SettingsError, counted
from mlkit.evaluation.evaluate import Evaluation
from mlkit.metrics import METRICS, goodness
from mlkit.settings import RunSettings
from mlkit.task import Source, Task

if TYPE_CHECKING:
    from mlkit.training.state import TrainState

PREFIX = "guard_"  # of a metric's key where it was measured on the guarded data


@dataclass(frozen=True, slots=True)
class Guard:
    """The data that must not be forgotten, and the score that tells."""

    data: DatasetManifest
    source: Source  # its validation part
    named: str  # as in the settings
    metric: str
    limit: float  # loss of the metric, in its unit, above which forgetting is told

    @property
    def key(self) -> str:
        return PREFIX + self.metric

    def means(self, scored: Evaluation | None) -> dict[str, float]:
        """Return the mean score under the guard's own key; empty without an evaluation."""
        return {} if scored is None else {self.key: scored.means()[self.metric]}

    def loss(self, start: float, now: float) -> float:
        """Return by how much the score is worse than at the start; negative where it is better."""
        return goodness(self.metric, start) - goodness(self.metric, now)

    def beginning(self, start: float) -> str:
        """Return "guard: psnr on DATA is 38.20 dB at the start"."""
        metric = METRICS[self.metric]
        unit = f" {metric.unit}" if metric.unit else ""
        return f"guard: {self.metric} on {self.named} is {start:.{metric.decimals}f}{unit} at the start"

    def warning(self, start: float | None, now: float) -> str:
        """Return "forgetting: psnr on DATA fell by 1.23 dB since the start (38.20 -> 36.97)"; empty within limits."""
        if start is None or not math.isfinite(now) or self.loss(start, now) <= self.limit:
            return ""
        metric = METRICS[self.metric]
        digits, unit = metric.decimals, f" {metric.unit}" if metric.unit else ""
        return (
            f"forgetting: {self.metric} on {self.named} {'fell' if now < start else 'rose'} by "
            f"{abs(now - start):.{digits}f}{unit} since the start ({start:.{digits}f} -> {now:.{digits}f})"
        )

    def report(self, scored: Evaluation, start: float | None) -> dict[str, Any]:
        """Return what eval.json says: the score of each image, so that the loss can be looked at image by image."""
        values = [value if math.isfinite(value) else None for value in scored.scores[self.metric]]
        return {
            "metric": self.metric,
            "signature": scored.signatures.get(self.metric, METRICS[self.metric].signature),
            "dataset_sha256": self.data.sha256,
            "dataset_label": self.data.label,
            "start": start,
            "ids": scored.ids,
            "scores": values,
        }


def open_guard(task: Task) -> Guard | None:
    """Return the guard that `eval.guard_data` asks for; None when it asks for none.

    Raises:
        DataError: when that dataset is not there, of another task, or without validation samples.
    """
    settings = task.settings.eval
    data = guarded_data(task.settings)
    if data is None or settings.guard_data is None:
        return None
    return Guard(data, task.eval_source(data), settings.guard_data, task.primary_metric, settings.guard_loss)


def guarded_data(settings: RunSettings) -> DatasetManifest | None:
    """Return the dataset that `eval.guard_data` names, or None; raises as `open_guard`."""
    named = settings.eval.guard_data
    return None if named is None else open_named(named, "eval.guard_data", settings.task)


def refuse_other_guard(settings: RunSettings, counters: Mapping[str, Any]) -> None:
    """Refuse a resume that would compare with the start's value on other data.

    Args:
        settings: of the resume.
        counters: training_state.json of the checkpoint.

    Raises:
        SettingsError: when the guarded data are other ones than at the start.
    """
    data, meant = guarded_data(settings), counters.get("guard_sha256")
    if data is not None and meant is not None and data.sha256 != meant:
        raise SettingsError(
            f"eval.guard_data = {settings.eval.guard_data!r} has sha256 {data.sha256[:12]}, but this run began with "
            f"{meant[:12]}, and its scores are compared with those at the start; name the dataset that it began with, "
            f'or none: --set eval.guard_data="none"'
        )


def closing_words(guard: Guard, state: TrainState, means: Mapping[str, float]) -> str:
    """Return the sentence that repeats at the end what was told; empty when nothing was.

    Args:
        guard: the guard.
        state: the state at the end.
        means: scores of the last evaluation.
    """
    if state.guard_warnings == 0 or guard.key not in means:
        return ""
    return guard.warning(state.guard_start, means[guard.key]) or (
        f"forgetting: {guard.metric} on {guard.named} was more than {guard.limit:g} worse than at the start at "
        f"{counted(state.guard_warnings, 'evaluation')}, but not at the last one"
    )

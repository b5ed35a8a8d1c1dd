"""Acceptance criteria of a preset: one sentence each, passed, failed, or not to be judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlkit.metrics import METRICS

# Told by what a run left in its folder, not scored on images.
NONFINITE_STEPS = "nonfinite_steps"
FLUCTUATION = "fluctuation"  # of the training loss: `stability.largest_fluctuation`
OF_THE_RUN = (NONFINITE_STEPS, FLUCTUATION)
_SLACK = 1e-9  # relative: a bound that is met in decimal is met in binary too


@dataclass(frozen=True, slots=True)
class Judged:
    """One criterion and what came of it."""

    metric: str  # key of METRICS, "nonfinite_steps", "fluctuation", or a figure of the whole set
    sentence: str  # "PSNR >= baseline + 1.5 dB"
    passed: bool | None  # None: it could not be judged
    value: float | None  # what was judged: the mean over images, or the mean difference to the baseline
    reason: str = ""  # why it could not be judged


def judge(
    criterion: Mapping[str, Any],
    values: Mapping[str, float | None],
    differences: Mapping[str, float | None] | None = None,
) -> Judged:
    """Return whether `values` meet a criterion; a missing or non-finite value is never a pass.

    Args:
        criterion: metric, min, max and relative_to_baseline, as in `[[eval.criteria]]` of a preset; bounds belong to
            the interval, and at least one is set.
        values: mean over images by key of METRICS, figures of the whole set, and those OF_THE_RUN.
        differences: mean paired difference to the baseline by key; None for the baseline itself.
    """
    key = str(criterion["metric"])
    relative = bool(criterion.get("relative_to_baseline"))
    sentence = sentence_of(criterion)
    if relative and differences is None:
        return Judged(key, sentence, None, None, "this is the baseline")
    value = (differences or {}).get(key) if relative else values.get(key)
    if value is None:
        return Judged(key, sentence, None, None, _unknown(key))
    if not math.isfinite(value):
        return Judged(key, sentence, False, None, f"{key} is not finite")
    low, high = criterion.get("min"), criterion.get("max")
    passed = (low is None or value >= low - _SLACK * max(1.0, abs(low))) and (
        high is None or value <= high + _SLACK * max(1.0, abs(high))
    )
    return Judged(key, sentence, passed, value)


def _unknown(key: str) -> str:
    """Return why there is no value."""
    if key == FLUCTUATION:
        return "the run has too few rows of its training loss"
    return f"{key} was not scored" if key in METRICS or key == NONFINITE_STEPS else f"{key} is no metric of this mlkit"


def sentence_of(criterion: Mapping[str, Any]) -> str:
    """Return a criterion in words: "PSNR >= baseline + 1.5 dB", "ENL ratio in [0.7, 1.3]", "no non-finite step"."""
    key, low, high = str(criterion["metric"]), criterion.get("min"), criterion.get("max")
    metric = METRICS.get(key)
    if key == NONFINITE_STEPS:
        name, unit = "non-finite steps", ""
        if high == 0 and not criterion.get("relative_to_baseline"):
            return "no non-finite step"
    elif key == FLUCTUATION:
        name, unit = "largest fluctuation of the loss", ""
    else:
        name, unit = (metric.name, metric.unit) if metric else (key, "")
    unit = f" {unit}" if unit else ""
    if low is not None and high is not None:
        if criterion.get("relative_to_baseline"):
            return f"{name} - baseline in [{low:g}, {high:g}]{unit}"
        return f"{name} in [{low:g}, {high:g}]{unit}"
    bound, sign = (high, "<=") if low is None else (low, ">=")
    assert bound is not None, "a criterion has a bound"
    if criterion.get("relative_to_baseline"):
        if bound == 0:
            return f"{name} {sign} baseline"
        return f"{name} {sign} baseline {'-' if bound < 0 else '+'} {abs(bound):g}{unit}"
    return f"{name} {sign} {bound:g}{unit}"

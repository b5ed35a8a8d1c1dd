"""The runs of a group one by one: what training again with another seed would change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.evaluation.scores import Scores
from mlkit.evaluation.statistics import Floats, Interval, Verdict, mean_interval, verdict, welch_interval
from mlkit.metrics import METRICS


@dataclass(frozen=True, slots=True)
class Seeds:
    """The runs of a group, and intervals that count a run as one observation."""

    names: Sequence[str]
    checkpoints: Sequence[Path]
    steps: Sequence[int]
    values: Mapping[str, Sequence[float]]  # mean over images, or figure of the whole set, of each run by key
    intervals: Mapping[str, Interval]  # of their means over the runs, by the same keys
    improvements: Mapping[str, Interval]  # over the first group by metric, positive is better; Welch's interval

    def verdict(self, key: str) -> Verdict:
        """Return what the runs say about this group against the first."""
        return verdict(self.improvements[key])

    def to_json(self) -> dict[str, Any]:
        """Return it for comparison.json; what cannot be known is null."""
        runs = zip(self.names, self.checkpoints, self.steps, strict=True)
        return {
            "runs": [{"name": name, "checkpoint": str(folder), "step": step} for name, folder, step in runs],
            "values": {key: [_known(value) for value in values] for key, values in self.values.items()},
            "intervals": {key: _plain(interval) for key, interval in self.intervals.items()},
            "improvement_over_first": {
                key: {**_plain(interval), "verdict": self.verdict(key)} for key, interval in self.improvements.items()
            },
        }


def over_seeds(
    members: Sequence[Scores],
    checkpoints: Sequence[Path],
    ids: Sequence[str],
    keys: Sequence[str],
    first: Sequence[Scores] | None,
) -> Seeds:
    """Return what a group's runs say.

    Args:
        members: scores of each run.
        checkpoints: of each run.
        ids: the images that count.
        keys: the metrics.
        first: the runs of the group to compare with; None where the baseline is no group, or this one.
    """
    figures = [key for key in members[0].set_scores if all(key in scores.set_scores for scores in members)]
    values = {key: [_mean(scores.on(ids, key)) for scores in members] for key in keys}
    values |= {key: [scores.set_scores[key] for scores in members] for key in figures}
    improvements = {}
    if first is not None:
        improvements = {key: welch_interval(_good(first, ids, key), _good(members, ids, key)) for key in keys}
    return Seeds(
        names=[scores.name for scores in members],
        checkpoints=checkpoints,
        steps=[scores.step for scores in members],
        values=values,
        intervals={key: mean_interval(found) for key, found in values.items()},
        improvements=improvements,
    )


def _good(members: Sequence[Scores], ids: Sequence[str], key: str) -> list[float]:
    """Return a number for each run that rises as it gets better: its mean score, or minus its distance to 1."""
    better = METRICS[key].better
    if better == "one":
        return [_mean(-np.abs(scores.on(ids, key) - 1)) for scores in members]
    return [_mean(scores.on(ids, key)) * (1 if better == "higher" else -1) for scores in members]


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(interval: Interval) -> dict[str, float | None]:
    return {key: _known(value) for key, value in asdict(interval).items() if key in ("mean", "low", "high", "level")}

"""A row of a comparison: one model, or the models of several seeds, and what the images say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.evaluation.criteria import FLUCTUATION, NONFINITE_STEPS, Judged, judge
from mlkit.evaluation.scores import NOT_RANKED, Candidate, Scores
from mlkit.evaluation.seeds import Seeds, over_seeds
from mlkit.evaluation.statistics import Difference, Floats, improvements
from mlkit.metrics import METRICS

NUM_WORST = 10


@dataclass(frozen=True, slots=True)
class ImageGain:
    """An image with its two scores."""

    id: str
    first: float
    other: float
    improvement: float  # positive is better


@dataclass(frozen=True, slots=True)
class Row:
    """One model, or the models of several seeds."""

    name: str
    checkpoint: Path  # of a group the first one's
    step: int
    parameters: int | None
    facts: Mapping[str, float]  # values_ratio, bits_per_px: what the task's models store
    means: Mapping[str, float | None]  # over the images with a finite score
    differences: Mapping[str, Difference]  # to the first row; empty there
    values: Mapping[str, Floats]  # scores of each image by metric, NaN where it has none
    worst: Sequence[ImageGain]  # the images with the least improvement of the main metric, the worst first
    criteria: Sequence[Judged]
    nonfinite_steps: int  # of all seeds
    fluctuation: float  # of the training loss, the largest of all seeds; NaN where unknown
    set_scores: Mapping[str, float]  # figures of all images together; NaN where one is undefined
    families: Mapping[str, Mapping[str, float | None]]  # means by family of images; empty where there is but one
    seeds: Seeds | None  # of a group

    def to_json(self) -> dict[str, Any]:
        """Return it for comparison.json."""
        return {
            "name": self.name,
            "checkpoint": str(self.checkpoint),
            "step": self.step,
            "parameters": self.parameters,
            "facts": dict(self.facts),
            "means": dict(self.means),
            "improvement_over_first": {key: found.to_json() for key, found in self.differences.items()},
            "worst_images": [asdict(image) for image in self.worst],
            "criteria": [asdict(judged) for judged in self.criteria],
            "nonfinite_steps": self.nonfinite_steps,
            "fluctuation": _known(self.fluctuation),
            "set_scores": {key: _known(value) for key, value in self.set_scores.items()},
            "families": {family: dict(means) for family, means in self.families.items()},
            **({"seeds": self.seeds.to_json()} if self.seeds else {}),
        }


@dataclass(frozen=True, slots=True)
class Entry:
    """What was read of one row."""

    members: Sequence[Candidate]
    member_scores: Sequence[Scores]
    facts: Sequence[Mapping[str, Any]]  # of each member
    scores: Scores  # of all members as one
    is_group: bool


def row_of(
    entry: Entry,
    baseline: Entry,
    ids: Sequence[str],
    shared: Sequence[str],
    main: str,
    differences: Mapping[str, Difference],
    sizes: Mapping[str, int],
) -> Row:
    """Return the row of an entry.

    Args:
        entry: what was read of it.
        baseline: the first entry.
        ids: the images that all have.
        shared: the metrics that all have.
        main: the metric by which images are the worst.
        differences: to the baseline by metric; empty for the baseline itself.
        sizes: images by family.
    """
    scores, first, is_first = entry.scores, baseline.scores, entry is baseline
    means = {key: _mean(scores.on(ids, key)) for key in METRICS if key in scores.scores}
    figures, of_first = ({**_of_the_run(one.members), **one.scores.set_scores} for one in (entry, baseline))
    over_first = None
    if not is_first:
        over_first = {key: _mean(scores.on(ids, key) - first.on(ids, key)) for key in shared}
        over_first |= {key: value - of_first[key] for key, value in figures.items() if key in of_first}
    ranked = [key for key in shared if key not in NOT_RANKED]
    return Row(
        name=scores.name,
        checkpoint=entry.members[0].checkpoint,
        step=scores.step,
        parameters=entry.facts[0]["parameters"],
        facts=entry.facts[0]["facts"],
        means=means,
        differences=differences,
        values={key: scores.on(ids, key) for key in ranked},
        worst=() if is_first else worst_images(ids, first.on(ids, main), scores.on(ids, main), main),
        criteria=[judge(criterion, {**means, **figures}, over_first) for criterion in entry.facts[0]["criteria"]],
        nonfinite_steps=int(figures[NONFINITE_STEPS]),
        fluctuation=figures.get(FLUCTUATION, math.nan),
        set_scores=scores.set_scores,
        families=_family_means(scores, ids, ranked, first.family_of) if sizes else {},
        seeds=over_seeds(
            entry.member_scores,
            [member.checkpoint for member in entry.members],
            ids,
            ranked,
            baseline.member_scores if baseline.is_group and not is_first else None,
        )
        if entry.is_group
        else None,
    )


def worst_images(ids: Sequence[str], first: Floats, other: Floats, key: str, most: int = NUM_WORST) -> list[ImageGain]:
    """Return the images with the least improvement, the worst first; scores are [N], those missing are left out."""
    gains = improvements(first, other, METRICS[key].better)
    order = [int(place) for place in np.argsort(gains, kind="stable") if math.isfinite(gains[place])]
    return [ImageGain(ids[i], float(first[i]), float(other[i]), float(gains[i])) for i in order[:most]]


def _of_the_run(members: Sequence[Candidate]) -> dict[str, float]:
    """Return what criteria judge and no score tells: all steps that were not finite, the largest fluctuation."""
    known = [member.fluctuation for member in members if not math.isnan(member.fluctuation)]
    nonfinite = float(sum(member.nonfinite_steps for member in members))
    return {NONFINITE_STEPS: nonfinite, **({FLUCTUATION: max(known)} if known else {})}


def _mean(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def family_sizes(first: Scores, ids: Sequence[str]) -> dict[str, int]:
    """Return how many images each family has, in the order of their first ones; nothing where there is but one."""
    sizes: dict[str, int] = {}
    for name in ids if first.family_of else ():
        family = first.family_of[name]
        sizes[family] = sizes.get(family, 0) + 1
    return sizes if len(sizes) > 1 else {}


def _family_means(
    scores: Scores, ids: Sequence[str], keys: Sequence[str], family_of: Mapping[str, str]
) -> dict[str, dict[str, float | None]]:
    """Return the means of each family; the families are those of the first row, since the images are the same."""
    members: dict[str, list[str]] = {}
    for name in ids:
        members.setdefault(family_of[name], []).append(name)
    return {family: {key: _mean(scores.on(own, key)) for key in keys} for family, own in members.items()}

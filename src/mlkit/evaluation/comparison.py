"""Runs set side by side on the same images: means, paired differences to the first, verdicts, criteria.

It reads the scores that evaluations left on disk (`eval.json`), so comparing costs no model and no torch. Runs that
differ in the seed alone are compared as one: per image the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.errors import DataError, listing
from mlkit.evaluation.criteria import FLUCTUATION, NONFINITE_STEPS, Judged, judge
from mlkit.evaluation.scores import (
    NOT_RANKED,
    Candidate,
    Group,
    Scores,
    pooled,
    read_facts,
    read_scores,
    refuse_unequal,
    unlike_settings,
)
from mlkit.evaluation.seeds import Seeds, over_seeds
from mlkit.evaluation.statistics import Difference, Floats, compare_pairs, fewest_pairs, paired_differences
from mlkit.metrics import METRICS

COMPARISON_FORMAT = 1

__all__ = ["Candidate", "Comparison", "Group", "Row", "choose_images", "compare_checkpoints"]


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
            "criteria": [asdict(judged) for judged in self.criteria],
            "nonfinite_steps": self.nonfinite_steps,
            "fluctuation": _known(self.fluctuation),
            "set_scores": {key: _known(value) for key, value in self.set_scores.items()},
            "families": {family: dict(means) for family, means in self.families.items()},
            **({"seeds": self.seeds.to_json()} if self.seeds else {}),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models on the same images, the first of them the baseline."""

    rows: Sequence[Row]
    metrics: Sequence[str]  # keys that every row has, in the order of METRICS
    signatures: Mapping[str, str]
    num_images: int
    dataset_sha256: str
    dataset_label: str  # "simulated" or ""
    split: str
    notes: Sequence[str]  # what a reader must know before believing the numbers
    shown_ids: Sequence[str]  # images worth looking at: the largest differences, and the median one
    family_sizes: Mapping[str, int]  # images by family; empty where there is but one

    def to_json(self) -> dict[str, Any]:
        """Return what `comparison.json` holds; a number that cannot be known is null."""
        return {
            "format_version": COMPARISON_FORMAT,
            "dataset_sha256": self.dataset_sha256,
            "dataset_label": self.dataset_label,
            "split": self.split,
            "num_images": self.num_images,
            "families": dict(self.family_sizes),
            "metrics": list(self.metrics),
            "signatures": dict(self.signatures),
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
            "shown_ids": list(self.shown_ids),
        }


@dataclass(frozen=True, slots=True)
class _Entry:
    """What was read of one row."""

    members: Sequence[Candidate]
    member_scores: Sequence[Scores]
    facts: Sequence[Mapping[str, Any]]  # of each member
    scores: Scores  # of all members as one
    is_group: bool


def compare_checkpoints(
    candidates: Sequence[Candidate | Group], *, evaluate: Callable[[Path], None] | None = None, seed: int = 0
) -> Comparison:
    """Return the comparison of checkpoints, or groups of them, with the first, over the images that all have.

    Args:
        candidates: at least two.
        evaluate: writes eval.json into a checkpoint folder; called only where it is missing.
        seed: of the bootstrap.

    Raises:
        DataError: unequal datasets, parts or signatures, no common image or metric, damaged files.
    """
    assert len(candidates) >= 2, "a comparison needs two"
    entries = _read(candidates, evaluate)
    first = entries[0].scores
    all_scores = [entry.scores for entry in entries]
    names = listing([scores.name for scores in all_scores])
    ids = [name for name in first.by_id if all(name in scores.by_id for scores in all_scores)]
    if not ids:
        raise DataError(f"{names} share no evaluated image; delete their eval.json and compare again")
    shared = [key for key in METRICS if all(key in scores.scores for scores in all_scores)]
    ranked = [key for key in shared if key not in NOT_RANKED]
    if not ranked:
        raise DataError(f"{names} share no metric; delete their eval.json and compare again")
    sizes = _family_sizes(first, ids)
    rows = [_row(entry, entries[0], ids, shared, sizes, seed) for entry in entries]
    main = ranked[0]
    main_differences = paired_differences(first.on(ids, main), all_scores[1].on(ids, main), METRICS[main].better)
    return Comparison(
        rows=rows,
        metrics=ranked,
        signatures={key: first.signatures[key] for key in ranked},
        num_images=len(ids),
        dataset_sha256=first.dataset_sha256,
        dataset_label=next((scores.dataset_label for scores in all_scores if scores.dataset_label), ""),
        split=first.split,
        notes=_notes(rows, entries, ids, ranked),
        shown_ids=choose_images(ids, main_differences),
        family_sizes=sizes,
    )


def choose_images(ids: Sequence[str], differences: Floats, largest: int = 3) -> list[str]:
    """Return the ids with the largest differences either way, then the one with the median difference."""
    sizes = [float(abs(value)) for value in differences]
    order = sorted((place for place, size in enumerate(sizes) if math.isfinite(size)), key=lambda i: (-sizes[i], i))
    if not order:
        return list(ids[: largest + 1])
    middle = float(np.median(differences[order]))
    rest = sorted(order[largest:], key=lambda i: (abs(float(differences[i]) - middle), i))
    return [ids[i] for i in order[:largest] + rest[:1]]


def _read(candidates: Sequence[Candidate | Group], evaluate: Callable[[Path], None] | None) -> list[_Entry]:
    members = [tuple(one.members) if isinstance(one, Group) else (one,) for one in candidates]
    facts = [[read_facts(member) for member in own] for own in members]
    scores = [[read_scores(member, evaluate) for member in own] for own in members]
    refuse_unequal([one for own in scores for one in own])
    return [
        _Entry(own, own_scores, own_facts, pooled(one.name, own_scores), isinstance(one, Group))
        for one, own, own_scores, own_facts in zip(candidates, members, scores, facts, strict=True)
    ]


def _row(
    entry: _Entry, baseline: _Entry, ids: Sequence[str], shared: Sequence[str], sizes: Mapping[str, int], seed: int
) -> Row:
    """Return the row of an entry; that of the baseline itself has no differences."""
    scores, first, is_first = entry.scores, baseline.scores, entry is baseline
    means = {key: _mean(scores.on(ids, key)) for key in METRICS if key in scores.scores}
    figures, of_first = ({**_of_the_run(one.members), **one.scores.set_scores} for one in (entry, baseline))
    differences = None
    if not is_first:
        differences = {key: _mean(scores.on(ids, key) - first.on(ids, key)) for key in shared}
        differences |= {key: value - of_first[key] for key, value in figures.items() if key in of_first}
    ranked = [key for key in shared if key not in NOT_RANKED]
    return Row(
        name=scores.name,
        checkpoint=entry.members[0].checkpoint,
        step=scores.step,
        parameters=entry.facts[0]["parameters"],
        facts=entry.facts[0]["facts"],
        means=means,
        differences={} if is_first else _differences(first, scores, ids, ranked, seed),
        criteria=[judge(criterion, {**means, **figures}, differences) for criterion in entry.facts[0]["criteria"]],
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


def _of_the_run(members: Sequence[Candidate]) -> dict[str, float]:
    """Return what criteria judge and no score tells: all steps that were not finite, the largest fluctuation."""
    known = [member.fluctuation for member in members if not math.isnan(member.fluctuation)]
    nonfinite = float(sum(member.nonfinite_steps for member in members))
    return {NONFINITE_STEPS: nonfinite, **({FLUCTUATION: max(known)} if known else {})}


def _differences(
    first: Scores, other: Scores, ids: Sequence[str], keys: Sequence[str], seed: int
) -> dict[str, Difference]:
    return {key: compare_pairs(first.on(ids, key), other.on(ids, key), METRICS[key].better, seed=seed) for key in keys}


def _mean(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _family_sizes(first: Scores, ids: Sequence[str]) -> dict[str, int]:
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


def _notes(rows: Sequence[Row], entries: Sequence[_Entry], ids: Sequence[str], ranked: Sequence[str]) -> list[str]:
    """Return the sentences that keep a reader from believing too much."""
    notes: list[str] = []
    limits = [rows[0].facts.get(key) for key in ("db_min", "db_max")]
    if limits[0] is not None and limits[1] is not None:
        notes.append(
            f"PSNR is of images in dB with vmin {limits[0]:.2f} dB and vmax {limits[1]:.2f} dB as 0 and 1, a range of "
            f"{limits[1] - limits[0]:.2f} dB; with another range it is another number"
        )
    for entry in entries:
        scores = entry.scores
        if unlike := unlike_settings([facts["settings"] for facts in entry.facts]):
            notes.append(f"{scores.name}: its runs differ in more than the seed: {listing(unlike)}")
        if extra := len(scores.by_id) - len(ids):
            notes.append(f"{scores.name}: {extra} evaluated images that not every run has are left out")
        if other := [key for key in scores.scores if key not in ranked and key not in NOT_RANKED]:
            notes.append(
                f"{scores.name}: {listing(other)} not compared, since not every run has it or METRICS lacks it"
            )
        counts = {key: int(np.count_nonzero(~np.isfinite(scores.on(ids, key)))) for key in ranked}
        if missing := [(key, count) for key, count in counts.items() if count]:
            (key, count), *others = missing
            rest = "".join(f", {count} no {key}" for key, count in others)
            notes.append(
                f"{scores.name}: {count} of {len(ids)} images have no finite {key}{rest}; those pairs are left out"
            )
    if len(ids) < fewest_pairs():
        notes.append(f"{len(ids)} images are too few: no difference can be shown with less than {fewest_pairs()}")
    for row in rows[1:]:
        for fact, words in (("bits_per_px", "bits per pixel"), ("values_ratio", "times fewer values")):
            one, two = rows[0].facts.get(fact), row.facts.get(fact)
            if one is not None and two is not None and not math.isclose(one, two, rel_tol=0.01):
                notes.append(f"not at equal size: {rows[0].name} has {one:g} {words}, {row.name} has {two:g}")
    return notes

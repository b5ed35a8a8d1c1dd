"""Runs set side by side on the same images: means, paired differences to the first, verdicts, criteria.

It reads the scores that evaluations left on disk (`eval.json`), so comparing costs no model and no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.errors import DataError, listing
from mlkit.evaluation.criteria import NONFINITE_STEPS, Judged, judge
from mlkit.evaluation.statistics import Difference, Floats, compare_pairs, fewest_pairs, paired_differences
from mlkit.files import read_json
from mlkit.metrics import METRICS

COMPARISON_FORMAT = 1
_EVAL_FORMAT = 1
_CHECKPOINT_FORMAT = 1
# Every model is trained on its own loss: two losses have no common scale, so they are never ranked.
_NOT_RANKED = ("loss",)
_AGAIN = "delete it and compare again, which makes it anew"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One checkpoint to compare, under the name that tables show."""

    name: str
    checkpoint: Path
    nonfinite_steps: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One model."""

    name: str
    checkpoint: Path
    step: int
    parameters: int | None
    facts: Mapping[str, float]  # values_ratio, bits_per_px: what the task's models store
    means: Mapping[str, float | None]  # over the images with a finite score
    differences: Mapping[str, Difference]  # to the first row; empty there
    criteria: Sequence[Judged]


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

    def to_json(self) -> dict[str, Any]:
        """Return what `comparison.json` holds; a number that cannot be known is null."""
        rows = [
            {
                "name": row.name,
                "checkpoint": str(row.checkpoint),
                "step": row.step,
                "parameters": row.parameters,
                "facts": dict(row.facts),
                "means": dict(row.means),
                "improvement_over_first": {key: found.to_json() for key, found in row.differences.items()},
                "criteria": [asdict(judged) for judged in row.criteria],
            }
            for row in self.rows
        ]
        return {
            "format_version": COMPARISON_FORMAT,
            "dataset_sha256": self.dataset_sha256,
            "dataset_label": self.dataset_label,
            "split": self.split,
            "num_images": self.num_images,
            "metrics": list(self.metrics),
            "signatures": dict(self.signatures),
            "rows": rows,
            "notes": list(self.notes),
            "shown_ids": list(self.shown_ids),
        }


@dataclass(frozen=True, slots=True)
class Scores:
    """One checkpoint's evaluation, as read from disk."""

    name: str
    step: int
    dataset_sha256: str
    dataset_label: str
    split: str
    protocol: str
    signatures: Mapping[str, str]
    by_id: Mapping[str, int]
    scores: Mapping[str, Floats]  # [N] by metric; NaN where an image has none

    def on(self, ids: Sequence[str], key: str) -> Floats:
        """Return the scores of these images, [len(ids)]."""
        return self.scores[key][[self.by_id[name] for name in ids]]


# ---------------------------------------------------------------------------------------------- reading


def read_scores(candidate: Candidate, evaluate: Callable[[Path], None] | None = None) -> Scores:
    """Return a checkpoint's scores; `evaluate` is called to make them where they are missing.

    Raises:
        DataError: when eval.json is missing (and there is no `evaluate`), damaged, or newer than this mlkit.
    """
    path = candidate.checkpoint / "eval.json"
    if evaluate is not None and not path.is_file():
        evaluate(candidate.checkpoint)
    found = read_json(path, "evaluation", _EVAL_FORMAT)
    try:
        ids = [str(name) for name in found["ids"]]
        scores = {key: np.array(values, np.float64) for key, values in found["scores"].items()}  # null becomes NaN
        scores = {key: np.where(np.isfinite(values), values, np.nan) for key, values in scores.items()}
        read = Scores(
            name=candidate.name,
            step=int(found["step"]),
            dataset_sha256=str(found["dataset_sha256"]),
            dataset_label=str(found.get("dataset_label") or ""),
            split=str(found["split"]),
            protocol=str(found.get("protocol", "default")),
            signatures={key: str(found["signatures"].get(key, "")) for key in scores},
            by_id={name: place for place, name in enumerate(ids)},
            scores=scores,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"evaluation {path} is damaged: {type(error).__name__} {error}; {_AGAIN}") from error
    if len(read.by_id) != len(ids):
        raise DataError(f"evaluation {path} is damaged: {len(ids) - len(read.by_id)} image ids repeat; {_AGAIN}")
    if wrong := [key for key, values in scores.items() if values.shape != (len(ids),)]:
        raise DataError(f"evaluation {path} is damaged: {listing(wrong)} has not one score an image; {_AGAIN}")
    return read


def refuse_unequal(all_scores: Sequence[Scores]) -> None:
    """Raise one DataError with every reason for which the others cannot be ranked against the first."""
    first = all_scores[0]
    problems: list[str] = []
    for other in all_scores[1:]:
        pair = f"cannot compare {first.name} with {other.name}"
        if first.dataset_sha256 != other.dataset_sha256:
            problems.append(
                f"{pair}: they were evaluated on different datasets ({first.dataset_sha256[:12]} and "
                f"{other.dataset_sha256[:12]}); compare runs of one dataset"
            )
        for what, one, two in (("part", first.split, other.split), ("protocol", first.protocol, other.protocol)):
            if one != two:
                problems.append(
                    f"{pair}: the {what} of the evaluation is '{one}' in {first.name} and '{two}' in {other.name}; "
                    f"evaluate both with the same {what}"
                )
        problems += [
            f"{pair}: the signature of {key} is '{first.signatures[key]}' in {first.name} and "
            f"'{other.signatures[key]}' in {other.name}; delete the older eval.json and compare again"
            for key in first.signatures
            if key in other.signatures and key not in _NOT_RANKED and first.signatures[key] != other.signatures[key]
        ]
    if problems:
        raise DataError(*problems)


# -------------------------------------------------------------------------------------------- comparing


def compare_checkpoints(
    candidates: Sequence[Candidate], *, evaluate: Callable[[Path], None] | None = None, seed: int = 0
) -> Comparison:
    """Return the comparison of checkpoints with the first of them, over the images that all have.

    Args:
        candidates: at least two.
        evaluate: writes eval.json into a checkpoint folder; called only where it is missing.
        seed: of the bootstrap.

    Raises:
        DataError: unequal datasets, parts or signatures, no common image or metric, damaged files.
    """
    assert len(candidates) >= 2, "a comparison needs two"
    checkpoints = [_read_checkpoint(candidate) for candidate in candidates]
    all_scores = [read_scores(candidate, evaluate) for candidate in candidates]
    refuse_unequal(all_scores)
    first = all_scores[0]
    names = listing([scores.name for scores in all_scores])
    ids = [name for name in first.by_id if all(name in scores.by_id for scores in all_scores)]
    if not ids:
        raise DataError(f"{names} share no evaluated image; delete their eval.json and compare again")
    shared = [key for key in METRICS if all(key in scores.scores for scores in all_scores)]
    ranked = [key for key in shared if key not in _NOT_RANKED]
    if not ranked:
        raise DataError(f"{names} share no metric; delete their eval.json and compare again")
    rows: list[Row] = []
    for candidate, scores, facts in zip(candidates, all_scores, checkpoints, strict=True):
        means = {key: _mean(scores.on(ids, key)) for key in METRICS if key in scores.scores}
        judged_values = {**means, NONFINITE_STEPS: float(candidate.nonfinite_steps)}
        baseline = None
        if rows:
            baseline = {key: _mean(scores.on(ids, key) - first.on(ids, key)) for key in shared}
            baseline[NONFINITE_STEPS] = float(candidate.nonfinite_steps - candidates[0].nonfinite_steps)
        rows.append(
            Row(
                name=candidate.name,
                checkpoint=candidate.checkpoint,
                step=scores.step,
                parameters=facts["parameters"],
                facts=facts["facts"],
                means=means,
                differences=_differences(first, scores, ids, ranked, seed) if rows else {},
                criteria=[judge(criterion, judged_values, baseline) for criterion in facts["criteria"]],
            )
        )
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
        notes=_notes(rows, all_scores, ids, ranked),
        shown_ids=choose_images(ids, main_differences),
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


def _differences(
    first: Scores, other: Scores, ids: Sequence[str], keys: Sequence[str], seed: int
) -> dict[str, Difference]:
    return {key: compare_pairs(first.on(ids, key), other.on(ids, key), METRICS[key].better, seed=seed) for key in keys}


def _mean(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _notes(rows: Sequence[Row], all_scores: Sequence[Scores], ids: Sequence[str], ranked: Sequence[str]) -> list[str]:
    """Return the sentences that keep a reader from believing too much."""
    notes: list[str] = []
    for scores in all_scores:
        if extra := len(scores.by_id) - len(ids):
            notes.append(f"{scores.name}: {extra} evaluated images that not every run has are left out")
        if other := [key for key in scores.scores if key not in ranked and key not in _NOT_RANKED]:
            notes.append(
                f"{scores.name}: {listing(other)} not compared, since not every run has it or METRICS lacks it"
            )
        missing = {key: int(np.count_nonzero(~np.isfinite(scores.on(ids, key)))) for key in ranked}
        notes += [
            f"{scores.name}: {count} of {len(ids)} images have no finite {key}; those pairs are left out"
            for key, count in missing.items()
            if count
        ]
    if len(ids) < fewest_pairs():
        notes.append(f"{len(ids)} images are too few: no difference can be shown with less than {fewest_pairs()}")
    for row in rows[1:]:
        for fact, words in (("bits_per_px", "bits per pixel"), ("values_ratio", "times fewer values")):
            one, two = rows[0].facts.get(fact), row.facts.get(fact)
            if one is not None and two is not None and not math.isclose(one, two, rel_tol=0.01):
                notes.append(f"not at equal size: {rows[0].name} has {one:g} {words}, {row.name} has {two:g}")
    return notes


def _read_checkpoint(candidate: Candidate) -> dict[str, Any]:
    """Return parameters, facts and criteria of a checkpoint; older ones may lack them."""
    found = read_json(candidate.checkpoint / "checkpoint.json", "checkpoint", _CHECKPOINT_FORMAT)
    evaluation = (found.get("settings") or {}).get("eval") or {}
    return {
        "parameters": found.get("parameters"),
        "facts": {key: float(value) for key, value in (found.get("facts") or {}).items() if value is not None},
        "criteria": list(evaluation.get("criteria") or ()),
    }

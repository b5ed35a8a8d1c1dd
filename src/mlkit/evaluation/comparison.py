"""Runs set side by side on the same images: means, paired differences to the first, verdicts, criteria.

It reads the scores that evaluations left on disk (`eval.json`), so comparing costs no model and no torch. Runs that
differ in the seed alone are compared as one: per image the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.errors import DataError, listing
from mlkit.evaluation.rows import Entry, Row, family_sizes, row_of
from mlkit.evaluation.scores import (
    NOT_RANKED,
    Candidate,
    Group,
    pooled,
    read_facts,
    read_scores,
    refuse_unequal,
    unlike_settings,
)
from mlkit.evaluation.statistics import Difference, Floats, compare_all, fewest_pairs, paired_differences
from mlkit.metrics import METRICS

COMPARISON_FORMAT = 1

__all__ = ["Candidate", "Comparison", "Group", "Row", "choose_images", "compare_checkpoints"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models on the same images, the first of them the baseline."""

    rows: Sequence[Row]
    metrics: Sequence[str]  # keys that every row has, in the order of METRICS
    main: str  # the one by which the tasks' checkpoints are chosen, else the first
    signatures: Mapping[str, str]
    protocol: str
    ids: Sequence[str]  # the images that every row has, in the order of every row's values
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
            "main_metric": self.main,
            "protocol": self.protocol,
            "signatures": dict(self.signatures),
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
            "shown_ids": list(self.shown_ids),
        }


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
    sizes = family_sizes(first, ids)
    chosen = {member.primary for entry in entries for member in entry.members}
    main = next((key for key in ranked if chosen == {key}), ranked[0])
    others = all_scores[1:]
    found = {
        key: compare_all(first.on(ids, key), [one.on(ids, key) for one in others], METRICS[key].better, seed=seed)
        for key in ranked
    }
    differences: list[dict[str, Difference]] = [{}]
    differences += [{key: found[key][place] for key in ranked} for place in range(len(others))]
    rows = [
        row_of(entry, entries[0], ids, shared, main, own, sizes)
        for entry, own in zip(entries, differences, strict=True)
    ]
    main_differences = paired_differences(first.on(ids, main), others[0].on(ids, main), METRICS[main].better)
    return Comparison(
        rows=rows,
        metrics=ranked,
        main=main,
        signatures={key: first.signatures[key] for key in ranked},
        protocol=first.protocol,
        ids=ids,
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


def _read(candidates: Sequence[Candidate | Group], evaluate: Callable[[Path], None] | None) -> list[Entry]:
    members = [tuple(one.members) if isinstance(one, Group) else (one,) for one in candidates]
    facts = [[read_facts(member) for member in own] for own in members]
    scores = [[read_scores(member, evaluate) for member in own] for own in members]
    refuse_unequal([one for own in scores for one in own])
    return [
        Entry(own, own_scores, own_facts, pooled(one.name, own_scores), isinstance(one, Group))
        for one, own, own_scores, own_facts in zip(candidates, members, scores, facts, strict=True)
    ]


def _notes(rows: Sequence[Row], entries: Sequence[Entry], ids: Sequence[str], ranked: Sequence[str]) -> list[str]:
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
    if len(ids) < (fewest := fewest_pairs(comparisons=len(rows) - 1)):
        told = f" in {len(rows) - 1} comparisons" if len(rows) > 2 else ""
        notes.append(f"{len(ids)} images are too few: no difference can be shown{told} with less than {fewest}")
    for row in rows[1:]:
        for fact, words in (("bits_per_px", "bits per pixel"), ("values_ratio", "times fewer values")):
            one, two = rows[0].facts.get(fact), row.facts.get(fact)
            if one is not None and two is not None and not math.isclose(one, two, rel_tol=0.01):
                notes.append(f"not at equal size: {rows[0].name} has {one:g} {words}, {row.name} has {two:g}")
    return notes

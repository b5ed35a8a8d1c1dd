"""Scores as evaluations left them on disk: read, refused where they are not comparable, averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.errors import DataError, listing
from mlkit.evaluation.statistics import Floats
from mlkit.files import read_json

_EVAL_FORMAT = 1
_CHECKPOINT_FORMAT = 1
# Every model is trained on its own loss: two losses have no common scale, so they are never ranked.
NOT_RANKED = ("loss",)
_AGAIN = "delete it and compare again, which makes it anew"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One checkpoint to compare, under the name that tables show."""

    name: str
    checkpoint: Path
    nonfinite_steps: int = 0
    fluctuation: float = math.nan  # of its run's training loss; NaN where that is unknown
    primary: str = ""  # the metric that chose its run's best checkpoint


@dataclass(frozen=True, slots=True)
class Group:
    """Checkpoints of runs that differ in the seed alone, compared as one."""

    name: str
    members: Sequence[Candidate]


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
    family_of: Mapping[str, str]  # by id; empty where the images are of one kind
    set_scores: Mapping[str, float]  # figures of all images together; NaN where one is undefined

    def on(self, ids: Sequence[str], key: str) -> Floats:
        """Return the scores of these images, [len(ids)]."""
        return self.scores[key][[self.by_id[name] for name in ids]]


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
        families = [str(family) for family in found.get("families") or ()]
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
            family_of=dict(zip(ids, families, strict=bool(families))),
            set_scores={
                key: math.nan if value is None else float(value)
                for key, value in (found.get("set_scores") or {}).items()
            },
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
            if key in other.signatures and key not in NOT_RANKED and first.signatures[key] != other.signatures[key]
        ]
    if problems:
        raise DataError(*problems)


def pooled(name: str, members: Sequence[Scores]) -> Scores:
    """Return the scores of a group: per image the mean over its runs, NaN where one of them has none."""
    first = members[0]
    if len(members) == 1:
        return replace(first, name=name)
    ids = [one for one in first.by_id if all(one in scores.by_id for scores in members)]
    shared = [key for key in first.scores if all(key in scores.scores for scores in members)]
    figures = [key for key in first.set_scores if all(key in scores.set_scores for scores in members)]
    return replace(
        first,
        name=name,
        by_id={one: place for place, one in enumerate(ids)},
        scores={key: np.mean([scores.on(ids, key) for scores in members], axis=0) for key in shared},
        set_scores={key: float(np.mean([scores.set_scores[key] for scores in members])) for key in figures},
    )


def read_facts(candidate: Candidate) -> dict[str, Any]:
    """Return parameters, facts, criteria and settings of a checkpoint; older ones may lack them."""
    found = read_json(candidate.checkpoint / "checkpoint.json", "checkpoint", _CHECKPOINT_FORMAT)
    settings = found.get("settings") or {}
    # The limits of radar images in dB are of the data, and PSNR depends on them.
    limits = {key: value for key, value in (found.get("preprocessing") or {}).items() if key in ("db_min", "db_max")}
    facts = {**limits, **(found.get("facts") or {})}
    return {
        "parameters": found.get("parameters"),
        "facts": {key: float(value) for key, value in facts.items() if value is not None},
        "criteria": list((settings.get("eval") or {}).get("criteria") or ()),
        "settings": settings,
    }


def unlike_settings(all_settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings in which the runs of a group differ, the seed, logs and checkpoints aside."""
    flat = [dict(_flat(settings)) for settings in all_settings]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    aside = ("seed", "tracking.", "checkpoint.")
    unlike = [key for key in keys if any(settings.get(key) != flat[0].get(key) for settings in flat)]
    return [key for key in unlike if not key.startswith(aside)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value

"""From a model and a source to scores and pictures, in one forward pass each."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit.data.sampler import batches
from mlkit.data.source import FamilySource
from mlkit.errors import DataError, SettingsError, did_you_mean, listing
from mlkit.files import write_text
from mlkit.imaging.grids import Panel, comparison_grid
from mlkit.metrics import METRICS
from mlkit.outside import outside_function
from mlkit.seeding import derive_seed, isolated_rng
from mlkit.task import Source, Tallies, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)
FORMAT_VERSION = 1


@dataclass(slots=True)
class Evaluation:
    """Scores of each image, NaN where undefined, and the pictures that were asked for."""

    ids: list[str] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    panels: dict[int, Sequence[Panel]] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)  # of scores whose protocol is not that in METRICS
    families: list[str] = field(default_factory=list)  # of each image, where the source has several
    set_scores: dict[str, float] = field(default_factory=dict)  # of all images together
    warnings: list[str] = field(default_factory=list)  # what these say is wrong
    failures: list[str] = field(default_factory=list)  # what a scorer from outside raised

    def means(self) -> dict[str, float]:
        """Return the mean of each metric over the images where it is defined."""
        return {key: _mean(values) for key, values in self.scores.items()}


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def evaluate(
    task: Task,
    net: nn.Module,
    source: Source,
    *,
    device: torch.device,
    batch_size: int,
    indices: Sequence[int],
    panels_of: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Return scores and panels in float32 with the model in eval mode; draws from no generator that training uses.

    Args:
        task: the task.
        net: the network, not wrapped.
        source: samples.
        device: where the network is.
        batch_size: images per forward pass.
        indices: which samples to score.
        panels_of: which of them to draw.
        progress: told (done, all) after each batch.
    """
    import torch

    seed = task.settings.seed
    result = Evaluation(signatures=dict(task.signatures))
    scorer = _Scorer(task.settings.eval.scorer, result)
    tally = task.tally() if isinstance(task, Tallies) else None
    family = source.family if isinstance(source, FamilySource) else None
    keys = [(index, index) for index in indices]
    groups = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    wanted = set(panels_of)
    was_training = net.training
    net.eval()
    try:
        with isolated_rng(derive_seed(seed, "eval")), torch.no_grad():
            for batch in batches(source, groups, seed=seed, purpose="eval", workers=0, device=device):
                outputs = task.predict(net, batch)
                for key, values in task.metrics(outputs, batch).items():
                    result.scores.setdefault(key, []).extend(values.float().tolist())
                scorer.score(outputs, batch)
                if tally:
                    tally.add(outputs, batch)
                for place, index in enumerate(batch["index"].tolist()):
                    result.ids.append(source.sample_id(index))
                    result.indices.append(index)
                    if family:
                        result.families.append(family(index))
                    if index in wanted:
                        _draw(task, outputs, batch, place, result)
                if progress:
                    progress(len(result.ids), len(keys))
    finally:
        net.train(was_training)
    if tally and result.ids:
        result.set_scores, result.warnings = dict(tally.scores()), list(tally.warnings())
    return result


def _draw(task: Task, outputs: Mapping[str, Any], batch: Mapping[str, Any], place: int, result: Evaluation) -> None:
    """Keep the panels of an image; a failure costs its picture, not the scores."""
    try:
        result.panels[result.indices[-1]] = task.panels(outputs, batch, place)
    except Exception as error:
        log.exception("the picture of %s failed", result.ids[-1])
        result.failures.append(f"the picture of {result.ids[-1]} failed: {type(error).__name__}: {error}")


class _Scorer:
    """The scorer that `eval.scorer` names; absent, or once it fails, the evaluation goes on without its scores."""

    def __init__(self, named: str | None, result: Evaluation) -> None:
        self._named, self._result = named, result
        self._function: Callable[..., Any] | None = None
        self._failed = False
        if named is not None:
            try:
                self._function = outside_function(named, "eval.scorer")
            except SettingsError as error:
                log.exception("eval.scorer = %r is not there", named)
                result.failures += error.problems

    def score(self, outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> None:
        if self._function is None or self._failed:
            return
        result = self._result
        try:
            for key, values in self._function(outputs, batch).items():
                if key in METRICS:
                    raise ValueError(f"it returned '{key}', which mlkit measures itself")
                if len(values) != len(batch["index"]):
                    raise ValueError(f"it returned {len(values)} values of '{key}' for {len(batch['index'])} images")
                result.scores.setdefault(key, []).extend(float(value) for value in values)
                result.signatures[key] = f"{key}|outside|{self._named}"
        except Exception as error:
            self._failed = True
            log.exception("eval.scorer = %r failed", self._named)
            result.failures.append(f"eval.scorer = {self._named!r} failed: {type(error).__name__}: {error}")
            for key in [key for key in result.scores if key not in METRICS]:
                del result.scores[key]


def spread_indices(count: int, limit: int | None) -> list[int]:
    """Return all of 0..count-1, or `limit` of them, evenly spaced and always the same."""
    if limit is None or limit >= count:
        return list(range(count))
    return [place * count // limit for place in range(limit)]


def indices_of_ids(source: Source, ids: Sequence[str]) -> list[int]:
    """Return the samples with these ids (or plain numbers such as 000123).

    Raises:
        DataError: for ids that the source does not have, all of them at once.
    """
    known = {source.sample_id(index): index for index in range(len(source))}
    found, problems = [], []
    for name in ids:
        if name in known:
            found.append(known[name])
        elif name.isdigit() and int(name) < len(source):
            found.append(int(name))
        else:
            examples = listing(list(known), 3)
            problems.append(f"unknown sample id '{name}'{did_you_mean(name, known)}; ids look like {examples}")
    if problems:
        raise DataError(*problems)
    return found


def grid_picture(
    evaluation: Evaluation, indices: Sequence[int], heading: str, footer: str = ""
) -> np.ndarray[Any, Any]:
    """Return the comparison grid of evaluated images, [H, W, 3] uint8, one row an image."""
    ids = dict(zip(evaluation.indices, evaluation.ids, strict=True))
    rows = [evaluation.panels[index] for index in indices]
    return comparison_grid(rows, heading=heading, labels=[ids[index] for index in indices], footer=footer)


def report_json(evaluation: Evaluation, **facts: Any) -> str:
    """Return eval.json: per-image scores with their signatures, so that two runs can be paired image by image."""
    scores = {key: [_known(value) for value in values] for key, values in evaluation.scores.items()}
    set_scores = {key: _known(value) for key, value in evaluation.set_scores.items()}
    content: Mapping[str, Any] = {
        "format_version": FORMAT_VERSION,
        **facts,
        "signatures": {
            key: evaluation.signatures[key] if key in evaluation.signatures else METRICS[key].signature
            for key in evaluation.scores
        },
        "ids": evaluation.ids,
        "scores": scores,
        **({"families": evaluation.families} if evaluation.families else {}),
        **({"set_scores": set_scores} if set_scores else {}),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_report(path: Path, evaluation: Evaluation, **facts: Any) -> None:
    """Write eval.json beside a checkpoint."""
    write_text(path, report_json(evaluation, **facts))

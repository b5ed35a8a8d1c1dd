"""From names of runs to a comparison, its files and what is said of it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from mlkit.errors import GateError, MlkitError, listing
from mlkit.evaluation.comparison import Comparison, compare_checkpoints
from mlkit.evaluation.gates import Outcome, judge_gates, parse_gates
from mlkit.evaluation.scores import Candidate, Group
from mlkit.evaluation.stability import largest_fluctuation
from mlkit.files import write_json, write_text
from mlkit.report.tables import markdown, rich_tables
from mlkit.report.values import format_value
from mlkit.runs.folders import (
    RunGroup,
    RunRef,
    checkpoints,
    list_runs,
    nonfinite_steps,
    primary_metric,
    resolve_runs,
    training_losses,
)

Ref = RunRef | RunGroup


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What `mlkit compare` was asked for."""

    names: tuple[str, ...]
    runs_dir: Path
    every_checkpoint: bool = False
    out: Path | None = None
    as_json: bool = False
    data: Path | None = None
    picture: bool = True
    fail_if: tuple[str, ...] = ()
    html: Path | None = None
    images: int = 12


def run_compare(request: CompareRequest) -> None:
    """Compare, write the files and print.

    Raises:
        MlkitError: for names, conditions or scores that cannot be compared.
        GateError: when a condition holds; everything is written and printed by then.
    """
    gates = parse_gates(request.fail_if)
    refs = _refs(request)
    labels = distinct_labels(refs)
    candidates = [_candidate(ref, label) for label, ref in zip(labels, refs, strict=True)]
    comparison = compare_checkpoints(candidates, evaluate=lambda checkpoint: _evaluate(checkpoint, request.data))
    outcomes = judge_gates(gates, comparison)
    folder = request.out or request.runs_dir / _folder_name(request, refs)
    write_json(folder / "comparison.json", comparison.to_json())
    write_text(folder / "comparison.md", markdown(comparison))
    if request.as_json:
        typer.echo(json.dumps(comparison.to_json(), indent=2, allow_nan=False))
    else:
        from rich.console import Console

        Console().print(rich_tables(comparison))
    if request.picture:
        _draw(comparison, folder / "comparison.png", request.data)
    if request.html is not None:
        page = _write_page(request.html, comparison, request)
        typer.echo(f"page: {page}", err=True)
    typer.echo(f"written: {folder}", err=True)
    if failed := [_told(one, comparison) for one in outcomes if one.holds is not False]:
        raise GateError(*failed)


def _refs(request: CompareRequest) -> list[Ref]:
    """Return what is compared, at least two."""
    refs: list[Ref] = list(resolve_runs(request.names, request.runs_dir))
    if request.every_checkpoint:
        refs = [one for ref in refs for one in _over_time(ref)]
    if len(refs) < 2:
        if request.every_checkpoint:
            raise MlkitError(f"'{request.names[0]}' has but one checkpoint; comparing over time needs two")
        there = listing([run.name for run in list_runs(request.runs_dir)])
        raise MlkitError(
            f"compare needs at least two runs, got only '{request.names[0]}'; runs in {request.runs_dir}: {there}"
        )
    return refs


def _over_time(ref: Ref) -> list[Ref]:
    """Return every kept checkpoint of a run, or the one that was named; of a group those that all its runs kept."""
    if isinstance(ref, RunRef):
        kept = [ref.checkpoint] if ref.checkpoint else checkpoints(ref.folder) or [ref.chosen_checkpoint()]
        return [RunRef(ref.folder, one) for one in kept]
    names = [[one.name for one in checkpoints(run.folder)] for run in ref.runs]
    shared = [name for name in names[0] if all(name in others for others in names)]
    if not shared:
        raise MlkitError(f"the runs of '{ref.name}' kept no checkpoint of the same step; compare them one by one")
    return [
        RunGroup(f"{ref.name}/{name}", tuple(RunRef(run.folder, run.folder / name) for run in ref.runs))
        for name in shared
    ]


def _folder_name(request: CompareRequest, refs: Sequence[Ref]) -> str:
    names = request.names if request.every_checkpoint else [ref.label for ref in refs]
    over_time = "-over-time" if request.every_checkpoint else ""
    return ("compare-" + "-vs-".join(name.strip("/").replace("/", "-") for name in names))[:190] + over_time


def _candidate(ref: Ref, label: str) -> Candidate | Group:
    """Return what is compared under a name."""
    if isinstance(ref, RunGroup):
        return Group(label, [_member(run, run.label) for run in ref.runs])
    return _member(ref, label)


def _member(run: RunRef, label: str) -> Candidate:
    """Return a run's checkpoint with what the run's folder tells of its training."""
    fluctuation = largest_fluctuation(training_losses(run.folder))
    bad_steps, primary = nonfinite_steps(run.folder), primary_metric(run.folder)
    return Candidate(label, run.chosen_checkpoint(), bad_steps, fluctuation, primary)


def distinct_labels(refs: Sequence[Ref]) -> list[str]:
    """Return a name for each, with " (2)" after one that repeats."""
    labels: list[str] = []
    for ref in refs:
        label, count = ref.label, 1
        while label in labels:
            count += 1
            label = f"{ref.label} ({count})"
        labels.append(label)
    return labels


def _evaluate(checkpoint: Path, data: Path | None) -> None:
    """Write a checkpoint's missing eval.json; only here torch is needed."""
    from mlkit.commands.opened import write_scores

    typer.echo(f"evaluating {checkpoint}, which has no eval.json", err=True)
    write_scores(checkpoint, data)


def _draw(comparison: Comparison, out: Path, data: Path | None) -> None:
    from mlkit.commands.opened import render_side_by_side

    shown = [(row.seeds.names[0] if row.seeds else row.name, row.checkpoint) for row in comparison.rows]
    try:
        render_side_by_side(shown, list(comparison.shown_ids), out, data)
    except MlkitError as error:  # the numbers stand without it, such as where the data lies elsewhere
        out.unlink(missing_ok=True)  # an older picture is not of this comparison
        typer.echo(f"warning: no side-by-side picture: {error}", err=True)


def _write_page(folder: Path, comparison: Comparison, request: CompareRequest) -> Path:
    """Write the page; without its pictures where the models cannot be asked."""
    from mlkit.commands.showing import named, show_images, telling_images, validation_samples
    from mlkit.report.page import write_page
    from mlkit.report.trainings import models_of

    missing, shown = "", []
    if not request.picture:
        missing = "--no-picture was given."
    else:
        try:
            ids = telling_images(comparison, request.images)
            shown = show_images(named(comparison), validation_samples(ids, request.data))
        except MlkitError as error:
            missing = f"{error}."
            typer.echo(f"warning: no pictures in the page: {error}", err=True)
    return write_page(
        folder,
        comparison=comparison,
        models=models_of(comparison),
        images=shown,
        command=shlex.join(["mlkit", *sys.argv[1:]]),
        over_time=request.every_checkpoint and len(request.names) == 1,
        missing=missing,
    )


def _told(outcome: Outcome, comparison: Comparison) -> str:
    """Return the sentence of a condition that does not let the comparison pass."""
    gate, found = outcome.gate, outcome.improvement
    key, pair = gate.metric, f"{outcome.model} over {comparison.rows[0].name}"
    if outcome.holds is None:
        return f"--fail-if '{gate}' could not be judged: {found.num_pairs} images of {pair} are too few"
    ends = "" if gate.level is None else f" [{_signed(key, found.low)}, {_signed(key, found.high)}]"
    return f"--fail-if '{gate}' holds: {pair} is {_signed(key, found.mean)}{ends}, positive is better"


def _signed(key: str, value: float) -> str:
    return format_value(key, value, signed=True)

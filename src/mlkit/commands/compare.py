"""`mlkit compare`: runs side by side, with intervals, verdicts, criteria and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlkit.commands import complete

if TYPE_CHECKING:
    from mlkit.evaluation.scores import Candidate, Group
    from mlkit.runs.folders import RunGroup, RunRef


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs (by name or unique prefix), groups of `train --seeds`, run folders or checkpoints.",
            autocompletion=complete.runs,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results.  \\[default: RUNS_DIR/compare-A-vs-B]", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print comparison.json instead of tables.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Where the dataset lies now, if it was moved; scores on disk need none.")
    ] = None,
    picture: Annotated[bool, typer.Option(help="Render the side-by-side picture; it loads the models.")] = True,
    runs_dir: Annotated[Path, typer.Option(envvar="MLKIT_RUNS_DIR", help="Where runs lie.")] = Path("runs"),
) -> None:
    """Compare runs with the first one: scores, paired 95 % intervals, verdicts, criteria, a picture.

    A run stands for its best checkpoint, else its last; a group of seeds for the mean of its runs, image by image, with
    an interval over the seeds beside. Runs evaluated on different data or by a different protocol are refused. Writes
    comparison.json, comparison.md and comparison.png.

    Examples:

        mlkit compare baseline residual_v1

        mlkit compare option_a option_b option_c

        mlkit compare baseline_c16/ckpt-500 baseline_c16/ckpt-1000 --out trend

        mlkit compare baseline_c16 residual_v1_c16 resnet_lite_v2_c16 --json
    """
    from mlkit.errors import MlkitError, listing
    from mlkit.evaluation.comparison import compare_checkpoints
    from mlkit.files import write_json, write_text
    from mlkit.report.tables import markdown, rich_tables
    from mlkit.runs.folders import list_runs, resolve_runs

    if out is not None and out.is_file():
        raise MlkitError(f"--out {out} is a file; give a folder for the results")
    refs = resolve_runs(names, runs_dir)
    if len(refs) < 2:
        there = listing([run.name for run in list_runs(runs_dir)])
        raise MlkitError(f"compare needs at least two runs, got only '{names[0]}'; runs in {runs_dir}: {there}")
    labels = distinct_labels(refs)
    candidates = [_candidate(ref, label) for label, ref in zip(labels, refs, strict=True)]
    comparison = compare_checkpoints(candidates, evaluate=lambda checkpoint: _evaluate(checkpoint, data))
    folder = out or runs_dir / ("compare-" + "-vs-".join(ref.label.replace("/", "-") for ref in refs))[:200]
    write_json(folder / "comparison.json", comparison.to_json())
    write_text(folder / "comparison.md", markdown(comparison))
    if as_json:
        typer.echo(json.dumps(comparison.to_json(), indent=2, allow_nan=False))
    else:
        from rich.console import Console

        Console().print(rich_tables(comparison))
    if picture:
        from mlkit.commands.opened import render_side_by_side

        shown = [(row.seeds.names[0] if row.seeds else row.name, row.checkpoint) for row in comparison.rows]
        try:
            render_side_by_side(shown, list(comparison.shown_ids), folder / "comparison.png", data)
        except MlkitError as error:  # the numbers stand without it, such as where the data lies elsewhere
            (folder / "comparison.png").unlink(missing_ok=True)  # an older picture is not of this comparison
            typer.echo(f"warning: no side-by-side picture: {error}", err=True)
    typer.echo(f"written: {folder}", err=True)


def _candidate(ref: RunRef | RunGroup, label: str) -> Candidate | Group:
    """Return what is compared under a name."""
    from mlkit.evaluation.scores import Group
    from mlkit.runs.folders import RunGroup

    if isinstance(ref, RunGroup):
        return Group(label, [_member(run, run.label) for run in ref.runs])
    return _member(ref, label)


def _member(run: RunRef, label: str) -> Candidate:
    """Return a run's checkpoint with what the run's folder tells of its training."""
    from mlkit.evaluation.scores import Candidate
    from mlkit.evaluation.stability import largest_fluctuation
    from mlkit.runs.folders import nonfinite_steps, training_losses

    fluctuation = largest_fluctuation(training_losses(run.folder))
    return Candidate(label, run.chosen_checkpoint(), nonfinite_steps(run.folder), fluctuation)


def distinct_labels(refs: Sequence[RunRef | RunGroup]) -> list[str]:
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

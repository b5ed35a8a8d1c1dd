"""`mlkit runs`: what there is, what became of it, and what may go. The files of the runs are the only truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mlkit.commands import complete

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name, or the beginning of it.", autocompletion=complete.runs)
]
Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RUN...]", help="Runs by name; all without.", autocompletion=complete.runs),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def list_(
    task: Annotated[str | None, typer.Option(help="Only of this task.", autocompletion=complete.tasks)] = None,
    status: Annotated[str | None, typer.Option(help="Only with this status.", autocompletion=complete.statuses)] = None,
    preset: Annotated[str | None, typer.Option(help="Only of this preset.", autocompletion=complete.presets)] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag; repeatable.")] = None,
    sort: Annotated[
        Literal["created", "name", "score", "step", "status", "task"], typer.Option(help="What comes first.")
    ] = "created",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    as_json: Json = False,
) -> None:
    """List runs, the newest first: status, step, best score, note.

    Examples:

        mlkit runs list

        mlkit runs list --task sar --status success --sort score
    """
    from mlkit.commands.run_lists import list_runs

    list_runs(task, status, preset, tuple(tag or ()), sort=sort, reverse=reverse, as_json=as_json)


def show(run: Run, as_json: Json = False) -> None:
    """Show one run: what it is, where it came from, figures, criteria, loss, settings that are not the default.

    Examples:

        mlkit runs show residual_v1_c16
    """
    from mlkit.commands.run_views import show_run

    show_run(run, as_json=as_json)


def mark(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A run, or with `planned` a name to come.", autocompletion=complete.runs),
    ],
    status: Annotated[
        str | None,
        typer.Argument(
            metavar="[STATUS]", help="planned, wip, analysis, success or failed.", autocompletion=complete.statuses
        ),
    ] = None,
    note: Annotated[str | None, typer.Option(help="What is to be said of it.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag to add; repeatable.")] = None,
    untag: Annotated[list[str] | None, typer.Option(help="A tag to take away; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Say what became of a run: a status, a note, tags. Written beside the run, which stays what it is.

    Examples:

        mlkit runs mark v5.0_ssim success --note "texture 0.93, no lattice"

        mlkit runs mark v5.1_ssim planned --note "the same with a larger window" --tag texture
    """
    from mlkit.commands.run_lists import mark_run

    mark_run(run, status, note, tuple(tag or ()), tuple(untag or ()), as_json=as_json)


def diff(
    first: Run,
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another one.", autocompletion=complete.runs)],
    as_json: Json = False,
) -> None:
    """Tell which settings of two runs differ, and what set each: a preset's file, --set, a flag, auto, a resume.

    Examples:

        mlkit runs diff baseline_c16 residual_v1_c16
    """
    from mlkit.commands.run_views import diff_runs

    diff_runs(first, second, as_json=as_json)


def board(
    out: Annotated[Path, typer.Option(help="Markdown file to write.")] = Path("EXPERIMENTS.md"),
    task: Annotated[str | None, typer.Option(help="Only of this task.", autocompletion=complete.tasks)] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Columns, by commas.  \\[default: those that the runs have]")
    ] = None,
) -> None:
    """Write the dashboard of all experiments as a page: the same runs give the same page, so that it can be committed.

    Examples:

        mlkit runs board

        mlkit runs board --task demosaic --metrics cpsnr,ssim,texture,highlight_error,zipper --out docs/EXPERIMENTS.md
    """
    from mlkit.commands.boarding import write_board

    write_board(out, task, metrics)


def verify(runs: Runs = None, as_json: Json = False) -> None:
    """Check the hash of every file of every checkpoint; what is damaged is named, and the exit code is 3.

    Examples:

        mlkit runs verify

        mlkit runs verify residual_v1_c16 --json
    """
    from mlkit.commands.run_care import verify_runs

    verify_runs(runs or [], as_json=as_json)


def prune(
    runs: Runs = None,
    keep_last: Annotated[int, typer.Option(min=1, help="Newest checkpoints to keep of each.")] = 1,
    keep_best: Annotated[int, typer.Option(min=0, help="Best checkpoints to keep of each.")] = 1,
    keep_every: Annotated[int | None, typer.Option(min=1, help="Also keep steps that are multiples of it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove checkpoints that nobody needs, after asking; rows, grids and what `best` and `last` name stay.

    Examples:

        mlkit runs prune --dry-run

        mlkit runs prune residual_v1_c16 --keep-best 2 --yes
    """
    from mlkit.commands.run_care import prune_runs

    prune_runs(
        runs or [],
        keep_last=keep_last,
        keep_best=keep_best,
        keep_every=keep_every,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
    )

"""`mlkit resume`: go on exactly where a run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlkit.commands import complete


def resume(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CHECKPOINT", help="A run's name or folder, or one checkpoint.", autocompletion=complete.runs
        ),
    ],
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting that may change; repeatable."),
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Train to this many updates in all.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate from here on.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per pass from here on.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Data loader processes.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where the same dataset lies now, if it was moved.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Go on in a new run of this name; the old one stays as it is.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Go on from the newest checkpoint that verifies, or from the one named: same weights as if never stopped.

    A checkpoint with an optimizer resumes in full; one with weights only starts a new count at step 0, and says so.
    Model, precision, seed and data must be the same; batch size, rate, length and cadences may change.

    Examples:

        mlkit resume runs/residual_v1_c16

        mlkit resume residual_v1_c16 --max-steps 20000

        mlkit resume runs/residual_v1_c16/ckpt-5000 --name from_5000
    """
    from mlkit.commands.resuming import resume_run
    from mlkit.commands.session import print_json

    changes = {"train.steps": max_steps, "train.lr": lr, "train.batch_size": batch_size, "train.workers": workers}
    result = resume_run(
        path, None, name=name, data=data, device=device, assignments=tuple(assign or ()), flags=changes, as_json=as_json
    )
    if as_json:
        print_json(result)

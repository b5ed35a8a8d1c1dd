"""`mlkit compare`: runs side by side, with intervals, verdicts, criteria and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlkit.commands import complete


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs (by name or unique prefix), groups of `train --seeds`, run folders or checkpoints.",
            autocompletion=complete.runs,
        ),
    ],
    checkpoints: Annotated[
        str,
        typer.Option(
            help="'all': every kept checkpoint of each run, over time.  \\[default: the best]",
            show_default=False,
            autocompletion=complete.words("best", "all"),
        ),
    ] = "best",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results.  \\[default: RUNS_DIR/compare-A-vs-B]", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also write a page to look at and to send: one file that works offline, with every picture to slide.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images in the page, the worst first.")] = 12,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="End with code 8 if an improvement over the first is so, such as 'psnr < -0.05 @95%'; repeatable.",
            show_default=False,
            autocompletion=complete.conditions,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print comparison.json instead of tables.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Where the dataset lies now, if it was moved; scores on disk need none.")
    ] = None,
    picture: Annotated[bool, typer.Option(help="Render the side-by-side picture; it loads the models.")] = True,
    runs_dir: Annotated[Path, typer.Option(envvar="MLKIT_RUNS_DIR", help="Where runs lie.")] = Path("runs"),
) -> None:
    """Compare runs with the first one: scores, paired 95 % intervals, verdicts, criteria, a picture, a page.

    A run stands for its best checkpoint, else its last; a group of seeds for the mean of its runs, image by image, with
    an interval over the seeds beside. Runs evaluated on different data or by a different protocol are refused. Writes
    comparison.json, comparison.md and comparison.png, and with --html a page that anybody can open.

    Examples:

        mlkit compare baseline residual_v1

        mlkit compare option_a option_b option_c

        mlkit compare baseline_c16 --checkpoints all --out trend

        mlkit compare baseline residual_v1 --html report

        mlkit compare baseline candidate --fail-if 'psnr < -0.05 @95%'

        mlkit compare baseline_c16 residual_v1_c16 resnet_lite_v2_c16 --json
    """
    from mlkit.commands.comparing import CompareRequest, run_compare
    from mlkit.errors import MlkitError

    if checkpoints not in ("best", "all"):
        raise MlkitError(f"--checkpoints {checkpoints} is neither 'best' nor 'all'")
    if out is not None and out.is_file():
        raise MlkitError(f"--out {out} is a file; give a folder for the results")
    if html is not None and (html.is_file() or html.suffix == ".html"):
        raise MlkitError(f"--html {html} is a file; give a folder for the page: --html {html.with_suffix('')}")
    run_compare(
        CompareRequest(
            names=tuple(names),
            runs_dir=runs_dir,
            every_checkpoint=checkpoints == "all",
            out=out,
            as_json=as_json,
            data=data,
            picture=picture,
            fail_if=tuple(fail_if or ()),
            html=html,
            images=images,
        )
    )

"""`mlkit eval grid`: pictures of any checkpoint, or of all that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlkit.commands import complete


def grid(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run or a checkpoint.", autocompletion=complete.runs)
    ],
    ids: Annotated[str | None, typer.Option(help="Validation samples to show, by commas.")] = None,
    images_dir: Annotated[Path | None, typer.Option(help="Show your own images instead.")] = None,
    upscale: Annotated[int, typer.Option(min=1, help="Enlarge your images so many times first.")] = 1,
    fit_multiple: Annotated[int, typer.Option(min=1, help="Crop your images to multiples of it.")] = 1,
    checkpoints: Annotated[
        str,
        typer.Option(
            help="'all': a time line of every kept checkpoint, as a picture and as a page.",
            autocompletion=complete.words("one", "all"),
        ),
    ] = "one",
    images: Annotated[int, typer.Option(min=1, help="How many images, without --ids.")] = 4,
    data: Annotated[Path | None, typer.Option(help="Where the dataset lies now, if it was moved.")] = None,
    out: Annotated[Path | None, typer.Option(help="PNG to write.  \\[default: beside the checkpoint]")] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the time line's page.  \\[default: beside the picture]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Draw a comparison grid: original, reconstruction, difference, with the scores under each.

    `--checkpoints all` also writes a page in which a slider goes through the checkpoints.

    Examples:

        mlkit eval grid runs/residual_v1_c16

        mlkit eval grid residual_v1_c16 --checkpoints all --out timeline.png

        mlkit eval grid runs/baseline_c16/ckpt-500 --images-dir scenes/
    """
    from mlkit.commands.gridding import GridRequest, draw_grid
    from mlkit.errors import MlkitError

    if checkpoints not in ("one", "all"):
        raise MlkitError(f"--checkpoints {checkpoints} is neither 'one' nor 'all'")
    if html is not None and checkpoints == "one":
        raise MlkitError("--html is of the time line; give --checkpoints all too")
    if html is not None and (html.is_file() or html.suffix == ".html"):
        raise MlkitError(f"--html {html} is a file; give a folder for the page: --html {html.with_suffix('')}")
    if ids and images_dir:
        raise MlkitError("give --ids or --images-dir, not both")
    if images_dir is None and (upscale, fit_multiple) != (1, 1):
        raise MlkitError("--upscale and --fit-multiple prepare images of your own; give --images-dir too")
    if out is not None and not out.is_dir() and out.suffix.lower() != ".png":
        raise MlkitError(f"--out {out} does not end in .png; the grid is a PNG: give {out.name}.png")
    if out is not None and out.is_dir():
        raise MlkitError(f"--out {out} is a folder; give the PNG to write, such as {out / 'grid.png'}")
    draw_grid(
        GridRequest(
            path=path,
            ids=tuple(name.strip() for name in ids.split(",")) if ids else (),
            images_dir=images_dir,
            upscale=upscale,
            fit_multiple=fit_multiple,
            timeline=checkpoints == "all",
            images=images,
            data=data,
            out=out,
            device=device,
            html=html,
        )
    )

"""The options of `mlkit infer demosaic`; torch is imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mlkit.commands import complete

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlkit.commands.inferring import Make, Progress, Say
    from mlkit.tasks.demosaic.infer_files import FileResult
    from mlkit.tasks.demosaic.infer_inputs import Job


def infer(
    photos: Annotated[
        list[str],
        typer.Argument(metavar="PHOTO...", help="RAF or DNG files, folders (with all below them) or glob patterns."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results"),
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|CHECKPOINT",
            help="Run or checkpoint.  \\[default: the model in the package]",
            autocompletion=complete.runs,
        ),
    ] = None,
    file_format: Annotated[
        Literal["tif", "dng", "png", "jpg"],
        typer.Option("--format", help="Of the results: 16 bits, of jpg 8; dng is linear camera RGB, for a RAW editor."),
    ] = "tif",
    linear: Annotated[
        bool, typer.Option("--linear", help="Linear light in place of sRGB, with a profile that says so; tif or dng.")
    ] = False,
    highlights: Annotated[
        Literal["clip", "blend"],
        typer.Option(help="Where a channel is saturated: cut all to that level, or fade to grey above it."),
    ] = "clip",
    exposure: Annotated[float, typer.Option(metavar="STOPS", help="Brighter by so many stops; 1 is twice.")] = 0.0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also draw LibRaw's result beside it, with the difference.")
    ] = False,
    mosaic: Annotated[
        bool,
        typer.Option("--mosaic", help="Take RGB images, make mosaics of them first, and tell the PSNR of the result."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a result's format cannot hold all that its input has.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that exist; without, such inputs are skipped.")
    ] = False,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help="Number format of products; auto is bf16 where the machine has it."),
    ] = "auto",
    tile: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the tiles in px: smaller ones take less memory.  \\[default: 1152]"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Show the first results on a terminal.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Make pictures of X-Trans RAW files of any size, in tiles without seams.

    With the camera's white balance and matrix, upright, EXIF kept. Existing results are skipped, so a call that was
    stopped goes on when it is given again.

    Examples:

        mlkit infer demosaic DSCF1234.RAF --compare

        mlkit infer demosaic photos/ --out developed --format jpg --highlights blend --exposure 0.5

        mlkit infer demosaic photos/*.RAF --format dng --checkpoint v4_linear
    """
    from mlkit.commands.inferring import infer_files
    from mlkit.errors import MlkitError, counted
    from mlkit.tasks.demosaic.infer_inputs import find_jobs, options_of

    options = options_of(
        file_format=file_format,
        linear=linear,
        highlights=highlights,
        exposure_stops=exposure,
        compare=compare,
        mosaic=mosaic,
        strict=strict,
    )
    if out.is_file():
        raise MlkitError(f"--out {out} is a file; give a folder for the results")
    jobs = find_jobs(photos, out, options)
    waiting = [job for job in jobs if overwrite or not job.is_done]
    skipped = [str(job.path) for job in jobs if job not in waiting]
    if skipped and not as_json:
        typer.echo(f"{counted(len(skipped), 'photo')} skipped: results exist in {out}; --overwrite makes them again")

    def opened() -> Make[Job, FileResult]:
        from mlkit.commands.opened import pick_device
        from mlkit.runs.folders import resolve_run
        from mlkit.settings import Places
        from mlkit.tasks.demosaic.infer import plan_for
        from mlkit.tasks.demosaic.infer_files import restore_file
        from mlkit.tasks.demosaic.restorer import open_restorer

        picked, sentence = pick_device(device)
        if sentence:
            typer.echo(sentence, err=True)
        folder = resolve_run(checkpoint, Places().runs_dir).chosen_checkpoint() if checkpoint else None
        restorer = open_restorer(folder, device=picked, precision=precision)
        plan = plan_for(restorer, tile)

        def made(job: Job, progress: Progress, say: Say) -> tuple[FileResult, NDArray[np.float32]]:
            nonlocal plan
            result, shown = restore_file(restorer, job, plan, options, progress=progress, say=say)
            plan = result.plan  # what did not fit into memory once is not tried again
            return result, shown

        return made

    infer_files(
        waiting,
        opened,
        megapixels=lambda job: job.megapixels(),
        tell=_tell,
        as_dict=_as_dict,
        skipped=skipped,
        short=" while it is read; free some memory",
        preview=preview,
        as_json=as_json,
    )


def _tell(job: Job, result: FileResult) -> None:
    from mlkit.commands.display import duration

    camera = f", {result.camera}" if result.camera else ""
    typer.echo(f"{job.image}: {result.width} x {result.height} px{camera}")
    tiles = f"tiles of {result.plan.tile} px" if result.is_tiled else "in one piece"
    typer.echo(f"{job.path.name}: {duration(result.seconds)} ({result.mp_per_s:.2f} MP/s, {tiles})")
    if result.psnr_db is not None:
        beside = "" if result.libraw_psnr_db is None else f", LibRaw {result.libraw_psnr_db:.2f} dB"
        typer.echo(f"PSNR: {result.psnr_db:.2f} dB{beside} (8-bit sRGB, without a border of 8 px)")
    if job.compare is not None:
        typer.echo(f"comparison: {job.compare}")
    for note in result.notes:
        typer.echo(note, err=True)


def _as_dict(job: Job, result: FileResult) -> dict[str, Any]:
    return {
        "input": str(job.path),
        "image": str(job.image),
        "compare": job.compare and str(job.compare),
        "camera": result.camera,
        "width": result.width,
        "height": result.height,
        "seconds": round(result.seconds, 3),
        "mp_per_s": round(result.mp_per_s, 4),
        "tile": result.plan.tile,
        "psnr_db": result.psnr_db,
        "libraw_psnr_db": result.libraw_psnr_db,
        "notes": list(result.notes),
    }

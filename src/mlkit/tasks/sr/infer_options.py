"""The options of `mlkit infer sr`; torch is imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mlkit.commands import complete

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlkit.commands.inferring import Make, Progress, Say
    from mlkit.tasks.sr.infer_files import FileResult
    from mlkit.tasks.sr.infer_inputs import Job

Format = Literal["same", "png", "jpeg", "webp", "tiff"]
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}


def infer(
    images: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Images, folders (with all below them) or glob patterns.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results"),
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|CHECKPOINT|ADAPTER",
            help="Run, checkpoint, or adapter folder of PEFT.  \\[default: the adapter in the package]",
            autocompletion=complete.runs,
        ),
    ] = None,
    sr_scale: Annotated[
        str,
        typer.Option(
            metavar="S|LIST|RANGE",
            help="Strength of the restoration: 0 none, 1 as trained, above amplified. 0.5,1 or 0.5:1.5:0.25 make one "
            "file each, and a strip of all.",
        ),
    ] = "1",
    scale: Annotated[float, typer.Option(help="Enlarge so many times before restoring; 1: already enlarged.")] = 4.0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the flow from T_L to 0.")] = 1,
    color_fix: Annotated[
        Literal["wavelet", "adain", "none"],
        typer.Option(help="Take low frequencies (wavelet), or mean and contrast (adain), from the enlarged input."),
    ] = "none",
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write input, bicubic, base and LoRA side by side.")
    ] = False,
    file_format: Annotated[
        Format, typer.Option("--format", help="Of the results; same is that of each input.")
    ] = "same",
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a result's format cannot hold all that its input has.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that exist; without, such inputs are skipped.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(metavar="FOLDER|HUB-ID", help="Base to use in place of the one that was trained on.")
    ] = None,
    base_dtype: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Number format in which the base is held.")
    ] = None,
    prompt_embeds: Annotated[
        Path | None, typer.Option(help="Safetensors file with the prompt, for a base without text encoders.")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help="Number format of products; auto is bf16 where the machine has it."),
    ] = "auto",
    shifts: Annotated[
        Literal["1", "2", "4"],
        typer.Option(
            help="Restore so often, on grids half a token apart, and blend: smoother, and takes so much longer."
        ),
    ] = "1",
    tile: Annotated[
        int | None, typer.Option(min=16, help="Side of the tiles in px.  \\[default: 112; 1024 for a large base]")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0, help="Shared pixels of neighbours.  \\[default: 8; an eighth of the tile for a large base]"
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Tiles at once.  \\[default: 8 a core; 1 for a large base]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Show the first results on a terminal.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Enlarge and restore images of any size, in one step of a flow and in tiles without seams.

    z0 = zL - sr_scale v T_L. Depth, colour profile, EXIF, alpha and grey are kept as far as the format can hold them.
    Existing results are skipped, so a call that was stopped goes on when it is given again.

    Examples:

        mlkit infer sr photo.jpg --sr-scale 1.2

        mlkit infer sr photos/ --out restored --format png --compare

        mlkit infer sr photo.png --sr-scale 0.5:1.5:0.25 --checkpoint ftd_tiny
    """
    from mlkit.commands.inferring import infer_files
    from mlkit.errors import MlkitError, counted
    from mlkit.tasks.sr.infer_inputs import find_jobs, options_of

    options = options_of(
        scale=scale, sr_scale=sr_scale, steps=steps, color_fix=color_fix, compare=compare, strict=strict
    )
    if out.is_file():
        raise MlkitError(f"--out {out} is a file; give a folder for the results")
    jobs = find_jobs(images, out, SUFFIXES.get(file_format), options)
    waiting = [job for job in jobs if overwrite or not job.targets.exist]
    skipped = [str(job.path) for job in jobs if job not in waiting]
    if skipped and not as_json:
        typer.echo(f"{counted(len(skipped), 'image')} skipped: results exist in {out}; --overwrite makes them again")

    def opened() -> Make[Job, FileResult]:
        from mlkit.commands.opened import pick_device
        from mlkit.tasks.sr.adapter_options import open_restorer
        from mlkit.tasks.sr.infer import plan_for
        from mlkit.tasks.sr.infer_files import restore_file

        picked, sentence = pick_device(device)
        if sentence:
            typer.echo(sentence, err=True)
        restorer = open_restorer(
            checkpoint,
            base=base,
            base_dtype=base_dtype,
            prompt_embeds=prompt_embeds,
            device=picked,
            precision=precision,
        )
        plan = plan_for(restorer, tile, overlap, batch, int(shifts))
        if tile is not None and plan.tile != tile:
            typer.echo(f"tiles of {plan.tile} px instead of {tile}: a multiple of {restorer.multiple}", err=True)

        def made(job: Job, progress: Progress, say: Say) -> tuple[FileResult, NDArray[np.float32]]:
            nonlocal plan
            result, shown = restore_file(restorer, job, plan, options, progress=progress, say=say)
            plan = result.plan  # what did not fit into memory once is not tried again
            return result, shown

        return made

    infer_files(
        waiting,
        opened,
        megapixels=lambda job: job.megapixels(scale),
        tell=_tell,
        as_dict=_as_dict,
        skipped=skipped,
        short=" while it is read; free some memory, or cut it into parts",
        preview=preview,
        as_json=as_json,
    )


def _tell(job: Job, result: FileResult) -> None:
    from mlkit.commands.display import duration

    for path in job.targets.images:
        typer.echo(f"{path}: {result.width} x {result.height} px")
    tiles = f"tiles of {result.plan.tile} px" if result.is_tiled else "in one piece"
    typer.echo(f"{job.path.name}: {duration(result.seconds)} ({result.mp_per_s:.2f} MP/s, {tiles})")
    for label, picture in (("strip", job.targets.strip), ("comparison", job.targets.compare)):
        if picture is not None:
            typer.echo(f"{label}: {picture}")
    for note in result.notes:
        typer.echo(note, err=True)


def _as_dict(job: Job, result: FileResult) -> dict[str, Any]:
    return {
        "input": str(job.path),
        "images": [str(path) for path in job.targets.images],
        "strip": job.targets.strip and str(job.targets.strip),
        "compare": job.targets.compare and str(job.targets.compare),
        "width": result.width,
        "height": result.height,
        "seconds": round(result.seconds, 3),
        "mp_per_s": round(result.mp_per_s, 4),
        "tile": result.plan.tile,
        "overlap": result.plan.overlap,
        "batch": result.plan.batch,
        "shifts": result.plan.shifts,
        "notes": list(result.notes),
    }

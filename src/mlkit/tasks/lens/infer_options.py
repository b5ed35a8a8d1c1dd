"""The options of `mlkit infer lens`; torch is imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlkit.commands import complete

if TYPE_CHECKING:
    from mlkit.commands.inferring import Make
    from mlkit.tasks.lens.infer_files import FileResult
    from mlkit.tasks.lens.infer_inputs import Job


def infer(
    photos: Annotated[
        list[str],
        typer.Argument(metavar="PHOTO...", help="Photographs, folders (with all below them) or glob patterns."),
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
    strength: Annotated[float, typer.Option(metavar="0..1", help="Share of the correction that is applied.")] = 1.0,
    zoom: Annotated[
        bool, typer.Option("--zoom", help="Enlarge until no pixel lacks a source; without, edges are repeated.")
    ] = False,
    sure: Annotated[
        float | None,
        typer.Option(
            metavar="0..1",
            help="How likely the lens that lines tell must be nearer to the truth than none, to be corrected.  "
            "\\[default: the checkpoint's model.sure]",
        ),
    ] = None,
    grid: Annotated[
        bool,
        typer.Option(
            "--grid", help="Also draw before, the lines heard, after, their difference, the flow and the Jacobian."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Apply maps that are unsafe, such as ones that fold over.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a result's format cannot hold all that its input has.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that exist; without, such inputs are skipped.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps: where the network runs.")] = "auto",
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Show the first results on a terminal.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Correct the lens distortion of photographs at full size, in their own format.

    What the lens did is found in the picture itself; depth, EXIF, profile and transparency are kept. Where straight
    lines do not tell the lens, as in pictures of nature, they are not followed, and it is said. Maps that would fold a
    picture are not applied. Existing results are skipped, so a call that was stopped goes on when given again.

    Examples:

        mlkit infer lens house.jpg --grid

        mlkit infer lens photos/ --out straight --strength 0.8 --zoom --checkpoint stage3_finetune
    """
    from mlkit.commands.inferring import infer_files
    from mlkit.errors import MlkitError, counted
    from mlkit.tasks.lens.infer_inputs import find_jobs, options_of

    options = options_of(strength=strength, grid=grid, zoom=zoom, sure=sure, force=force, strict=strict)
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
        from mlkit.tasks.lens.corrector import open_corrector
        from mlkit.tasks.lens.infer_files import correct_file

        picked, sentence = pick_device(device)
        if sentence:
            typer.echo(sentence, err=True)
        folder = resolve_run(checkpoint, Places().runs_dir).chosen_checkpoint() if checkpoint else None
        corrector = open_corrector(folder, device=picked)
        return lambda job, progress, say: correct_file(corrector, job, options, progress=progress)

    infer_files(
        waiting,
        opened,
        megapixels=lambda job: job.megapixels(),
        tell=_tell,
        as_dict=_as_dict,
        skipped=skipped,
        short="; free some memory, or reduce the photograph",
        preview=preview,
        as_json=as_json,
    )


def _tell(job: Job, result: FileResult) -> None:
    from mlkit.commands.display import duration

    sure = "" if result.sure is None else f", {100 * result.sure:.0f} % sure"
    typer.echo(f"{job.image}: {result.width} x {result.height} px, moved by up to {result.largest_px:.1f} px{sure}")
    typer.echo(f"{job.path.name}: {duration(result.seconds)} ({result.mp_per_s:.2f} MP/s)")
    if job.grid is not None:
        typer.echo(f"grid: {job.grid}")
    for note in result.notes:
        typer.echo(note, err=True)


def _as_dict(job: Job, result: FileResult) -> dict[str, Any]:
    return {
        "input": str(job.path),
        "image": str(job.image),
        "grid": job.grid and str(job.grid),
        "width": result.width,
        "height": result.height,
        "seconds": round(result.seconds, 3),
        "mp_per_s": round(result.mp_per_s, 4),
        "verdict": result.verdict.level,
        "reasons": list(result.verdict.reasons),
        "jacobian": {key: round(value, 6) for key, value in result.verdict.stats.items()},
        "params": result.params,
        "largest_px": round(result.largest_px, 3),
        "sure": result.sure and round(result.sure, 3),
        "zoom": round(result.zoom, 5),
        "notes": list(result.notes),
    }

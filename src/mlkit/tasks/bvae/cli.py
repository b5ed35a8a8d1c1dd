"""The options of `mlkit dataset build bvae` and `mlkit infer bvae`; torch is imported only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlkit.commands import complete

if TYPE_CHECKING:
    from collections.abc import Sequence


def dataset_build(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist or be empty.")],
    source: Annotated[
        str,
        typer.Option(
            metavar="arc1|arc2|synthetic|PATH", help="ARC-AGI 1 or 2, made grids of 93 % background, or your own."
        ),
    ] = "arc1",
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More files or folders.")] = None,
    classes: Annotated[int, typer.Option(help="Number of classes; grids hold 0 to one less.")] = 10,
    side: Annotated[int, typer.Option(help="Largest side of a grid in cells; larger ones are left out.")] = 30,
    val_share: Annotated[float, typer.Option(help="Share of the tasks for validation.")] = 0.2,
    grids: Annotated[int, typer.Option(help="How many grids `synthetic` makes.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the validation tasks and the made grids.")] = 0,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Exit with 0 although broken files were left out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build a dataset of label grids; a task's grids go all to training or all to validation.

    Reads ARC tasks and plain grids as JSON, label arrays as NPY ([H, W] or [N, H, W]), and label images as PNG (grey or
    palette, where each file is a task). Class counts, shares and weights are counted on the training grids.

    Examples:

        mlkit dataset build bvae --out data/arc1

        mlkit dataset build bvae --source arc2 --side 16 --out data/arc2_16

        mlkit dataset build bvae --source tasks/ --out data/mine

        mlkit dataset build bvae --source synthetic --out data/synthetic
    """
    from mlkit.commands.building import build_and_tell, checked
    from mlkit.tasks.bvae.dataset import build_dataset
    from mlkit.tasks.bvae.settings import BvaeBuild

    values = {"classes": classes, "side": side, "val_share": val_share, "grids": grids, "seed": seed}
    build = checked(BvaeBuild, values)
    build_and_tell(
        lambda counting: build_dataset(source, out, build=build, more=more or (), skip_broken=True, progress=counting),
        out,
        preset="bvae_tiny",
        what="file",
        skip_broken=skip_broken,
        as_json=as_json,
        table=lambda manifest: class_table(manifest.details),
    )


def class_table(details: dict[str, Any]) -> list[str]:
    """Return the lines of a table: cells and share of each class in training, and its weight by each method."""
    methods = list(details["class_weights"])
    lines = ["class" + "cells".rjust(12) + "share".rjust(10) + "".join(method.rjust(14) for method in methods)]
    for index, (count, share) in enumerate(zip(details["class_counts"], details["class_shares"], strict=True)):
        weights = "".join(f"{details['class_weights'][method][index]:14.3f}" for method in methods)
        background = "  (background)" if index == details["background"] else ""
        lines.append(f"{index:5d}{count:12,d}{100 * share:8.2f} %{weights}{background}")
    ratios = "".join(_ratio(details["class_weights"][method]).rjust(14) for method in methods)
    return [*lines, "largest weight : smallest".ljust(27) + ratios]


def _ratio(weights: Sequence[float]) -> str:
    return f"{max(weights) / min(weights):.1f} : 1"


def infer(
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    checkpoint: Annotated[
        Path, typer.Option(metavar="RUN|CHECKPOINT", help="Run or checkpoint to use.", autocompletion=complete.runs)
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[GRID]...", help="Files or folders of grids, in any format that can be built from."),
    ] = None,
    sample: Annotated[int, typer.Option(min=0, metavar="N", help="Draw N grids from the prior.")] = 0,
    traverse: Annotated[
        bool, typer.Option("--traverse", help="Walk along each latent dimension, from the first grid or from 0.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the grids that --sample draws.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
) -> None:
    """Reconstruct grids, draw new ones from the prior, or show what each latent dimension means.

    Examples:

        mlkit infer bvae 007bbfb7.json --checkpoint runs/bvae_arc --out results

        mlkit infer bvae --sample 24 --checkpoint runs/bvae_arc --out results

        mlkit infer bvae 007bbfb7.json --traverse --checkpoint runs/bvae_arc --out results
    """
    from mlkit.commands.opened import open_model, pick_device
    from mlkit.errors import MlkitError, counted
    from mlkit.runs.folders import resolve_run
    from mlkit.settings import Places
    from mlkit.tasks.bvae import infer as inference
    from mlkit.tasks.bvae.model import BetaVae
    from mlkit.tasks.bvae.readers import find_files

    if out.is_file():
        raise MlkitError(f"--out {out} is a file; give a folder for the results")
    if not files and not sample and not traverse:
        raise MlkitError("there is nothing to do; give files with grids, --sample N or --traverse")
    named = list(files or ())
    # Results of an earlier call into a folder of grids are no grids.
    results = inference.RESULT_SUFFIXES
    paths = [path for path in find_files(named) if path in named or not path.stem.endswith(results)]
    if traverse and len(paths) > 1:
        raise MlkitError(f"--traverse starts from one grid; give one file, not {len(paths)}")
    _refuse_equal_names(paths, out)
    ref = resolve_run(str(checkpoint), Places().runs_dir)
    picked, sentence = pick_device(device)
    if sentence:
        typer.echo(sentence, err=True)
    opened = open_model(ref.chosen_checkpoint(), picked, task_name="bvae")
    assert isinstance(opened.net, BetaVae)
    errors: list[MlkitError] = []
    if sample:
        drawn = inference.sample_prior(opened.net, sample, out, seed=seed, overwrite=overwrite)
        typer.echo(f"{drawn.file}: {counted(sample, 'grid')} from the prior, seed {seed}")
        typer.echo(f"picture: {drawn.picture}" + (f" (the first {drawn.num})" if drawn.num < sample else ""))
    if traverse:
        grid = inference.single_grid(opened.net, paths[0]) if paths else None
        drawn, dims = inference.traverse(opened.net, grid, out, overwrite=overwrite), opened.net.latent
        start = "the middle of the prior" if grid is None else grid.name
        typer.echo(f"{drawn.file}: {counted(dims, 'latent dimension')}, from {start}")
        typer.echo(f"picture: {drawn.picture}" + (f" ({drawn.num} that change much)" if drawn.num < dims else ""))
        return
    for path in paths:
        try:
            result = inference.reconstruct_file(
                opened.net, opened.checkpoint.info["preprocessing"], path, out, overwrite=overwrite
            )
        except MlkitError as error:
            errors.append(error)  # a broken file does not stop the others
            continue
        objects = "" if result.object_accuracy != result.object_accuracy else _objects(result.object_accuracy)
        typer.echo(
            f"{result.path}: {counted(result.num_grids, 'grid')}, accuracy {100 * result.accuracy:.1f} % "
            f"(all-background {100 * result.majority_share:.1f} %){objects}, {result.num_exact} exact"
        )
        first = f" (the first {result.num_drawn})" if result.num_drawn < result.num_grids else ""
        typer.echo(f"picture: {result.picture}{first}")
    if errors:
        raise type(errors[0])(*(problem for error in errors for problem in error.problems))


def _objects(accuracy: float) -> str:
    return f", non-background {100 * accuracy:.1f} %"


def _refuse_equal_names(paths: list[Path], out: Path) -> None:
    """Raise when two files would be written to one place."""
    from mlkit.errors import MlkitError

    first: dict[str, Path] = {}
    for path in paths:
        twin = first.setdefault(path.stem, path)
        if twin != path:
            raise MlkitError(f"{twin} and {path} would both become {out / path.stem}_...; give each its own --out")

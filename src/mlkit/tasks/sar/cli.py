"""The options of `mlkit dataset build sar` and `mlkit infer sar`; torch is imported only when they run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from mlkit.commands import complete
from mlkit.commands.display import Counting, duration
from mlkit.commands.options import ended_by_signal, option_problems

Kind = Literal["auto", "amplitude", "intensity", "slc", "db"]


def dataset_build(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist or be empty.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Scene or folder of scenes; repeatable.  \\[default: the embedded sample]"),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More scenes or folders.")] = None,
    kind: Annotated[
        Kind, typer.Option(help="What the pixel values are; auto decides for each file and says why.")
    ] = "auto",
    patch: Annotated[int, typer.Option(min=16, help="Side of the patches in px.")] = 256,
    stride: Annotated[int, typer.Option(min=1, help="Distance of training patches in px.")] = 128,
    val_share: Annotated[float, typer.Option(help="Share of each scene for validation.")] = 0.2,
    block: Annotated[int, typer.Option(min=16, help="Side of the blocks that are split, in px.")] = 256,
    guard: Annotated[int, typer.Option(min=0, help="Margin between training and validation, in px.")] = 32,
    subset: Annotated[float, typer.Option(help="Share of the training patches to keep.")] = 1.0,
    max_nodata: Annotated[float, typer.Option(help="Largest share of masked pixels in a patch.")] = 0.05,
    percentiles: Annotated[
        tuple[float, float], typer.Option(help="Of the training pixels in dB: they become 0 and 1.")
    ] = (1.0, 99.0),
    seed: Annotated[int, typer.Option(min=0, help="Chooses validation blocks and subset.")] = 0,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Exit with 0 although broken files were left out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build a SAR dataset: intensity -> dB -> clip at percentiles of the training part -> [0, 1].

    Reads GeoTIFF and TIFF (float dB, float or complex intensity, uint16 amplitude), NPY (float, complex SLC,
    covariance), 8- and 16-bit PNG. Training and validation are separated by spatial blocks with a margin.

    Examples:

        mlkit dataset build sar --out data/sample

        mlkit dataset build sar --source scenes/ --out data/s1 --subset 0.2

        mlkit dataset build sar --source a.tif b.npy --kind intensity --patch 128 --out data/mixed
    """
    import json

    from pydantic import ValidationError

    from mlkit.errors import DataError, MlkitError, counted
    from mlkit.presets import explain
    from mlkit.tasks.sar.dataset import build_dataset
    from mlkit.tasks.sar.settings import SarBuild

    values = {
        "kind": kind,
        "patch": patch,
        "stride": stride,
        "val_share": val_share,
        "block": block,
        "guard": guard,
        "subset": subset,
        "max_nodata": max_nodata,
        "percentiles": percentiles,
        "seed": seed,
    }
    try:
        build = SarBuild.model_validate(values)
    except ValidationError as error:
        raise MlkitError(*option_problems(explain(error, SarBuild, {}))) from None
    counting = Counting("done")
    sources = [*(source or ()), *(more or ())]
    try:
        with ended_by_signal():
            report = build_dataset(sources or None, out, build=build, skip_broken=True, progress=counting)
    finally:
        counting.close()
    manifest = report.manifest
    if as_json:
        result = {
            "folder": str(out),
            "sha256": manifest.sha256,
            "splits": manifest.splits,
            "label": manifest.label,
            "preprocessing": manifest.preprocessing,
            "broken": report.broken,
            "notes": report.lines,
        }
        typer.echo(json.dumps(result, indent=2))
    else:
        for line in report.lines:
            typer.echo(line)
        label = f" ({manifest.label})" if manifest.label else ""
        typer.echo(f"{out}{label}: sha256 {manifest.sha256[:12]}")
        typer.echo(f"next: mlkit train --preset baseline_c16 --data {out}")
    if report.broken and not skip_broken:  # built all the same, but a script must notice
        raise DataError(
            *report.broken,
            f"{counted(len(report.broken), 'broken image')} left out of {out}; mend and build again, or accept it with "
            f"--skip-broken",
        )


def infer(
    scenes: Annotated[
        list[Path],
        typer.Argument(metavar="SCENE...", help="Scenes or folders of scenes, in any format that can be built from."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    checkpoint: Annotated[
        Path, typer.Option(metavar="RUN|CHECKPOINT", help="Run or checkpoint to use.", autocompletion=complete.runs)
    ],
    kind: Annotated[Kind, typer.Option(help="What the pixel values are.")] = "auto",
    tile: Annotated[
        int | None,
        typer.Option(min=64, help="Side of the tiles in px.  \\[default: 3 times the overlap, at least 512]"),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(min=0, help="Shared pixels of neighbouring tiles.  \\[default: what leaves no seam]"),
    ] = None,
    speckle: Annotated[
        Literal["none", "resample"],
        typer.Option(help="none: as the model made it, smoother than the scene; resample: new speckle of its looks."),
    ] = "none",
    seed: Annotated[int, typer.Option(min=0, help="Of the resampled speckle.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
) -> None:
    """Reconstruct whole scenes of any size in tiles without seams; dB in, dB out, georeferencing kept.

    Examples:

        mlkit infer sar scene.tif --checkpoint runs/residual_v1_c16 --out results

        mlkit infer sar scene.tif --checkpoint residual_v1_c16 --speckle resample --out results
    """
    from mlkit.commands.opened import open_model, pick_device
    from mlkit.errors import MlkitError, listing
    from mlkit.runs.folders import resolve_run
    from mlkit.settings import Places
    from mlkit.tasks.sar.dataset import find_images
    from mlkit.tasks.sar.infer import RESULT_SUFFIXES, infer_scenes, tile_plan
    from mlkit.tasks.sar.model import Autoencoder

    if out.is_file():
        raise MlkitError(f"--out {out} is a file; give a folder for the results")
    # Results of an earlier call into a folder of scenes are no scenes.
    found = [path for path in find_images(scenes) if path in scenes or not path.stem.endswith(RESULT_SUFFIXES)]
    if not found:
        raise MlkitError(
            f"{listing([str(scene) for scene in scenes])} holds only results of earlier calls; give scenes"
        )
    _refuse_equal_names(found, out)
    ref = resolve_run(str(checkpoint), Places().runs_dir)
    picked, sentence = pick_device(device)
    if sentence:
        typer.echo(sentence, err=True)
    opened = open_model(ref.chosen_checkpoint(), picked, task_name="sar")
    assert isinstance(opened.net, Autoencoder)
    side, shared = tile_plan(opened.net, tile, overlap)
    if tile is not None and side > tile:
        typer.echo(f"tiles of {side} px instead of {tile}: neighbours share {shared} px (--overlap)", err=True)
    errors: list[MlkitError] = []
    is_new = not out.exists()
    for path in found:
        counting = Counting("rows")
        try:
            with ended_by_signal():
                results = infer_scenes(
                    opened.net,
                    opened.checkpoint.info["preprocessing"],
                    path,
                    out,
                    kind=kind,
                    tile=tile,
                    overlap=overlap,
                    device=picked,
                    speckle=speckle,
                    seed=seed,
                    overwrite=overwrite,
                    progress=counting,
                )
        except MlkitError as error:
            errors.append(error)  # a broken scene does not stop the others
            continue
        finally:
            counting.close()
        for result in results:
            rate = result.width * result.height / 1e6 / result.seconds
            tiles = f", tiles of {result.tile} px" if result.tile < max(result.width, result.height) else ""
            typer.echo(
                f"{result.path}: {result.width} x {result.height} px in {duration(result.seconds)} ({rate:.2f} MP/s"
                f"{tiles}), PSNR {result.psnr_db:.2f} dB, RMSE {result.rmse_db:.2f} dB, {result.share_clipped:.1%} "
                f"outside the model's dB range, {result.masked:,} masked; {result.why}"
            )
            typer.echo(f"speckle: {result.speckle}")
            typer.echo(f"picture: {result.picture}")
    if errors:
        if is_new:
            with suppress(OSError):  # it holds the results of other scenes
                out.rmdir()
        raise type(errors[0])(*(problem for error in errors for problem in error.problems))


def _refuse_equal_names(paths: list[Path], out: Path) -> None:
    """Raise when two scenes would be written to one place."""
    from mlkit.errors import MlkitError

    first: dict[str, Path] = {}
    for path in paths:
        twin = first.setdefault(path.stem, path)
        if twin != path:
            result = out / f"{path.stem}_reconstructed.tif"
            raise MlkitError(f"{twin} and {path} would both become {result}; give each its own --out")

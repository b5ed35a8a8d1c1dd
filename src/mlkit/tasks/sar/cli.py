"""The options of `mlkit dataset build sar` and `mlkit infer sar`; torch is imported only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mlkit.commands import complete
from mlkit.commands.display import Counting, duration

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
        bool, typer.Option("--skip-broken", help="Build without the files that cannot be read.")
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

    from mlkit.errors import MlkitError
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
        raise MlkitError(*(f"--{text.replace('_', '-')}" for text in explain(error, SarBuild, {}))) from None
    counting = Counting("scenes")
    try:
        sources = [*(source or ()), *(more or ())]
        report = build_dataset(sources or None, out, build=build, skip_broken=skip_broken, progress=counting)
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
        return
    for line in report.lines:
        typer.echo(line)
    counts = ", ".join(f"{count} {name}" for name, count in manifest.splits.items())
    label = f" ({manifest.label})" if manifest.label else ""
    low, high = manifest.preprocessing["db_min"], manifest.preprocessing["db_max"]
    typer.echo(
        f"{out}{label}: {counts} patches of {patch} px, {low:.2f} to {high:.2f} dB, sha256 {manifest.sha256[:12]}"
    )
    typer.echo(f"next: mlkit train --preset baseline_c16 --data {out}")


def infer(
    scenes: Annotated[
        list[Path], typer.Argument(metavar="SCENE...", help="Scenes, in any format that can be built from.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    checkpoint: Annotated[
        Path, typer.Option(metavar="RUN|CHECKPOINT", help="Run or checkpoint to use.", autocompletion=complete.runs)
    ],
    kind: Annotated[Kind, typer.Option(help="What the pixel values are.")] = "auto",
    tile: Annotated[int, typer.Option(min=64, help="Side of the tiles in px.")] = 512,
    overlap: Annotated[int | None, typer.Option(min=0, help="Shared pixels of neighbouring tiles.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")] = False,
) -> None:
    """Reconstruct whole scenes of any size in tiles without seams; dB in, dB out, georeferencing kept.

    Examples:

        mlkit infer sar scene.tif --checkpoint runs/residual_v1_c16 --out results
    """
    from mlkit.commands.opened import open_model, pick_device
    from mlkit.errors import DataError, MlkitError
    from mlkit.runs.folders import resolve_run
    from mlkit.settings import Places
    from mlkit.tasks.sar.infer import infer_scenes
    from mlkit.tasks.sar.model import Autoencoder

    ref = resolve_run(str(checkpoint), Places().runs_dir)
    picked, sentence = pick_device(device)
    if sentence:
        typer.echo(sentence, err=True)
    opened = open_model(ref.chosen_checkpoint(), picked, task_name="sar")
    assert isinstance(opened.net, Autoencoder)
    problems: list[str] = []
    for scene in scenes:
        counting = Counting("rows")
        try:
            results = infer_scenes(
                opened.net,
                opened.checkpoint.info["preprocessing"],
                scene,
                out,
                kind=kind,
                tile=tile,
                overlap=overlap,
                device=picked,
                overwrite=overwrite,
                progress=counting,
            )
        except MlkitError as error:
            problems += error.problems  # a broken scene does not stop the others
            continue
        finally:
            counting.close()
        for result in results:
            rate = result.width * result.height / 1e6 / result.seconds
            typer.echo(
                f"{result.path}: {result.width} x {result.height} px in {duration(result.seconds)} ({rate:.2f} MP/s), "
                f"PSNR {result.psnr_db:.2f} dB, {result.share_clipped:.1%} outside the model's dB range, "
                f"{result.masked} masked; {result.why}"
            )
            typer.echo(f"picture: {result.picture}")
    if problems:
        raise DataError(*problems)

"""The options of `mlkit dataset build sar` and `mlkit infer sar`; torch is imported only when they run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mlkit.commands import complete
from mlkit.commands.display import Counting, duration
from mlkit.commands.options import ended_by_signal

if TYPE_CHECKING:
    from mlkit.tasks.sar.codec import Codec

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
    from mlkit.commands.building import build_and_tell, checked
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
    build = checked(SarBuild, values)
    sources = [*(source or ()), *(more or ())]
    build_and_tell(
        lambda counting: build_dataset(sources or None, out, build=build, skip_broken=True, progress=counting),
        out,
        preset="baseline_c16",
        what="image",
        skip_broken=skip_broken,
        as_json=as_json,
    )


def infer(
    scenes: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCENE...",
            help="Scenes or folders of scenes, in any format that can be built from; or coded ones (.mlk).",
        ),
    ],
    checkpoint: Annotated[
        Path, typer.Option(metavar="RUN|CHECKPOINT", help="Run or checkpoint to use.", autocompletion=complete.runs)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default=False)] = None,
    latents: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.mlk",
            help="Code the scene into this file (several: a folder); --out then holds what it decodes to.",
            show_default=False,
        ),
    ] = None,
    bits_per_px: Annotated[
        float | None,
        typer.Option(min=0.01, max=16, help="With --latents: at most so many, the file's own bytes included."),
    ] = None,
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

    With --latents the scene becomes a small file of coded latents, which the same command reads back.

    Examples:

        mlkit infer sar scene.tif --checkpoint runs/residual_v1_c16 --out results

        mlkit infer sar scene.tif --checkpoint residual_v1_c16 --speckle resample --out results

        mlkit infer sar scene.tif --checkpoint gdn_codec_c64 --latents scene.mlk --bits-per-px 0.5

        mlkit infer sar scene.mlk --checkpoint gdn_codec_c64 --out results
    """
    from mlkit.commands.opened import open_model, pick_device
    from mlkit.errors import MlkitError, listing
    from mlkit.runs.folders import resolve_run
    from mlkit.settings import Places
    from mlkit.tasks.sar.dataset import find_images
    from mlkit.tasks.sar.infer import RESULT_SUFFIXES, tile_plan
    from mlkit.tasks.sar.latents import SUFFIX
    from mlkit.tasks.sar.model import Autoencoder

    if out is not None and out.is_file():
        raise MlkitError(f"--out {out} is a file; give a folder for the results")
    coded = [path for path in scenes if path.suffix.lower() == SUFFIX]
    _refuse_unfit(scenes, coded, out, latents, bits_per_px, speckle)
    found = coded
    if not coded:
        # Results of an earlier call into a folder of scenes are no scenes.
        found = [path for path in find_images(scenes) if path in scenes or not path.stem.endswith(RESULT_SUFFIXES)]
    if not found:
        raise MlkitError(
            f"{listing([str(scene) for scene in scenes])} holds only results of earlier calls; give scenes"
        )
    if out is not None:
        _refuse_equal_names(found, out)
    ref = resolve_run(str(checkpoint), Places().runs_dir)
    picked, sentence = pick_device(device)
    if sentence:
        typer.echo(sentence, err=True)
    opened = open_model(ref.chosen_checkpoint(), picked, task_name="sar")
    assert isinstance(opened.net, Autoencoder)
    work: Callable[[Path], None]
    if coded or latents is not None:
        from mlkit.tasks.sar.codec import codec_of
        from mlkit.tasks.sar.settings import SarSettings

        assert isinstance(opened.task.settings, SarSettings)
        codec = codec_of(opened.net, opened.checkpoint, opened.task.settings.model, picked)
        if coded:
            assert out is not None
            work = partial(_decode, codec, out, overwrite)
        else:
            assert latents is not None
            work = partial(_encode, codec, latents, out, kind, bits_per_px, overwrite)
    else:
        side, shared = tile_plan(opened.net, tile, overlap)
        if tile is not None and side > tile:
            typer.echo(f"tiles of {side} px instead of {tile}: neighbours share {shared} px (--overlap)", err=True)
        how: dict[str, Any] = {"kind": kind, "tile": tile, "overlap": overlap, "speckle": speckle, "seed": seed}
        how |= {"device": picked, "overwrite": overwrite}
        assert out is not None
        work = partial(_reconstruct, opened.net, opened.checkpoint.info["preprocessing"], out, how)
    errors: list[MlkitError] = []
    is_new = out is not None and not out.exists()
    for path in found:
        try:
            with ended_by_signal():
                work(path)
        except MlkitError as error:
            errors.append(error)  # a broken scene does not stop the others
    if errors:
        if is_new and out is not None:
            with suppress(OSError):  # it holds the results of other scenes
                out.rmdir()
        raise type(errors[0])(*(problem for error in errors for problem in error.problems))


def _reconstruct(net: Any, preprocessing: Any, out: Path, how: dict[str, Any], path: Path) -> None:
    from mlkit.tasks.sar.infer import infer_scenes

    counting = Counting("rows")
    try:
        results = infer_scenes(net, preprocessing, path, out, progress=counting, **how)
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


def _encode(
    codec: Codec, latents: Path, out: Path | None, kind: Kind, bits_per_px: float | None, overwrite: bool, path: Path
) -> None:
    """Code each image of a file, and write what it decodes to where asked for."""
    from mlkit.errors import DataError
    from mlkit.tasks.sar.codec import encode_scene, psnr_of
    from mlkit.tasks.sar.latents import SUFFIX, read_coded, write_coded
    from mlkit.tasks.sar.readers import open_scenes

    images = open_scenes(path, kind)
    single = latents.suffix.lower() == SUFFIX
    if single and len(images) > 1:
        raise DataError(f"{path} holds {len(images)} images; give a folder as --latents")
    for scene in images:
        target = latents if single else latents / f"{scene.name.replace('#', '_')}{SUFFIX}"
        if target.exists() and not overwrite:
            raise DataError(f"{target} exists; give another --latents, or --overwrite to replace it")
        size = write_coded(target, encode_scene(codec, scene, bits_per_px=bits_per_px))
        coded = read_coded(target)
        num_px = coded.height * coded.width
        typer.echo(
            f"{target}: {coded.width} x {coded.height} px in {size:,} bytes, {8 * size / num_px:.3f} bit/px, "
            f"PSNR {psnr_of(codec, coded, scene):.2f} dB with {coded.db_min:.2f} to {coded.db_max:.2f} dB as 0 to 1, "
            f"by {codec.model_id}; {scene.why}"
        )
        if out is not None:
            _decode(codec, out, overwrite, target)


def _decode(codec: Codec, out: Path, overwrite: bool, path: Path) -> None:
    from mlkit.errors import DataError
    from mlkit.tasks.sar.codec import decode_scene, open_coded

    coded = open_coded(codec, path)
    target = out / f"{coded.scene.replace('#', '_')}_reconstructed.tif"
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists; give another --out, or --overwrite to replace it")
    out.mkdir(parents=True, exist_ok=True)
    seconds = decode_scene(codec, coded, target)
    rate = coded.width * coded.height / 1e6 / seconds
    typer.echo(
        f"{target}: {coded.width} x {coded.height} px in {duration(seconds)} ({rate:.2f} MP/s), decoded from {path}"
    )
    typer.echo("speckle: none put back")


def _refuse_unfit(
    scenes: list[Path],
    coded: list[Path],
    out: Path | None,
    latents: Path | None,
    bits_per_px: float | None,
    speckle: str,
) -> None:
    """Raise one error with all that does not go together."""
    from mlkit.errors import MlkitError

    problems = []
    if coded and len(coded) < len(scenes):
        problems.append(
            f"{coded[0]} is coded, {next(p for p in scenes if p not in coded)} is not; give one kind a call"
        )
    if coded and latents is not None:
        problems.append(f"{coded[0]} is coded already; leave out --latents and give --out")
    if out is None and (coded or latents is None):
        problems.append("nowhere to write to; give --out" + ("" if coded else ", or --latents to code the scene"))
    if latents is not None and latents.suffix.lower() != ".mlk" and latents.is_file():
        problems.append(f"--latents {latents} is a file of another kind; give OUT.mlk, or a folder")
    if latents is not None and latents.suffix.lower() == ".mlk" and (len(scenes) > 1 or scenes[0].is_dir()):
        problems.append(f"--latents {latents} is one file for several scenes; give a folder")
    if bits_per_px is not None and latents is None:
        problems.append("--bits-per-px is for --latents; leave it out")
    if speckle == "resample" and (coded or latents is not None):
        problems.append("--speckle resample measures the scene itself, which coded latents no longer are")
    if problems:
        raise MlkitError(*problems)


def _refuse_equal_names(paths: list[Path], out: Path) -> None:
    """Raise when two scenes would be written to one place."""
    from mlkit.errors import MlkitError

    first: dict[str, Path] = {}
    for path in paths:
        twin = first.setdefault(path.stem, path)
        if twin != path:
            result = out / f"{path.stem}_reconstructed.tif"
            raise MlkitError(f"{twin} and {path} would both become {result}; give each its own --out")

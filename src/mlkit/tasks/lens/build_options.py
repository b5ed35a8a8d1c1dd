"""The options of `mlkit dataset build lens`; torch is not imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def dataset_build(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist or be empty.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Photograph or folder of them; repeatable.  \\[default: the embedded sample]"),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More files or folders.")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Folder of pairs instead: distorted/ and corrected/, or NAME_original and NAME_generated."),
    ] = None,
    lens: Annotated[
        str, typer.Option(help="Only lenses whose maker and model contain this text.  \\[default: all]")
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="Training samples of an epoch; each is drawn anew.")] = 2000,
    views: Annotated[int, typer.Option(min=1, help="Validation samples of each validation photograph.")] = 4,
    scenes: Annotated[
        int, typer.Option(min=0, help="Validation samples that are drawn scenes.  \\[default: 0; 8 with the sample]")
    ] = 0,
    longest: Annotated[int, typer.Option(min=128, help="Longer side in px at which photographs are stored.")] = 1280,
    smallest: Annotated[int, typer.Option(min=64, help="Leave out photographs with a shorter side.")] = 256,
    val_share: Annotated[float, typer.Option(help="Share of the photographs and lenses for validation.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Chooses validation photographs, lenses, cameras.")] = 0,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Exit with 0 although broken files were left out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build a dataset of photographs seen through real lenses: profiles of lensfun's data base.

    Each sample has a lens, a camera and a focal length of its own, and its true map. Photographs and lenses of the
    validation part are in no training sample. Photographs should be straight: corrected, or of a good lens.

    Examples:

        mlkit dataset build lens --out data/lens

        mlkit dataset build lens --source photos/ --scenes 64 --out data/lens

        mlkit dataset build lens --source photos/ --lens "Canon EF" --out data/canon

        mlkit dataset build lens --pairs pairs/ --out data/pairs
    """
    from mlkit.commands.building import build_and_tell, checked
    from mlkit.tasks.lens.dataset import build_dataset
    from mlkit.tasks.lens.settings import LensBuild

    values = {
        "count": count,
        "views": views,
        "scenes": scenes,
        "longest": longest,
        "smallest": smallest,
        "lens": lens,
        "val_share": val_share,
        "seed": seed,
    }
    build = checked(LensBuild, values)
    sources = [*(source or ()), *(more or ())]
    build_and_tell(
        lambda counting: build_dataset(
            sources or None, out, build=build, pairs=pairs, skip_broken=True, progress=counting
        ),
        out,
        preset="lens_tiny",
        what="file",
        skip_broken=skip_broken,
        as_json=as_json,
    )

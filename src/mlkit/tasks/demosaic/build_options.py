"""The options of `mlkit dataset build demosaic`; torch is not imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Teacher = Literal["libraw", "binned", "self"]


def dataset_build(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist or be empty.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Image, RAW file or folder of them; repeatable.  \\[default: the embedded sample]"),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More files or folders.")] = None,
    teacher: Annotated[
        Teacher,
        typer.Option(
            help="Truth of RAW files. libraw: LibRaw's interpolation, of X-Trans Markesteijn's 3-pass; binned: means "
            "of each colour over the filter's cells; self: for images that are RGB already."
        ),
    ] = "self",
    downsample: Annotated[int, typer.Option(min=1, help="Area means by this factor before mosaicking.")] = 1,
    reduce: Annotated[
        str, typer.Option(help="Further reductions at which images are used: 1,2 also at half the side.")
    ] = "1",
    torture: Annotated[
        int,
        typer.Option(
            min=0, help="Synthetic patterns of 13 families.  \\[default: 0; 26 with the sample]", show_default=False
        ),
    ] = 0,
    mix: Annotated[
        str,
        typer.Option(
            metavar="GROUP=SHARE,...",
            help="Shares of the training samples: real=0.8,sharp=0.15,torture=0.05.  \\[default: every square once]",
        ),
    ] = "",
    size: Annotated[int, typer.Option(min=48, help="Side of validation squares and synthetic patterns in px.")] = 192,
    val_share: Annotated[float, typer.Option(help="Share of the photographs for validation.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Chooses validation photographs and synthetic patterns.")] = 0,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Exit with 0 although broken files were left out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build a dataset of X-Trans mosaics with their truth from photographs, RAW files and synthetic patterns.

    Reads PNG, JPEG, WebP and TIFF of 8 and 16 bit, and RAW files of X-Trans and Bayer cameras. RAW values stay linear
    and are never clipped. Whole photographs are held out for validation.

    Examples:

        mlkit dataset build demosaic --out data/mosaics

        mlkit dataset build demosaic --source photos/ --torture 999 --mix real=0.8,sharp=0.15,torture=0.05 --out data/m

        mlkit dataset build demosaic --source raws/ --teacher libraw --downsample 4 --out data/raws
    """
    from mlkit.commands.building import build_and_tell, checked
    from mlkit.tasks.demosaic.dataset import build_dataset
    from mlkit.tasks.demosaic.settings import DemosaicBuild

    values = {
        "teacher": teacher,
        "downsample": downsample,
        "reduce": _whole_numbers(reduce),
        "torture": torture,
        "mix": _shares(mix),
        "size": size,
        "val_share": val_share,
        "seed": seed,
    }
    build = checked(DemosaicBuild, values)
    sources = [*(source or ()), *(more or ())]
    build_and_tell(
        lambda counting: build_dataset(sources or None, out, build=build, skip_broken=True, progress=counting),
        out,
        preset="demosaic_tiny",
        what="photograph",
        skip_broken=skip_broken,
        as_json=as_json,
    )


def _whole_numbers(text: str) -> list[int]:
    """Return the numbers of "1,2,4"."""
    from mlkit.errors import MlkitError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise MlkitError(f"--reduce {text} is no list of whole numbers; write it as 1,2,4") from None


def _shares(text: str) -> dict[str, float]:
    """Return the shares of "real=0.8,torture=0.2"."""
    from mlkit.errors import MlkitError

    shares: dict[str, float] = {}
    for part in text.split(",") if text else ():
        group, _, share = part.partition("=")
        try:
            value = float(share)
        except ValueError:
            raise MlkitError(
                f"--mix {text} is no list of shares; write it as real=0.8,sharp=0.15,torture=0.05"
            ) from None
        if group.strip() in shares:
            raise MlkitError(f"--mix {text} names {group.strip()} twice; give each group one share")
        shares[group.strip()] = value
    return shares

"""The options of `mlkit dataset build sr`; torch is imported only when it runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Pairs = Literal["from-photos", "from-base", "none"]
BaseDtype = Literal["fp32", "bf16", "fp16"]


def dataset_build(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist or be empty.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Photograph or folder of them; repeatable.  \\[default: the embedded sample]"),
    ] = None,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="More photographs or folders.")] = None,
    pairs: Annotated[
        Pairs,
        typer.Option(
            help="from-photos: noise from photographs, by the base's ODE backwards; from-base: images from noise; "
            "none: photographs alone, to train a base on."
        ),
    ] = "from-photos",
    base: Annotated[
        str, typer.Option(metavar="FOLDER|HUB-ID", help="The base; embedded is the one in the package.")
    ] = "embedded",
    base_dtype: Annotated[BaseDtype, typer.Option(help="Number format of the base.")] = "fp32",
    prompt_embeds: Annotated[
        Path | None,
        typer.Option(help="Safetensors file with prompt_embeds and pooled_prompt_embeds, for no text encoders."),
    ] = None,
    scale: Annotated[
        Literal["2", "4"], typer.Option(help="How many times smaller the low-resolution image is, a side.")
    ] = "4",
    degradation: Annotated[
        Literal["bicubic", "real"], typer.Option(help="bicubic, or real: blur, resize, noise and JPEG, twice.")
    ] = "bicubic",
    size: Annotated[int, typer.Option(min=32, help="Side of a pair in px.")] = 128,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pairs to make.  \\[default: as many as fit side by side; 80 of the sample, 2400 from a base]"
        ),
    ] = None,
    reduce: Annotated[
        str, typer.Option(help="Reductions at which photographs are used: 1,2 also at half the side.")
    ] = "1",
    val_share: Annotated[float, typer.Option(help="Share of the photographs for validation.")] = 0.1,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the ODE.")] = 8,
    seed: Annotated[
        int, typer.Option(min=0, help="Chooses validation photographs, places, noise and degradation.")
    ] = 0,
    device: Annotated[str, typer.Option(help="Where the base runs: auto, cpu, cuda or mps.")] = "auto",
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Exit with 0 although broken files were left out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build pairs for flow trajectory distillation, or a dataset of photographs to train a base on.

    A pair is noise, image and low-resolution image, the first two joined by the base's own ODE, as latents and as
    pictures. Reads PNG, JPEG, WebP and TIFF of 8 and 16 bit. Whole photographs are held out for validation.

    Examples:

        mlkit dataset build sr --out data/pairs

        mlkit dataset build sr --source photos/ --degradation real --reduce 1,2,4 --count 2000 --out data/real

        mlkit dataset build sr --pairs none --source photos/ --out data/photos
    """
    from mlkit.commands.building import build_and_tell, checked
    from mlkit.tasks.sr.dataset import build_dataset
    from mlkit.tasks.sr.settings import SrBuild

    values = {
        "pairs": pairs,
        "base": base,
        "scale": int(scale),
        "degradation": degradation,
        "size": size,
        "count": count,
        "reduce": _whole_numbers(reduce),
        "val_share": val_share,
        "steps": steps,
        "seed": seed,
    }
    build = checked(SrBuild, values)
    sources = [*(source or ()), *(more or ())]
    build_and_tell(
        lambda counting: build_dataset(
            sources or None,
            out,
            build=build,
            open_with=partial(_open, base, base_dtype, prompt_embeds, device),
            skip_broken=True,
            progress=counting,
        ),
        out,
        preset="sr_flow_tiny" if pairs == "none" else "ftd_tiny",
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


def _open(base: str, dtype: BaseDtype, prompt_embeds: Path | None, device: str) -> Any:
    import torch

    from mlkit.commands.opened import pick_device
    from mlkit.tasks.sr.bases import open_base

    picked, sentence = pick_device(device)
    if sentence:
        typer.echo(sentence, err=True)
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return open_base(base, dtype=formats[dtype], prompt_embeds=prompt_embeds).to(picked)

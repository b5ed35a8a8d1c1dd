"""`mlkit train`: a new run from a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mlkit.commands import complete

RUN, DATA, LENGTH, MACHINE, PICTURES = "Run", "Data", "Length and rate", "Machine", "Pictures"


def train(
    preset: Annotated[
        str,
        typer.Option(
            help="A shipped preset, a chain of them, or a .toml file.",
            autocompletion=complete.presets,
            rich_help_panel=RUN,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the run.  \\[default: the preset]", rich_help_panel=RUN)
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One TOML assignment; repeatable.", rich_help_panel=RUN),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.", rich_help_panel=RUN)] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="A run for each of these seeds: 0,1,2; `compare` takes them as one.", rich_help_panel=RUN),
    ] = None,
    quick_test: Annotated[
        bool, typer.Option("--quick-test", help="The preset's small budget, to see it work.", rich_help_panel=RUN)
    ] = False,
    validate_only: Annotated[
        bool,
        typer.Option(
            "--validate-only",
            help="Check settings, data, disk and one real step; score --init-from; then stop.",
            rich_help_panel=RUN,
        ),
    ] = False,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse",
            help="Check data, disk and memory, then train, kill and resume a step aside; then stop.",
            rich_help_panel=RUN,
        ),
    ] = False,
    init_from: Annotated[
        Path | None, typer.Option(help="Start from these weights, at step 0.", rich_help_panel=RUN)
    ] = None,
    resume_from: Annotated[
        Path | None, typer.Option(help="Go on from a checkpoint, as `mlkit resume`.", rich_help_panel=RUN)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=RUN)] = False,
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder.  \\[default: the embedded sample]", rich_help_panel=DATA)
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Data loader processes.", rich_help_panel=DATA)] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer updates.", rich_help_panel=LENGTH)] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.", rich_help_panel=LENGTH)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Samples per pass.", rich_help_panel=LENGTH)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=LENGTH)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=MACHINE)] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        typer.Option(help="auto measures and keeps the faster that loses nothing.", rich_help_panel=MACHINE),
    ] = None,
    wandb: Annotated[
        bool | None, typer.Option("--wandb/--no-wandb", help="Log to W&B.", rich_help_panel=MACHINE)
    ] = None,
    checkpoint_eval_ids: Annotated[
        str | None, typer.Option(help="Grid: sample ids, by commas.", rich_help_panel=PICTURES)
    ] = None,
    checkpoint_eval_images_dir: Annotated[
        Path | None, typer.Option(help="Grid: your own images.", rich_help_panel=PICTURES)
    ] = None,
    checkpoint_eval_input_upscale: Annotated[
        int | None, typer.Option(min=1, help="Grid: enlarge your images so many times.", rich_help_panel=PICTURES)
    ] = None,
    checkpoint_eval_fit_multiple: Annotated[
        int | None, typer.Option(min=1, help="Grid: crop your images to multiples of it.", rich_help_panel=PICTURES)
    ] = None,
) -> None:
    """Train a preset as a new run; killed anywhere, it goes on exactly with `mlkit resume`.

    Examples:

        mlkit train --preset sar_tiny

        mlkit train --preset residual_v1_c16 --data data/s1 --name v1.0_s1 --workers 2

        mlkit train --preset baseline_c16 --data data/s1 --seeds 0,1,2

        mlkit train --preset baseline_c16 --data data/s1 --rehearse

        mlkit train --preset baseline_c16 --quick-test --set 'loss.ssim_weight=0.5'
    """
    from mlkit.commands.seeds import parse_seeds
    from mlkit.commands.starting import Request, start

    flags = {
        "seed": seed,
        "train.workers": workers,
        "train.steps": max_steps,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "train.precision": precision,
        "tracking.wandb": wandb,
        "checkpoint.eval_ids": checkpoint_eval_ids.split(",") if checkpoint_eval_ids else None,
        "checkpoint.eval_images_dir": str(checkpoint_eval_images_dir) if checkpoint_eval_images_dir else None,
        "checkpoint.eval_input_upscale": checkpoint_eval_input_upscale,
        "checkpoint.eval_fit_multiple": checkpoint_eval_fit_multiple,
    }
    start(
        Request(
            preset=preset,
            name=name,
            assignments=tuple(assign or ()),
            flags=flags,
            quick_test=quick_test,
            validate_only=validate_only or rehearse,
            rehearse=rehearse,
            init_from=init_from,
            resume_from=resume_from,
            data=data,
            device=device,
            as_json=as_json,
            seeds=parse_seeds(seeds) if seeds is not None else (),
        )
    )

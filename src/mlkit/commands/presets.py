"""`mlkit presets`: what there is, what it holds and why, and whether a file of one's own is good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlkit.commands import complete

Preset = Annotated[
    str,
    typer.Argument(metavar="PRESET", help="A shipped preset's name, or a .toml file.", autocompletion=complete.presets),
]
Assign = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One TOML assignment; repeatable.")
]
QuickTest = Annotated[bool, typer.Option("--quick-test", help="With the preset's small budget.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def list_(
    task: Annotated[str | None, typer.Option(help="Only those of this task.", autocompletion=complete.tasks)] = None,
    as_json: Json = False,
) -> None:
    """List the shipped presets: task, length, purpose.

    Examples:

        mlkit presets list

        mlkit presets list --task sar --json
    """
    from mlkit.commands.listing import list_shipped

    list_shipped(task, as_json=as_json)


def show(
    preset: Preset,
    assign: Assign = None,
    quick_test: QuickTest = False,
    changed: Annotated[bool, typer.Option("--changed", help="Leave out what has its default.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print it as one TOML file that extends nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Show every value of a preset and where it comes from: default, an extended preset, the preset, a file, --set.

    Examples:

        mlkit presets show residual_v1_c16

        mlkit presets show sar_tiny --set train.lr=1e-3 --changed

        mlkit presets show baseline_c16 --toml
    """
    from mlkit.commands.explaining import show_preset

    show_preset(preset, tuple(assign or ()), quick_test=quick_test, changed=changed, as_toml=as_toml, as_json=as_json)


def explain(
    preset: Preset,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A key such as train.lr, or a section such as train.")],
    assign: Assign = None,
    quick_test: QuickTest = False,
    as_json: Json = False,
) -> None:
    """Explain one key of a preset: what it means, what it may be, and every place that set it.

    Examples:

        mlkit presets explain residual_v1_c16 train.lr

        mlkit presets explain sar_tiny loss
    """
    from mlkit.commands.explaining import explain_key

    explain_key(preset, key, tuple(assign or ()), quick_test=quick_test, as_json=as_json)


def schema(
    task: Annotated[
        str | None,
        typer.Argument(metavar="[TASK]", help="Of presets of this task; else of all.", autocompletion=complete.tasks),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.  \\[default: stdout]")] = None,
) -> None:
    """Print the JSON schema of preset files, for editors that complete and check TOML.

    Examples:

        mlkit presets schema sar --out sar.schema.json
    """
    from mlkit.commands.schema import print_schema

    print_schema(task, out)


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Preset files of your own.")],
    as_json: Json = False,
) -> None:
    """Check preset files: every key and value, with and without their quick test; all that is wrong is told at once.

    Examples:

        mlkit presets check mine.toml
    """
    from mlkit.commands.explaining import check_files

    check_files(files, as_json=as_json)

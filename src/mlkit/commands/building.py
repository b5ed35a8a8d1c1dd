"""What `mlkit dataset build TASK` does for every task around the building itself: options, progress, what is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from mlkit.commands.display import Counting
from mlkit.commands.options import ended_by_signal, option_problems
from mlkit.errors import DataError, MlkitError, counted
from mlkit.presets import explain

if TYPE_CHECKING:
    from mlkit.data.manifest import BuildReport, DatasetManifest

Options = TypeVar("Options", bound=BaseModel)


def checked(model: type[Options], values: Mapping[str, Any]) -> Options:
    """Return the options as the task's model.

    Raises:
        MlkitError: one sentence for each option that is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise MlkitError(*option_problems(explain(error, model, {}))) from None


def build_and_tell(
    build: Callable[[Counting], BuildReport],
    out: Path,
    *,
    preset: str,
    what: str,
    skip_broken: bool,
    as_json: bool,
    table: Callable[[DatasetManifest], list[str]] | None = None,
) -> None:
    """Build with a progress line, and print what was built.

    Args:
        build: builds; broken files are left out and reported.
        out: the dataset's folder.
        preset: what to train next.
        what: a broken file is called: "photograph".
        skip_broken: broken files are accepted.
        as_json: print JSON instead of sentences.
        table: makes more lines of the manifest, whose details are then part of the JSON too.

    Raises:
        DataError: when files were broken and `skip_broken` is off; the dataset is there all the same.
    """
    counting = Counting("done")
    try:
        with ended_by_signal():
            report = build(counting)
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
            **({"details": manifest.details} if table else {}),
            "broken": report.broken,
            "notes": report.lines,
        }
        typer.echo(json.dumps(result, indent=2))
    else:
        for line in [*report.lines, *(table(manifest) if table else ())]:
            typer.echo(line)
        label = f" ({manifest.label})" if manifest.label else ""
        typer.echo(f"{out}{label}: sha256 {manifest.sha256[:12]}")
        typer.echo(f"next: mlkit train --preset {preset} --data {out}")
    if report.broken and not skip_broken:  # built all the same, but a script must notice
        raise DataError(
            *report.broken,
            f"{counted(len(report.broken), f'broken {what}')} left out of {out}; mend and build again, or accept it "
            "with --skip-broken",
        )

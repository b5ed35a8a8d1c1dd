"""Small pages for the tests: planted runs with pictures of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlkit.evaluation.comparison import Candidate, Comparison, compare_checkpoints
from mlkit.report.content import Shown, ShownImage
from mlkit.report.page import write_page
from mlkit.report.pictures import picture
from mlkit.report.trainings import models_of

MakeRun = Callable[..., Path]


def compared(*runs: Path) -> Comparison:
    return compare_checkpoints([Candidate(run.name, run / "ckpt-500") for run in runs])


def shown_images(ids: Sequence[str], names: Sequence[str], size: tuple[int, int] = (40, 60)) -> list[ShownImage]:
    """Return pictures of noise, other ones for each model."""
    rng = np.random.default_rng(0)

    def noise() -> Any:
        return picture(rng.random((*size, 3), np.float32))

    return [
        ShownImage(
            id=name,
            given=[Shown("Truth", noise())],
            made=[Shown(model, noise(), place) for place, model in enumerate(names)],
            errors=[Shown(f"|error| x8 of {model}", noise(), place) for place, model in enumerate(names)],
        )
        for name in ids
    ]


def make_page(folder: Path, runs: Sequence[Path], ids: Sequence[str] | None = None, **more: Any) -> Path:
    """Write the page of planted runs with two images, or those of `ids`; further arguments are those of the page."""
    comparison = compared(*runs)
    ids = list(comparison.ids[:2]) if ids is None else ids
    images = shown_images(ids, [run.name for run in runs])
    given = {
        "comparison": comparison,
        "models": models_of(comparison),
        "images": images,
        "command": "mlkit compare a b",
    }
    return write_page(folder, **{**given, **more})

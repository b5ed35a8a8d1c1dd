"""What an image file holds, as it is stored: between the decoders and what makes images of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from mlkit.imaging.metadata import Metadata

Alpha = Literal["none", "straight", "associated"]
METRES_PER_INCH = 0.0254


@dataclass(slots=True)
class Stored:
    """A file as it is stored.

    values: [H, W, S]: grey, RGB or CMYK (`colors` 1, 3, 4), then perhaps alpha; not turned upright.
    top: the value that means 1.
    num_pictures: of an animation or of several pages; `values` is the first.
    losses: what will not be in a written file, as noun phrases.
    """

    source: str
    values: NDArray[Any]
    colors: int
    alpha: Alpha = "none"
    top: float = 1.0
    depth: int = 8
    num_pictures: int = 1
    orientation: int = 1
    metadata: Metadata = field(default_factory=Metadata)
    losses: list[str] = field(default_factory=list)


def three_axes(values: NDArray[Any]) -> NDArray[Any]:
    """Return [H, W, S] of [H, W] too."""
    return values[..., None] if values.ndim == 2 else values


def quiet(library: str) -> None:
    """Keep a library's log of a damaged file off the terminal, where our sentence stands, unless somebody set it up."""
    if not logging.getLogger(library).handlers:
        logging.getLogger(library).addHandler(logging.NullHandler())

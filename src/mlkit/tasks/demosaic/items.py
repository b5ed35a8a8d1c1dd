"""What a dataset of mosaics is made of: its stores, and the items in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlkit.data.photos import PHOTOGRAPHS
from mlkit.tasks.demosaic.xtrans import Phase

__all__ = ["LINEAR", "PHOTOGRAPHS", "REAL", "SENSOR", "SHARP", "TORTURE", "Entry", "Split"]

Split = Literal["train", "validation"]

LINEAR = "linear"  # float16 [H, W, 3]: linear light
SENSOR = "sensor"  # uint16 [H, W]: a mosaic as the camera wrote it
TORTURE = "torture"  # uint8 sRGB [H, W, 3]; also the name of the group
REAL = "real"
SHARP = "sharp.npy"  # int32 [N, 3]: item, y, x of the training squares with most detail


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture at one size.

    name: of the photograph, or of the synthetic pattern.
    group: "real" or "torture".
    family: of a synthetic pattern; else empty.
    split: "train" or "validation".
    store, number: where its pixels lie; PHOTOGRAPHS and TORTURE are 8-bit sRGB, LINEAR linear light, SENSOR a mosaic.
    height, width: px.
    reduction: whole factor by which it is smaller than its file.
    phase: of a SENSOR item's top-left pixel.
    target: number in LINEAR of a SENSOR item's target; -1 for others.
    black, white: levels of a SENSOR item's values.
    wb: multipliers of R, G and B that a SENSOR item's values are still to get; its target has them.
    """

    name: str
    group: str
    family: str
    split: str
    store: str
    number: int
    height: int
    width: int
    reduction: int = 1
    phase: Phase = (0, 0)
    target: int = -1
    black: float = 0.0
    white: float = 1.0
    wb: tuple[float, float, float] = (1.0, 1.0, 1.0)

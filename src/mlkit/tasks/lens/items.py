"""What a dataset of lens correction is made of: its files, and the rows of its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlkit.data.photos import PHOTOGRAPHS

__all__ = ["PAIRS", "PHOTOGRAPHS", "PROFILES", "PairEntry", "PhotoEntry", "Split", "View"]

Split = Literal["train", "validation"]

PROFILES = "profiles.json"  # every profile with its split
PAIRS = "pairs"  # store, uint8 sRGB [H, W, 3]: distorted, corrected, distorted, corrected ...


@dataclass(frozen=True, slots=True)
class PhotoEntry:
    """A photograph in the store PHOTOGRAPHS.

    levels: (reduction, number in the store) from fine to coarse.
    """

    name: str
    split: str
    height: int
    width: int
    levels: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class View:
    """A validation sample: a photograph, or a drawn scene, through a lens.

    photo: its place among the photographs; -1 is a scene, drawn by `number`.
    profile: place in PROFILES.
    """

    photo: int
    number: int
    profile: int


@dataclass(frozen=True, slots=True)
class PairEntry:
    """A distorted and a corrected picture of one name; items 2 n and 2 n + 1 of the store PAIRS."""

    name: str
    split: str
    height: int
    width: int

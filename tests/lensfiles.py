"""Photographs and options for datasets of lens correction that are built in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SMALL = {"count": 16, "views": 2, "scenes": 3, "smallest": 96, "lens": "canon ef ", "val_share": 0.3}


def photograph(path: Path, height: int = 150, width: int = 210, seed: int = 0) -> Path:
    """Write smooth colours that have no two equal places."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).random((height // 12 + 1, width // 12 + 1, 3))
    Image.fromarray((values * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path

"""Shell completion of names: presets and runs."""

from __future__ import annotations

import os
from pathlib import Path


def presets(incomplete: str) -> list[str]:
    """Return the shipped presets that start so; pydantic is not imported, since this runs at each press of Tab."""
    package = Path(__file__).parent.parent
    folders = (package / "presets", package.parent.parent / "presets")
    return sorted(path.stem for folder in folders for path in folder.glob(f"*/{incomplete}*.toml"))


def runs(incomplete: str) -> list[str]:
    """Return the runs that start so, and with a slash their checkpoints."""
    folder = Path(os.environ.get("MLKIT_RUNS_DIR", "runs"))
    names = [path.parent.name for path in folder.glob("*/run.json")]
    found = sorted(name for name in names if name.startswith(incomplete))
    return found or sorted(str(path) for path in Path().glob(f"{incomplete}*") if path.is_dir())

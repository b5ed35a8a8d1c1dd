"""What a run's metrics.jsonl says over its steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.errors import DataError

TRAINING_LOSS = "training loss"
Curve = list[tuple[int, float]]  # (step, value), by step; finite values alone


def metric_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl; a half-written last one (a kill) is left out.

    Raises:
        DataError: for a damaged one.
    """
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    try:
        return [dict(json.loads(line)) for line in lines if line.endswith("\n")]
    except (ValueError, TypeError) as error:
        raise DataError(f"{file} is damaged: {error}") from error


def curves(run: Path) -> dict[str, Curve]:
    """Return the training loss (`objective` where a run has it, which no warm-up changes) and each validation score."""
    found: dict[str, Curve] = {}
    for row in metric_rows(run):
        split = row.get("split")
        if split == "validation":
            for key, value in row.items():
                _add(found, key, row, value)
        elif split is None:
            _add(found, TRAINING_LOSS, row, row.get("objective", row.get("loss")))
    return found


def _add(found: dict[str, Curve], key: str, row: Mapping[str, Any], value: object) -> None:
    if key not in ("step", "samples", "split") and isinstance(value, int | float) and math.isfinite(value):
        found.setdefault(key, []).append((int(row["step"]), float(value)))


def band(members: list[Curve]) -> list[tuple[int, float, float, float]]:
    """Return (step, mean, lowest, highest) of several runs at the steps that all of them have."""
    by_step = [dict(member) for member in members]
    steps = sorted(set.intersection(*(set(one) for one in by_step))) if by_step else []
    values = [(step, [one[step] for one in by_step]) for step in steps]
    return [(step, math.fsum(all_of) / len(all_of), min(all_of), max(all_of)) for step, all_of in values]

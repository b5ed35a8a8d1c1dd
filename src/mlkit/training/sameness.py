"""Whether two trainings came to the same: rows, weights, averages, optimizer, counters, scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.checkpoint import checkpoint_folders, open_checkpoint, read_tensors, read_training_state

if TYPE_CHECKING:
    from torch import Tensor

_CLOCKS = ("train_s",)  # what no two runs have in common


def differences(first: Path, second: Path) -> list[str]:
    """Return in what two run folders differ, one phrase each; empty where every bit that counts is the same."""
    found = []
    rows = [(folder / "metrics.jsonl").read_bytes() for folder in (first, second)]
    if rows[0] != rows[1]:
        found.append("the rows of metrics.jsonl")
    names = [[path.name for path in checkpoint_folders(folder)] for folder in (first, second)]
    if names[0] != names[1]:
        return [*found, f"the checkpoints: {', '.join(names[0])} and {', '.join(names[1])}"]
    for name in names[0]:
        found += [f"{name}: {phrase}" for phrase in _checkpoints(first / name, second / name)]
    return found


def _checkpoints(first: Path, second: Path) -> Iterator[str]:
    opened = [open_checkpoint(folder) for folder in (first, second)]  # every file as its hash says
    states, optimizers = zip(*(read_training_state(checkpoint) for checkpoint in opened), strict=True)
    counters = [{key: value for key, value in state.items() if key not in _CLOCKS} for state in states]
    if counters[0] != counters[1]:
        yield "counters"
    largest = _largest(_tensors(optimizers[0]), _tensors(optimizers[1]))
    if largest is not None:
        yield f"the optimizer's state, by up to {largest:.3g}"
    names = [sorted(str(path.relative_to(one)) for path in one.rglob("*.safetensors")) for one in (first, second)]
    if names[0] != names[1]:
        yield "the files of weights"
        return
    for name in names[0]:
        if (first / name).read_bytes() != (second / name).read_bytes():
            largest = _largest(read_tensors(first / name), read_tensors(second / name))
            yield f"{name}, by up to {largest or 0.0:.3g}"
    reports = [folder / "eval.json" for folder in (first, second)]
    if len({report.read_bytes() if report.exists() else b"" for report in reports}) > 1:
        yield "eval.json"


def _tensors(values: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors and numbers in nested dicts and lists, by path."""
    import torch

    if isinstance(values, torch.Tensor):
        return {prefix: values}
    if isinstance(values, bool | int | float):
        return {prefix: torch.tensor(values, dtype=torch.float64)}
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list | tuple) else ()
    )
    found: dict[str, Tensor] = {}
    for key, value in items:
        found |= _tensors(value, f"{prefix}/{key}")
    return found


def _largest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float | None:
    """Return the largest difference of two sets of tensors; None where there is none, infinity where keys differ."""
    if first.keys() != second.keys():
        return float("inf")
    differ = [key for key in first if not _equal(first[key], second[key])]
    if not differ:
        return None
    same = [key for key in differ if first[key].shape == second[key].shape]
    if len(same) < len(differ):
        return float("inf")
    return max(float((first[key].double() - second[key].double()).abs().max()) for key in same)


def _equal(first: Tensor, second: Tensor) -> bool:
    import torch

    return first.dtype == second.dtype and torch.equal(first, second)

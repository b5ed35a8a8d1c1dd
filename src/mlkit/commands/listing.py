"""`mlkit presets list`: the files as they are, without pydantic, so that it starts at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.commands.printing import print_json, print_table
from mlkit.errors import MlkitError, did_you_mean, listing
from mlkit.preset_files import list_presets, presets_root, read_preset
from mlkit.tasks import TASKS, available_tasks


def list_shipped(task: str | None, *, as_json: bool) -> None:
    """Print the shipped presets of one task or all.

    Raises:
        MlkitError: for an unknown task.
    """
    if task is not None and task not in TASKS:
        raise MlkitError(f"unknown task '{task}'{did_you_mean(task, TASKS)}; there are {listing(TASKS)}")
    order = {name: place for place, name in enumerate(TASKS)}
    found = [facts_of(name, path) for name, path in list_presets().items()]
    found = [facts for facts in found if task in (None, facts["task"]) and facts["task"] in available_tasks()]
    found.sort(key=lambda facts: (order[facts["task"]], facts["name"]))
    if as_json:
        print_json(found)
        return
    rows = [
        [facts["name"], facts["task"], facts["length"], "yes" if facts["quick_test"] else "-", facts["purpose"]]
        for facts in found
    ]
    print_table(("Preset", "Task", "Length", "Quick test", "Purpose"), rows, fold=("Purpose",))


def facts_of(name: str, path: Path) -> dict[str, Any]:
    """Return what the list says of a preset."""
    values, _ = read_preset(name)
    return {
        "name": name,
        "task": str(values.get("task", path.parent.name)),
        "length": _length(values),
        "chain": list(values.get("chain", ())),
        "quick_test": bool(values.get("quick_test")),
        "purpose": purpose_of(path),
        "file": str(path.relative_to(presets_root())),
    }


def purpose_of(path: Path) -> str:
    """Return the purpose from the head of a preset's file; "" where it has none."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    return first.removeprefix("# Purpose:").strip() if first.startswith("# Purpose:") else ""


def _length(values: Mapping[str, Any]) -> str:
    if links := values.get("chain"):
        return f"chain of {len(links)}"
    train = values.get("train", {})
    if "steps" in train:
        return f"{train['steps']:,} steps"
    return f"{train['epochs']:g} epochs" if "epochs" in train else "-"

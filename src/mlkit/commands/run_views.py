"""`mlkit runs show` and `diff`: one run in full, and what two differ in."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlkit.commands.display import duration
from mlkit.commands.printing import plain_text, plain_value, print_facts, print_json, print_table
from mlkit.commands.run_lists import runs_dir, score_text
from mlkit.errors import DataError
from mlkit.evaluation.criteria import FLUCTUATION, NONFINITE_STEPS, judge
from mlkit.preset_files import flatten
from mlkit.runs.folders import checkpoints, nonfinite_steps, read_pointer, resolve_run, training_losses
from mlkit.runs.records import Record, children, lineage, read_record, records

BARS = "▁▂▃▄▅▆▇█"
_NOT_COMPARED = ("format_version", "preset")


def show_run(name: str, *, as_json: bool) -> None:
    """Print all that a run's files say of it.

    Raises:
        MlkitError: when there is no such run, or its files are damaged.
    """
    record = _record(name)
    facts = facts_of(record)
    if as_json:
        print_json(facts)
        return
    about = record.about
    title = {"run": f"{record.name}  id {about.get('id', '-')}", "status": record.status}
    if record.status != about.get("status"):
        title["status"] += f"  (training: {about.get('status')})"
    lines = {
        **title,
        "note": record.note,
        "tags": " ".join(record.tags),
        "task": f"{record.task}  preset {record.preset or '-'}",
        "created": f"{record.created}  {about.get('machine', '')}",
        "command": str(about.get("command", "")),
        "data": f"{about.get('dataset_dir', '-')}  sha256 {str(about.get('dataset_sha256', '-'))[:12]}",
        "trained": _trained(facts),
        "best": _checkpoint_line(facts["best"]),
        "last": _checkpoint_line(facts["last"]),
        "kept": ", ".join(facts["checkpoints"]),
        "loss": loss_line(facts["losses"]),
    }
    print_facts({key: plain_text(text) for key, text in lines.items() if text})
    _print_lineage(record, facts)
    if facts["scores"]:
        print("\nScores of the best checkpoint")  # noqa: T201
        print_facts({f"  {key}": score_text(key, value) for key, value in facts["scores"].items()})
    if facts["criteria"]:
        print("\nCriteria")  # noqa: T201
        rows = [[one["sentence"], one["result"], one["found"]] for one in facts["criteria"]]
        print_table(("Criterion", "Result", "Found"), rows)
    known = "origins" in about  # a run of an older mlkit does not say
    print("\nSettings that a preset, --set or a flag named" if known else "\nSettings")  # noqa: T201
    shown = {key: one for key, one in facts["settings"].items() if one["origin"] or not known}
    rows = [[key, plain_value(one["value"]), one["origin"] or "unknown"] for key, one in shown.items()]
    print_table(("Key", "Value", "Set by"), rows, fold=("Value",))


def _record(name: str) -> Record:
    record = read_record(resolve_run(name, runs_dir()).folder)
    if not record.about:
        raise DataError(record.problem)
    return record


def facts_of(record: Record) -> dict[str, Any]:
    """Return what `--json` prints of a run."""
    folder = record.folder
    assert folder is not None
    known = {one.name: one for one in records(folder.resolve().parent)}
    settings, losses = _settings(folder), training_losses(folder)
    origins = record.about.get("origins", {})
    return {
        **record.to_json(),
        "run_json": dict(record.about),
        "mark": dict(record.mark),
        "train_s": _train_seconds(folder),
        "steps_planned": settings.get("train.steps"),
        "epochs_planned": settings.get("train.epochs"),
        "checkpoints": [one.name for one in checkpoints(folder)],
        "best": _checkpoint(folder, "best"),
        "last": _checkpoint(folder, "last"),
        "losses": losses,
        "nonfinite_steps": nonfinite_steps(folder),
        "criteria": _criteria(record, settings),
        "ancestors": [{"run": name, "checkpoint": checkpoint} for name, checkpoint in lineage(record, known)],
        "children": [one.name for one in children(record, known)],
        "settings": {key: {"value": value, "origin": origins.get(key, "")} for key, value in settings.items()},
    }


def _settings(folder: Path) -> dict[str, Any]:
    """Return a run's settings by dotted key, as they were written, whether this mlkit knows them or not.

    Raises:
        DataError: when settings.toml is missing or damaged.
    """
    path = folder / "settings.toml"
    try:
        values = flatten(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(f"settings {path} do not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"settings {path} are damaged: {error}") from error
    return {key: value for key, value in values.items() if key not in _NOT_COMPARED}


def _train_seconds(folder: Path) -> float | None:
    """Return the seconds in updates from the last whole row of timing.jsonl."""
    file = folder / "timing.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    for line in reversed(lines):
        try:
            if line.endswith("\n"):
                return float(json.loads(line)["train_s"])
        except (ValueError, KeyError):
            continue
    return None


def _checkpoint(folder: Path, which: str) -> dict[str, Any] | None:
    from mlkit.errors import CheckpointError

    try:
        place = read_pointer(folder, which)
        found = json.loads((place / "checkpoint.json").read_bytes()) if place else None
    except (CheckpointError, OSError, ValueError):
        return None
    if place is None or not isinstance(found, dict):
        return None
    return {"name": place.name, "scores": found.get("scores", {}), "parameters": found.get("parameters")}


def _criteria(record: Record, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the run's criteria; those relative to a baseline want `mlkit compare`."""
    from mlkit.evaluation.stability import largest_fluctuation

    folder, found = record.folder, []
    assert folder is not None
    of_run = {
        NONFINITE_STEPS: float(nonfinite_steps(folder)),
        FLUCTUATION: largest_fluctuation(training_losses(folder)),
    }
    values: dict[str, float | None] = {**record.scores, **_set_scores(folder, record.best_step), **of_run}
    if math.isnan(of_run[FLUCTUATION]):
        values[FLUCTUATION] = None
    for criterion in settings.get("eval.criteria", []):
        judged = judge(criterion, values)
        relative = bool(criterion.get("relative_to_baseline"))
        result = "against a baseline" if relative else {True: "pass", False: "fail", None: "-"}[judged.passed]
        told = "mlkit compare" if relative else "-" if judged.value is None else f"{judged.value:.4g}"
        found.append({"sentence": judged.sentence, "result": result, "found": told})
    return found


def _set_scores(folder: Path, step: int | None) -> dict[str, float | None]:
    """Return the figures of the whole set that the best checkpoint's eval.json holds."""
    try:
        return dict(json.loads((folder / f"ckpt-{step}" / "eval.json").read_bytes()).get("set_scores") or {})
    except (OSError, ValueError):
        return {}


def _trained(facts: Mapping[str, Any]) -> str:
    planned = facts["steps_planned"]
    of = f" of {planned:,}" if planned else ""
    seconds = facts["train_s"]
    step = facts["step"]
    if step is None:
        return f"nothing saved yet{f', {planned:,} steps planned' if planned else ''}"
    return f"{step:,}{of} steps" + (f" in {duration(seconds)}" if seconds is not None else "")


def _checkpoint_line(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    scores = [(key, value) for key, value in found["scores"].items() if key != "loss"][:3]
    return "  ".join([found["name"], *(score_text(key, value) for key, value in scores)])


def loss_line(losses: Sequence[float], width: int = 60) -> str:
    """Return the training loss as bars with its first and last value; each bar is the mean of its share of the rows."""
    if len(losses) < 2:
        return ""
    width = min(width, len(losses))
    bounds = [len(losses) * place // width for place in range(width + 1)]
    means = [sum(losses[start:end]) / (end - start) for start, end in pairwise(bounds)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    bars = "".join(BARS[min(len(BARS) - 1, int((value - low) / span * len(BARS)))] for value in means)
    return f"{bars}  {losses[0]:.4g} to {losses[-1]:.4g}"


def _print_lineage(record: Record, facts: Mapping[str, Any]) -> None:
    """Print the tree from the oldest ancestor to what began from this run."""
    if not facts["ancestors"] and not facts["children"]:
        return
    print("\nLineage")  # noqa: T201
    ancestors = [f"{one['run']}  {one['checkpoint']}".rstrip() for one in facts["ancestors"]]
    for depth, text in enumerate([*ancestors, f"{record.name}  (this)"]):
        print("  " + _branch(depth) + text)  # noqa: T201
    for name in facts["children"]:
        print("  " + _branch(len(ancestors) + 1) + name)  # noqa: T201


def _branch(depth: int) -> str:
    return "   " * (depth - 1) + "└─ " if depth else ""


# ---- two runs --------------------------------------------------------------------------------------------------


def diff_runs(first: str, second: str, *, as_json: bool) -> None:
    """Print the settings that differ, with what set them, and what else differs: data, versions, commit."""
    one, other = _record(first), _record(second)
    changed = differences(one, other)
    facts = fact_differences(one, other)
    if as_json:
        print_json({"runs": [one.name, other.name], "settings": changed, "facts": facts})
        return
    if not changed:
        print("The settings are the same.")  # noqa: T201
    else:
        rows = [
            [key, plain_value(found["values"][0]), plain_value(found["values"][1]), _origin(found["origins"])]
            for key, found in changed.items()
        ]
        print_table(("Key", one.name, other.name, "Set by"), rows, fold=(one.name, other.name, "Set by"))
    if facts:
        print()  # noqa: T201
        rows = [[key, *map(plain_text, found)] for key, found in facts.items()]
        print_table(("Besides", one.name, other.name), rows, fold=(one.name, other.name))


def differences(one: Record, other: Record) -> dict[str, dict[str, Any]]:
    """Return both values, and what set them, of each key that differs; None where a run does not set it."""
    assert one.folder is not None and other.folder is not None
    old, new = _settings(one.folder), _settings(other.folder)
    origins = [record.about.get("origins") for record in (one, other)]
    return {
        key: {
            "values": [old.get(key), new.get(key)],
            "origins": ["unknown" if known is None else known.get(key, "default") for known in origins],
        }
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    }


def fact_differences(one: Record, other: Record) -> dict[str, list[str]]:
    """Return what differs besides the settings."""

    def told(record: Record) -> dict[str, str]:
        about = record.about
        versions = {f"version of {name}": str(value) for name, value in about.get("versions", {}).items()}
        parent = (about.get("lineage") or {}).get("parent", "-")
        return {
            "task": record.task,
            "preset": record.preset,
            "dataset": str(about.get("dataset_sha256", "-"))[:12],
            "began from": str(parent),
            "commit": str(about.get("git_commit") or "-")[:12],
            "machine": str(about.get("machine", "-")),
            "python": str(about.get("python", "-")),
            **versions,
        }

    first, second = told(one), told(other)
    return {
        key: [first.get(key, "-"), second.get(key, "-")]
        for key in [*first, *(key for key in second if key not in first)]
        if first.get(key) != second.get(key)
    }


def _origin(origins: Sequence[str]) -> str:
    return origins[0] if origins[0] == origins[1] else " / ".join(origins)

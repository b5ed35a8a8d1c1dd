"""`mlkit presets schema`: preset files as JSON schema (draft 2020-12), for editors that complete and check TOML."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlkit.errors import MlkitError, did_you_mean, listing
from mlkit.files import write_text
from mlkit.tasks import TASKS, available_tasks, settings_class

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def print_schema(task: str | None, out: Path | None) -> None:
    """Print the schema of one task's presets or of all, or write it to a file.

    Raises:
        MlkitError: for an unknown task.
    """
    if task is not None and task not in available_tasks():
        raise MlkitError(f"unknown task '{task}'{did_you_mean(task, TASKS)}; there are {listing(available_tasks())}")
    schema = task_schema(task) if task else any_schema()
    text = json.dumps({"$schema": DRAFT, **schema}, indent=2) + "\n"
    if out is None:
        print(text, end="")  # noqa: T201
    else:
        write_text(out, text)


def any_schema() -> dict[str, Any]:
    """Return the schema of a preset of any task, or of a chain; definitions are kept apart by task."""
    kinds: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for task in available_tasks():
        one = _renamed(task_schema(task), task)
        definitions |= one.pop("$defs", {})
        kinds.append(one)
    return {"title": "mlkit preset", "anyOf": kinds, "$defs": definitions}


def task_schema(task: str) -> dict[str, Any]:
    """Return the schema of a task's preset files: nothing is required, since a file may extend another."""
    schema = settings_class(task).model_json_schema()
    schema = _walk(schema, _in_toml)
    table = {"properties": copy.deepcopy(schema["properties"]), "additionalProperties": False, "type": "object"}
    schema["properties"] |= {
        "extends": {"type": "string", "description": "Take all of this preset first: a name, or a .toml file beside."},
        "quick_test": {**table, "description": "What --quick-test changes."},
    }
    links = {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "Presets to train in order."}
    chain = {
        "type": "object",
        "properties": {"task": {"const": task}, "chain": links},
        "required": ["task", "chain"],
        "additionalProperties": False,
    }
    definitions = schema.pop("$defs", {})
    return {"title": f"mlkit preset of the task {task}", "anyOf": [schema, chain], "$defs": definitions}


def _walk(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a copy of a schema with each of its tables changed, the innermost first."""
    if isinstance(node, dict):
        return change({key: _walk(value, change) for key, value in node.items()})
    return [_walk(one, change) for one in node] if isinstance(node, list) else node


def _in_toml(node: dict[str, Any]) -> dict[str, Any]:
    """Return a part of the schema as a TOML file has it: the word none for null, no key required, text for a path."""
    if node.get("type") == "null":
        return {"const": "none"}
    if node.get("type") == "object" and "properties" in node:
        return {key: value for key, value in node.items() if key != "required"}
    if isinstance(node.get("default", 0), type(None)):
        return {key: value for key, value in node.items() if key != "default"}
    return node


def _renamed(schema: dict[str, Any], task: str) -> dict[str, Any]:
    """Return a schema whose definitions carry the task's name."""

    def change(node: dict[str, Any]) -> dict[str, Any]:
        target = node.get("$ref")
        if isinstance(target, str):
            node = {**node, "$ref": target.replace("#/$defs/", f"#/$defs/{task}.")}
        if isinstance(node.get("mapping"), dict):
            node["mapping"] = {
                key: value.replace("#/$defs/", f"#/$defs/{task}.") for key, value in node["mapping"].items()
            }
        return node

    renamed: dict[str, Any] = _walk(schema, change)
    renamed["$defs"] = {f"{task}.{name}": value for name, value in renamed.get("$defs", {}).items()}
    return renamed

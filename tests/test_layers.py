"""The layer contract of docs/architecture.md: a file imports its own folder and lower layers only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "mlkit"

# From the bottom up. Members of one layer that are listed apart never import each other.
LAYERS: list[list[str]] = [
    ["errors"],
    ["files", "outside", "preset_files", "seeding", "settings"],
    ["imaging", "metrics"],
    ["losses"],
    ["data"],
    ["task"],
    ["checkpoint"],
    ["evaluation", "runs", *(f"tasks.{path.parent.name}" for path in ROOT.glob("tasks/*/task.py"))],
    ["training", "report"],
    ["tasks"],
    ["presets"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def unit_of(module: str) -> str:
    """Return the layer member that a module belongs to; a task's cli.py and *_options.py are commands in its folder."""
    parts = module.split(".")[1:]
    if not parts:
        return "errors"  # mlkit/__init__.py holds a version and imports nothing
    if parts[0] == "tasks" and len(parts) > 1:
        of_commands = parts[2:] == ["cli"] or parts[-1].endswith("_options")
        return "commands" if of_commands else f"tasks.{parts[1]}"
    return parts[0]


def module_name(path: Path) -> str:
    parts = ["mlkit", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mlkit"):
            found |= {node.module} if node.module != "mlkit" else {f"mlkit.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("mlkit")}
    return {name for name in found if name != "mlkit.__version__"}


def test_every_module_belongs_to_a_layer() -> None:
    units = {unit_of(module_name(path)) for path in ROOT.rglob("*.py")}
    assert units == set(RANK)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_its_own_folder_and_lower_layers_only(path: Path) -> None:
    own = unit_of(module_name(path))
    for name in imported(path):
        other = unit_of(name)
        assert other == own or RANK[other] < RANK[own], f"{module_name(path)} ({own}) imports {name} ({other})"


def test_the_start_of_the_command_line_imports_neither_torch_nor_pydantic() -> None:
    import subprocess
    import sys

    heavy = ("torch", "pydantic", "numpy", "accelerate", "jinja2", "PIL")
    code = f"import sys, mlkit.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Facts about this machine for `mlkit doctor`. torch is asked in a process of its own: this one never imports it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from mlkit.commands.printing import print_facts, print_json
from mlkit.files import existing_parent
from mlkit.runs.folders import list_runs
from mlkit.settings import Places

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny", "trackio": "trackio"}  # by extra
INSTRUCTIONS = ("amx_bf16", "amx_tile", "avx512_bf16", "avx512f", "avx2")
# Settings of others that change speed or devices; a key or a token is never among them.
VARIABLES = (
    *("MLKIT_DATA_DIR", "MLKIT_RUNS_DIR", "MLKIT_CACHE_DIR", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU", "HF_HUB_OFFLINE", "HF_HOME", "WANDB_MODE", "TRACKIO_DIR"),
    *("NO_COLOR", "CI"),
)
_PROBE_S = 300.0
_LITTLE_DISK = 2e9


def print_machine(*, probe: bool, as_json: bool) -> None:
    """Print the facts, and what is wrong with them."""
    facts = machine_facts(probe=probe)
    if as_json:
        print_json(facts)
        return
    print_facts(_lines(facts))
    for problem in facts["problems"]:
        print_facts({"problem": problem})


def machine_facts(*, probe: bool) -> dict[str, Any]:
    """Return what `--json` prints; with `probe` torch is started."""
    packages, wrong = _packages()
    places = {name: _place(path) for name, path in Places().model_dump().items()}
    torch = _torch() if probe else {}
    problems = [*wrong, *(f"{name} {place['path']} {place['problem']}" for name, place in places.items()
                          if place["problem"])]  # fmt: skip
    problems += [torch["problem"]] if "problem" in torch else []
    return {
        "mlkit": {"version": version("mlkit"), "folder": str(Path(__file__).parents[1]), "commit": _commit()},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "cpu": {"name": _cpu_name(), "cores": _cores(), "instructions": _instructions()},
        "memory_bytes": _memory(),
        "packages": packages,
        "torch": torch,
        "trackers": {name: _version(name) or _version(package) for name, package in TRACKERS.items()},
        "places": places,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "problems": problems,
    }


def _packages() -> tuple[dict[str, str | None], list[str]]:
    """Return the version of each package that mlkit needs, and a sentence for each that is absent or too old."""
    found: dict[str, str | None] = {}
    wrong = []
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return found, ["the package packaging is not installed, so the others were not looked at: install mlkit again"]
    for text in requires("mlkit") or []:
        need = Requirement(text)
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        found[need.name] = _version(need.name)
        if found[need.name] is None:
            wrong.append(f"the package {need.name} is not installed: pip install '{need.name}{need.specifier}'")
        elif not need.specifier.contains(str(found[need.name]), prereleases=True):
            wrong.append(
                f"{need.name} {found[need.name]} is installed, mlkit needs {need.specifier}: "
                f"pip install '{need.name}{need.specifier}'"
            )
    return found, wrong


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    """Return what `mlkit.commands.probe` prints, or the problem that it has."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mlkit.commands.probe"],
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"torch did not answer within {_PROBE_S:.0f} s; try: python -m mlkit.commands.probe"}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"problem": f"torch cannot be used: {last}; to see more: python -m mlkit.commands.probe"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _place(path: Path) -> dict[str, Any]:
    """Return a folder with its free disk, its number of runs, and what is wrong with it ("" where nothing is)."""
    parent = existing_parent(path)
    free = shutil.disk_usage(parent).free
    problem = ""
    if path.exists() and not path.is_dir():
        problem = "is a file; set another folder"
    elif not os.access(parent, os.W_OK):
        problem = "cannot be written; set another folder"
    elif free < _LITTLE_DISK:
        problem = f"has {free / 1e9:.1f} GB free, which few trainings get by with"
    return {
        "path": str(path.absolute()),
        "exists": path.is_dir(),
        "free_bytes": free,
        "runs": len(list_runs(path)),
        "problem": problem,
    }


def _commit() -> str | None:
    """Return the commit of the checkout that mlkit runs from; None for an installed wheel."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _cpuinfo() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _cpu_name() -> str:
    names = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _instructions() -> list[str]:
    """Return which instructions for fast arithmetic the CPU names; empty where that cannot be seen."""
    words = set(_cpuinfo().split())
    return [name for name in INSTRUCTIONS if name in words]


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def _lines(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts as lines of text."""
    cpu, torch = facts["cpu"], facts["torch"]
    bf16 = [name for name in cpu["instructions"] if "bf16" in name]
    lines = {
        "mlkit": f"{facts['mlkit']['version']}  {facts['mlkit']['folder']}"
        + (f"  commit {facts['mlkit']['commit']}" if facts["mlkit"]["commit"] else ""),
        "python": f"{facts['python']['version']}  {facts['python']['executable']}",
        "system": facts["system"],
        "cpu": f"{cpu['name']}, {cpu['cores']} cores, {', '.join(bf16) or 'no'} bf16 instructions",
        "memory": f"{facts['memory_bytes'] / 1e9:.1f} GB" if facts["memory_bytes"] else "unknown",
        "packages": ", ".join(f"{name} {found or 'absent'}" for name, found in facts["packages"].items()),
    }
    if "devices" in torch:
        auto = torch["auto"]
        lines |= {
            "devices": ", ".join([*torch["devices"], f"cpu with {torch['threads']} threads"]),
            "auto": f"device {auto['device']}, precision {auto['precision']}"
            + (" channels-last" if auto["channels_last"] else ""),
            "": f"{auto['reason'].partition(': ')[2]} (baseline_c16 at 64 px; a training measures its own)",
        }
    lines["trackers"] = ", ".join(
        f"{name} {found}" if found else f"no {name} (pip install 'mlkit[{name}]')"
        for name, found in facts["trackers"].items()
    )
    for name, place in facts["places"].items():
        runs = f", {place['runs']} runs" if place["runs"] else ""
        state = "" if place["exists"] else ", made when it is needed"
        lines[name.replace("_dir", "")] = f"{place['path']}  {place['free_bytes'] / 1e9:.1f} GB free{runs}{state}"
    if facts["environment"]:
        lines["environment"] = ", ".join(f"{name}={value}" for name, value in facts["environment"].items())
    return lines

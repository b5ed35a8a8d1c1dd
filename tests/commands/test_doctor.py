"""`mlkit doctor` says what this machine is, what is wrong with it, and no secret; a broken torch does not break it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlkit.commands import machine

Mlkit = Callable[..., Any]


def facts(mlkit: Mlkit, *words: object) -> dict[str, Any]:
    said = mlkit("doctor", "--json", *words)
    assert (said.code, said.err) == (0, "")
    return dict(json.loads(said.out))


def test_versions_places_and_processor_are_those_of_this_machine(mlkit: Mlkit, runs: Path) -> None:
    (runs / "first").mkdir(parents=True)
    (runs / "first" / "run.json").write_text("{}")
    found = facts(mlkit, "--no-probe")
    assert found["mlkit"]["version"] == importlib.metadata.version("mlkit")
    assert found["python"] == {"version": platform.python_version(), "executable": sys.executable}
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["places"]["runs_dir"]["path"] == str(runs) and found["places"]["runs_dir"]["runs"] == 1
    assert not found["places"]["data_dir"]["exists"] and found["places"]["data_dir"]["free_bytes"] > 0
    assert found["cpu"]["cores"] >= 1 and found["torch"] == {} and found["problems"] == []
    assert list(found["trackers"]) == ["tensorboard", "wandb", "mlflow", "trackio"]
    assert found["trackers"]["tensorboard"] == importlib.metadata.version("tensorboard")


def test_mlflow_is_found_by_its_client_alone(mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda package: {"mlflow-skinny": "3.1.0"}.get(package))
    assert machine.machine_facts(probe=False)["trackers"]["mlflow"] == "3.1.0"
    assert "no trackio (pip install 'mlkit[trackio]')" in mlkit("doctor", "--no-probe").out


def test_text_has_a_line_a_fact(mlkit: Mlkit, runs: Path) -> None:
    lines = {line.split()[0]: line for line in mlkit("doctor", "--no-probe").out.splitlines()}
    assert list(lines)[:6] == ["mlkit", "python", "system", "cpu", "memory", "packages"]
    assert str(runs) in lines["runs"] and f"MLKIT_RUNS_DIR={runs}" in lines["environment"]


def test_torch_is_asked_for_devices_and_what_auto_would_choose(mlkit: Mlkit) -> None:
    torch = facts(mlkit)["torch"]
    assert torch["version"] == importlib.metadata.version("torch")
    assert torch["auto"]["device"] in ("cpu", "cuda", "mps") and torch["auto"]["precision"] in ("fp32", "bf16")
    assert "fp32 1.00x" in torch["auto"]["reason"]


def test_a_torch_that_cannot_be_imported_is_a_problem_and_the_rest_is_told(
    mlkit: Mlkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('libtorch.so: no such file')")
    source = str(Path(machine.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'broken'}:{source}")
    found = facts(mlkit)
    sentence = (
        "torch cannot be used: ImportError: libtorch.so: no such file; to see more: python -m mlkit.commands.probe"
    )
    assert found["problems"] == [sentence] and found["packages"]
    assert [
        line.split(None, 1)[1].strip() for line in mlkit("doctor").out.splitlines() if line.startswith("problem")
    ] == [sentence]


def test_packages_that_are_absent_or_too_old_are_named_with_the_way_on(
    mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ["numpy>=9", "no_such_package>=1.2", "wandb>=0.1; extra == 'wandb'", "rich"]
    monkeypatch.setattr(machine, "requires", lambda name: needed)
    found = facts(mlkit, "--no-probe")
    assert found["problems"] == [
        f"numpy {importlib.metadata.version('numpy')} is installed, mlkit needs >=9: pip install 'numpy>=9'",
        "the package no_such_package is not installed: pip install 'no_such_package>=1.2'",
    ]
    assert set(found["packages"]) == {"numpy", "no_such_package", "rich"}


def test_a_place_that_cannot_be_used_is_a_problem(
    mlkit: Mlkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLKIT_RUNS_DIR", str(tmp_path / "file"))
    assert facts(mlkit, "--no-probe")["problems"] == [f"runs_dir {tmp_path / 'file'} is a file; set another folder"]


def test_no_secret_is_told(mlkit: Mlkit, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "geheim")
    assert "geheim" not in json.dumps(facts(mlkit, "--no-probe"))


def test_torch_is_not_imported_here() -> None:
    code = (
        "import sys; sys.argv = ['mlkit', 'doctor', '--no-probe']\nfrom mlkit.cli import app\n"
        "app(standalone_mode=False)\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

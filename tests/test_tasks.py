"""A task is found by its name, without importing what it does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mlkit.tasks
from mlkit.errors import MlkitError
from mlkit.presets import resolve_preset
from mlkit.tasks import TASKS, available_tasks, load_task, settings_class, task_module

FOLDER = Path(mlkit.tasks.__file__).parent


def test_available_are_the_folders_that_hold_a_task_in_the_order_of_the_list() -> None:
    folders = {path.parent.name for path in FOLDER.glob("*/task.py")}
    assert set(available_tasks()) == folders
    assert list(available_tasks()) == [name for name in TASKS if name in folders]
    assert "sar" in folders


def test_an_unknown_task_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(MlkitError) as caught:
        task_module("demosiac", "task")
    assert str(caught.value) == (
        "unknown task 'demosiac' (did you mean 'demosaic'?); there are sar, sr, demosaic, lens, bvae"
    )
    assert caught.value.exit_code == 2


def test_a_task_of_a_later_version_is_not_called_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlkit.tasks, "TASKS", (*TASKS, "later"))
    with pytest.raises(MlkitError) as caught:
        task_module("later", "settings")
    assert str(caught.value) == (
        f"task 'later' is not in this version of mlkit yet; this one has: {', '.join(available_tasks())}"
    )


@pytest.mark.parametrize("name", available_tasks())
def test_every_available_task_offers_settings_task_and_cli(name: str) -> None:
    assert settings_class(name).model_fields["task"].default == name
    for module in ("settings", "task", "cli"):
        assert (FOLDER / name / f"{module}.py").is_file()
    settings = resolve_preset("ftd_tiny" if name == "sr" else f"{name}_tiny").settings
    assert load_task(settings).settings is settings


@pytest.mark.parametrize("name", available_tasks())
def test_listing_and_settings_import_no_torch(name: str) -> None:
    code = (
        f"import sys, mlkit.tasks as t; t.available_tasks(); t.settings_class('{name}'); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

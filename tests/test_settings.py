"""Settings refuse what they do not know at every depth, and say what every field means."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from mlkit.presets import resolve_preset, validate
from mlkit.settings import Criterion, RunSettings, TrainSettings
from mlkit.tasks import available_tasks, settings_class


def models_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a settings class and all that it holds."""
    yield model
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from models_in(kind)


ALL_MODELS = sorted(
    {model for task in available_tasks() for model in models_in(settings_class(task))}, key=lambda model: model.__name__
)


@pytest.mark.parametrize("model", ALL_MODELS, ids=lambda model: model.__name__)
def test_every_section_is_frozen_strict_and_explained(model: type[BaseModel]) -> None:
    config = model.model_config
    assert config["frozen"] and config["strict"] and config["extra"] == "forbid" and not config["allow_inf_nan"]
    unexplained = [
        name
        for name, field in model.model_fields.items()
        if not field.description and field.annotation not in ALL_MODELS  # a section explains its own fields
    ]
    assert not unexplained


@pytest.mark.parametrize("task", available_tasks())
def test_the_sections_have_the_names_that_every_task_shares(task: str) -> None:
    shared = {"task", "preset", "seed", "data", "model", "loss", "train", "checkpoint", "eval", "tracking", "debug"}
    assert set(settings_class(task).model_fields) == shared


def train(**values: Any) -> TrainSettings:
    return TrainSettings.model_validate({"steps": 5, **values})


@pytest.mark.parametrize(
    "values",
    [
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"lr": True},
        {"lr": "1e-4"},
        {"steps": 0},
        {"steps": 2.0},
        {"batch_size": 0},
        {"batch_size": True},
        {"accumulate": 0},
        {"betas": [0.9]},
        {"betas": [0.9, 1.0]},
        {"betas": [-0.1, 0.9]},
        {"weight_decay": -0.1},
        {"min_lr_ratio": 1.1},
        {"grad_clip_norm": 0.0},
        {"ema_decay": 1.0},
        {"ema_decay": 0.0},
        {"workers": -1},
        {"warmup_steps": -1},
        {"warmup_epochs": -0.5},
        {"precision": "fp64"},
        {"channels_last": "yes"},
        {"deterministic": 1},
        {"epochs": 1.0},  # beside steps
        {"steps": None},
        {"warmup_steps": 1, "warmup_epochs": 1.0},
        {"no_such_key": 1},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_meant_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        train(**values)


def test_the_edges_of_the_ranges_are_allowed() -> None:
    edges = train(
        steps=1, batch_size=1, betas=[0.0, 0.999999], weight_decay=0, min_lr_ratio=1, workers=0, warmup_steps=0
    )
    assert edges.betas == (0.0, 0.999999)
    assert train(steps=None, epochs=0.01).epochs == 0.01
    assert train(lr=1).lr == 1.0  # TOML's integer where a number is meant


def test_a_criterion_needs_a_bound() -> None:
    for bounds in ({"min": 0.7}, {"max": 0}, {"min": 0.7, "max": 1.3}):
        Criterion.model_validate({"metric": "psnr", **bounds})
    with pytest.raises(ValidationError, match="set min, max or both"):
        Criterion.model_validate({"metric": "psnr"})


@pytest.mark.parametrize("task", available_tasks())
def test_settings_go_through_json_unchanged(task: str) -> None:
    settings = resolve_preset("ftd_tiny" if task == "sr" else f"{task}_tiny").settings
    stored = json.loads(json.dumps(settings.model_dump(mode="json", exclude_none=True)))
    assert validate(stored) == settings
    assert isinstance(settings, RunSettings)


def test_importing_settings_imports_no_torch() -> None:
    code = "import sys, mlkit.presets, mlkit.settings; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

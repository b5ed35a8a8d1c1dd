"""Early stopping counts evaluations without gain; one whose metric is undefined says nothing either way."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from mlkit.settings import CheckpointSettings, EvalSettings
from mlkit.training.progress import Silent
from mlkit.training.state import TrainState
from mlkit.training.validation import patience_is_over, take_note


def stops_after(values: list[float], patience: int | None, **changed: Any) -> tuple[int | None, TrainState]:
    """Return the number of the evaluation that ends training, and the state then."""
    settings = EvalSettings.model_validate({"early_stop_patience": patience, **changed})
    sections = SimpleNamespace(eval=settings, checkpoint=CheckpointSettings())
    task = SimpleNamespace(settings=sections, primary_metric="psnr")
    run: Any = SimpleNamespace(task=task, progress=Silent(), failures=[])
    state = TrainState()
    for number, value in enumerate(values, 1):
        state.step = 10 * number
        take_note(run, state, {"loss": value, "psnr": -value})
        if patience_is_over(run, state):
            return number, state
    return None, state


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [
        ([5, 4, 3, 2, 1], 1, None),
        ([5, 4, 4, 4, 1], 2, 4),
        ([5, 4, 6, 3, 6, 6], 2, 6),  # a gain starts the count anew
        ([5, 5, 5, 5, 5], None, None),
        ([math.nan, math.nan, math.nan], 2, None),  # nothing to judge by
        ([math.nan, 5, math.nan, 4, 4], 2, None),
        ([math.nan, 5, 6, 7], 2, 4),
    ],
)
def test_training_ends_after_that_many_evaluations_without_gain(
    values: list[float], patience: int | None, expected: int | None
) -> None:
    number, state = stops_after(values, patience)
    assert number == expected
    json.dumps(asdict(state), allow_nan=False)  # a checkpoint can hold it


def test_a_gain_below_the_smallest_is_none() -> None:
    falling = [5 - 0.01 * number for number in range(8)]
    assert stops_after(falling, 3)[0] is None
    assert stops_after(falling, 3, early_stop_min_delta=0.1)[0] == 4


def test_the_best_of_the_primary_metric_is_the_first_of_equals() -> None:
    _, state = stops_after([5, 3, 4, 3, math.nan], None)
    assert (state.best, state.best_step) == (-3, 20)

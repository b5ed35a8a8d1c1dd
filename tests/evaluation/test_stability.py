"""The fluctuation of a training loss, on curves whose rise and fall are known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlkit.evaluation.stability import largest_fluctuation


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (np.linspace(2, 1, 50), 0.0),
        (np.full(50, 3.0), 0.0),
        (np.concatenate([np.full(20, 2.0), np.full(20, 1.0), np.full(20, 1.25), np.full(20, 1.0)]), 0.25),
        (np.linspace(1, 2, 50), math.inf),
    ],
    ids=["falling", "flat", "one rise by a quarter of the fall", "rising"],
)
def test_the_fluctuation_of_a_loss_is_its_largest_rise_over_its_fall(losses: np.ndarray, expected: float) -> None:
    assert largest_fluctuation(losses.tolist()) == pytest.approx(expected, abs=1e-9)


def test_the_fluctuation_of_a_few_rows_is_unknown() -> None:
    assert math.isnan(largest_fluctuation([3.0, 2.0, 1.0]))

"""The suggestions in sentences to the user."""

from __future__ import annotations

import pytest

from mlkit.errors import did_you_mean

KEYS = ("lr", "l1", "ssim", "steps", "batch_size")


@pytest.mark.parametrize("slip", ["lx", "l", "lrr", "rl", "xr"])
def test_a_slip_in_a_short_name_is_understood(slip: str) -> None:
    assert did_you_mean(slip, ("lr", "steps", "batch_size")) == " (did you mean 'lr'?)"


@pytest.mark.parametrize(
    ("slip", "meant"), [("1l", "l1"), ("stps", "steps"), ("bach_size", "batch_size"), ("sism", "ssim")]
)
def test_the_nearest_name_is_suggested(slip: str, meant: str) -> None:
    assert did_you_mean(slip, KEYS) == f" (did you mean '{meant}'?)"


@pytest.mark.parametrize("name", ["", "model", "learning", "xy"])
def test_what_is_near_nothing_gets_no_suggestion(name: str) -> None:
    assert did_you_mean(name, KEYS) == ""

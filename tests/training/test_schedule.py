"""The learning rate is a function of the step that equals torch's schedulers; the plan counts every sample."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from mlkit.settings import TrainSettings
from mlkit.training.schedule import lr_at, plan


def train(**values: Any) -> TrainSettings:
    return TrainSettings.model_validate({"lr": 3e-4, **({} if "epochs" in values else {"steps": 100}), **values})


def of_torch(steps: int, warmup: int, after: Any) -> list[float]:
    """Return the rates of torch's schedulers: linear from lr / warmup to lr, then `after`."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-4)
    scheduler: LRScheduler
    if warmup:
        # warmup == 1 has one update at full rate, and LinearLR counts from 1
        up = LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup - 1) if warmup > 1 else ConstantLR(optimizer, 1, 1)
        scheduler = SequentialLR(optimizer, [up, after(optimizer)], milestones=[warmup])
    else:
        scheduler = after(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0), (100, 10), (101, 1), (60, 30), (7, 3), (1, 0)])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_cosine_with_warmup_is_linear_lr_then_cosine_annealing(steps: int, warmup: int, floor: float) -> None:
    expected = of_torch(
        steps, warmup, lambda optimizer: CosineAnnealingLR(optimizer, T_max=steps - warmup, eta_min=3e-4 * floor)
    )
    found = [lr_at(step, train(schedule="cosine", min_lr_ratio=floor), steps, warmup) for step in range(steps)]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-16)


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_constant_with_warmup_is_linear_lr_then_constant(warmup: int) -> None:
    expected = of_torch(40, warmup, lambda optimizer: ConstantLR(optimizer, factor=1.0, total_iters=0))
    found = [lr_at(step, train(schedule="constant"), 40, warmup) for step in range(40)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_warmup_begins_above_zero_and_ends_at_the_peak() -> None:
    found = [lr_at(step, train(), 100, 4) for step in range(6)]
    assert found[:4] == pytest.approx([0.25 * 3e-4, 0.5 * 3e-4, 0.75 * 3e-4, 3e-4], rel=1e-15)
    assert found[4] == pytest.approx(3e-4, rel=1e-15)
    assert found[5] < found[4]


def test_cosine_has_half_its_fall_in_the_middle_and_would_reach_the_floor_after_the_last_step() -> None:
    settings = train(min_lr_ratio=0.2)
    assert lr_at(50, settings, 100, 0) == pytest.approx(3e-4 * 0.6, rel=1e-12)
    assert lr_at(100, settings, 100, 0) == pytest.approx(3e-4 * 0.2, rel=1e-12)
    assert lr_at(130, settings, 100, 0) == pytest.approx(3e-4 * 0.2, rel=1e-12)  # never up again


def test_one_cycle_is_that_of_torch_up_to_where_its_turns_are_placed() -> None:
    steps = 4000
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-4)
    scheduler = OneCycleLR(
        optimizer, max_lr=3e-4, total_steps=steps, pct_start=0.3, div_factor=25, final_div_factor=1 / 25 / 0.01,
        cycle_momentum=False,
    )  # fmt: skip
    expected = []
    for step in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    found = [lr_at(step, train(schedule="onecycle", min_lr_ratio=0.01), steps, 0) for step in range(steps)]
    # torch turns one update earlier and ends on the floor itself: an update is at most pi / 2 / 1200 of the peak
    assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) < 3e-4 * 1.4e-3


def test_one_cycle_starts_at_a_25th_peaks_once_and_falls_to_the_floor() -> None:
    found = [lr_at(step, train(schedule="onecycle", min_lr_ratio=0.1), 50, 20) for step in range(51)]
    assert found[0] == pytest.approx(3e-4 / 25, rel=1e-12)  # a warm-up of its own: the other is not added
    assert found.index(max(found)) == 15 and max(found) == pytest.approx(3e-4, rel=1e-12)
    assert found[:16] == sorted(found[:16]) and found[15:] == sorted(found[15:], reverse=True)
    assert found[50] == pytest.approx(3e-5, rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_the_shortest_runs_have_a_rate(schedule: str, steps: int) -> None:
    for warmup in range(steps // 2 + 1):
        for step in range(steps):
            assert 0 < lr_at(step, train(schedule=schedule), steps, warmup) <= 3e-4


# ---- plan ----------------------------------------------------------------------------------------------------


def test_steps_are_taken_as_they_are() -> None:
    made = plan(train(steps=77, batch_size=4, accumulate=3, warmup_steps=5), 1000)
    assert (made.steps, made.warmup_steps, made.samples_per_step, made.samples_per_epoch) == (77, 5, 12, 1000)
    assert made.steps_per_epoch == pytest.approx(1000 / 12)


@pytest.mark.parametrize(
    ("epochs", "samples", "expected"),
    [
        (1.0, 96, 12),
        (1.0, 97, 13),  # the last partial epoch is trained, never dropped
        (3.0, 97, 37),  # 291 / 8 = 36.4: epochs flow into each other, so it is rounded up once
        (0.5, 97, 7),
        (0.001, 97, 1),
        (2, 3, 1),  # less than one batch
        (1.1, 880, 121),  # 1.1 * 880 / 8 is 121 in decimal, and a little more in binary
        (0.7, 80, 7),
    ],
)
def test_epochs_become_steps_over_all_samples(epochs: float, samples: int, expected: int) -> None:
    assert plan(train(epochs=epochs, batch_size=4, accumulate=2), samples).steps == expected


@given(epochs=st.integers(1, 50), samples=st.integers(1, 5000), batch=st.integers(1, 64), accumulate=st.integers(1, 4))
def test_whole_epochs_are_covered_by_the_fewest_steps(epochs: int, samples: int, batch: int, accumulate: int) -> None:
    made = plan(train(epochs=epochs, batch_size=batch, accumulate=accumulate), samples)
    assert made.steps == math.ceil(epochs * samples / (batch * accumulate))
    assert (made.steps - 1) * made.samples_per_step < epochs * samples <= made.steps * made.samples_per_step


def test_warmup_epochs_become_steps_and_take_half_the_run_at_most() -> None:
    assert plan(train(epochs=10, batch_size=10, warmup_epochs=1.5), 100).warmup_steps == 15
    assert plan(train(epochs=10, batch_size=10, warmup_epochs=0.05), 105).warmup_steps == 1
    assert plan(train(steps=9, batch_size=10, warmup_epochs=5), 100).warmup_steps == 4
    assert plan(train(steps=9, batch_size=10, warmup_steps=8), 100).warmup_steps == 4
    assert plan(train(steps=9, batch_size=10), 100).warmup_steps == 0
    assert plan(train(steps=1, warmup_steps=1), 100).warmup_steps == 0
    assert plan(train(steps=9, batch_size=10, warmup_epochs=0), 100).warmup_steps == 0

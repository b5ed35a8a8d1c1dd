"""Criteria read as sentences, and what cannot be judged never passes."""

from __future__ import annotations

from typing import Any

import pytest

from mlkit.evaluation.criteria import judge, sentence_of
from mlkit.metrics import METRICS


@pytest.mark.parametrize(
    ("criterion", "sentence"),
    [
        ({"metric": "psnr", "min": 1.5, "relative_to_baseline": True}, "PSNR >= baseline + 1.5 dB"),
        ({"metric": "psnr", "min": -0.1, "relative_to_baseline": True}, "PSNR >= baseline - 0.1 dB"),
        ({"metric": "psnr", "min": 0.0, "relative_to_baseline": True}, "PSNR >= baseline"),
        ({"metric": "psnr", "min": 28, "max": None}, "PSNR >= 28 dB"),
        ({"metric": "ssim", "max": 0.999}, "SSIM <= 0.999"),
        ({"metric": "enl_ratio", "min": 0.7, "max": 1.3}, "ENL ratio in [0.7, 1.3]"),
        ({"metric": "psnr", "min": -1, "max": 1, "relative_to_baseline": True}, "PSNR - baseline in [-1, 1] dB"),
        ({"metric": "nonfinite_steps", "max": 0}, "no non-finite step"),
        ({"metric": "nonfinite_steps", "max": 3}, "non-finite steps <= 3"),
        ({"metric": "fluctuation", "max": 0.1}, "largest fluctuation of the loss <= 0.1"),
        ({"metric": "kl_min_dim", "min": 0.05}, "kl_min_dim >= 0.05"),
    ],
)
def test_criterion_reads_as_a_sentence(criterion: dict[str, Any], sentence: str) -> None:
    assert METRICS["psnr"].name == "PSNR"
    assert sentence_of(criterion) == sentence


@pytest.mark.parametrize(("value", "passed"), [(0.69, False), (0.7, True), (1.0, True), (1.3, True), (1.31, False)])
def test_bounds_belong_to_the_interval(value: float, passed: bool) -> None:
    assert judge({"metric": "enl_ratio", "min": 0.7, "max": 1.3}, {"enl_ratio": value}).passed is passed


def test_decimal_bound_is_met_despite_binary_rounding() -> None:
    criterion = {"metric": "psnr", "min": 0.3, "relative_to_baseline": True}
    assert 32.3 - 32.0 < 0.3
    assert judge(criterion, {"psnr": 32.3}, {"psnr": 32.3 - 32.0}).passed is True


def test_relative_criterion_judges_the_paired_difference_not_the_value() -> None:
    criterion = {"metric": "psnr", "min": 1.5, "max": None, "relative_to_baseline": True}
    assert judge(criterion, {"psnr": 40.0}, {"psnr": 1.4}).passed is False
    judged = judge(criterion, {"psnr": 20.0}, {"psnr": 1.92})
    assert (judged.passed, judged.value) == (True, 1.92)


def test_baseline_is_not_judged_against_itself() -> None:
    judged = judge({"metric": "psnr", "min": 1.5, "relative_to_baseline": True}, {"psnr": 30.0}, None)
    assert (judged.passed, judged.reason) == (None, "this is the baseline")


def test_nonfinite_steps_are_counted() -> None:
    criterion = {"metric": "nonfinite_steps", "max": 0.0}
    assert judge(criterion, {"nonfinite_steps": 0.0}).passed is True
    assert judge(criterion, {"nonfinite_steps": 1.0}).passed is False


def test_missing_unknown_and_nan_values_never_pass() -> None:
    assert judge({"metric": "epi", "min": 0.5}, {}).passed is None
    assert judge({"metric": "epi", "min": 0.5}, {"epi": None}).reason == "epi was not scored"
    assert judge({"metric": "psrn", "min": 0.5}, {}).reason == "psrn is no metric of this mlkit"
    nan = judge({"metric": "epi", "min": 0.5}, {"epi": float("nan")})
    assert (nan.passed, nan.value) == (False, None)


def test_a_loss_that_never_fell_or_was_not_logged_is_no_pass() -> None:
    criterion = {"metric": "fluctuation", "max": 0.1}
    assert judge(criterion, {"fluctuation": 0.1}).passed is True
    assert judge(criterion, {"fluctuation": 0.11}).passed is False
    assert judge(criterion, {"fluctuation": float("inf")}).passed is False
    unknown = judge(criterion, {})
    assert (unknown.passed, unknown.reason) == (None, "the run has too few rows of its training loss")

"""The interval covers what it claims, equal models never differ, and a planted difference is found."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from mlkit.evaluation.statistics import (
    Interval,
    compare_all,
    compare_pairs,
    fewest_pairs,
    holm,
    mean_interval,
    paired_bootstrap,
    paired_differences,
    sign_flip_p,
    smallest_difference,
    verdict,
    welch_interval,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]
NORMAL: Draw = lambda rng, n: rng.normal(0.3, 1.0, n)  # noqa: E731 - a table of distributions reads best as lambdas
SKEWED: Draw = lambda rng, n: rng.exponential(1.0, n)  # noqa: E731
HEAVY: Draw = lambda rng, n: rng.standard_t(5, n)  # noqa: E731


@pytest.mark.parametrize(
    ("draw", "true_mean", "num"), [(NORMAL, 0.3, 20), (NORMAL, 0.3, 30), (SKEWED, 1.0, 30), (HEAVY, 0.0, 30)]
)
def test_95_percent_interval_covers_93_to_97_percent(draw: Draw, true_mean: float, num: int) -> None:
    rng = np.random.default_rng(5)
    intervals = [paired_bootstrap(draw(rng, num), resamples=1000, seed=trial) for trial in range(1500)]
    coverage = np.mean([found.low <= true_mean <= found.high for found in intervals])
    assert 0.93 <= coverage <= 0.97


def test_both_tails_miss_about_equally_on_normal_differences() -> None:
    rng = np.random.default_rng(6)
    intervals = [paired_bootstrap(rng.normal(0, 1, 25), resamples=1000, seed=trial) for trial in range(1500)]
    above, below = (np.mean([found.low > 0 for found in intervals]), np.mean([found.high < 0 for found in intervals]))
    assert 0.012 < above < 0.04
    assert 0.012 < below < 0.04


def test_a_level_of_80_percent_covers_80_percent() -> None:
    rng = np.random.default_rng(7)
    intervals = [paired_bootstrap(rng.normal(0, 1, 25), resamples=1000, seed=t, level=0.8) for t in range(1000)]
    assert 0.77 <= np.mean([found.low <= 0 <= found.high for found in intervals]) <= 0.83


def test_interval_agrees_with_scipy_bootstrap_on_many_images() -> None:
    differences = np.random.default_rng(8).gamma(2.0, 0.5, 400) - 0.9
    oracle = stats.bootstrap((differences,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(1))
    low, high = oracle.confidence_interval
    found = paired_bootstrap(differences)
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.low == pytest.approx(low, abs=0.04 * (high - low))
    assert found.high == pytest.approx(high, abs=0.04 * (high - low))


def test_interval_agrees_with_students_t_on_normal_quantiles() -> None:
    differences = stats.norm.ppf((np.arange(40) + 0.5) / 40) + 0.2
    t_interval = stats.t.interval(0.95, 39, loc=np.mean(differences), scale=stats.sem(differences))
    found = paired_bootstrap(differences)
    assert (found.low, found.high) == pytest.approx(t_interval, abs=0.04 * (t_interval[1] - t_interval[0]))


def test_percentile_interval_takes_over_where_nearly_all_differences_are_equal() -> None:
    differences = np.zeros(30)
    differences[:2] = [1.0, 0.7]
    oracle = stats.bootstrap((differences,), np.mean, method="percentile", rng=np.random.default_rng(1))
    low, high = oracle.confidence_interval
    found = paired_bootstrap(differences)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_interval_moves_and_scales_with_the_differences() -> None:
    differences = np.random.default_rng(9).normal(0, 1, 30)
    base, moved = paired_bootstrap(differences), paired_bootstrap(1e6 + 1e-3 * differences)
    assert (moved.low - 1e6, moved.high - 1e6) == pytest.approx((1e-3 * base.low, 1e-3 * base.high), abs=1e-7)


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(10).normal(0.1, 1, 50)
    whole = paired_bootstrap(differences), sign_flip_p(differences)
    monkeypatch.setattr("mlkit.evaluation.statistics._CHUNK_VALUES", 5_000)
    parts = paired_bootstrap(differences), sign_flip_p(differences)
    assert parts[0].low == pytest.approx(whole[0].low, abs=0.02)
    assert parts[1] == pytest.approx(whole[1], abs=0.02)


def test_equal_seeds_give_equal_intervals() -> None:
    differences = np.random.default_rng(11).normal(0, 1, 30)
    assert paired_bootstrap(differences, seed=3) == paired_bootstrap(differences, seed=3)
    assert paired_bootstrap(differences, seed=3) != paired_bootstrap(differences, seed=4)


@pytest.mark.parametrize("num", [1, 3, 6, 100])
@pytest.mark.parametrize("better", ["higher", "lower", "one"])
def test_a_model_never_differs_from_itself(num: int, better: str) -> None:
    scores = np.random.default_rng(num).normal(30, 4, num)
    found = compare_pairs(scores, scores.copy(), better)  # type: ignore[arg-type]
    assert (found.improvement.mean, found.improvement.low, found.improvement.high) == (0.0, 0.0, 0.0)
    assert found.p == 1.0
    assert found.verdict == "no difference shown"


def test_a_model_evaluated_twice_with_float32_rounding_never_differs_from_itself() -> None:
    scores = np.random.default_rng(12).normal(30, 4, 100)
    found = compare_pairs(scores, scores * (1 + 1e-6), "higher")
    assert found.verdict == "no difference shown"
    assert (found.improvement.low, found.improvement.high) == (0.0, 0.0)


def test_false_claims_stay_near_5_percent() -> None:
    rng = np.random.default_rng(13)
    claims = 0
    for trial in range(600):
        differences = rng.normal(0, 1, 24) * (
            rng.random(24) < 0.25
        )  # most images equal: intervals alone claim too much
        found = paired_bootstrap(differences, resamples=1000, seed=trial)
        claims += (
            verdict(found, "higher", sign_flip_p(differences, resamples=1000, seed=trial)) != "no difference shown"
        )
    assert claims / 600 < 0.07


def test_planted_tenth_of_a_decibel_on_100_images_is_found() -> None:
    rng = np.random.default_rng(14)
    first = rng.normal(30, 4, 100)  # images differ by far more than the models
    found = compare_pairs(first, first + 0.1 + rng.normal(0, 0.2, 100), "higher")
    assert found.verdict == "better"
    assert found.improvement.low < 0.1 < found.improvement.high
    assert compare_pairs(first, first - 0.1 + rng.normal(0, 0.2, 100), "higher").verdict == "worse"


@pytest.mark.parametrize(("num", "comparisons"), [(6, 1), (12, 3), (100, 1)])
def test_the_smallest_difference_has_80_percent_power_by_the_noncentral_t(num: int, comparisons: int) -> None:
    smallest = smallest_difference(2.0, num, comparisons)
    limit = stats.t.ppf(1 - 0.025 / comparisons, num - 1)
    power = stats.nct.sf(limit, num - 1, smallest / 2.0 * math.sqrt(num))
    assert power == pytest.approx(0.8, abs=0.01)


def test_the_smallest_difference_is_found_in_80_percent_of_the_cases() -> None:
    rng = np.random.default_rng(15)
    smallest = smallest_difference(1.0, 40)
    drawn = [rng.normal(smallest, 1, 40) for _ in range(300)]
    found = [
        verdict(paired_bootstrap(one, 1000, seed=t), "higher", sign_flip_p(one, 1000, seed=t))
        for t, one in enumerate(drawn)
    ]
    assert 0.74 < np.mean([said == "better" for said in found]) < 0.86


def test_the_smallest_difference_is_unknown_where_nothing_can_be_shown() -> None:
    assert math.isnan(compare_pairs([1.0] * 5, [2.0] * 5, "higher").smallest_shown)
    assert math.isnan(smallest_difference(1.0, 1))
    assert compare_pairs([1.0] * 9, [2.0] * 9, "higher").smallest_shown == 0.0


def test_holms_correction_is_that_of_the_paper_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.3, 0.9]) == pytest.approx([0.6, 0.9])
    assert holm([0.7, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_of_four_models_that_are_no_better_one_is_claimed_in_5_percent_at_most() -> None:
    rng = np.random.default_rng(17)
    ps = stats.ttest_1samp(rng.normal(0, 1, (2000, 20, 4)), 0, axis=1).pvalue
    claimed = np.mean([min(holm(list(row))) <= 0.05 for row in ps])
    assert np.mean(ps.min(axis=1) <= 0.05) > 0.15  # without the correction
    assert 0.03 < claimed < 0.06


def test_several_comparisons_ask_for_more_of_each() -> None:
    rng = np.random.default_rng(18)
    first = rng.normal(30, 4, 24)
    others = [first + rng.normal(mean, 0.5, 24) for mean in (0.3, 0.0, 0.01)]
    alone = compare_pairs(first, others[0], "higher")
    among = compare_all(first, others, "higher")
    assert among[0].improvement == alone.improvement
    assert (alone.p_holm, alone.comparisons) == (alone.p, 1)
    assert [one.p_holm for one in among] == pytest.approx(holm([one.p for one in among]))
    assert among[0].p_holm == pytest.approx(3 * alone.p)
    assert among[0].smallest_shown > alone.smallest_shown
    assert fewest_pairs(0.95, comparisons=3) == 7  # 3 * 2 / 2**7 = 0.047


def test_images_are_won_tied_and_lost_in_the_metrics_direction() -> None:
    first, other = [1.0, 2.0, 3.0, 4.0, math.nan], [1.5, 2.0, 2.0, 5.0, 1.0]
    found = compare_pairs(first, other, "higher")
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    found = compare_pairs(first, other, "lower")
    assert (found.wins, found.ties, found.losses) == (1, 1, 2)
    found = compare_pairs([0.5, 1.5, 1.2], [0.8, 1.0, 0.7], "one")
    assert (found.wins, found.ties, found.losses) == (2, 0, 1)


def test_a_planted_tenth_of_a_decibel_on_100_images_is_found_every_time() -> None:
    rng = np.random.default_rng(19)
    first = rng.normal(30, 4, 100)
    scattered = [first + 0.1 + rng.normal(0, 0.2, 100) for _ in range(30)]
    assert all(compare_pairs(first, one, "higher").verdict == "better" for one in scattered)


def test_missing_and_infinite_scores_are_dropped_in_pairs_and_counted() -> None:
    first = [30.0, math.nan, 32.0, math.inf, 30.0, 30.0, 30.0, 30.0]
    other = [31.0, 31.0, math.nan, math.inf, 31.0, 31.0, 31.0, 31.0]
    found = paired_bootstrap(paired_differences(first, other, "higher"))
    assert (found.mean, found.num_pairs, found.num_dropped) == (1.0, 5, 3)
    nothing = paired_bootstrap([math.nan, math.nan])
    assert math.isnan(nothing.mean)
    assert (nothing.num_pairs, nothing.num_dropped) == (0, 2)
    assert verdict(nothing) == "no difference shown"


def test_fewer_than_six_images_claim_nothing() -> None:
    assert fewest_pairs(0.95) == 6  # 2 / 2**6 = 0.031 is the first below 0.05
    assert fewest_pairs(0.99) == 8
    few, enough = compare_pairs([1.0] * 5, [2.0] * 5, "higher"), compare_pairs([1.0] * 6, [2.0] * 6, "higher")
    assert few.verdict == "no difference shown"
    assert math.isnan(few.improvement.low)
    assert few.improvement.mean == 1.0
    assert enough.verdict == "better"
    assert few.to_json()["low"] is None


def test_constant_difference_is_reported_without_summation_error() -> None:
    found = paired_bootstrap([0.1] * 30)
    assert (found.mean, found.low, found.high) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("num", [4, 9, 13])
def test_sign_flip_p_is_that_of_scipys_exact_permutation_test(num: int) -> None:
    differences = np.random.default_rng(num).normal(0.4, 1, num)
    oracle = stats.permutation_test(
        (differences, np.zeros(num)), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples",
        vectorized=True, n_resamples=np.inf, axis=-1,
    )  # fmt: skip
    assert sign_flip_p(differences) == pytest.approx(oracle.pvalue)


def test_random_sign_flips_agree_with_the_t_test_on_many_images() -> None:
    differences = np.random.default_rng(16).normal(0.15, 1, 120)
    assert sign_flip_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)
    assert sign_flip_p(differences + 5) == pytest.approx(1 / 10_001)  # never 0


@pytest.mark.parametrize(
    ("low", "high", "better", "said"),
    [
        (0.1, 0.3, "higher", "better"),
        (-0.3, -0.1, "higher", "worse"),
        (0.1, 0.3, "lower", "worse"),
        (-0.3, -0.1, "lower", "better"),
        (-0.3, -0.1, "one", "better"),  # nearer to 1
        (0.1, 0.3, "one", "worse"),
        (-0.1, 0.3, "higher", "no difference shown"),
        (0.0, 0.3, "higher", "no difference shown"),
        (math.nan, math.nan, "higher", "no difference shown"),
    ],
)
def test_verdict_follows_the_interval_and_the_direction(low: float, high: float, better: str, said: str) -> None:
    interval = Interval((low + high) / 2, low, high, 20)
    assert verdict(interval, better) == said  # type: ignore[arg-type]
    assert verdict(interval, better, p=0.2) == "no difference shown"  # type: ignore[arg-type]


def test_a_ratio_is_better_when_it_is_nearer_to_one_from_either_side() -> None:
    first, other = np.linspace(0.4, 0.6, 12), np.linspace(1.05, 1.15, 12)
    found = compare_pairs(first, other, "one")
    assert found.verdict == "better"
    assert found.improvement.mean == pytest.approx(0.4)  # 0.5 away from 1, then 0.1 away
    # a ratio of 0 is a failure, and stays in
    assert compare_pairs(first, np.zeros(12), "one").improvement.num_dropped == 0
    assert compare_pairs(first, np.zeros(12), "one").verdict == "worse"


@pytest.mark.parametrize("num", [2, 3, 5])
def test_the_interval_over_seeds_is_students_t(num: int) -> None:
    values = np.random.default_rng(num).normal(3, 2, num)
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, num - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.mean, found.high) == pytest.approx((low, values.mean(), high))


def test_the_difference_over_seeds_is_welchs_interval() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.normal(1, 0.1, 3), rng.normal(2, 0.7, 5)
    found = welch_interval(first, other)
    expected = stats.ttest_ind(other, first, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(other.mean() - first.mean())


def test_one_seed_has_no_interval_and_equal_seeds_have_no_width() -> None:
    for found in (mean_interval([1.5]), welch_interval([1.0], [2.0, 2.5])):
        assert math.isfinite(found.mean) and math.isnan(found.low) and math.isnan(found.high)
        assert verdict(found) == "no difference shown"
    same = welch_interval([0.5, 0.5], [0.5, 0.5, 0.5])
    assert (same.low, same.mean, same.high) == (0.0, 0.0, 0.0)
    assert math.isnan(mean_interval([1.0, math.nan]).mean)

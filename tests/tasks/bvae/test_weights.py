"""Class weights: the specification's arithmetic, and scikit-learn's where both mean the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlkit.tasks.bvae.weights import METHODS, class_weights, exploding, mean_weight, weight_ratio

SPEC = [123.0] + [1.0] * 9  # 123 background cells for each of any other class: 93.2 % background


def test_the_specifications_123_to_1_becomes_about_11_to_1() -> None:
    assert weight_ratio(class_weights(SPEC, "inverse")) == pytest.approx(123.0)
    assert weight_ratio(class_weights(SPEC, "sqrt_inverse")) == pytest.approx(math.sqrt(123.0))  # 11.09
    assert round(weight_ratio(class_weights(SPEC, "sqrt_inverse"))) == 11
    assert SPEC[0] / sum(SPEC) == pytest.approx(0.93, abs=0.005)


def test_the_formulas_are_written_as_the_specification_has_them() -> None:
    counts = [700, 200, 100]
    assert class_weights(counts, "inverse").tolist() == pytest.approx([1000 / 2100, 1000 / 600, 1000 / 300])
    assert class_weights(counts, "sqrt_inverse").tolist() == pytest.approx(
        [math.sqrt(1000 / 2100), math.sqrt(1000 / 600), math.sqrt(1000 / 300)]
    )


@pytest.mark.parametrize("absent", [False, True])
def test_balanced_is_that_of_scikit_learn_and_inverse_too_where_all_classes_occur(absent: bool) -> None:
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.random.default_rng(0).choice([0, 1, 3, 4] if absent else [0, 1, 2, 3, 4], 5000)
    labels[:4000] = 0
    counts, present = np.bincount(labels, minlength=5), np.unique(labels)
    expected = sklearn.compute_class_weight("balanced", classes=present, y=labels)
    assert class_weights(counts, "balanced")[present].tolist() == pytest.approx(expected.tolist())
    if absent:  # five classes are divided by, of which four occur
        assert class_weights(counts, "inverse")[present].tolist() == pytest.approx((expected * 4 / 5).tolist())
    else:
        assert class_weights(counts, "inverse").tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counts", [[5, 0, 0, 2], [0, 0, 7], [10**12, 1, 0], [1, 1]])
def test_absent_classes_weigh_as_the_rarest_that_occurs_and_nothing_is_infinite(method: str, counts: list[int]) -> None:
    weights = class_weights(counts, method)  # type: ignore[arg-type]
    assert np.isfinite(weights).all() and (weights > 0).all()
    rarest = min((count, index) for index, count in enumerate(counts) if count)[1]
    assert all(weights[index] == weights[rarest] for index, count in enumerate(counts) if not count)


@pytest.mark.parametrize("method", METHODS)
def test_normalised_weights_have_a_mean_of_1_over_the_cells_and_the_same_ratio(method: str) -> None:
    plain = class_weights(SPEC, method)  # type: ignore[arg-type]
    normalised = class_weights(SPEC, method, normalize=True)  # type: ignore[arg-type]
    assert mean_weight(SPEC, normalised) == pytest.approx(1.0)
    assert weight_ratio(normalised) == pytest.approx(weight_ratio(plain))


def test_the_square_root_as_written_makes_the_loss_smaller_and_so_beta_larger() -> None:
    # 0.93 sqrt(1 / 9.3) + 0.07 sqrt(0.93 / 0.07 / 9.3 * 9) = 0.556: the table of class weights in the notes
    even = [0.93] + [0.07 / 9] * 9
    assert mean_weight(even, class_weights(even, "sqrt_inverse")) == pytest.approx(0.556, abs=5e-4)
    assert mean_weight(even, class_weights(even, "inverse")) == pytest.approx(1.0)


def test_weights_that_explode_are_told_with_the_way_out() -> None:
    assert exploding(class_weights(SPEC, "inverse"), "inverse") == (
        "class weights: inverse spans 123:1 (class 1 over class 0), so the loss follows the rarest class; "
        "class_weight_method = 'sqrt_inverse' makes it 11:1"
    )
    assert exploding(class_weights(SPEC, "sqrt_inverse"), "sqrt_inverse") == ""
    assert "way" not in exploding(class_weights([10**6, 1], "sqrt_inverse"), "sqrt_inverse")
    assert exploding(class_weights([10**6, 1], "sqrt_inverse"), "sqrt_inverse").startswith(
        "class weights: sqrt_inverse"
    )

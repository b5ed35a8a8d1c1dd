"""Runs of several seeds are compared as one, and the figures beside the scores reach the comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mlkit.errors import DataError
from mlkit.evaluation.comparison import Candidate, Comparison, Group, compare_checkpoints

MakeRun = Callable[..., Path]
NUM = 24
SIGNATURES = {"psnr": "psnr|gray|v1", "rmse_db": "rmse|v1", "enl_ratio": "enl|v1"}


def image_scores(seed: int, gain_db: float) -> dict[str, list[float]]:
    """Return scores of NUM images: what the image has, what the model gains, and what the seed makes of it."""
    images, luck = np.random.default_rng(99).normal(30, 4, NUM), np.random.default_rng(seed).normal(0, 0.3, NUM)
    psnr = images + gain_db + luck
    return {"psnr": psnr.tolist(), "rmse_db": (60 - psnr).tolist(), "enl_ratio": (1 + luck).tolist()}


@pytest.fixture
def group(make_run: MakeRun) -> Callable[..., Group]:
    def make(name: str, seeds: Sequence[int] = (0, 1, 2), gain_db: float = 0.0, **changed: Any) -> Group:
        members = []
        for seed in seeds:
            scores = image_scores(seed + round(1000 * gain_db), gain_db)
            run = make_run(f"{name}-s{seed}", scores=scores, signatures=SIGNATURES, **changed)
            members.append(Candidate(run.name, run / "ckpt-500"))
        return Group(name, members)

    return make


def scores_of(group: Group, key: str) -> np.ndarray[Any, Any]:
    """Return the stored scores, [seeds, images]."""
    return np.array([json.loads((one.checkpoint / "eval.json").read_text())["scores"][key] for one in group.members])


def rewrite(run: Path, file: str, **changed: Any) -> None:
    path = run / "ckpt-500" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_a_group_has_the_mean_of_its_runs_image_by_image(group: Callable[..., Group], make_run: MakeRun) -> None:
    first, other = group("a"), group("b", gain_db=1.0)
    found = compare_checkpoints([first, other])
    one, two = scores_of(first, "psnr"), scores_of(other, "psnr")
    assert [row.name for row in found.rows] == ["a", "b"]
    assert found.rows[1].means["psnr"] == pytest.approx(two.mean())
    # the very same as a run whose score of each image is the mean over the seeds
    averaged = []
    for name, values in (("one", one), ("two", two)):
        run = make_run(name, scores={"psnr": values.mean(axis=0).tolist()}, signatures=SIGNATURES)
        averaged.append(Candidate(name, run / "ckpt-500"))
    expected = compare_checkpoints(averaged).rows[1].differences["psnr"].improvement
    improvement = found.rows[1].differences["psnr"].improvement
    assert (improvement.low, improvement.mean, improvement.high) == pytest.approx(
        (expected.low, expected.mean, expected.high)
    )


def test_over_seeds_a_run_counts_as_one(group: Callable[..., Group]) -> None:
    first, other = group("a"), group("b", seeds=(0, 1, 2, 3), gain_db=1.0)
    seeds = compare_checkpoints([first, other]).rows[1].seeds
    assert seeds is not None and seeds.names == ["b-s0", "b-s1", "b-s2", "b-s3"]
    for key, sign in (("psnr", 1), ("rmse_db", -1)):  # of an error less is better
        one, two = scores_of(first, key).mean(axis=1), scores_of(other, key).mean(axis=1)
        assert seeds.values[key] == pytest.approx(two.tolist())
        low, high = stats.t.interval(0.95, 3, loc=two.mean(), scale=stats.sem(two))
        assert (seeds.intervals[key].low, seeds.intervals[key].high) == pytest.approx((low, high))
        interval = stats.ttest_ind(sign * two, sign * one, equal_var=False).confidence_interval(0.95)
        assert (seeds.improvements[key].low, seeds.improvements[key].high) == pytest.approx(
            (interval.low, interval.high)
        )
        assert seeds.verdict(key) == "better"
    one, two = (-np.abs(scores_of(which, "enl_ratio") - 1).mean(axis=1) for which in (first, other))
    assert seeds.improvements["enl_ratio"].mean == pytest.approx(two.mean() - one.mean())


def test_a_group_beside_a_single_run_has_a_spread_and_no_difference_over_seeds(
    group: Callable[..., Group], make_run: MakeRun
) -> None:
    run = make_run("single", scores=image_scores(7, 0.0), signatures=SIGNATURES)
    single = Candidate("single", run / "ckpt-500")
    for order in ([single, group("a")], [group("b"), single]):
        found = compare_checkpoints(order)
        grouped = next(row for row in found.rows if row.seeds)
        assert grouped.seeds is not None and grouped.seeds.improvements == {}
        assert "psnr" in found.rows[1].differences
        assert [row.seeds is None for row in found.rows] == [isinstance(one, Candidate) for one in order]


def test_one_run_of_a_group_under_another_protocol_is_refused_by_its_name(
    group: Callable[..., Group], tmp_path: Path
) -> None:
    first, other = group("a"), group("b")
    rewrite(tmp_path / "runs" / "b-s1", "eval.json", dataset_sha256="b" * 64)
    with pytest.raises(DataError, match=r"cannot compare a-s0 with b-s1: they were evaluated on different datasets"):
        compare_checkpoints([first, other])


def test_runs_that_differ_in_more_than_the_seed_are_noted(group: Callable[..., Group], tmp_path: Path) -> None:
    first, other = group("a"), group("b")
    for seed in range(3):
        train = {"lr": 1e-3 if seed < 2 else 1e-4, "steps": 500}
        settings = {"seed": seed, "train": train, "tracking": {"every": seed + 1}}
        rewrite(tmp_path / "runs" / f"b-s{seed}", "checkpoint.json", settings=settings)
    assert compare_checkpoints([first, other]).notes == ["b: its runs differ in more than the seed: train.lr"]


def test_a_score_that_one_seed_lacks_is_missing_for_the_group(group: Callable[..., Group], tmp_path: Path) -> None:
    first, other = group("a"), group("b")
    scores = image_scores(1, 0.0)
    scores["psnr"][5] = None  # type: ignore[call-overload]
    rewrite(tmp_path / "runs" / "b-s1", "eval.json", scores=scores)
    found = compare_checkpoints([first, other])
    assert found.rows[1].differences["psnr"].improvement.num_pairs == NUM - 1
    assert f"b: 1 of {NUM} images have no finite psnr; those pairs are left out" in found.notes


def test_criteria_of_a_group_judge_means_all_steps_and_the_worst_fluctuation(
    make_run: MakeRun,
) -> None:
    criteria = [
        {"metric": "nonfinite_steps", "max": 1},
        {"metric": "fluctuation", "max": 0.2},
        {"metric": "kl_min_dim", "min": 0.05},
        {"metric": "kl_min_dim", "min": 0.0, "relative_to_baseline": True},
    ]
    members = []
    for seed, (steps, fluctuation, kl) in enumerate([(0, 0.1, 0.02), (1, 0.3, 0.06), (1, 0.05, 0.1)]):
        run = make_run(f"b-s{seed}", criteria=criteria, set_scores={"kl_min_dim": kl})
        members.append(Candidate(run.name, run / "ckpt-500", steps, fluctuation))
    baseline = make_run("a", set_scores={"kl_min_dim": 0.07})
    row = compare_checkpoints([Candidate("a", baseline / "ckpt-500"), Group("b", members)]).rows[1]
    assert [judged.value for judged in row.criteria] == pytest.approx([2.0, 0.3, 0.06, -0.01])
    assert [judged.passed for judged in row.criteria] == [False, False, True, False]


# ------------------------------------------------------------------------------- figures and families


def compared(*runs: Path) -> Comparison:
    return compare_checkpoints([Candidate(run.name, run / "ckpt-500") for run in runs])


def test_figures_of_the_whole_set_are_read_and_an_undefined_one_stays_null(make_run: MakeRun) -> None:
    found = compared(make_run("a", set_scores={"active_units": 7.0, "recall": None}), make_run("b"))
    assert found.rows[0].set_scores["active_units"] == 7.0
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["rows"][0]["set_scores"] == {"active_units": 7.0, "recall": None}
    assert content["rows"][1]["set_scores"] == {}


def test_means_of_each_family_are_over_its_own_images(make_run: MakeRun) -> None:
    families = ["real", "stripes", "real"] * (NUM // 3)
    runs = make_run("a", families=families), make_run("b", gain_db=1.0, families=families)
    found = compared(*runs)
    assert found.family_sizes == {"real": 16, "stripes": 8}
    for run, row in zip(runs, found.rows, strict=True):
        psnr = np.array(json.loads((run / "ckpt-500" / "eval.json").read_text())["scores"]["psnr"])
        for family in ("real", "stripes"):
            own = psnr[[place for place, name in enumerate(families) if name == family]]
            assert row.families[family]["psnr"] == pytest.approx(own.mean())


def test_one_family_is_no_table(make_run: MakeRun) -> None:
    found = compared(make_run("a", families=["real"] * NUM), make_run("b", families=["real"] * NUM))
    assert found.family_sizes == {} and found.rows[0].families == {}


def test_families_that_do_not_fit_the_images_are_damage(make_run: MakeRun) -> None:
    with pytest.raises(DataError, match="is damaged: ValueError"):
        compared(make_run("a", families=["real"]), make_run("b"))

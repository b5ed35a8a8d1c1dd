"""Randomness is a function of a key: pinned values, independent keys, states given back, permutations in no memory."""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch

from mlkit.seeding import Permutation, derive_seed, generator, isolated_rng, seed_everything

# Checkpoints of format version 1 count on these numbers: another value means other data after a resume.


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # coreutils: printf 'int:7\x1fstr:step\x1fint:1204\x1fint:0' | b2sum -l 64, little endian, halved
        ((7, "step", 1204, 0), int.from_bytes(bytes.fromhex("ff6204a004aebb59"), "little") // 2),
        ((0, "init"), int.from_bytes(bytes.fromhex("74335fe09d2b744b"), "little") // 2),
        ((7, "sample", 38528), int.from_bytes(bytes.fromhex("2a36f7fe4df5c93d"), "little") // 2),
        ((0,), int.from_bytes(bytes.fromhex("ba47ff3a50716963"), "little") // 2),
    ],
)
def test_seeds_of_format_1_are_pinned(key: tuple[int, ...], expected: int) -> None:
    assert derive_seed(*key) == expected


def test_orders_of_format_1_are_pinned() -> None:
    assert [Permutation(10, 0)(place) for place in range(10)] == [7, 5, 1, 8, 6, 3, 4, 0, 9, 2]
    many = Permutation(10**9, derive_seed(7, "epoch", 3))
    assert [many(place) for place in (0, 1, 999_999_999)] == [691046001, 380446605, 42591518]


def test_draws_of_format_1_are_pinned() -> None:
    drawn = generator(7, "sample", 38528).integers(0, 2**32, 4)
    same = np.random.Generator(np.random.Philox(key=2226179710985673493)).integers(0, 2**32, 4)
    assert drawn.tolist() == same.tolist() == [46482443, 2870836646, 3636366393, 2541250263]


def test_every_part_of_a_key_matters() -> None:
    keys = [
        (seed, purpose, step, rank)
        for seed in (0, 1, 2)
        for purpose in ("step", "sample", "epoch")
        for step in range(200)
        for rank in (0, 1)
    ]
    # the type and the place of a part count too
    keys += [
        (0,),
        (0, 1),
        (0, "1"),
        (1, 0),
        (0, "step"),
        (0, "step", "1"),
        (0, "step1"),
        (0, "", "step"),
        (0, 11),
        (0, 1, 1),
    ]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_keys_draw_independent_numbers() -> None:
    drawn = np.stack([generator(3, "sample", k).standard_normal(64) for k in range(400)])
    correlation = np.corrcoef(drawn)[np.triu_indices(400, 1)]
    # independent rows of 64: standard deviation 1 / sqrt(63)
    assert abs(correlation.std() * np.sqrt(63) - 1) < 0.02
    assert abs(correlation.mean()) < 4 / np.sqrt(63 * correlation.size)


def test_seeding_everything_decides_python_numpy_and_torch() -> None:
    def drawn(seed: int) -> tuple[float, float, float]:
        with isolated_rng(seed):
            return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    assert drawn(5) == drawn(5)
    assert all(one != other for one, other in zip(drawn(5), drawn(6), strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_an_isolated_block_gives_every_state_back_exactly(fails: bool) -> None:
    seed_everything(1)
    random.gauss(0, 1)  # leaves a second value in Python's state,
    np.random.standard_normal()  # noqa: NPY002 - and one in NumPy's
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002

    def draw() -> None:
        random.gauss(0, 1)
        np.random.standard_normal(7)  # noqa: NPY002
        torch.randn(7)
        if fails:
            raise KeyError("inside")

    if fails:
        with pytest.raises(KeyError), isolated_rng(9):
            draw()
    else:
        with isolated_rng(9):
            draw()
    assert random.getstate() == states[0]
    now = np.random.get_state()  # noqa: NPY002
    for one, other in zip(now, states[1], strict=True):
        assert np.array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), states[2])


# ---- permutations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [0, 1, 0x123456789ABCDEF, 2**63 - 1])
def test_it_is_a_bijection_for_every_size_up_to_600(key: int) -> None:
    for n in range(1, 601):
        permutation = Permutation(n, key)
        assert sorted(permutation(place) for place in range(n)) == list(range(n)), n


def test_every_order_of_five_comes_about_equally_often() -> None:
    counts = Counter(tuple(map(Permutation(5, derive_seed(0, "epoch", epoch)), range(5))) for epoch in range(12_000))
    # 120 orders, 100 each in the mean. Six rounds on four bits are not quite even (68 to 168 here), which is
    # enough for an epoch's order; a network that reaches only some orders, as with fewer rounds, is not.
    assert all(50 < counts[order] < 200 for order in itertools.permutations(range(5)))


@pytest.mark.parametrize("n", [8, 11])
def test_every_place_goes_everywhere_equally_often(n: int) -> None:
    table = np.zeros((n, n))
    for epoch in range(4_000):
        permutation = Permutation(n, derive_seed(1, "epoch", epoch))
        for place in range(n):
            table[place, permutation(place)] += 1
    expected = 4_000 / n
    chi2 = float(((table - expected) ** 2 / expected).sum())
    assert 1e-3 < scipy.stats.chi2.sf(chi2, (n - 1) ** 2) < 1 - 1e-3  # too even would be as wrong


@pytest.mark.parametrize("n", [1000, 1025, 4096])  # 1025 walks most: its range is 4096
def test_neighbours_go_to_unrelated_places(n: int) -> None:
    permutation = Permutation(n, derive_seed(2, "epoch", 0))
    order = np.array([permutation(place) for place in range(n)], dtype=float)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4 / np.sqrt(n)
    assert np.sum(order == np.arange(n)) < 8  # fixed points are Poisson with mean 1


def test_epochs_are_permuted_apart() -> None:
    first, second = (
        [Permutation(500, derive_seed(0, "epoch", epoch))(place) for place in range(500)] for epoch in (0, 1)
    )
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 8


def test_a_billion_samples_take_no_memory() -> None:
    tracemalloc.start()
    try:
        permutation = Permutation(10**9, 1)
        seen = 0
        for place in range(0, 10**9, 10**6):
            seen += permutation(place) < 10**9
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == 1000
    assert peak < 100_000


def test_a_place_outside_is_our_own_mistake() -> None:
    for place in (-1, 10):
        with pytest.raises(AssertionError):
            Permutation(10, 0)(place)
    with pytest.raises(AssertionError):
        Permutation(0, 0)

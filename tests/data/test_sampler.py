"""Sample k of a run is the same whatever the workers, processes and resumes: each epoch is one permutation."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlkit.data.sampler import KeyedSamples, StepSampler, batches
from mlkit.errors import SettingsError
from mlkit.seeding import generator, seed_everything

CPU = torch.device("cpu")


class Noise:
    """A source whose samples show which index and which generator they were made with."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        drawn = rng.standard_normal(3)
        return {"value": torch.full((3,), float(index)), "noise": torch.tensor(drawn)}

    def sample_id(self, index: int) -> str:
        return str(index)


def keys_of(
    n: int, seed: int, batch: int, first: int, count: int, rank: int = 0, ranks: int = 1
) -> list[tuple[int, int]]:
    sampler = StepSampler(n, seed=seed, batch_size=batch, first_sample=first, num_batches=count, rank=rank, ranks=ranks)
    lists = list(sampler)
    assert len(sampler) == len(lists) == count
    assert all(len(keys) == batch // ranks for keys in lists)
    return [key for keys in lists for key in keys]


@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    ranks=st.integers(1, 4),
    local=st.integers(1, 5),
    workers=st.integers(1, 3),
    resumes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
)
@settings(max_examples=120, deadline=None)
def test_the_union_over_ranks_workers_and_resumes_is_one_permutation_an_epoch(
    n: int, seed: int, ranks: int, local: int, workers: int, resumes: list[int]
) -> None:
    batch = ranks * local
    epochs = 3
    resumes = [*resumes, max(0, -(-epochs * n // batch) - sum(resumes))]  # the last part completes three epochs
    seen: list[tuple[int, int]] = []
    first = 0
    for count in resumes:  # killed after `count` batches, then resumed
        for rank in range(ranks):
            sampler = StepSampler(
                n, seed=seed, batch_size=batch, first_sample=first, num_batches=count, rank=rank, ranks=ranks
            )
            lists = list(sampler)
            for worker in range(workers):  # torch deals batches to workers in turn
                seen += [key for keys in lists[worker::workers] for key in keys]
        first += count * batch
    assert sorted(k for k, _ in seen) == list(range(first))  # every place once: nothing dropped, nothing twice
    order = dict(seen)
    for epoch in range(epochs):
        assert sorted(order[k] for k in range(epoch * n, (epoch + 1) * n)) == list(range(n))


@given(n=st.integers(2, 60), seed=st.integers(0, 2**40), batch=st.integers(1, 9), other=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_neither_batch_size_nor_the_place_of_a_resume_changes_what_sample_k_is(
    n: int, seed: int, batch: int, other: int
) -> None:
    one = dict(keys_of(n, seed, batch, first=0, count=3 * n // batch))
    two = dict(keys_of(n, seed, other, first=n // 3, count=2 * n // other))
    both = one.keys() & two.keys()
    assert both or not one or not two
    assert all(one[k] == two[k] for k in both)


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [index for _, index in keys_of(200, seed, 10, first=200 * epoch, count=20)]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    for one in range(3):
        for two in range(one):
            assert sum(a == b for a, b in zip(orders[one], orders[two], strict=True)) < 8  # 1 by chance


def test_each_rank_takes_its_part_of_the_batch_of_one_process() -> None:
    whole = list(StepSampler(17, seed=3, batch_size=6, first_sample=0, num_batches=5))
    parts = [
        list(StepSampler(17, seed=3, batch_size=6, first_sample=0, num_batches=5, rank=rank, ranks=3))
        for rank in range(3)
    ]
    assert [[*parts[0][number], *parts[1][number], *parts[2][number]] for number in range(5)] == whole


def test_a_batch_that_ranks_cannot_share_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        StepSampler(17, seed=3, batch_size=5, first_sample=0, num_batches=5, rank=0, ranks=2)


# ---- the loader ----------------------------------------------------------------------------------------------


def stream(workers: int, first: int, count: int, *, batch: int = 4, seed: int = 5, purpose: str = "sample") -> bytes:
    """Return the bytes of all batches one after the other."""
    sampler = StepSampler(11, seed=seed, batch_size=batch, first_sample=first, num_batches=count)
    parts: list[bytes] = []
    loaded: Iterator[dict[str, Tensor]] = batches(
        Noise(11), sampler, seed=seed, purpose=purpose, workers=workers, device=CPU
    )
    for made in loaded:
        assert made["value"].shape == made["noise"].shape == (batch, 3)
        assert made["value"][:, 0].tolist() == made["index"].tolist()
        for row in range(batch):
            parts += [made[key][row].numpy().tobytes() for key in ("index", "value", "noise")]
    return b"".join(parts)


SAMPLE_BYTES = 8 + 3 * 4 + 3 * 8


@pytest.fixture(scope="module")
def straight() -> bytes:
    return stream(0, 0, 12)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_bytes(workers: int, straight: bytes) -> None:
    assert stream(workers, 0, 12) == straight


@pytest.mark.parametrize(("workers", "firsts"), [(0, range(1, 44)), (2, (1, 13))])
def test_a_resume_at_any_sample_continues_with_the_same_bytes(
    workers: int, firsts: range | tuple[int, ...], straight: bytes
) -> None:
    for first in firsts:
        count = (48 - first) // 4
        assert stream(workers, first, count) == straight[first * SAMPLE_BYTES : (first + 4 * count) * SAMPLE_BYTES]


def test_the_generator_of_a_sample_is_a_function_of_seed_purpose_and_place_alone(straight: bytes) -> None:
    noise_of_30 = np.frombuffer(straight[31 * SAMPLE_BYTES - 24 : 31 * SAMPLE_BYTES])
    assert np.array_equal(noise_of_30, generator(5, "sample", 30).standard_normal(3))
    # in another batch, beside other samples, after other draws
    item = KeyedSamples(Noise(11), 5, "sample")[30, 2]
    assert np.array_equal(item["noise"].numpy(), noise_of_30)
    assert item["index"].item() == 2
    for seed, purpose, k in ((6, "sample", 30), (5, "eval", 30), (5, "sample", 31)):
        assert not np.array_equal(KeyedSamples(Noise(11), seed, purpose)[k, 2]["noise"].numpy(), noise_of_30)


def test_the_same_image_is_augmented_anew_in_every_epoch() -> None:
    samples = KeyedSamples(Noise(11), 5, "sample")
    drawn = [
        tuple(samples[k, index]["noise"].tolist()) for k, index in keys_of(11, 5, 11, first=0, count=4) if index == 3
    ]
    assert len(drawn) == len(set(drawn)) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generators_alone_and_does_not_depend_on_them(workers: int, straight: bytes) -> None:
    seed_everything(99)
    before = torch.get_rng_state()
    assert stream(workers, 0, 12) == straight
    assert torch.equal(torch.get_rng_state(), before)


def test_the_samples_can_be_pickled_for_spawned_workers() -> None:
    samples = KeyedSamples(Noise(11), 5, "sample")
    again = pickle.loads(pickle.dumps(samples))
    assert len(again) == 11
    assert torch.equal(again[4, 3]["noise"], samples[4, 3]["noise"])


class Ramped(Noise):
    """A source that changes over a run."""

    def sample_at(self, index: int, rng: np.random.Generator, seen: int) -> dict[str, torch.Tensor]:
        return {**self.sample(index, rng), "seen": torch.tensor(seen)}


def test_a_ramped_source_is_told_in_training_how_many_samples_the_run_has_seen() -> None:
    samples = KeyedSamples(Ramped(11), 5, "sample")
    for item in (samples[30, 2], pickle.loads(pickle.dumps(samples))[30, 2]):
        assert int(item.pop("seen")) == 30
        plain = KeyedSamples(Noise(11), 5, "sample")[30, 2]
        assert item.keys() == plain.keys() and all(torch.equal(item[key], plain[key]) for key in plain)


def test_a_ramped_source_is_not_told_so_in_evaluation() -> None:
    assert "seen" not in KeyedSamples(Ramped(11), 5, "eval")[2, 2]


def test_a_resume_ramps_on_where_the_run_was() -> None:
    def seen(first: int, count: int, workers: int) -> list[int]:
        sampler = StepSampler(11, seed=5, batch_size=4, first_sample=first, num_batches=count)
        device = torch.device("cpu")
        made = batches(Ramped(11), sampler, seed=5, purpose="sample", workers=workers, device=device)
        return [int(number) for batch in made for number in batch["seen"]]

    assert seen(0, 5, 0) == list(range(20))
    assert seen(8, 3, 1) == list(range(8, 20))


def test_workers_whose_sockets_could_not_be_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's loader would wait for ever: a worker that cannot share a batch drops it with a traceback on stderr."""
    folder = "/tmp/" + "long" * 25
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: folder)
    made = batches(None, None, seed=0, purpose="sample", workers=2, device=torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(SettingsError) as refused:
        next(made)
    assert str(refused.value) == (
        f"train.workers = 2 needs a folder for temporary files with a shorter path than {folder}; set TMPDIR to one "
        "such as /tmp, or train.workers to 0"
    )

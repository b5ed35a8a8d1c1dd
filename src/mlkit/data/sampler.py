"""The order of the data as a function of (seed, samples seen), and the loader that follows it.

Sample number k of a run is place k mod n of epoch k div n; its index is that epoch's keyed permutation of the place,
and its augmentation is drawn from (seed, "sample", k). So nothing about the order is ever saved, epochs flow into
each other, nothing is dropped, and neither workers nor processes nor a resume can change what sample k is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mlkit.data.source import RampedSource
from mlkit.errors import SettingsError
from mlkit.seeding import Permutation, derive_seed, generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mlkit.data.source import Source

Key = tuple[int, int]  # (sample number k, index into the source)

_LONGEST_SOCKET = 104  # bytes of a socket's path, its end included: 108 on Linux, 104 on macOS


class StepSampler:
    """Yields one list of (k, index) a forward pass, for one process out of `ranks`.

    Args:
        n: samples in the source.
        seed: the run's seed.
        batch_size: samples per forward pass over all processes; divisible by `ranks`.
        first_sample: samples that the run has seen already.
        num_batches: forward passes to yield.
        rank: this process; it takes the `rank`-th equal part of each batch.
        ranks: processes in all.
    """

    def __init__(
        self, n: int, *, seed: int, batch_size: int, first_sample: int, num_batches: int, rank: int = 0, ranks: int = 1
    ) -> None:
        assert n > 0 and batch_size % ranks == 0 and 0 <= rank < ranks
        self.n, self.seed, self.batch_size = n, seed, batch_size
        self.first_sample, self.num_batches, self.rank, self.ranks = first_sample, num_batches, rank, ranks

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Key]]:
        local = self.batch_size // self.ranks
        epoch, permutation = -1, None
        for batch in range(self.num_batches):
            start = self.first_sample + batch * self.batch_size + self.rank * local
            keys = []
            for k in range(start, start + local):
                if k // self.n != epoch:
                    epoch = k // self.n
                    permutation = Permutation(self.n, derive_seed(self.seed, "epoch", epoch))
                assert permutation is not None
                keys.append((k, permutation(k % self.n)))
            yield keys


class KeyedSamples:
    """A source as torch's DataLoader wants it: an item is asked for by (k, index). Picklable, so spawn works too.

    In training a `RampedSource` is told k, the samples that the run has seen; evaluation has no such number.
    """

    def __init__(self, source: Source, seed: int, purpose: str) -> None:
        self.source, self.seed, self.purpose = source, seed, purpose
        self._ramped = source if purpose == "sample" and isinstance(source, RampedSource) else None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        import torch

        k, index = key
        rng = generator(self.seed, self.purpose, k)
        sample = self._ramped.sample_at(index, rng, k) if self._ramped else self.source.sample(index, rng)
        sample["index"] = torch.tensor(index)
        return sample


def stack(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return samples as one batch: each key stacked along a new first axis."""
    import torch

    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def _refuse_long_sockets(workers: int) -> None:
    """Raise where a worker's socket would have too long a path: the worker drops its batch, and the training waits."""
    from multiprocessing.util import get_temp_dir

    folder = get_temp_dir()
    if os.name == "posix" and len(os.fsencode(folder)) + len("/listener-12345678") >= _LONGEST_SOCKET:
        raise SettingsError(
            f"train.workers = {workers} needs a folder for temporary files with a shorter path than {folder}; set "
            f"TMPDIR to one such as /tmp, or train.workers to 0"
        )


def _end_with_parent(parent: int, worker: int) -> None:
    """Let a data worker live as long as the training: no longer, and no shorter.

    Of a killed training, workers with a full queue would stay for ever. A signal to the whole group (Ctrl-C, a job
    scheduler) is for the training, which needs its workers until the update is finished and saved.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux" and multiprocessing.get_start_method() != "forkserver":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be watched
            os._exit(1)


def batches(
    source: Source,
    sampler: Sequence[list[Key]] | StepSampler,
    *,
    seed: int,
    purpose: str,
    workers: int,
    device: torch.device,
) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of a sampler on `device`; `batch["index"]` names the samples.

    Args:
        source: where samples come from.
        sampler: lists of (k, index), one a batch.
        seed: the run's seed.
        purpose: part of the key of a sample's generator, such as "sample" or "eval".
        workers: loader processes.
        device: where the batches go.

    Raises:
        SettingsError: where workers could not hand over what they made.
    """
    import torch
    from torch.utils.data import DataLoader

    if workers:
        _refuse_long_sockets(workers)
    # Without a generator of its own, opening a loader draws from the global one.
    own = torch.Generator()
    own.manual_seed(0)
    loader: DataLoader[dict[str, Tensor]] = DataLoader(
        KeyedSamples(source, seed, purpose),  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=stack,
        num_workers=workers,
        generator=own,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=partial(_end_with_parent, os.getpid()) if workers else None,
    )
    for batch in loader:
        yield {key: value.to(device, non_blocking=True) for key, value in batch.items()}

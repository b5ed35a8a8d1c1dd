"""What the order of the data costs: the first batch from ten thousand to a billion samples, and the start of `train`.

    python bench/order.py

The sampler computes each epoch's permutation place by place; torch's RandomSampler, which stores it, runs beside it as
far as its memory allows. Memory is the peak of what Python allocates until the first batch, for torch's with the eight
bytes a sample of its permutation. Start-up is the time of a whole `mlkit train` process until its first update is
done, on a dataset of a million patches in twenty thousand scenes against one of a thousand patches, in turns. Both are
made here: the scenes share the pixels of one, so that only the number of patches and scenes differs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler

from _common import Figure, at_most, finish, in_turns, options_parser, ratio, show
from mlkit.data.manifest import write_manifest
from mlkit.data.sampler import StepSampler
from mlkit.data.store import StoreWriter, index_path
from mlkit.tasks.sar.blocks import PATCH

BATCH = 32
SIZES = (10**4, 10**6, 10**9)
STORED_UP_TO = 10**6  # torch's sampler at 10**9 would need tens of gigabytes
FIRST_BATCH_GOAL_MS = 1.0
MEMORY_GOAL = 1.2  # a Python integer of 10**9 is 14 % larger than one of 10**4
START_GOAL = 1.1
PATCHES_A_SCENE = 50


# ---- the sampler -----------------------------------------------------------------------------------------------


def ours(n: int) -> object:
    return next(iter(StepSampler(n, seed=0, batch_size=BATCH, first_sample=0, num_batches=1)))


def torchs(n: int) -> object:
    return next(iter(BatchSampler(RandomSampler(range(n)), BATCH, drop_last=True)))


def peak_bytes(work: Callable[[int], object], n: int) -> int:
    """Return the most that Python held while it made the first batch."""
    tracemalloc.start()
    work(n)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def first_batches(options: argparse.Namespace) -> list[Figure]:
    """Print and return time and memory of the first batch."""
    rows, figures, memory = [], [], {}
    for n in SIZES[:2] if options.smoke else SIZES:
        ways = {"mlkit": lambda n=n: ours(n)}
        if n <= STORED_UP_TO:
            ways["torch RandomSampler"] = lambda n=n: torchs(n)
        times = in_turns(ways, 3 if options.smoke else 31)
        memory[n] = peak_bytes(ours, n)
        of_torch = str(ratio(times["mlkit"], times["torch RandomSampler"])) if len(times) > 1 else "-"
        rows.append([f"{n:,}  mlkit", milliseconds(times["mlkit"]), f"{memory[n] / 1e3:,.1f} kB", of_torch])
        if len(times) > 1:
            stored = peak_bytes(torchs, n) + 8 * n
            rows.append([f"{n:,}  torch", milliseconds(times["torch RandomSampler"]), f"{stored / 1e3:,.1f} kB", "1"])
        else:
            rows.append([f"{n:,}  torch", "not run", f"at least {8 * n / 1e9:.0f} GB", ""])
        first_ms = statistics.median(times["mlkit"]) * 1e3
        figures.append(at_most(f"first batch of {n:,} samples", first_ms, FIRST_BATCH_GOAL_MS, "ms"))
    growth = max(memory.values()) / memory[SIZES[0]]
    show((f"samples (batch of {BATCH})", "first batch", "memory", "mlkit over torch"), rows)
    return [*figures, at_most(f"memory at {max(memory):,} over {SIZES[0]:,} samples", growth, MEMORY_GOAL)]


def milliseconds(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.3f} ms"


# ---- start-up --------------------------------------------------------------------------------------------------


def made_dataset(folder: Path, patches: int, side: int = 512, patch: int = 64) -> Path:
    """Return a dataset of so many patches; all its scenes are the same pixels of one file."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with StoreWriter(folder, "scenes", np.float32) as writer:
        writer.add(rng.gamma(4, 0.25, (side, side)).astype(np.float32))
    scenes = max(1, patches // PATCHES_A_SCENE)
    index = np.load(index_path(folder, "scenes"))
    np.save(index_path(folder, "scenes"), np.repeat(index, scenes, axis=0))
    for split, count in (("train", patches), ("validation", 2)):
        table = np.zeros(count, PATCH)
        table["scene"] = np.arange(count) % scenes
        table["y"], table["x"] = rng.integers(0, side - patch + 1, (2, count))
        np.save(folder / f"{split}.npy", table)
    area = {"y0": 0, "x0": 0, "y1": patch, "x1": patch}
    about = {"split": "blocks", "validation_areas": [area], "height": side, "width": side, "kind": "db"}
    write_manifest(
        folder,
        task="sar",
        label="simulated",
        preprocessing={"pipeline": "db|clip|unit", "db_min": 0.0, "db_max": 3.0, "nodata": "db_min", "kind": "db"},
        splits={"train": patches, "validation": 2},
        details={"patch": patch, "scenes": [{"name": f"scene{number:05d}", **about} for number in range(scenes)]},
    )
    return folder


def start_up(data: Path, runs: Path, name: str) -> None:
    """Run `mlkit train` until its first update is done."""
    # What would be measured besides: the choice of precision.
    fixed = ["model.base_channels=4", "train.precision='fp32'", "train.channels_last=false", "checkpoint.grid=false"]
    command = [sys.executable, "-m", "mlkit", "train", "--preset", "sar_tiny", "--data", str(data), "--name", name]
    command += [word for assignment in fixed for word in ("--set", assignment)]
    env = os.environ | {"MLKIT_RUNS_DIR": str(runs), "NO_COLOR": "1"}
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env) as run:
        assert run.stderr
        for line in run.stderr:
            lines.append(line)
            if line.startswith("step 1/"):
                run.kill()
                return
    raise RuntimeError("mlkit train ended before its first step:\n" + "".join(lines))


def starts(options: argparse.Namespace) -> list[Figure]:
    """Print and return how much longer `train` takes to start on the large dataset."""
    small, large = (200, 2000) if options.smoke else (10**3, 10**6)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = {n: made_dataset(folder / str(n), n) for n in (small, large)}
        ways = {
            f"{n:,} patches": lambda n=n: start_up(data[n], folder / "runs", f"{n}-{time.monotonic_ns()}") for n in data
        }
        times = in_turns(ways, 1 if options.smoke else options.rounds, warm_ups=0 if options.smoke else 1)
    first, second = times
    over = ratio(times[second], times[first])
    print()
    rows = [[name, f"{statistics.median(taken):.2f} s"] for name, taken in times.items()]
    show(
        ("mlkit train until its first update", "median", f"of {first}"),
        [[*rows[0], "1"], [*rows[1], str(over)]],
    )
    return [at_most(f"start of train, {second} over {first}", over.value, START_GOAL)]


def main() -> int:
    parser = options_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="starts of train on each dataset")
    options = parser.parse_args()
    torch.set_num_threads(1)
    return finish([*first_batches(options), *starts(options)], options)


if __name__ == "__main__":
    raise SystemExit(main())

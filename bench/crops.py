"""Random crops a second from a built SAR dataset, against decoding the same crops from PNG files with Pillow.

    python bench/crops.py [--dataset DIR] [--crop 128] [--patches 256] [--rounds 7]

Both ways run in one process, in turns, over the same places in the same order; medians over the rounds are printed.
"slice" is what the memory-mapped file alone gives, "sample" adds scaling, augmentation and the tensor.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mlkit.data.manifest import open_manifest
from mlkit.data.store import Store
from mlkit.tasks.sar.dataset import SarSource, build_dataset, to_unit
from mlkit.tasks.sar.settings import SarBuild


def seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dataset", type=Path, help="a SAR dataset; default: the embedded one, built here")
    parser.add_argument("--crop", type=int, default=128, help="side of a crop in px")
    parser.add_argument("--patches", type=int, default=256, help="how many crops a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.dataset or Path(temporary) / "sar"
        if options.dataset is None:
            build_dataset(None, folder, build=SarBuild())
        manifest = open_manifest(folder)
        measure(Path(temporary), SarSource(manifest, "train", options.crop, augment=True), options)


def measure(temporary: Path, source: SarSource, options: argparse.Namespace) -> None:
    store = Store(source.manifest.folder, "scenes")
    rng = np.random.default_rng(0)
    crop = options.crop
    places = []
    for number in range(options.patches):
        scene = int(rng.integers(len(store)))
        height, width = store.shape(scene)
        y, x = int(rng.integers(height - crop + 1)), int(rng.integers(width - crop + 1))
        places.append((scene, y, x))
        unit = to_unit(store[scene][y : y + crop, x : x + crop], source.db_min, source.db_max)
        Image.fromarray(np.rint(unit * 255).astype(np.uint8)).save(temporary / f"{number}.png")
    files = [temporary / f"{number}.png" for number in range(options.patches)]

    def decode() -> None:
        for file in files:
            with Image.open(file) as image:
                np.asarray(image)

    def slices() -> None:
        for scene, y, x in places:
            store[scene][y : y + crop, x : x + crop].copy()

    def samples() -> None:
        for number in range(options.patches):
            source.sample(number % len(source), rng)

    ways: dict[str, Callable[[], object]] = {"PNG decode (8 bit)": decode, "slice (dB)": slices, "sample": samples}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work()  # the files are in the page cache for all ways
    for _ in range(options.rounds):
        for name, work in ways.items():
            times[name].append(seconds(work))
    rates = {name: options.patches / statistics.median(taken) for name, taken in times.items()}
    print(f"{platform.machine()}, {os.cpu_count()} cores, crops of {crop} px, median of {options.rounds} rounds")
    for name, rate in rates.items():
        print(f"{name:20s} {rate:10,.0f} crops/s   x {rate / rates['PNG decode (8 bit)']:.1f}")


if __name__ == "__main__":
    main()

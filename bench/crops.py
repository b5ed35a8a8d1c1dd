"""Random crops a second from a built SAR dataset, against decoding image files and against litdata.

    python bench/crops.py

All ways run in one process and thread, in turns, over crops in random order. "mlkit slice" is a tensor from the
memory-mapped scenes, "mlkit sample" is what training gets: scaled to [0, 1], shifted, flipped and turned. The files
hold the same scenes in 8 bit: images of 1024x1536 px and patches of 512x512 px, of which a crop is cut after decoding,
and one file a crop, which no random crop can come from: it is the least that decoding can cost.
litdata gives the same float32 crops from a local folder, by random index and as its shuffled stream, where it is
installed (it is no part of mlkit); "same augmentation" scales, flips and turns its crops as mlkit does. Everything is
in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from _common import Figure, add_data, at_least, finish, in_turns, options_parser, ratio, sar_dataset, show
from mlkit.data.manifest import DatasetManifest
from mlkit.data.store import Store
from mlkit.tasks.sar.dataset import SarSource, build_dataset, to_unit
from mlkit.tasks.sar.settings import SarBuild

DECODE_GOAL, LITDATA_GOAL = 100.0, 1.0
LARGE, PATCH = (1024, 1536), (512, 512)  # height and width of image files that hold more than one crop
SLICE, SAMPLE, SMALL = "mlkit slice", "mlkit sample", "PNG of a crop"
LITDATA, SHUFFLED, AUGMENTED = "litdata, random item", "litdata, shuffled", "litdata item, same augmentation"
Ways = dict[str, Callable[[], object]]


def measured(data: DatasetManifest, folder: Path) -> DatasetManifest:
    """Return a dataset of the same scenes as if they were measured: without a second store of clean images."""
    if not data.label:
        return data
    store = Store(data.folder, "scenes")
    (folder / "scenes").mkdir()
    for number, scene in enumerate(store):
        np.save(folder / "scenes" / f"{number}.npy", scene)
    return build_dataset([folder / "scenes"], folder / "sar", build=SarBuild(kind="db")).manifest


def augmented(db: np.ndarray, source: SarSource, rng: np.random.Generator) -> torch.Tensor:
    """Return a crop as `SarSource` makes it of a slice."""
    unit = to_unit(db, source.db_min, source.db_max)
    turn = int(rng.integers(8))
    return torch.from_numpy(np.ascontiguousarray(np.rot90(unit[:, ::-1] if turn & 4 else unit, turn & 3))[None])


def litdata_ways(folder: Path, crops: list[np.ndarray], source: SarSource) -> Ways:
    """Return the ways of litdata; empty where it is not installed."""
    try:
        import litdata
        from litdata.streaming.writer import BinaryWriter
    except Exception as error:  # noqa: BLE001 - a broken one beside a CPU build of torch fails with more than ImportError
        print(f"litdata: not installed ({type(error).__name__})")
        return {}
    writer = BinaryWriter(str(folder), chunk_bytes=1 << 26)
    for number, crop in enumerate(crops):
        writer.add_item(number, {"image": torch.from_numpy(crop)})
    writer.done()
    writer.merge(1)
    stream, shuffled = litdata.StreamingDataset(str(folder)), litdata.StreamingDataset(str(folder), shuffle=True)
    rng = np.random.default_rng(0)
    order = [int(number) for number in rng.permutation(len(crops))]

    def items() -> None:
        for number in order:
            stream[number]["image"]

    def streamed() -> None:
        for item in shuffled:
            item["image"]

    def samples() -> None:
        for number in order:
            augmented(stream[number]["image"].numpy(), source, rng)

    return {LITDATA: items, SHUFFLED: streamed, AUGMENTED: samples}


def ways_to_read(data: DatasetManifest, folder: Path, options: argparse.Namespace) -> tuple[Ways, dict[str, int]]:
    """Return each way with how many crops one call reads."""
    source = SarSource(data, "train", options.crop, augment=True)
    store = Store(data.folder, "scenes")
    rng = np.random.default_rng(0)
    crop = options.crop
    places, crops = [], []
    for number in range(options.crops):
        scene = int(rng.integers(len(store)))
        height, width = store.shape(scene)
        y, x = int(rng.integers(height - crop + 1)), int(rng.integers(width - crop + 1))
        places.append((scene, y, x))
        crops.append(np.array(store[scene][y : y + crop, x : x + crop]))
        Image.fromarray(eight_bit(crops[-1], source)).save(folder / f"{number}.png")
    num_whole = min(options.whole, len(store))
    for scene in range(num_whole):
        for size in (LARGE, PATCH):
            whole = Image.fromarray(repeated(eight_bit(store[scene], source), size))
            whole.save(folder / f"{in_words(size)}-{scene}.png")
            whole.save(folder / f"{in_words(size)}-{scene}.jpg", quality=95)

    def slices() -> None:
        for scene, y, x in places:
            torch.from_numpy(store[scene][y : y + crop, x : x + crop].copy())

    def samples() -> None:
        for number in range(options.crops):
            source.sample(number % len(source), rng)

    def small() -> None:
        for number in range(options.crops):
            with Image.open(folder / f"{number}.png") as image:
                torch.from_numpy(np.array(image))

    def whole_of(size: tuple[int, int], suffix: str) -> Callable[[], None]:
        def decode() -> None:
            for scene in range(num_whole):
                with Image.open(folder / f"{in_words(size)}-{scene}.{suffix}") as image:
                    torch.from_numpy(np.array(image)[100 : 100 + crop, 200 : 200 + crop].copy())

        return decode

    whole_ways: Ways = {
        f"{kind} of {in_words(size)}": whole_of(size, suffix)
        for size in (LARGE, PATCH)
        for kind, suffix in (("PNG", "png"), ("JPEG", "jpg"))
    }
    ways = {
        SLICE: slices,
        SAMPLE: samples,
        **litdata_ways(folder / "litdata", crops, source),
        **whole_ways,
        SMALL: small,
    }
    return ways, {name: num_whole if name in whole_ways else options.crops for name in ways}


def in_words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def repeated(image_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image of that size: the given one, side by side where it is smaller."""
    times = [-(-wanted // given) for wanted, given in zip(size, image_hw.shape, strict=True)]
    return np.tile(image_hw, times)[: size[0], : size[1]]


def eight_bit(db: np.ndarray, source: SarSource) -> np.ndarray:
    return np.rint(to_unit(db, source.db_min, source.db_max) * 255).astype(np.uint8)


def main() -> int:
    parser = options_parser(__doc__)
    add_data(parser)
    parser.add_argument("--crop", type=int, default=128, help="side of a crop in px")
    parser.add_argument("--crops", type=int, default=512, help="how many a round")
    parser.add_argument("--whole", type=int, default=6, help="how many whole images a round")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.smoke:
        options.crop, options.crops, options.whole, options.rounds = 32, 16, 1, 2
    with sar_dataset(options) as data, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "litdata").mkdir()
        data = data if options.smoke else measured(data, folder)
        ways, counts = ways_to_read(data, folder, options)
        totals = in_turns(ways, options.rounds)
    times = {name: [taken / counts[name] for taken in totals[name]] for name in ways}
    rows = [
        [
            name,
            f"{1 / statistics.median(taken):,.0f}",
            f"{ratio(taken, times[SLICE]).value:,.1f}",
            f"{ratio(taken, times[SAMPLE]).value:,.1f}",
        ]
        for name, taken in times.items()
    ]
    show((f"crops of {options.crop} px", "a second", "slice is faster by", "sample is faster by"), rows)
    return finish(judged(times), options)


def judged(times: dict[str, list[float]]) -> list[Figure]:
    """Return the figures: how many times faster mlkit's ways are."""
    large, patch = (f"PNG of {in_words(size)}" for size in (LARGE, PATCH))
    figures = [
        at_least(f"slice over decoding a {large}", ratio(times[large], times[SLICE]).value, DECODE_GOAL),
        at_least(f"sample over decoding a {large}", ratio(times[large], times[SAMPLE]).value, DECODE_GOAL),
        at_least(f"slice over decoding a {patch}", ratio(times[patch], times[SLICE]).value, DECODE_GOAL),
        faster(f"sample over decoding a {patch}", times[patch], times[SAMPLE]),
        faster(f"slice over a {SMALL}", times[SMALL], times[SLICE]),
        faster(f"sample over a {SMALL}", times[SMALL], times[SAMPLE]),
    ]
    if LITDATA in times:
        best = min(LITDATA, SHUFFLED, key=lambda name: statistics.median(times[name]))
        same = "sample over litdata with the same augmentation"
        figures += [
            at_least(f"slice over {best}", ratio(times[best], times[SLICE]).value, LITDATA_GOAL),
            at_least(same, ratio(times[AUGMENTED], times[SAMPLE]).value, LITDATA_GOAL),
        ]
    return [*figures, Figure("sample", round(1 / statistics.median(times[SAMPLE])), "crops/s")]


def faster(name: str, slower: list[float], quicker: list[float]) -> Figure:
    return Figure(name, round(ratio(slower, quicker).value, 1), "x")


if __name__ == "__main__":
    raise SystemExit(main())

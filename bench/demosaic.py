"""Demosaicking of X-Trans mosaics of McMaster18 and CBSD68, not trained on by any here, against peers on the CPU.

    python bench/demosaic.py

Each photograph is mosaicked with phase (0, 0), once as it is encoded (sRGB, as most papers do) and once in linear light
(as a camera does), rounded to 16 bit; what is made of linear light is encoded again. cPSNR is over all colours of 8-bit
sRGB values without a border of 8 px; "@16" leaves out 16 px, as demosaicnet is usually scored. Six public photographs
of scikit-image, one of them (retina) very smooth, stand beside them as "sample", as encoded only. Intervals are paired
over the images (studentised bootstrap, 95 %).

Peers: LibRaw through rawpy, which reads each mosaic from a DNG with a 6 x 6 filter as it reads a camera's file: its
linear interpolation, VNG, and Markesteijn's with one and with three passes (which is also what it does when asked for
AHD or DHT of X-Trans). Frames under 640 px are mirrored out for it. With two threads a few pixels in a million of its
three-pass result differ from call to call. demosaicnet 0.0.14 (Gharbi et al. 2016) has weights for X-Trans; it runs in
a process of its own where --peers names a Python that has it: pip install demosaicnet==0.0.14 "setuptools<81" torch.
It gets 12 px or more of mirrored photograph around each image, since its convolutions take off 12 px, and its phase.
"planes only" is mlkit's fixed interpolation without the network.

Times are of one image of 1 megapixel, two threads, in turns; LibRaw's is that of its postprocessing alone, of a file
already read. Memory is that of whole processes on a DNG of 13 megapixels. Scores of every image are written beside the
figures, as demosaic.csv, and --picture draws crops.
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

import _demosaic_peer as peer_side
from _common import BENCH, ROOT, Figure, at_most, finish, in_turns, options_parser, ratio, show
from _demosaic_picture import Way, draw, mosaicked
from _demosaic_scores import (
    DEMOSAICNET,
    LIBRAW,
    OURS,
    PLANES,
    Pixels,
    Row,
    quality,
    read_scores,
    scores_of,
    show_scores,
    write_scores,
)
from _sr_peer import Peer
from mlkit.errors import DataError, MlkitError
from mlkit.imaging.images import list_images, open_image
from mlkit.imaging.light import linear_to_srgb, srgb_to_linear
from mlkit.tasks.demosaic.xtrans import PATTERN, colors

SETS = ("mcmaster18", "cbsd68")
SAMPLE = ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry", "retina")
LIBRAWS = {"LibRaw linear": "linear", "LibRaw VNG": "vng", "LibRaw 1-pass": "1-pass", LIBRAW: "3-pass"}
THREADS = 2
MEMORY_GB = 2.0
FIRST, SECOND = 0.1, 0.2  # of demosaicnet's time
LARGE = (2944, 4416)  # 13 megapixels


# ---- images --------------------------------------------------------------------------------------------------------


def photographs(options: argparse.Namespace) -> dict[str, dict[str, Pixels]]:
    """Return the originals by set and name, sRGB in [0, 1]."""
    from skimage import data

    def sample(name: str) -> Pixels:
        return getattr(data, name)().astype(np.float32) / np.float32(255)

    if options.smoke:
        return {"sample": {name: sample(name)[150:270, 200:302] for name in ("astronaut", "retina")}}
    found = {}
    for name in SETS:
        try:
            paths = list_images(options.photos / name)
        except DataError as error:
            print(f"{name} is left out: {error}")
            continue
        found[name] = {path.stem: open_image(path).pixels for path in paths}
    return {**found, "sample": {name: sample(name) for name in SAMPLE}}


# ---- ways ----------------------------------------------------------------------------------------------------------


def libraw_way(algorithm: str) -> Way:
    from mlkit.tasks.demosaic.raw import libraw_mosaic

    return lambda mosaic_hw, _: libraw_mosaic(mosaic_hw, PATTERN, algorithm)  # type: ignore[arg-type]


def own_ways(checkpoint: str | None) -> dict[str, Way]:
    """Return the model's way and that of its interpolation alone; only the latter where there is no model."""
    import torch

    from mlkit.tasks.demosaic.model import XTransNet
    from mlkit.tasks.demosaic.restorer import open_restorer
    from mlkit.tasks.demosaic.settings import DemosaicModel

    torch.set_num_threads(THREADS)
    net = XTransNet(DemosaicModel()).eval()

    def planes(mosaic_hw: Pixels, truth: Pixels) -> Pixels:
        with torch.inference_mode():
            given, phase = torch.from_numpy(mosaic_hw)[None, None], torch.zeros((1, 2), dtype=torch.int64)
            return net(given, phase, interpolate_only=True)[0].permute(1, 2, 0).numpy()

    try:
        restorer = open_restorer(Path(checkpoint) if checkpoint else None)
    except MlkitError as error:
        if checkpoint:
            raise SystemExit(str(error)) from error
        print(f"{OURS} is left out: {error}")
        return {PLANES: planes}
    print(f"{OURS}: {restorer.num_parameters / 1e6:.2f} M parameters, {restorer.precision}")
    return {PLANES: planes, OURS: lambda mosaic_hw, _: restorer(mosaic_hw, (0, 0))}


def demosaicnet(peer: Peer) -> Way:
    """Return the peer's way: it gets its own phase, and what its convolutions take off mirrored around the image."""

    def way(mosaic_hw: Pixels, truth: Pixels) -> Pixels:
        height, width = mosaic_hw.shape
        # 15 columns before an image of phase (0, 0) is where the peer's cell begins
        top, left = peer_side.BORDER, peer_side.BORDER + peer_side.PHASE[1]
        below, right = (
            peer_side.BORDER + -(before + side + peer_side.BORDER) % peer_side.PERIOD
            for before, side in ((top, height), (left, width))
        )
        around = np.pad(truth, ((top, below), (left, right), (0, 0)), mode="reflect")
        sites = colors(*around.shape[:2], peer_side.PHASE)
        given = np.where(sites[..., None] == np.arange(3), around, np.float32(0))
        made = peer(given)[:, left - peer_side.BORDER :]
        return made[:height, :width]

    return way


def scored(ways: Mapping[str, Way], sets: Mapping[str, Mapping[str, Pixels]]) -> list[Row]:
    rows = []
    for of, images in sets.items():
        for light in ("srgb", "linear") if of in SETS else ("srgb",):
            for name, truth in images.items():
                values = srgb_to_linear(truth).astype(np.float32) if light == "linear" else truth
                given = mosaicked(values)
                for way, make in ways.items():
                    made = make(given, values)
                    shown = linear_to_srgb(made).astype(np.float32) if light == "linear" else made
                    rows.append(Row(way, of, light, name, scores_of(shown, truth)))
    return rows


# ---- time and memory -----------------------------------------------------------------------------------------------


def speed(ways: Mapping[str, Way], image: Pixels, rounds: int, stack: ExitStack) -> list[Figure]:
    """Return seconds a megapixel, and ours over the peers'."""
    import rawpy

    from mlkit.tasks.demosaic.dng import write_cfa_dng

    given = mosaicked(image)
    megapixels = given.size / 1e6
    path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "timed.dng"
    write_cfa_dng(path, np.round(given * 65535).astype(np.uint16), PATTERN)
    work: dict[str, Callable[[], object]] = {}
    for name, asked in zip(LIBRAWS, ("LINEAR", "VNG", "PPG", "AHD"), strict=True):
        raw = stack.enter_context(rawpy.imread(str(path)))
        algorithm = rawpy.DemosaicAlgorithm[asked]
        work[name] = lambda raw=raw, algorithm=algorithm: raw.postprocess(
            demosaic_algorithm=algorithm, output_color=rawpy.ColorSpace.raw, output_bps=16, gamma=(1, 1),
            user_wb=[1, 1, 1, 1], user_flip=0, no_auto_bright=True, no_auto_scale=True,
        )  # fmt: skip
    work |= {name: lambda way=way: way(given, image) for name, way in ways.items() if name not in LIBRAWS}
    taken = in_turns(work, rounds)
    print()
    medians = {name: statistics.median(times) / megapixels for name, times in taken.items()}
    show(("seconds a megapixel", "median"), [(name, f"{median:.3f}") for name, median in medians.items()])
    figures = [Figure(f"{name}, time", float(f"{median:.3g}"), "s/MP") for name, median in medians.items()]
    if OURS in taken and DEMOSAICNET in taken:
        over = ratio(taken[OURS], taken[DEMOSAICNET]).value
        figures.append(at_most(f"first bar: time over {DEMOSAICNET}'s", over, FIRST))
        figures.append(at_most(f"second bar: time over {DEMOSAICNET}'s", over, SECOND))
    if OURS in taken:
        figures.append(at_most(f"third bar: time over {LIBRAW}'s", ratio(taken[OURS], taken[LIBRAW]).value, 1.0))
    return figures


def whole_process(words: list[str]) -> tuple[float, float]:
    """Return seconds and peak memory in GB of a process.

    A small process starts it: on Linux the peak of a process counts what its parent held when it was started.
    """
    code = (
        "import resource, subprocess, sys; "
        "ended = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(ended)"
    )
    started_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with exit code {done.returncode}")
    return time.perf_counter() - started_s, int(done.stdout) * 1024 / 1e9


def whole_commands(checkpoint: str | None, image: Pixels, smoke: bool) -> list[Figure]:
    """Return wall time and peak memory of `mlkit infer demosaic` for a DNG of 13 megapixels, and of LibRaw."""
    from mlkit.tasks.demosaic.dng import write_cfa_dng

    height, width = (660, 660) if smoke else LARGE
    repeats = (-(-height // image.shape[0]), -(-width // image.shape[1]), 1)
    large = mosaicked(np.tile(image, repeats)[:height, :width])
    size = f"{height * width / 1e6:.3g} megapixels"
    postprocess = "import rawpy, sys; rawpy.imread(sys.argv[1]).postprocess(use_camera_wb=True, output_bps=16)"
    with tempfile.TemporaryDirectory() as temporary:
        path, out = Path(temporary) / "large.dng", Path(temporary) / "out"
        write_cfa_dng(path, np.round(large * 65535).astype(np.uint16), PATTERN)
        del large
        libraw_s, libraw_gb = whole_process([sys.executable, "-c", postprocess, str(path)])
        words = [sys.executable, "-m", "mlkit", "infer", "demosaic", str(path), "--out", str(out)]
        words += ["--checkpoint", checkpoint] if checkpoint else []
        ours_s, ours_gb = whole_process(words)
    return [
        Figure(f"LibRaw of {size}, whole process", round(libraw_s, 1), "s"),
        Figure("LibRaw's peak memory", round(libraw_gb, 2), "GB"),
        Figure(f"mlkit infer demosaic of {size}, whole process", round(ours_s, 1), "s"),
        at_most("its peak memory", ours_gb, MEMORY_GB, "GB"),
    ]


def main() -> int:
    os.environ["OMP_NUM_THREADS"] = str(THREADS)  # before LibRaw's library reads it
    parser = options_parser(__doc__)
    data = Path(os.environ.get("MLKIT_SHARED_DATA", ROOT / "../shared/data"))
    parser.add_argument("--photos", type=Path, default=data / "photos", help="folder with mcmaster18 and cbsd68")
    parser.add_argument("--checkpoint", help="a checkpoint's folder (default: the model in the package)")
    parser.add_argument("--peers", default=sys.executable, help="the Python that has demosaicnet", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw crops")
    parser.add_argument("--scores", type=Path, metavar="CSV", help="take the scores of an earlier call, and time only")
    options = parser.parse_args()
    sets = photographs(options)
    with ExitStack() as stack:
        ways = {name: libraw_way(algorithm) for name, algorithm in LIBRAWS.items()}
        peer = stack.enter_context(Peer(DEMOSAICNET, options.peers, THREADS, BENCH / "_demosaic_peer.py"))
        if peer.is_ready:
            ways[DEMOSAICNET] = demosaicnet(peer)
        else:
            print(f"{DEMOSAICNET} is {peer.said}")
        ways |= own_ways(options.checkpoint)
        rows = read_scores(options.scores) if options.scores else scored(ways, sets)
        show_scores(rows)
        image = next(iter(sets["sample"].values()))
        timed = np.tile(image, (6, 7, 1))[:660, :660] if options.smoke else np.tile(image, (2, 2, 1))[:1002, :1002]
        figures = quality(rows) + speed(ways, timed, 1 if options.smoke else options.rounds, stack)
        if options.picture:
            draw(options.picture, ways, sets["sample"])
    if OURS in ways:
        figures += whole_commands(options.checkpoint, image, options.smoke)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_scores(options.json.with_suffix(".csv"), rows)
    return finish(figures, options)


if __name__ == "__main__":
    raise SystemExit(main())

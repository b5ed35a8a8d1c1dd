"""Lens correction from the picture alone: unseen lenses and photographs, real chessboards, time and memory.

    python bench/lens.py --checkpoint "stage 1=runs/stage1_param_only" --checkpoint "stage 2=runs/stage2_hybrid"

Photographs that nothing here was trained on (CBSD68, McMaster18, Set14) and drawn scenes full of straight lines are
seen through lenses of lensfun's data base that are in no training part (`dataset build lens` with the same --seed and
--val-share holds the same lenses out). The end-point error (EPE) is the mean distance to the true map in px of a
picture 1000 px wide; the bend is how far lines lie off straight ones, which position and scale do not change. PSNR and
SSIM are inside the valid area. Ways beside the checkpoints: the model in the package; no correction; the mean profile
of the training lenses; the true profile, which is the bound: its PSNR is what interpolating twice leaves; the true
shape at lensfun's usual scale, which is all that a picture can tell (of a lens on a camera with a smaller frame the
scale is another, and no straight line shows it: "own frame" leaves those out); and straight lines without a network.
Lines are found as `mlkit infer` finds them, in each picture at its own shape and size; "followed" counts those where
they tell the lens surely enough. A photograph was itself taken through a lens, and may show things that are bent, which
the true map does not hold; "with own" takes for the truth both, the profile and what lines surely say of the photograph
before it is distorted.

A checkpoint is NAME=FOLDER; several folders of one name by commas are seeds, and its interval is over them. Stages are
compared in the order in which they are given.

Chessboards: the 20 photographs of udacity's camera_cal, whose corners OpenCV finds; straightness of their rows and
columns before and after, each photograph corrected by itself, beside OpenCV's calibration with all of them (the bound).

Speed: applying a map to 24 megapixels beside OpenCV's remap, in turns, two threads; and whole processes on a PNG.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from _common import ROOT, Figure, finish, in_turns, options_parser, ratio, show

SETS = ("cbsd68", "mcmaster18", "set14")
SAMPLE = ("astronaut", "coffee")
THREADS = 2
LARGE = (4000, 6000)  # 24 megapixels


def photographs(options: argparse.Namespace, folder: Path) -> list[Path]:
    """Return photographs that nothing was trained on; where there are none, two of scikit-image."""
    found = [path for name in SETS if (path := options.photos / name).is_dir()]
    if found and not options.smoke:
        return found
    from PIL import Image
    from skimage import data

    for name in SAMPLE:
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in SAMPLE]


def whole_process(words: list[str]) -> tuple[float, float]:
    """Return seconds and peak memory in GB of a process, started by a small one: a peak counts the parent's too."""
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


_OPENCV = """
import cv2, numpy as np, sys
cv2.setNumThreads(2)
image = cv2.imread(sys.argv[1], cv2.IMREAD_UNCHANGED)
height, width = image.shape[:2]
unit = np.hypot(height, width) / 2
camera = np.array([[unit, 0, (width - 1) / 2], [0, unit, (height - 1) / 2], [0, 0, 1]])
x, y = cv2.initUndistortRectifyMap(camera, np.array([-0.1, 0.02, 0, 0, 0]), None, camera, (width, height), cv2.CV_32FC1)
cv2.imwrite(sys.argv[2], cv2.remap(image, x, y, cv2.INTER_CUBIC))
"""


def speed(smoke: bool, checkpoint: Path | None, rounds: int) -> list[Figure]:
    """Return seconds of applying a map to a large picture, and of whole processes."""
    import cv2
    import torch
    from PIL import Image

    from mlkit.tasks.lens.corrector import Correction, corrected_rows
    from mlkit.tasks.lens.geometry import frame_of

    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    height, width = (400, 600) if smoke else LARGE
    pixels = np.random.default_rng(0).random((height // 8, width // 8, 3), dtype=np.float32).repeat(8, 0).repeat(8, 1)
    params = torch.tensor([[-0.1, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    correction = Correction(params, None, torch.tensor([frame_of(height, width)], dtype=torch.float32))
    unit = np.hypot(height, width) / 2
    camera = np.array([[unit, 0, (width - 1) / 2], [0, unit, (height - 1) / 2], [0, 0, 1]])
    terms, size = np.array([-0.1, 0.02, 0, 0, 0]), (width, height)

    def ours() -> None:
        for _ in corrected_rows(pixels, correction):
            pass

    def theirs(image: np.ndarray) -> None:
        x, y = cv2.initUndistortRectifyMap(camera, terms, None, camera, size, cv2.CV_32FC1)
        cv2.remap(image, x, y, cv2.INTER_CUBIC)

    levels = np.rint(pixels * 255).astype(np.uint8)
    taken = in_turns(
        {"mlkit": ours, "OpenCV, float": lambda: theirs(pixels), "OpenCV, 8 bit": lambda: theirs(levels)}, rounds
    )
    megapixels = height * width / 1e6
    print()
    show(
        (f"{megapixels:.3g} MP, map and warp", "s"),
        [(name, f"{statistics.median(t):.2f}") for name, t in taken.items()],
    )
    figures = [
        Figure(f"{name}, map and warp of {megapixels:.3g} MP", round(statistics.median(times), 3), "s")
        for name, times in taken.items()
    ]
    figures.append(
        Figure("mlkit over OpenCV, float", round(ratio(taken["mlkit"], taken["OpenCV, float"]).value, 3), "x")
    )
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "large.png"
        Image.fromarray(levels).save(path, compress_level=1)
        theirs_s, theirs_gb = whole_process([sys.executable, "-c", _OPENCV, str(path), str(path.with_name("cv.png"))])
        figures += [
            Figure(f"OpenCV, PNG of {megapixels:.3g} MP, whole process", round(theirs_s, 1), "s"),
            Figure("its peak memory", round(theirs_gb, 2), "GB"),
        ]
        if checkpoint is not None:
            words = [sys.executable, "-m", "mlkit", "infer", "lens", str(path), "--out", str(path.parent / "out")]
            ours_s, ours_gb = whole_process([*words, "--force", "--checkpoint", str(checkpoint)])
            figures += [
                Figure(f"mlkit infer lens, PNG of {megapixels:.3g} MP, whole process", round(ours_s, 1), "s"),
                Figure("mlkit's peak memory", round(ours_gb, 2), "GB"),
            ]
    return figures


def named_checkpoints(given: list[str]) -> dict[str, list[Path]]:
    """Return the folders of each stage: NAME=FOLDER[,FOLDER...]; a run's folder stands for its best checkpoint."""
    from mlkit.runs.folders import resolve_run

    found = {}
    for word in given:
        name, _, folders = word.partition("=")
        if not folders:
            raise SystemExit(f"--checkpoint {word} is not of the form NAME=FOLDER")
        found[name] = [resolve_run(folder, Path("runs")).chosen_checkpoint() for folder in folders.split(",")]
    return found


def boards(folder: Path, correctors: Mapping[str, object], picture: Path | None) -> list[Figure]:
    from _lens_boards import BEFORE, BOUND, board_rows
    from mlkit.evaluation.statistics import mean_interval

    rows = board_rows(folder, correctors, picture=picture)  # type: ignore[arg-type]
    print()
    lines = []
    figures = []
    for way, by_board in rows.items():
        values = np.array(list(by_board.values()))
        found = mean_interval(values)
        lines.append(
            (way, f"{found.mean:.3f}", f"{values.max():.3f}", f"{(values / list(rows[BEFORE].values())).mean():.2f}")
        )
        words = f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"
        goal = (
            ("below before", bool(values.mean() < np.mean(list(rows[BEFORE].values()))))
            if way not in (BEFORE, BOUND)
            else (None, None)
        )
        figures.append(Figure(f"chessboards, {way}, bend", words, "px", *goal))
    show(("chessboards: bend, px at 1000 px", "mean", "most", "of before"), lines)
    return figures


def main() -> int:
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    parser = options_parser(__doc__)
    shared = Path(os.environ.get("MLKIT_SHARED_DATA", ROOT / "../shared/data"))
    parser.add_argument("--photos", type=Path, default=shared / "photos", help="folder with cbsd68, mcmaster18, set14")
    parser.add_argument("--boards", type=Path, default=shared / "lens/udacity_camera_cal", help="folder of chessboards")
    parser.add_argument(
        "--checkpoint", action="append", default=[], metavar="NAME=FOLDER", help="of a stage; repeatable"
    )
    parser.add_argument("--views", type=int, default=2, help="lenses for each photograph")
    parser.add_argument("--scenes", type=int, default=200, help="drawn scenes")
    parser.add_argument("--val-share", type=float, default=0.1, help="as the training data were built")
    parser.add_argument("--seed", type=int, default=0, help="as the training data were built")
    parser.add_argument("--picture", type=Path, help="write chessboards before and after here")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    from _lens_scores import (
        LINES,
        MEAN,
        NONE,
        PACKAGE,
        SHAPE,
        SURE,
        TRUE,
        all_for_validation,
        lines_way,
        mean_terms,
        network_way,
        profile_way,
        quality,
        scored,
        show_scores,
        usual_scale,
        write_scores,
    )  # fmt: skip
    from mlkit.tasks.lens.corrector import embedded_folder, open_corrector
    from mlkit.tasks.lens.dataset import build_dataset
    from mlkit.tasks.lens.settings import LensBuild

    stages = named_checkpoints(options.checkpoint)
    has_package = not options.smoke and (embedded_folder() / "checkpoint.json").is_file()
    if not stages and has_package:
        stages = {PACKAGE: [embedded_folder()]}
    opened = {
        f"{name}{f' #{place}' if len(folders) > 1 else ''}": open_corrector(folder)
        for name, folders in stages.items()
        for place, folder in enumerate(folders)
    }
    by_stage = {
        name: [f"{name}{f' #{place}' if len(folders) > 1 else ''}" for place in range(len(folders))]
        for name, folders in stages.items()
    }
    if has_package and PACKAGE not in opened:
        opened[PACKAGE] = open_corrector()
    for name, corrector in opened.items():
        if corrector.net.lines and corrector.net.sure != SURE:
            raise SystemExit(
                f"{name} has model.sure = {corrector.net.sure:g}; here {SURE:g} is measured, as in all presets"
            )
    sizes = {corrector.size for corrector in opened.values()} or {128 if options.smoke else 256}
    plain = max(sizes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build = LensBuild(seed=options.seed, val_share=options.val_share, smallest=plain)
        built = build_dataset(photographs(options, folder), folder / "data", build=build, skip_broken=True)
        views, scenes = (2, 4) if options.smoke else (options.views, options.scenes)
        data = all_for_validation(built.manifest, views, scenes)
        mean = mean_terms(data)
        ways = {
            NONE: (
                profile_way(lambda batch: batch["profile"].new_tensor([[1.0, *[0.0] * 6]]).expand_as(batch["profile"])),
                plain,
            ),
            MEAN: (profile_way(lambda batch: mean.expand_as(batch["profile"])), plain),
            SHAPE: (profile_way(lambda batch: usual_scale(batch["profile"], batch["frame"])), plain),
            TRUE: (profile_way(lambda batch: batch["profile"]), plain),
            LINES: (lines_way, plain),
            **{name: (network_way(corrector), corrector.size) for name, corrector in opened.items()},
        }
        rows = scored(ways, data)
    show_scores(rows)
    figures = quality(rows, by_stage)
    try:
        import cv2  # noqa: F401
    except ImportError:
        print("chessboards and OpenCV's times are left out: pip install opencv-python-headless")
    else:
        if options.boards.is_dir() and not options.smoke:
            firsts = {name: opened[ways[0]] for name, ways in by_stage.items()}  # of the first seed
            if has_package:
                firsts = {PACKAGE: opened[PACKAGE], **firsts}  # the last is drawn
            figures += boards(options.boards, firsts, options.picture)
        last = list(stages.values())[-1][-1] if stages else None
        figures += speed(options.smoke, last, 1 if options.smoke else options.rounds)
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if options.json and not options.smoke:
        write_scores(options.json.with_suffix(".csv"), rows)
    return finish(figures, options)


if __name__ == "__main__":
    sys.exit(main())

"""How large the page that `mlkit compare` writes is, how soon a browser shows it, and how long writing it takes.

    python bench/report.py

Two runs are planted with 24 images of a megapixel, made of scikit-image's photographs: the truth, what either model
makes of it (the photograph with noise, and smoothed), and both error maps, 120 pictures in all. The page is opened in
headless Chromium with the network off, from a file, each time in a new context; first paint and first contentful
paint are what the browser itself tells (Paint Timing), from the start of the navigation. A page of the same text
without any picture, which is what parsing and styling alone take, is opened in turns with it. Without Chromium or
playwright the page is only written.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from _common import Figure, at_most, finish, options_parser, ratio, seconds, show

IMAGES, SIDE = 24, 1024
MOST_MB = 10.0
GOAL_S = 1.0
PAINT = """() => Object.fromEntries(performance.getEntriesByType("paint").map(one => [one.name, one.startTime]))"""
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


def write_runs(folder: Path, images: int) -> list[Path]:
    """Write two runs with scores of as many images, and 200 rows of training."""
    made = []
    for place, name in enumerate(("baseline", "candidate")):
        checkpoint = folder / name / "ckpt-2000"
        checkpoint.mkdir(parents=True)
        base, noise = np.random.default_rng(0), np.random.default_rng(place + 1)
        scores = base.normal(30, 4, images) + 0.1 * place + noise.normal(0, 0.2, images)
        about = {
            "format_version": 1,
            "name": name,
            "id": name,
            "status": "success",
            "command": f"mlkit train --name {name}",
        }
        (folder / name / "run.json").write_text(json.dumps(about))
        rows = [{"step": 10 * row, "loss": float(np.exp(-row / 60) + 0.05 * noise.random())} for row in range(1, 201)]
        rows += [{"step": 100 * row, "split": "validation", "psnr": 30 - 8 * 0.8**row} for row in range(1, 21)]
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        info = {"format_version": 1, "step": 2000, "settings": {"train": {"lr": 1e-3 * (place + 1)}}, "parameters": 100}
        (checkpoint / "checkpoint.json").write_text(json.dumps(info))
        report = {
            "format_version": 1,
            "step": 2000,
            "split": "validation",
            "dataset_sha256": "a" * 64,
            "signatures": {"psnr": "psnr|rgb|crop0|clip01|mean-of-images|v1"},
            "ids": [f"photograph/{index:03d}" for index in range(images)],
            "scores": {"psnr": scores.tolist()},
        }
        (checkpoint / "eval.json").write_text(json.dumps(report))
        made.append(checkpoint)
    return made


def photographs(count: int, side: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yield crops of photographs enlarged to a square, [side, side, 3] in [0, 1]."""
    from skimage import data
    from skimage.transform import resize

    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.immunohistochemistry()]
    for index in range(count):
        image = sources[index % len(sources)]
        size = min(image.shape[:2]) * 3 // 4
        share = index // len(sources) / max(1, count // len(sources))
        top, left = (int((image.shape[axis] - size) * share) for axis in (0, 1))
        crop = image[top : top + size, left : left + size]
        # Fine grain, as a photograph of a megapixel has it and an enlarged one has not.
        grain = np.random.default_rng(index).normal(0, 0.01, (side, side, 1))
        yield (resize(crop, (side, side), order=1) + grain).clip(0, 1).astype(np.float32)


def shown_images(ids: list[str], side: int) -> list[Any]:
    """Return the pictures of each image."""
    from scipy.ndimage import gaussian_filter

    from mlkit.report.content import Shown, ShownImage
    from mlkit.report.pictures import error_map, picture

    found = []
    for index, (name, truth) in enumerate(zip(ids, photographs(len(ids), side), strict=True)):
        noise = np.random.default_rng(index).normal(0, 0.02, truth.shape)
        made = [(truth + noise).clip(0, 1).astype(np.float32), gaussian_filter(truth, (1.2, 1.2, 0))]
        results = [Shown(model, picture(one), place) for place, (model, one) in enumerate(zip("AB", made, strict=True))]
        errors = [
            Shown(f"|error| x8 of {'AB'[place]}", picture(error_map(one, truth)), place)
            for place, one in enumerate(made)
        ]
        found.append(ShownImage(name, [Shown("Truth", picture(truth))], results, errors))
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """Give a running Chromium, or None where there is none."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or importlib.util.find_spec("playwright") is None:
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield started
        started.close()


def paints(chromium: Any, pages: Mapping[str, Path], rounds: int) -> dict[str, list[float]]:
    """Return seconds to the first contentful paint of each page, in turns; the first round does not count."""
    found: dict[str, list[float]] = {name: [] for name in pages}
    for turn in range(rounds + 1):
        for name, path in pages.items():
            context = chromium.new_context(viewport={"width": 1440, "height": 900}, offline=True)
            page = context.new_page()
            page.goto(path.as_uri())
            page.wait_for_function(f"() => 'first-contentful-paint' in ({PAINT})()")
            if turn:
                found[name].append(page.evaluate(PAINT)["first-contentful-paint"] / 1000)
            context.close()
    return found


def main() -> int:
    options = options_parser(__doc__).parse_args()
    images, side, rounds = (3, 64, 1) if options.smoke else (IMAGES, SIDE, 7)
    from mlkit.evaluation.comparison import Candidate, compare_checkpoints
    from mlkit.report.page import write_page
    from mlkit.report.trainings import models_of

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoints = write_runs(folder / "runs", images)
        comparison = compare_checkpoints([Candidate(one.parent.name, one) for one in checkpoints])
        shown = shown_images(list(comparison.ids), side)

        def page_with(name: str, those: list[Any]) -> Callable[[], Path]:
            models = models_of(comparison)
            return lambda: write_page(
                folder / name, comparison=comparison, models=models, images=those, command="mlkit compare A B"
            )

        taken = seconds(page_with("report", shown))
        page_with("text", [])()
        size_mb = (folder / "report" / "index.html").stat().st_size / 1e6
        pages = {"the page": folder / "report" / "index.html", "its text alone": folder / "text" / "index.html"}
        with browser() as chromium:
            times = paints(chromium, pages, rounds) if chromium else {}
    print(f"{images} images of {side}x{side} in {size_mb:.2f} MB, written in {taken:.1f} s")
    figures = [
        at_most(f"page of {images} images of {side}x{side}", size_mb, MOST_MB, "MB"),
        Figure("writing it", round(taken, 1), "s"),
    ]
    if times:
        show(
            ("first contentful paint", "median"),
            [[name, f"{statistics.median(one):.3f} s"] for name, one in times.items()],
        )
        over = ratio(times["the page"], times["its text alone"])
        figures += [
            at_most("first contentful paint in Chromium", statistics.median(times["the page"]), GOAL_S, "s"),
            Figure("over its text alone", round(over.value, 2), "x"),
        ]
    else:
        print("no chromium with playwright here: the paint is not measured")
    return finish(figures, options)


if __name__ == "__main__":
    raise SystemExit(main())

"""How large a picture lines are found in, and how surely they must tell the lens to be followed.

    python docs/experiments/lens/run.py --photos ../shared/data/photos/train --json docs/experiments/lens/results.json

Photographs (with those of scikit-image and scikit-learn) and drawn scenes behind lenses of the training part, so that
nothing is chosen by what bench/lens.py measures. Each is seen as a photograph of its own shape with a longer side of
each of SIDES px, or its own where that is smaller; lines alone, no network. PSNR is inside the valid area at 256 px and
cut at 60 dB, since a picture whose lens bends nothing has 100 dB and more where it is left alone.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bench"))

import _common  # noqa: E402 - beside the measurements

SIDES = (256, 384, 512, 640, 768)
ASKED = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SIDE, SURE = 640, 0.7  # as taken
SIZE = 256  # of the maps that are compared
MOST_PSNR = 60.0
HARM_PX = 0.05


def photographs(folder: Path) -> list[Path]:
    import skimage
    import sklearn

    of_packages = [
        Path(skimage.__file__).parent / "data" / name for name in ("astronaut.png", "coffee.png", "chelsea.png")
    ]
    of_packages += [
        Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg")
    ]
    return [*sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png")), *filter(Path.is_file, of_packages)]


def pictures(folder: Path, photos: list[Path], views: int, scenes: int) -> Any:
    """Return a dataset whose validation part are these photographs and scenes behind lenses of the training part."""
    from mlkit.tasks.lens.dataset import build_dataset
    from mlkit.tasks.lens.settings import LensBuild
    from mlkit.tasks.lens.source import opened_profiles

    data = build_dataset(photos, folder, build=LensBuild(smallest=SIZE), skip_broken=True).manifest
    _, splits = opened_profiles(data)
    lenses = np.random.default_rng(1).permutation([place for place, split in enumerate(splits) if split == "train"])
    entries = [{**photo, "split": "validation"} for photo in data.details["photographs"]]
    drawn = [(place, 0) for place in range(len(entries)) for _ in range(views)]
    drawn += [(-1, 100_000 + number) for number in range(scenes)]  # other scenes than any dataset has
    found = [
        {"photo": photo, "number": number, "profile": int(lenses[place % len(lenses)])}
        for place, (photo, number) in enumerate(drawn)
    ]
    details = {**data.details, "photographs": entries, "views": found}
    return replace(data, details=details, splits={**data.splits, "validation": len(found)})


def heard(data: Any, side: int) -> list[dict[str, float]]:
    """Return for each picture: whether it is a scene, how sure its lines are, and EPE and PSNR before and after."""
    from mlkit.metrics.geometry import end_point_error, inside
    from mlkit.tasks.lens import inputs, source
    from mlkit.tasks.lens.geometry import identity_grid, parametric_grid, profile_grid, warp
    from mlkit.tasks.lens.scores import picture_scores
    from mlkit.tasks.lens.settings import LensData

    inputs.LINES_PX = source.LINES_PX = side
    views = source.LensSource(data, "validation", LensData(size=SIZE), sure=0.0)
    rows = []
    for index in range(len(views)):
        sample = {key: value[None] for key, value in views.sample(index, np.random.default_rng(0)).items()}
        frame = sample["frame"]
        truth = profile_grid(sample["profile"], frame, SIZE, SIZE)
        row = {"scene": views.sample_id(index).startswith("scene/"), "sure": float(sample["lines_facts"][0, -1])}
        without = identity_grid(SIZE, SIZE)[None]
        for name, grid in (("before", without), ("after", parametric_grid(sample["lines_params"], frame, SIZE, SIZE))):
            valid = inside(grid) & inside(truth)
            psnr = picture_scores(warp(sample["image"], grid), sample["target"], valid)["psnr"]
            row[f"epe_{name}"] = float(end_point_error(grid, truth, frame).mean())
            row[f"psnr_{name}"] = min(MOST_PSNR, float(psnr))
        rows.append(row)
    return rows


def followed(rows: list[dict[str, float]], sure: float) -> dict[str, dict[str, float]]:
    """Return the means where lines are followed from `sure` on, by kind of picture."""
    found = {}
    for kind in ("photographs", "scenes"):
        some = [row for row in rows if row["scene"] == (kind == "scenes")]
        taken = np.array([row["sure"] >= sure for row in some])
        before, after = (
            np.array([[row[f"{key}_{when}"] for key in ("epe", "psnr")] for row in some])
            for when in ("before", "after")
        )
        made = np.where(taken[:, None], after, before)
        found[kind] = {
            "pictures": len(some),
            "epe_without": round(float(before[:, 0].mean()), 4),
            "psnr_without": round(float(before[:, 1].mean()), 3),
            "epe": round(float(made[:, 0].mean()), 4),
            "psnr": round(float(made[:, 1].mean()), 3),
            "followed": round(float(taken.mean()), 4),
            "worse": round(float((made[:, 0] > before[:, 0] + HARM_PX).mean()), 4),
        }
    return found


def main() -> int:
    import torch

    parser = _common.options_parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--views", type=int, default=6, help="lenses for each photograph")
    parser.add_argument("--scenes", type=int, default=120)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        data = pictures(Path(temporary) / "data", photographs(options.photos), options.views, options.scenes)
        by_side = {}
        for side in SIDES:
            by_side[side] = heard(data, side)
            print(f"{side} px: {followed(by_side[side], SURE)}", flush=True)
    found = {
        "sides": {
            str(side): {"all": followed(rows, 0.0), "sure": followed(rows, SURE)} for side, rows in by_side.items()
        },
        "asked": {str(sure): followed(by_side[SIDE], sure) for sure in ASKED},
    }
    _common.write_experiment(options.json, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The open questions of the demosaicing log, answered by short runs: about half an hour on one CPU core.

    python docs/experiments/demosaic/run.py --json docs/experiments/demosaic/results.json

1. What makes a 6 x 6 grid when a network is fine-tuned: flips, the learning rate, measured instead of synthetic
   mosaics, or a wrong phase? Each planted in turn, the lattice measured over the steps.
2. Does SSIM in the loss sharpen texture, and what does it cost?
3. Fine-tuning on synthetic patterns alone forgets photographs; which of mixing, elastic weight consolidation and
   freezing prevents it best?
4. What does training on sRGB instead of linear light do to highlights?

Networks are small (32 channels, 4 blocks) and runs short, so differences count and levels do not. Needs the photographs
of --photos; two of them are held out and scored.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bench"))

import _common  # noqa: E402 - commit, machine and options as the measurements have them

PHOTOS = ROOT.parent / "shared" / "data" / "photos" / "train"
SMALL = ("model.channels=32", "model.blocks=4", "data.crop=72", "train.batch_size=8", "train.warmup_steps=20")
LOG_LIKE = 'model.input="samples"'  # as the log's network: nothing keeps it from leaving a pattern in flat areas
BASE_STEPS, LIGHT_STEPS, TUNE_STEPS = 3000, 2000, 600
EVERY = 150
KEYS = ("cpsnr", "cpsnr_linear", "ssim", "texture", "highlight_error", "zipper", "cfa_harmonic_db", "cfa_fold")
DNG_SIDE = 1200  # px of the pictures that are written as camera files


@dataclass(frozen=True, slots=True)
class Variant:
    """One run: what it is called, what it trains on, and which settings differ."""

    name: str
    title: str
    data: str
    preset: str
    settings: tuple[str, ...] = ()
    start: str = ""  # name of the run whose weights it begins with
    steps: int = TUNE_STEPS


def grid_variants() -> list[Variant]:
    """Return the runs of question 1: fine-tuning with one thing changed at a time."""

    def tuned(name: str, title: str, *settings: str, data: str = "photos", start: str = "base_samples") -> Variant:
        return Variant(
            name, title, data, "v4_ft", (*settings, *((LOG_LIKE,) if start == "base_samples" else ())), start
        )

    return [
        tuned("ft", "as v4_ft: flips, learning rate 1e-4"),
        tuned("ft_no_flips", "no flips", "data.flips=false"),
        tuned("ft_lr3", "learning rate 1e-3", "train.lr=1e-3"),
        tuned("ft_lr5", "learning rate 1e-5", "train.lr=1e-5"),
        tuned("ft_lr6", "learning rate 1e-6", "train.lr=1e-6"),
        tuned("ft_measured", "measured mosaics, LibRaw's picture as target", data="measured"),
        tuned("ft_phase01", "phase wrong by (0, 1)", "data.phase_error=[0, 1]"),
        tuned("ft_phase03", "phase wrong by (0, 3): red and blue exchanged", "data.phase_error=[0, 3]"),
        tuned("ft_detail", "as v4_ft, with a network that sees details only", start="base"),
    ]


def ssim_variants() -> list[Variant]:
    """Return the runs of question 2: balances of L1 and SSIM."""
    return [
        Variant(f"ssim_{name}", title, "photos", "v4_ssim", (f"loss.l1={l1}", f"loss.ssim={ssim}"), "base")
        for name, title, l1, ssim in (
            ("0", "1.0 L1 + 0.1 gradient", 1.0, 0.0),
            ("25", "0.7 L1 + 0.25 (1 - SSIM) + 0.1 gradient", 0.7, 0.25),
            ("50", "0.4 L1 + 0.5 (1 - SSIM) + 0.1 gradient (v4_ssim)", 0.4, 0.5),
            ("80", "0.1 L1 + 0.8 (1 - SSIM) + 0.1 gradient", 0.1, 0.8),
        )
    ]


def forgetting_variants(photos: Path) -> list[Variant]:
    """Return the runs of question 3: ways to learn patterns without forgetting photographs."""
    guard = f'eval.guard_data="{photos}"'
    ewc = (f'train.ewc_data="{photos}"', "train.ewc_samples=200")

    def tuned(name: str, title: str, data: str, preset: str, *settings: str) -> Variant:
        return Variant(name, title, data, preset, ("train.lr=1e-3", guard, *settings), "base")

    return [
        tuned("torture", "patterns alone", "torture", "torture_ft"),
        tuned("torture_low", "patterns alone, learning rate 1e-4", "torture", "torture_ft", "train.lr=1e-4"),
        tuned(
            "mixed", "80 % photographs, 15 % sharp, 5 % patterns (mixed_ft)", "mixed", "mixed_ft", "data.mix_ramp=1200"
        ),
        tuned("half", "50 % photographs, 50 % patterns", "half", "mixed_ft", "data.mix_ramp=1200"),
        tuned(
            "ewc", "patterns alone, elastic weight consolidation 1e5", "torture", "torture_ft", "train.ewc=1e5", *ewc
        ),
        tuned("ewc_strong", "patterns alone, consolidation 1e7", "torture", "torture_ft", "train.ewc=1e7", *ewc),
        tuned(
            "frozen",
            "patterns alone, first half frozen",
            "torture",
            "torture_ft",
            'train.freeze=["head.*", "body.0.*", "body.1.*"]',
        ),
    ]


@dataclass(slots=True)
class Lab:
    """Where runs and datasets are, and what was measured."""

    work: Path
    photos: Path
    smoke: bool
    results: dict[str, Any] = field(default_factory=dict)

    def steps(self, steps: int) -> int:
        return 4 if self.smoke else steps

    def cli(self, *words: str) -> str:
        """Run mlkit; its own words are the error."""
        environment = {**os.environ, "MLKIT_RUNS_DIR": str(self.work / "runs"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-m", "mlkit", *words], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"mlkit {' '.join(words)}\n{done.stderr[-3000:]}")
        return done.stderr

    def build(self, name: str, *words: str) -> Path:
        folder = self.work / name
        if not folder.exists():
            self.cli("dataset", "build", "demosaic", "--out", str(folder), *words)
        return folder

    def train(self, variant: Variant) -> Path:
        """Train one run, or find it trained already; returns its folder."""
        folder = self.work / "runs" / variant.name
        if (folder / "done").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        steps = self.steps(variant.steps)
        words = ["train", "--preset", variant.preset, "--data", str(self.work / variant.data), "--name", variant.name]
        settings = (
            *SMALL, f"train.steps={steps}", "checkpoint.keep_last=99",
            f"checkpoint.every={min(EVERY, steps) if variant.steps == TUNE_STEPS else steps}",
            "checkpoint.grid=false", "eval.max_samples=8", 'train.precision="bf16"', *variant.settings,
        )  # fmt: skip
        for setting in settings:
            words += ["--set", setting]
        if variant.start:
            words += ["--init-from", str(self.work / "runs" / variant.start)]
        started_s = time.perf_counter()
        said = self.cli(*words)
        (folder / "said.txt").write_text(said)
        (folder / "done").touch()
        print(f"{variant.name}: {steps} steps in {time.perf_counter() - started_s:.0f} s", flush=True)
        return folder

    def score(self, folder: Path, data: str = "photos", *, whole: bool = False) -> dict[int, dict[str, float]]:
        """Return the mean scores of the last checkpoint, or of all, on a dataset's validation part, by step."""
        from mlkit.commands.opened import evaluate_opened, open_model, pick_device
        from mlkit.data.manifest import open_manifest
        from mlkit.evaluation.evaluate import spread_indices
        from mlkit.runs.folders import checkpoints
        from mlkit.tasks.demosaic.settings import DemosaicData
        from mlkit.tasks.demosaic.source import MosaicSource

        source = MosaicSource(open_manifest(self.work / data), "validation", DemosaicData())
        fit = [index for index in range(len(source)) if (source.family(index) == "real") == (data == "photos")]
        indices = [fit[place] for place in spread_indices(len(fit), 4 if self.smoke else 48)]
        scores = {}
        for checkpoint in checkpoints(folder) if whole else checkpoints(folder)[-1:]:
            opened = open_model(checkpoint, pick_device("cpu")[0])
            means = evaluate_opened(opened, source, indices).means()
            scores[opened.checkpoint.step] = {key: round(means[key], 4) for key in KEYS if np.isfinite(means[key])}
            scores[opened.checkpoint.step]["flat_lattice"] = round(flat_lattice(opened.net), 4)
        return scores

    def answer(self, question: str, variants: Sequence[Variant], *, extra: str = "", whole: bool = False) -> None:
        """Train and score the runs of one question; `whole`: each of their checkpoints."""
        rows = []
        for variant in variants:
            folder = self.train(variant)
            row = {"name": variant.name, "title": variant.title, "scores": self.score(folder, whole=whole)}
            if extra:
                row["new"] = self.score(folder, extra)
                said = (folder / "said.txt").read_text().splitlines()
                told = [line.strip().replace(str(self.work), "DIR") for line in said if "forgetting:" in line]
                row["guard"] = told[:1]
            rows.append(row)
        self.results[question] = rows


def flat_lattice(net: Any) -> float:
    """Return the lattice that a network leaves in a smooth picture: `cfa_fold`, in 1/255 of sRGB."""
    import torch

    from mlkit.metrics.mosaic import cfa_fold, srgb_encoded
    from mlkit.tasks.demosaic.xtrans import mosaic

    y, x = np.mgrid[0:126, 0:126].astype(np.float32) / 126
    smooth = np.stack([0.2 + 0.3 * x, 0.35 + 0.2 * y, 0.6 - 0.3 * x * y], axis=2).astype(np.float32)
    values = torch.from_numpy(mosaic(smooth).copy())[None, None]
    with torch.inference_mode():
        made = net(values, torch.zeros(1, 2, dtype=torch.long))
    truth = torch.from_numpy(smooth).permute(2, 0, 1)[None]
    return float(cfa_fold(srgb_encoded(made), srgb_encoded(truth), border=30)[0])


def highlights(lab: Lab, runs: Mapping[str, Path]) -> None:
    """Score question 4 on the same pictures made two stops brighter, so that a part of each is above white.

    The network of sRGB values gets what an sRGB picture has: clipped at white, encoded; its result is decoded again.
    """
    import torch

    from mlkit.commands.opened import open_model, pick_device
    from mlkit.data.manifest import open_manifest
    from mlkit.evaluation.evaluate import spread_indices
    from mlkit.metrics.mosaic import cpsnr, cpsnr_linear, highlight_error, srgb_decoded, srgb_encoded
    from mlkit.runs.folders import checkpoints
    from mlkit.tasks.demosaic.settings import DemosaicData
    from mlkit.tasks.demosaic.source import MosaicSource

    source = MosaicSource(open_manifest(lab.work / "photos"), "validation", DemosaicData())
    rows = []
    for name, folder in runs.items():
        opened = open_model(checkpoints(folder)[-1], pick_device("cpu")[0])
        for stops in (0, 2):
            found: dict[str, list[float]] = {"cpsnr": [], "cpsnr_linear": [], "highlight_error": []}
            for index in spread_indices(len(source), 4 if lab.smoke else 48):
                sample = source.sample(index, np.random.default_rng(0))
                truth, values = sample["image"][None] * 2.0**stops, sample["mosaic"][None] * 2.0**stops
                with torch.inference_mode():
                    if name == "v3_srgb":
                        made = srgb_decoded(opened.net(srgb_encoded(values.clamp(0, 1)), sample["phase"][None]))
                    else:
                        made = opened.net(values, sample["phase"][None])
                found["cpsnr"].append(float(cpsnr(srgb_encoded(made), srgb_encoded(truth))))
                found["cpsnr_linear"].append(float(cpsnr_linear(made, truth)))
                found["highlight_error"].append(float(highlight_error(made, truth)))
            rows.append({"name": name, "stops": stops, **_means(found)})
    lab.results["light"] = rows


def _means(found: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """Return the means of what is defined; None where nothing is."""
    defined = {key: [value for value in values if np.isfinite(value)] for key, values in found.items()}
    return {key: round(float(np.mean(values)), 4) if values else None for key, values in defined.items()}


def write_camera_files(lab: Lab, folder: Path) -> None:
    """Write photographs, halved, as X-Trans files of a camera: 14 bit, black level, a phase of their own, noise."""
    from PIL import Image

    from mlkit.imaging.images import list_images
    from mlkit.imaging.light import srgb_to_linear
    from mlkit.tasks.demosaic.dng import write_cfa_dng
    from mlkit.tasks.demosaic.raw import SMALLEST_PX
    from mlkit.tasks.demosaic.xtrans import colors, mosaic

    folder.mkdir(parents=True)
    large = [path for path in list_images(lab.photos) if min(Image.open(path).size) >= 2 * SMALLEST_PX]
    for number, path in enumerate(large[: 3 if lab.smoke else 8]):
        picture = Image.open(path).convert("RGB").reduce(2)
        levels = np.asarray(picture)[:DNG_SIDE, :DNG_SIDE].astype(np.float32) / 255
        phase = (number % 3, number % 6)
        light = mosaic(np.asarray(srgb_to_linear(levels), np.float32), phase)
        noise = np.random.default_rng(number).normal(size=light.shape) * np.sqrt(2e-4 * light + 1e-7)
        raw = np.clip(np.rint((light + noise) * (16383 - 1024) + 1024), 0, 16383).astype(np.uint16)
        write_cfa_dng(folder / f"{path.stem}.dng", raw, colors(6, 6, phase), black=1024, white=16383)


def draw(lab: Lab, folder: Path) -> None:
    """Draw what questions 1, 3 and 4 are about on a held-out photograph: results, and errors of the whole picture."""
    import torch

    from mlkit.commands.opened import open_model, pick_device
    from mlkit.data.manifest import open_manifest
    from mlkit.imaging.grids import Panel, comparison_grid, write_png
    from mlkit.metrics.mosaic import cpsnr, srgb_decoded, srgb_encoded
    from mlkit.runs.folders import checkpoints
    from mlkit.tasks.demosaic.settings import DemosaicData
    from mlkit.tasks.demosaic.source import MosaicSource

    source = MosaicSource(open_manifest(lab.work / "photos"), "validation", DemosaicData())
    samples = [source.sample(index, np.random.default_rng(0)) for index in range(len(source))]
    bright_share = [float((one["image"] > 0.25).float().mean()) for one in samples]  # what is above white, 2 stops up
    some = [one for one, share in zip(samples, bright_share, strict=True) if 0.2 < share < 0.6] or samples
    sample = max(some, key=lambda one: float(srgb_encoded(one["image"]).diff(dim=2).abs().mean()))
    truth, values, phase = sample["image"][None], sample["mosaic"][None], sample["phase"][None]

    def panels(name: str, title: str, gain: float = 1.0, shown: float = 1.0) -> tuple[Panel, Panel]:
        opened = open_model(checkpoints(lab.work / "runs" / name)[-1], pick_device("cpu")[0])
        with torch.inference_mode():
            if name == "v3_srgb":
                made = srgb_decoded(opened.net(srgb_encoded((values * gain).clamp(0, 1)), phase))
            else:
                made = opened.net(values * gain, phase)
        made, meant = srgb_encoded(made / gain * shown), srgb_encoded(truth * shown)
        error = ((made - meant).abs() * 16)[0].clamp(0, 1)
        note = f"cPSNR {float(cpsnr(made, meant)):.2f} dB"
        return picture(title, made[0], note), picture("|error| x16", error, "")

    def picture(title: str, image: Any, note: str) -> Panel:
        return Panel(title, np.ascontiguousarray(image.clamp(0, 1).permute(1, 2, 0).numpy(), dtype=np.float32), note)

    folder.mkdir(parents=True, exist_ok=True)
    mosaic = picture("mosaic", srgb_encoded(values).expand(1, 3, -1, -1)[0], "")
    original = picture("truth", srgb_encoded(truth)[0], "")
    for file, ways in {
        "grid.png": (
            ("ft", "fine-tuned as v4_ft"),
            ("ft_measured", "on LibRaw's picture"),
            ("ft_phase01", "phase wrong by (0, 1)"),
            ("ft_phase03", "phase wrong by (0, 3)"),
        ),
        "forgetting.png": (
            ("base", "before fine-tuning"),
            ("torture", "on patterns alone"),
            ("ewc_strong", "consolidation 1e7"),
            ("mixed", "mixed"),
        ),
    }.items():
        columns = [panels(name, title) for name, title in ways]
        rows = [[original, *(made for made, _ in columns)], [mosaic, *(error for _, error in columns)]]
        write_png(folder / file, comparison_grid(rows, labels=["results", "errors"]))
    bright = [panels(name, title, 4.0, 0.5) for name, title in (("v3_srgb", "sRGB"), ("v4_linear", "linear light"))]
    dimmed = picture("truth", srgb_encoded(truth * 0.5)[0], "")
    rows = [[dimmed, *(made for made, _ in bright)], [mosaic, *(error for _, error in bright)]]
    write_png(folder / "highlights.png", comparison_grid(rows, labels=["results", "errors"]))


def main() -> int:
    parser = _common.options_parser(__doc__)
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="photographs to train on and hold out")
    parser.add_argument("--work", type=Path, help="keep datasets and runs here, and go on where a stopped call was")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also draw a held-out photograph")
    options: argparse.Namespace = parser.parse_args()
    if not options.photos.is_dir():
        print(f"skipped: no photographs in {options.photos}; give --photos")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        lab = Lab((options.work or Path(temporary)).absolute(), options.photos.absolute(), options.smoke)
        (lab.work / "runs").mkdir(parents=True, exist_ok=True)
        photos = lab.build("photos", "--source", str(lab.photos), "--reduce", "3,4")
        lab.build("torture", "--torture", "520", "--mix", "torture=1")
        mixed = ("--source", str(lab.photos), "--reduce", "3,4", "--torture", "520", "--mix")
        lab.build("mixed", *mixed, "real=0.80,sharp=0.15,torture=0.05")
        lab.build("half", *mixed, "real=0.5,torture=0.5")
        if not (lab.work / "camera").exists():
            write_camera_files(lab, lab.work / "camera")
        lab.build("measured", "--source", str(lab.work / "camera"), "--teacher", "libraw")
        for base in (
            Variant("base", "base", "photos", "v4_linear", (), steps=BASE_STEPS),
            Variant("base_samples", "base", "photos", "v4_linear", (LOG_LIKE,), steps=BASE_STEPS),
        ):
            lab.train(base)
        lab.results["start"] = {
            name: {
                "photos": lab.score(lab.work / "runs" / name),
                "patterns": lab.score(lab.work / "runs" / name, "torture"),
            }
            for name in ("base", "base_samples")
        }
        lab.answer("grid", grid_variants(), whole=True)
        lab.answer("ssim", ssim_variants())
        lab.answer("forgetting", forgetting_variants(photos), extra="torture")
        pair = {
            name: lab.train(Variant(name, name, "photos", name, (), steps=LIGHT_STEPS))
            for name in ("v3_srgb", "v4_linear")
        }
        highlights(lab, pair)
        if options.pictures:
            draw(lab, options.pictures)
        _common.write_experiment(options.json, lab.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

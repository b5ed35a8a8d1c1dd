"""What the extra parameters buy near the speckle wall: narrow models on the embedded sample, equal steps and data.

    python docs/experiments/sar/run.py --work DIR --json docs/experiments/sar/results.json

The embedded sample has each scene without its speckle, so models are scored against that (PSNR to truth) beside the
speckled image (PSNR), whose wall is the same for all. Each try changes one thing; a gain is over the baseline with the
same loss and steps, which saw the same crops of 64 px in the same order. Goal: 1.5 dB in PSNR to truth.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bench"))

import _common  # noqa: E402 - beside the measurements

KEYS = ("psnr", "psnr_truth", "psnr_wall", "ssim", "enl_ratio", "epi")
# Narrow, so that a try takes minutes of one core; crops of 64 px in batches of 8.
SHARED = (
    "data.patch=64", "train.batch_size=8", "train.warmup_steps=100", "eval.max_samples=108", "checkpoint.grid=false",
    "checkpoint.keep_last=99", "eval.early_stop_patience=1000", 'train.precision="bf16"', "train.channels_last=true",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Try:
    """One training: a preset with changed settings."""

    name: str
    title: str
    preset: str
    settings: tuple[str, ...]
    against: str = "baseline"  # the try with the same loss and steps that gains are over
    steps: int = 2000
    seeds: tuple[int, ...] = (0,)


def _width(preset: str) -> str:
    return f"model.base_channels={16 if preset == 'baseline_c16' else 8}"


def _short(name: str, title: str, preset: str, *settings: str, against: str = "baseline") -> Try:
    return Try(name, title, preset, (_width(preset), *settings), against)


def _long(name: str, title: str, preset: str, *settings: str) -> Try:
    kept = (_width(preset), *AVERAGED, *settings)
    return Try(name, title, preset, kept, "baseline_long", steps=4000, seeds=(0, 1, 2))


FAST = "train.lr=3e-3"
SLOWER = "train.lr=2e-3"
AVERAGED = ("train.ema_decay=0.998",)
SQUARED = ("loss.mse_weight=1.0", "loss.ssim_weight=0.0")
BASELINE, RESIDUAL = "baseline_c16", "residual_v1_c16"
TRIES = (
    _short("baseline", "baseline, rate 1e-3", BASELINE, "train.lr=1e-3"),
    _short("baseline_fast", "baseline, 3e-3", BASELINE, FAST),
    _short("residual", "residual_v1, 1e-3", RESIDUAL, "train.lr=1e-3"),
    _short("residual_fast", "residual_v1, 3e-3", RESIDUAL, FAST),
    _short("residual_ema", "residual_v1, 3e-3, averaged weights (EMA 0.998)", RESIDUAL, FAST, *AVERAGED),
    _short("baseline_mse", "baseline, 3e-3, EMA, squared error alone", BASELINE, FAST, *AVERAGED, *SQUARED),
    _short(
        "residual_mse", "residual_v1, 3e-3, EMA, squared error alone", RESIDUAL, FAST, *AVERAGED, *SQUARED,
        against="baseline_mse",
    ),
    _long("baseline_long", "baseline, squared error alone", BASELINE, FAST, *SQUARED),
    _long("residual_long", "residual_v1, squared error alone", RESIDUAL, SLOWER, *SQUARED),
    Try(
        "baseline_longest", "baseline, squared error alone, twice as long", BASELINE,
        (_width(BASELINE), *AVERAGED, FAST, *SQUARED), "baseline_longest", steps=8000,
    ),
)  # fmt: skip


def cli(work: Path, *words: str) -> None:
    """Run mlkit; its own words are the error."""
    environment = {**os.environ, "MLKIT_RUNS_DIR": str(work / "runs"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "mlkit", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"mlkit {' '.join(words)}\n{done.stderr[-3000:]}")


def trained(one: Try, seed: int, work: Path, data: Path, steps: int) -> Path:
    """Train one seed of a try, or find it trained already; returns its folder."""
    folder = work / "runs" / (one.name if seed == 0 else f"{one.name}-s{seed}")
    if (folder / "cpu_s.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    words = ["train", "--preset", one.preset, "--data", str(data), "--name", folder.name, "--max-steps", str(steps)]
    for setting in (*SHARED, f"seed={seed}", f"checkpoint.every={min(1000, steps // 4)}", *one.settings):
        words += ["--set", setting]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    cli(work, *words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (folder / "cpu_s.json").write_text(json.dumps(round(cpu_s, 1)))
    print(f"{folder.name}: {steps} steps in {cpu_s:.0f} s of one core", flush=True)
    return folder


def measured(one: Try, folders: Sequence[Path], steps: int) -> dict[str, Any]:
    """Return parameters, time and, for each seed, mean scores by step."""
    from mlkit.runs.folders import checkpoints

    runs, parameters = [], 0
    for folder in folders:
        scores = {}
        for checkpoint in checkpoints(folder):
            info = json.loads((checkpoint / "checkpoint.json").read_text())
            parameters = info["parameters"]
            scores[info["step"]] = {key: round(info["scores"][key], 4) for key in KEYS if key in info["scores"]}
        runs.append(scores)
    settings = [setting for setting in one.settings if not setting.startswith("model.")]
    return {
        "name": one.name, "title": one.title, "against": one.against, "settings": settings, "steps": steps,
        "parameters": parameters, "cpu_s": max(json.loads((folder / "cpu_s.json").read_text()) for folder in folders),
        "runs": runs,
    }  # fmt: skip


def main() -> int:
    parser = _common.options_parser(__doc__)
    parser.add_argument("--work", type=Path, help="keep dataset and runs here, and go on where a stopped call was")
    parser.add_argument("--only", nargs="*", help="names of tries")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).absolute()
        (work / "runs").mkdir(parents=True, exist_ok=True)
        data = work / "data"
        if not data.exists():
            cli(work, "dataset", "build", "sar", "--out", str(data))
        rows = []
        for one in (one for one in TRIES if not options.only or one.name in options.only):
            steps = 4 if options.smoke else one.steps
            folders = [trained(one, seed, work, data, steps) for seed in one.seeds]
            rows.append(measured(one, folders, steps))
        _common.write_experiment(options.json, {"tries": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What the extra parameters buy near the speckle wall: narrow models on the embedded sample, equal steps and data.

    python docs/experiments/sar/run.py --work DIR --json docs/experiments/sar/results.json

The embedded sample has each scene without its speckle, so models are scored against that (PSNR to truth) beside the
speckled image (PSNR), whose wall is the same for all. Each try changes one thing of `residual_v1_c16`; baseline and
tries see the same crops of 64 px in the same order. Goal: 1.5 dB over the baseline in PSNR to truth.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bench"))

import _common  # noqa: E402 - beside the measurements

STEPS = 2000
EVERY = 500
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


TRIES = (
    Try("baseline", "baseline, width 16, rate 1e-3", "baseline_c16", ("model.base_channels=16", "train.lr=1e-3")),
    Try("baseline_fast", "the same at 3e-3", "baseline_c16", ("model.base_channels=16", "train.lr=3e-3")),
    Try("residual", "residual_v1, width 8, rate 1e-3", "residual_v1_c16", ("model.base_channels=8", "train.lr=1e-3")),
    Try("residual_fast", "the same at 3e-3", "residual_v1_c16", ("model.base_channels=8", "train.lr=3e-3")),
    Try(
        "residual_ema",
        "at 3e-3 with averaged weights (EMA 0.998)",
        "residual_v1_c16",
        ("model.base_channels=8", "train.lr=3e-3", "train.ema_decay=0.998"),
    ),
    Try(
        "residual_mse",
        "at 3e-3 with EMA, squared error alone",
        "residual_v1_c16",
        (
            "model.base_channels=8", "train.lr=3e-3", "train.ema_decay=0.998",
            "loss.mse_weight=1.0", "loss.ssim_weight=0.0",
        ),
    ),
    Try(
        "baseline_mse",
        "baseline at 3e-3 with EMA, squared error alone",
        "baseline_c16",
        (
            "model.base_channels=16", "train.lr=3e-3", "train.ema_decay=0.998",
            "loss.mse_weight=1.0", "loss.ssim_weight=0.0",
        ),
    ),
)  # fmt: skip


def cli(work: Path, *words: str) -> None:
    """Run mlkit; its own words are the error."""
    environment = {**os.environ, "MLKIT_RUNS_DIR": str(work / "runs"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "mlkit", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"mlkit {' '.join(words)}\n{done.stderr[-3000:]}")


def trained(one: Try, work: Path, data: Path, steps: int) -> Path:
    """Train one try, or find it trained already; returns its folder."""
    folder = work / "runs" / one.name
    if (folder / "cpu_s.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    words = ["train", "--preset", one.preset, "--data", str(data), "--name", one.name, "--max-steps", str(steps)]
    for setting in (*SHARED, f"checkpoint.every={min(EVERY, steps)}", *one.settings):
        words += ["--set", setting]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    cli(work, *words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (folder / "cpu_s.json").write_text(json.dumps(round(cpu_s, 1)))
    print(f"{one.name}: {steps} steps in {cpu_s:.0f} s of one core", flush=True)
    return folder


def measured(one: Try, folder: Path) -> dict[str, Any]:
    """Return parameters, time and mean scores by step of a run."""
    from mlkit.runs.folders import checkpoints

    scores, parameters = {}, 0
    for checkpoint in checkpoints(folder):
        info = json.loads((checkpoint / "checkpoint.json").read_text())
        parameters = info["parameters"]
        scores[info["step"]] = {key: round(info["scores"][key], 4) for key in KEYS if key in info["scores"]}
    cpu_s = json.loads((folder / "cpu_s.json").read_text())
    settings = [setting for setting in one.settings if not setting.startswith("model.")]
    return {
        "name": one.name, "title": one.title, "settings": settings, "parameters": parameters, "cpu_s": cpu_s,
        "scores": scores,
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
        steps = 4 if options.smoke else STEPS
        tries = [one for one in TRIES if not options.only or one.name in options.only]
        rows = [measured(one, trained(one, work, data, steps)) for one in tries]
        if options.json:
            content = {
                "command": "python docs/experiments/sar/run.py", "commit": _common.commit(),
                "date": time.strftime("%Y-%m-%d"), "machine": _common.machine(), "steps": steps, "tries": rows,
            }  # fmt: skip
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            print(f"written to {options.json}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

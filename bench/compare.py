"""How long a comparison of two runs takes once their scores are on disk, beside scipy.stats on the same numbers.

    python bench/compare.py

Two runs of 100 images and six metrics are written here as evaluations leave them. mlkit's side is
`compare_checkpoints`: reading both, pairing by id, for each metric a studentised bootstrap interval of 10,000
resamples and a sign-flip p of 10,000 flips, Holm's correction, images won and lost, the worst images. The peer's side
is `scipy.stats.bootstrap` (BCa, 10,000 resamples) and `scipy.stats.permutation_test` (10,000 flips) of the same
differences and nothing else. Both run in this process, in turns. The whole command, from the shell to the files, is
timed too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from _common import Figure, at_most, finish, in_turns, options_parser, ratio, show

IMAGES = 100
RESAMPLES = 10_000
KEYS = ("psnr", "rmse_db", "ssim", "ms_ssim", "enl_ratio", "epi")
GOAL_S = 2.0


def write_run(folder: Path, gain: float, seed: int) -> None:
    """Write a run with one scored checkpoint."""
    checkpoint = folder / "ckpt-500"
    checkpoint.mkdir(parents=True)
    base, noise = np.random.default_rng(0), np.random.default_rng(seed)
    scores = {key: (base.normal(30, 4, IMAGES) + gain + noise.normal(0, 0.2, IMAGES)).tolist() for key in KEYS}
    (folder / "run.json").write_text(json.dumps({"format_version": 1, "name": folder.name, "status": "success"}))
    (folder / "best").write_text("ckpt-500\n")
    (checkpoint / "checkpoint.json").write_text(json.dumps({"format_version": 1, "step": 500, "settings": {}}))
    report = {
        "format_version": 1,
        "step": 500,
        "split": "validation",
        "dataset_sha256": "a" * 64,
        "signatures": dict.fromkeys(KEYS, "v1"),
        "ids": [f"{index:06d}" for index in range(IMAGES)],
        "scores": scores,
    }
    (checkpoint / "eval.json").write_text(json.dumps(report))


def scipy_side(folders: list[Path]) -> None:
    """Compute interval and p of each metric with scipy alone."""
    from scipy import stats

    read = [json.loads((folder / "ckpt-500" / "eval.json").read_bytes())["scores"] for folder in folders]
    for key in KEYS:
        differences = np.subtract(read[1][key], read[0][key])
        rng = np.random.default_rng(0)
        stats.bootstrap((differences,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=rng)
        stats.permutation_test(
            (differences, np.zeros(IMAGES)), lambda a, b, axis: np.mean(a - b, axis=axis),
            permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=rng,
        )  # fmt: skip


def main() -> int:
    options = options_parser(__doc__).parse_args()
    rounds = 1 if options.smoke else 7
    from mlkit.evaluation.comparison import Candidate, compare_checkpoints

    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / name for name in ("first", "second")]
        for place, folder in enumerate(folders):
            write_run(folder, 0.1 * place, place + 1)
        candidates = [Candidate(folder.name, folder / "ckpt-500") for folder in folders]
        command = [sys.executable, "-m", "mlkit", "compare", "first", "second", "--no-picture", "--runs-dir", temporary]
        environment = os.environ | {"COLUMNS": "120"}
        ways = {
            "mlkit": lambda: compare_checkpoints(candidates),
            "scipy": lambda: scipy_side(folders),
            "whole command": lambda: subprocess.run(command, check=True, capture_output=True, env=environment),
        }
        times = in_turns(ways, rounds)
    show(("compare", "median"), [[name, f"{statistics.median(taken):.3f} s"] for name, taken in times.items()])
    over = ratio(times["mlkit"], times["scipy"])
    print(f"mlkit over scipy: {over}")
    figures = [
        at_most("two runs of 100 images, 6 metrics, 10,000 resamples", statistics.median(times["mlkit"]), GOAL_S, "s"),
        Figure(
            "the whole command, from the shell to the files", round(statistics.median(times["whole command"]), 2), "s"
        ),
        Figure("mlkit over scipy.stats alone", round(over.value, 3), "x"),
    ]
    return finish(figures, options)


if __name__ == "__main__":
    raise SystemExit(main())

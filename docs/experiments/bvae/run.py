"""Scaling or imbalance: options A, B and C in both scalings, on ARC-1 (three seeds) and on unbalanced grids (one).

    python docs/experiments/bvae/run.py --work DIR --json docs/experiments/bvae/results.json

Each option is trained as the loss-testing specification scales it (reconstruction as a mean per cell, KL as a sum) and
with the terms of the ELBO; nothing else differs. On ARC-1 the best setting found, `bvae_arc`, is trained beside them.
About an hour and a half on one CPU core, one seed of all after the other; a call with the same --work goes on where a
stopped one was.
"""

from __future__ import annotations

import argparse
import json
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

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bench"))

import _common  # noqa: E402 - commit, machine and options as the measurements have them

OPTIONS = tuple(f"option_{letter}{scaling}" for letter in "abc" for scaling in ("", "_elbo"))
BEST = "bvae_arc"
SOURCES = {"arc1": (), "synthetic": ("--source", "synthetic", "--side", "16")}
SEEDS = {"arc1": (0, 1, 2), "synthetic": (0,)}  # made grids are all alike
KEYS = (
    *("accuracy", "majority_share", "accuracy_gain", "object_accuracy", "balanced_accuracy", "exact_match"),
    *("ce_nat", "kl_nat", "kl_per_dim", *(f"recall_{index}" for index in range(10))),
)
OF_THE_SET = ("cell_accuracy", "cell_majority_share", "kl_min_dim", "active_units", "active_share", "predicted_classes")
SMOKE = (
    *("train.steps=4", "train.warmup_steps=1", "loss.guard_after=0", "loss.beta_steps=2"),
    *("checkpoint.every=4", "checkpoint.grid=false", "eval.max_samples=64"),
)


@dataclass(slots=True)
class Lab:
    """Where datasets and runs are, and what was measured."""

    work: Path
    smoke: bool
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        return self.work / "runs"

    def cli(self, *words: str) -> str:
        """Run mlkit and return what it printed; its own words are the error."""
        environment = {**os.environ, "MLKIT_RUNS_DIR": str(self.runs), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-m", "mlkit", *words], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"mlkit {' '.join(words)}\n{done.stderr[-3000:]}")
        return done.stdout

    def build(self, name: str) -> Path:
        folder = self.work / name
        if not folder.exists():
            self.cli("dataset", "build", "bvae", *SOURCES[name], "--out", str(folder))
        return folder

    def train(self, preset: str, of: str, seed: int) -> None:
        """Train one seed of a preset, unless it is trained already; one that was stopped goes on."""
        group = f"{of}_{preset}"
        folder = self.runs / f"{group}-s{seed}"
        if self.state(folder) == "success":
            return
        started_s = time.perf_counter()
        if (folder / "last").exists():
            self.cli("resume", str(folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            settings = [word for setting in SMOKE if self.smoke for word in ("--set", setting)]
            where = ("--data", str(self.build(of)), "--name", group, "--seeds", str(seed))
            self.cli("train", "--preset", preset, *where, *settings)
        print(f"{folder.name}: {time.perf_counter() - started_s:.0f} s", flush=True)

    def state(self, folder: Path) -> str:
        file = folder / "run.json"
        return str(json.loads(file.read_text())["status"]) if file.is_file() else ""

    def compare(self, of: str, presets: Sequence[str]) -> None:
        """Compare the groups of a dataset, runs that ended alone, and keep what the page shows.

        A dataset for which a preset has no such run is left as it was.
        """
        groups = [f"{of}_{preset}" for preset in presets]
        ended = [folder for folder in self.runs.glob(f"{of}_*") if self.state(folder) == "success"]
        if missing := [group for group in groups if not any(one.name.startswith(f"{group}-s") for one in ended)]:
            print(f"{of} is not compared yet: no run of {', '.join(missing)} has ended")
            return
        with tempfile.TemporaryDirectory() as temporary:
            for folder in ended:
                (Path(temporary) / folder.name).symlink_to(folder)
            where = ("--runs-dir", temporary, "--out", str(self.work / "compare"))
            found = json.loads(self.cli("compare", *groups, "--json", "--no-picture", *where))
            self.results[of] = {
                "dataset_sha256": found["dataset_sha256"],
                "num_images": found["num_images"],
                "rows": [self.row(preset, row) for preset, row in zip(presets, found["rows"], strict=True)],
                "notes": found["notes"],
            }

    def row(self, preset: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return one group: means, and the values and intervals of its runs."""
        seeds, keys = row["seeds"], (*KEYS, *OF_THE_SET)
        trained = [json.loads((Path(run["checkpoint"]) / "training_state.json").read_text()) for run in seeds["runs"]]
        return {
            "preset": preset,
            "parameters": row["parameters"],
            "steps": [run["step"] for run in seeds["runs"]],
            "updates": [updates_of(Path(run["checkpoint"])) for run in seeds["runs"]],
            "train_s": [round(state["train_s"]) for state in trained],
            "means": {key: rounded(row["means"][key]) for key in KEYS if key in row["means"]},
            "set_scores": {key: rounded(row["set_scores"][key]) for key in OF_THE_SET},
            "kl_by_dim": [rounded(value) for key, value in row["set_scores"].items() if key.startswith("kl_dim_")],
            "values": {
                key: [rounded(value) for value in seeds["values"][key]] for key in keys if key in seeds["values"]
            },
            "intervals": {
                key: {name: rounded(value) for name, value in seeds["intervals"][key].items()}
                for key in keys
                if key in seeds["intervals"]
            },
            "fluctuation": rounded(row["fluctuation"]),
            "criteria": [
                {"sentence": one["sentence"], "passed": one["passed"], "value": rounded(one["value"])}
                for one in row["criteria"]
            ],
        }

    def conclude(self, presets: Mapping[str, Sequence[str]], path: Path | None) -> None:
        """Compare the groups of each dataset, and write what was found."""
        for of, compared in presets.items():
            self.compare(of, compared)
        _common.write_experiment(path, self.results)


def updates_of(checkpoint: Path) -> int:
    """Return how long a checkpoint's run was, which may have had its best scores before."""
    return int(json.loads((checkpoint / "checkpoint.json").read_text())["settings"]["train"]["steps"])


def rounded(value: float | None) -> float | None:
    """Return four significant digits: what is written is shown, not computed with."""
    return value if value is None else float(f"{value:.4g}")


def main() -> int:
    parser = _common.options_parser(__doc__)
    parser.add_argument("--work", type=Path, help="keep datasets and runs here, and go on where a stopped call was")
    parser.add_argument("--as-is", action="store_true", help="train nothing: compare the runs that --work has")
    options: argparse.Namespace = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        lab = Lab((options.work or Path(temporary)).absolute(), options.smoke)
        lab.runs.mkdir(parents=True, exist_ok=True)
        presets = {"arc1": (*OPTIONS, BEST), "synthetic": OPTIONS}
        if options.as_is and options.json and options.json.is_file():
            known = json.loads(options.json.read_text(encoding="utf-8"))
            lab.results = {of: known[of] for of in presets if of in known}
        for seed in () if options.as_is else range(2 if lab.smoke else 3):
            for of, preset in ((of, preset) for of, compared in presets.items() for preset in compared):
                if seed in SEEDS[of]:
                    lab.train(preset, of, seed)
            lab.conclude(presets, options.json)  # after each seed, so that what is there can be looked at
        if options.as_is:
            lab.conclude(presets, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Reconstructions of held-out ARC-AGI-1 grids by `bvae_arc`, against peers that know the same training grids.

    python bench/bvae.py --runs RUNS

Every grid of the tasks kept for validation is reconstructed, up to 30 x 30 cells. A score is the mean over these grids;
its 95 % interval is over tasks (whole tasks drawn again, since grids of one task are alike), and of several runs the
mean of their scores counts. The background is class 0, the most frequent one.

Peers: all background, what accuracy must exceed to mean anything; the most frequent class of each cell over the
training grids; the training grid with the fewest wrong cells, found knowing the answer; and scikit-learn's PCA of
one-hot cells with as many numbers as the latent has, over whole grids (padded), and over each 4 x 4 cells with the
numbers that a site of the latent has. PCA is fitted on the training grids and on two recoloured, turned copies of each,
as the network is trained; its largest class counts.

Numbers of any precision can carry everything; the KL says how much a latent really carries, in nat. So what is decoded
of a drawn latent is compared too, with PCA whose components get as much noise as leaves the same nat. A "ratio of
errors" is our share of wrong cells over a peer's.

RUNS holds `arc1_bvae_arc-s0` and so on, as docs/experiments/bvae/run.py makes them; or name runs by --checkpoint.
With neither, `bvae_arc` is trained here first, 20 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from _bvae_peers import BACKGROUND, MODE, NEAREST, PCA_CELLS, PCA_DRAWN, PCA_WHOLE, Grids, Labels, peers
from _bvae_picture import draw
from _common import Figure, at_least, at_most, finish, options_parser, show

if TYPE_CHECKING:
    from mlkit.data.manifest import DatasetManifest
    from mlkit.tasks.bvae.task import BvaeTask

OURS, DRAWN = "bvae_arc", "bvae_arc, drawn"
GROUP = "arc1_bvae_arc-s*"
KEYS = ("accuracy", "gain", "objects", "exact")
TITLES = ("accuracy", "over the majority share", "non-background", "exact grids")
MINUTES = 20.0
STEPS = 12  # updates to time
RESAMPLES = 5000
Intervals = Mapping[str, Sequence[tuple[float, float, float]]]  # of each score of KEYS by way
Scores = Mapping[str, np.ndarray]  # a value a grid by KEYS; NaN where a grid is all background


def scores_of(made: Labels, truth: Grids) -> dict[str, np.ndarray]:
    """Return the scores of KEYS of each grid. `made` is [N, S, S]."""
    right, valid, background = made == truth.labels, truth.valid, truth.labels == truth.background
    count, objects = valid.sum(axis=(1, 2)), (valid & ~background).sum(axis=(1, 2))
    accuracy = (right & valid).sum(axis=(1, 2)) / count
    with np.errstate(invalid="ignore"):
        found = (right & valid & ~background).sum(axis=(1, 2)) / objects
    gain = accuracy - (background & valid).sum(axis=(1, 2)) / count
    return {"accuracy": accuracy, "gain": gain, "objects": found, "exact": (accuracy == 1).astype(float)}


def over_tasks(values: np.ndarray, tasks: np.ndarray) -> tuple[float, float, float]:
    """Return the mean over grids and its 95 % interval when whole tasks are drawn again."""
    kept = np.isfinite(values)
    places = np.unique(tasks, return_inverse=True)[1]
    sums = np.bincount(places, np.where(kept, values, 0.0))
    counts = np.bincount(places, kept)
    drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (2.5, 97.5))
    return float(values[kept].mean()), float(low), float(high)


# ---- ours ----------------------------------------------------------------------------------------------------------


def trained(folder: Path, smoke: bool) -> list[Path]:
    """Train the preset; returns its checkpoint."""
    words = ["train", "--preset", "bvae_tiny" if smoke else OURS, "--name", "bench", *(["--quick-test"] * smoke)]
    environment = os.environ | {"MLKIT_RUNS_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-m", "mlkit", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return [folder / "bench"]


@dataclass(frozen=True, slots=True)
class Run:
    """A trained model, and what it makes of the held-out grids."""

    made: Labels  # of the middle of each posterior, as everywhere in mlkit
    drawn: Labels  # of a draw from it
    held: Grids
    training: Grids
    facts: Mapping[str, float]


def reconstructed(checkpoint: Path, data: DatasetManifest | None, smoke: bool) -> Run:
    """Return what a model makes of the grids that its training did not see."""
    import torch

    from mlkit.commands.opened import dataset_of, open_model
    from mlkit.data.sampler import stack
    from mlkit.runs.folders import default_checkpoint, is_checkpoint

    opened = open_model(
        checkpoint if is_checkpoint(checkpoint) else default_checkpoint(checkpoint), torch.device("cpu")
    )
    manifest = data or dataset_of(opened.checkpoint)
    task, rng = opened.task, np.random.default_rng(0)
    held, source = task.eval_source(manifest), task.plain_train_source(manifest)
    tally, made, drawn = task.tally(), [], []
    count = 40 if smoke else len(held)
    torch.manual_seed(0)
    taken_s = 0.0
    with torch.inference_mode():
        for start in range(0, count, 64):
            batch = stack([held.sample(index, rng) for index in range(start, min(start + 64, count))])
            started_s = time.process_time()
            outputs = task.predict(opened.net, batch)
            taken_s += time.process_time() - started_s
            made.append(outputs["labels"].numpy().astype(np.uint8))
            drawn.append(opened.net(batch["labels"], torch.randn_like(outputs["mu"]))[0].argmax(dim=1).numpy())
            tally.add(outputs, batch)
    model, figures = task.settings.model, tally.figures()
    facts = {
        "train_min": opened.checkpoint.step * step_s(task, source.folder) / 60,
        "active_share": figures.scores()["active_share"],
        "kl_nat": float(figures.kl_by_dim.sum()),
        "grids_per_s": count / taken_s,
        "latent": model.latent_dims,
        "of_a_site": model.latent if model.layout == "map" else 0,
    }
    return Run(
        np.concatenate(made),
        np.concatenate(drawn).astype(np.uint8),
        Grids.of(held, count),
        Grids.of(source, 200 if smoke else len(source)),
        facts,
    )


def step_s(task: BvaeTask, data: Path) -> float:
    """Return the median CPU seconds of an update of this model: what it takes whoever else uses the machine."""
    import torch

    from mlkit.data.manifest import open_manifest
    from mlkit.data.sampler import stack

    source, net = task.train_source(open_manifest(data)), task.build_model()
    optimizer, rng = torch.optim.AdamW(net.parameters()), np.random.default_rng(0)
    taken_s = []
    for _ in range(STEPS):
        started_s = time.process_time()
        chosen = rng.integers(len(source), size=task.settings.train.batch_size)
        loss = task.loss(net, stack([source.sample(int(index), rng) for index in chosen]), step=1)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        taken_s.append(time.process_time() - started_s)
    return statistics.median(taken_s)


def finished(folder: Path) -> bool:
    """Return whether a run is at its end."""
    from mlkit.runs.folders import read_run_json

    return read_run_json(folder).get("status") == "success"


def main() -> int:
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=Path, help="folder with the runs of docs/experiments/bvae/run.py")
    parser.add_argument("--checkpoint", type=Path, nargs="+", help="runs or checkpoints of one dataset")
    parser.add_argument("--data", type=Path, help="where their dataset lies now, if it was moved")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw some grids")
    options: argparse.Namespace = parser.parse_args()
    from mlkit.data.manifest import open_manifest

    data = open_manifest(options.data) if options.data else None
    with tempfile.TemporaryDirectory() as temporary:
        found = options.checkpoint or (
            [path for path in sorted(options.runs.glob(GROUP)) if finished(path)] if options.runs else []
        )
        if options.runs and not found:
            raise SystemExit(f"{options.runs} holds no finished {GROUP}")
        runs = [reconstructed(path, data, options.smoke) for path in found or trained(Path(temporary), options.smoke)]
    facts, held, training = runs[0].facts, runs[0].held, runs[0].training
    nat = float(np.mean([run.facts["kl_nat"] for run in runs]))
    alike = peers(training, held, int(facts["latent"]), int(facts["of_a_site"]), nat)
    rows: dict[str, Scores] = {name: scores_of(labels, held) for name, labels in alike.items()}
    for name, made in ((OURS, [run.made for run in runs]), (DRAWN, [run.drawn for run in runs])):
        own = [scores_of(labels, held) for labels in made]
        rows[name] = {key: np.mean([one[key] for one in own], axis=0) for key in KEYS}
    tasks = np.array([name.partition("/")[0] for name in held.names])
    print(f"\n{len(held.names)} grids of {len(set(tasks))} tasks; {OURS}: {len(runs)} run(s)")
    intervals = {name: [over_tasks(one[key], tasks) for key in KEYS] for name, one in rows.items()}
    show(
        ("mean of the grids, 95 % over tasks", *TITLES),
        [(name, *(f"{a:.3f} ({b:.3f} to {c:.3f})" for a, b, c in found)) for name, found in intervals.items()],
    )
    figures = judged(rows, intervals, [run.facts for run in runs])
    if options.picture:
        own = {OURS: runs[0].made, DRAWN: runs[0].drawn}
        draw(options.picture, held, own | {name: alike[name] for name in (PCA_DRAWN, NEAREST)})
    if options.json:
        write_scores(options.json.with_suffix(".csv"), intervals)
    return finish(figures, options)


def write_scores(path: Path, intervals: Intervals) -> None:
    """Write mean and interval of each score of each way, for the documentation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("way", "score", "mean", "low", "high"))
        for name, found in intervals.items():
            for key, values in zip(KEYS, found, strict=True):
                writer.writerow((name, key, *(f"{value:.4f}" for value in values)))


def judged(rows: Mapping[str, Scores], intervals: Intervals, facts: Sequence[Mapping[str, float]]) -> list[Figure]:
    """Return the figures, and what each must reach."""
    ours = intervals[OURS]
    figures = [
        Figure(f"held-out tasks, {title}", f"{mean:.3f} ({low:.3f} to {high:.3f})", "")
        for title, (mean, low, high) in zip(TITLES, ours, strict=True)
    ]
    figures += [
        at_least("accuracy over the majority share, lower end of its interval", ours[1][1], 0.0, ""),
        at_least("non-background accuracy", ours[2][0], 0.5, ""),
        at_least(
            "active latent dimensions, smallest share of a run", min(one["active_share"] for one in facts), 0.5, ""
        ),
        at_most("CPU time of all updates, one thread", max(one["train_min"] for one in facts), MINUTES, "min"),
    ]
    wrong = {name: 1 - float(one["accuracy"].mean()) for name, one in rows.items()}
    for name in (BACKGROUND, MODE, NEAREST, PCA_CELLS):
        if name in wrong:
            figures.append(at_most(f"ratio of errors, over {name}", wrong[OURS] / wrong[name], 1.0))
    figures.append(at_most(f"ratio of errors, both drawn, over {PCA_DRAWN}", wrong[DRAWN] / wrong[PCA_DRAWN], 1.0))
    figures.append(Figure(f"ratio of errors, over {PCA_WHOLE}", float(f"{wrong[OURS] / wrong[PCA_WHOLE]:.4g}"), "x"))
    figures.append(Figure("KL of a grid, mean of the runs", float(np.mean([one["kl_nat"] for one in facts])), "nat"))
    figures.append(
        Figure("reconstruction, by CPU time", round(float(np.median([one["grids_per_s"] for one in facts]))), "grids/s")
    )
    return figures


if __name__ == "__main__":
    raise SystemExit(main())

"""What bf16 with channels-last gains over fp32 contiguous, what `precision = "auto"` chooses, and what it costs in dB.

    python bench/precision.py

The four ways to call the network (fp32 or bf16 by autocast, contiguous or channels-last) take turns at whole training
steps in one process and thread, each with a network and an optimizer of its own. Then `auto` is asked as `mlkit train`
asks it, and the validation part is scored twice with the weights of the fp32 steps: as fp32 and as `auto` chose. The
goals of 2 and 4 times were measured on a CPU with AMX; AVX512-bf16 alone doubles the arithmetic at most.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

from _common import Figure, Ratio, add_data, at_most, cpu_formats, finish, in_turns, options_parser, ratio, sar_dataset
from _common import show as show_table
from mlkit.data.manifest import DatasetManifest
from mlkit.data.sampler import StepSampler, batches
from mlkit.evaluation.evaluate import evaluate, spread_indices
from mlkit.presets import resolve_preset
from mlkit.task import Batch, Source, Task
from mlkit.tasks import load_task
from mlkit.training.precision import LARGEST_LOSS_DB, Choice, Network, choose

CPU = torch.device("cpu")
PRESETS = ("baseline_c16", "residual_v1_c16")
GOALS = {("baseline_c16", 64): 2.0, ("baseline_c16", 256): 4.0}  # measured by a bare loop with AMX
WAYS = {
    "fp32": Choice("fp32", False),
    "fp32 channels-last": Choice("fp32", True),
    "bf16": Choice("bf16", False),
    "bf16 channels-last": Choice("bf16", True),
}
AS_FAST = 1.1  # times the fastest way: closer ones are told apart by noise alone


def some(source: Source, count: int) -> Batch:
    """Return one batch of the source."""
    sampler = StepSampler(len(source), seed=0, batch_size=count, first_sample=0, num_batches=1)
    return next(batches(source, sampler, seed=0, purpose="sample", workers=0, device=CPU))


def stepper(task: Task, choice: Choice, batch: Batch) -> tuple[Network, Callable[[], None]]:
    """Return a network called in one way, and its training step."""
    torch.manual_seed(0)
    network = Network(task.build_model(), CPU, choice).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        task.loss(network, batch, step=0).total.backward()
        optimizer.step()

    return network, step


def psnr_db(task: Task, network: Network, source: Source, images: int) -> float:
    """Return the mean over some validation images."""
    indices = spread_indices(len(source), images)
    return evaluate(task, network, source, device=CPU, batch_size=2, indices=indices).means()["psnr"]


def measure(
    data: DatasetManifest, preset: str, patch: int, options: argparse.Namespace
) -> tuple[list[list[str]], list[Figure], str]:
    """Return rows, figures and what `auto` said of one model at one size."""
    assignments = ["model.base_channels=8"] if options.smoke else []
    task = load_task(resolve_preset(preset, assignments=assignments, flags={"data.patch": patch}).settings)
    count = 2 if options.smoke or (preset != "baseline_c16" and patch > 64) else options.batch
    batch = some(task.train_source(data), count)
    networks, steps = {}, {}
    for name, choice in WAYS.items():
        networks[name], steps[name] = stepper(task, choice, batch)
    rounds = 2 if options.smoke else options.rounds
    times = in_turns(steps, rounds)
    gains: dict[str, Ratio] = {name: ratio(times["fp32"], taken) for name, taken in times.items()}

    picked = choose(task, some(task.train_source(data), min(4, task.settings.train.batch_size)), CPU)
    chosen = next(name for name, way in WAYS.items() if way.precision == picked.precision
                  and way.channels_last == picked.channels_last)  # fmt: skip
    source, images = task.eval_source(data), 2 if options.smoke else 16
    net = networks["fp32"].net
    score_fp32 = psnr_db(task, Network(net, CPU, WAYS["fp32"]), source, images)
    score = psnr_db(task, Network(net, CPU, picked), source, images)

    what = f"{preset} {patch} px"
    rows = [
        [
            f"{what}  {name}",
            f"{statistics.median(taken) * 1e3:.0f} ms",
            str(gains[name]),
            "auto" if name == chosen else "",
        ]
        for name, taken in times.items()
    ]
    fastest = max(gains.values(), key=lambda gain: gain.value)
    figures = [
        judged(f"{what}: bf16 channels-last over fp32", gains["bf16 channels-last"].value, GOALS.get((preset, patch))),
        Figure(f"{what}: auto chose", chosen, ""),
        Figure(f"{what}: what auto chose over fp32", round(gains[chosen].value, 3), "x"),
        at_most(f"{what}: the fastest way over what auto chose", fastest.value / gains[chosen].value, AS_FAST),
        at_most(f"{what}: PSNR lost by it", abs(score - score_fp32), LARGEST_LOSS_DB, "dB"),
    ]
    return rows, figures, f"{what}: {picked.reason}; fp32 {score_fp32:.3f} dB, {chosen} {score:.3f} dB"


def judged(name: str, gain: float, goal: float | None) -> Figure:
    """Return the gain, with its goal where there is one."""
    if goal is None:
        return Figure(name, round(gain, 3), "x")
    return Figure(name, round(gain, 3), "x", f">= {goal:g}", gain >= goal)


def main() -> int:
    parser = options_parser(__doc__)
    add_data(parser)
    parser.add_argument("--preset", nargs="+", default=list(PRESETS))
    parser.add_argument("--patch", type=int, nargs="+", default=[64, 256], help="sides of the crops in px")
    parser.add_argument("--batch", type=int, default=8, help="2 for the large model at large sizes")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.smoke:
        options.preset, options.patch = options.preset[:1], [32]
    print(f"the CPU names: {', '.join(cpu_formats()) or 'none of AMX, AVX512-bf16, AVX512, AVX2'}")
    rows, figures, said = [], [], []
    with sar_dataset(options) as data:
        for preset in options.preset:
            for patch in options.patch:
                more, found, sentence = measure(data, preset, patch, options)
                rows += more
                figures += found
                said.append(sentence)
    show_table(("training step", "median", "gain over fp32", ""), rows)
    print(*said, sep="\n")
    return finish(figures, options)


if __name__ == "__main__":
    raise SystemExit(main())

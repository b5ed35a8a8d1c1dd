"""Killed anywhere, resumed exactly: the proof, for every task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mlkit.settings import TrainSettings
from mlkit.tasks import available_tasks
from mlkit.training.schedule import plan
from running import Job, fingerprint, run, run_with_kills, task_of

TASKS = ("toy", *available_tasks())
pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork servers are POSIX")

STEPS = {"train.steps": 13, "checkpoint.every": 3, "tracking.every": 1, "checkpoint.keep_last": 2}
# Different ways of reaching the same numbers: workers and pictures must not matter to any of them.
PLAIN: dict[str, Any] = {"train.batch_size": 4}
FULL: dict[str, Any] = {"train.batch_size": 2, "train.accumulate": 2, "train.ema_decay": 0.9}


def _same(one: Path, other: Path) -> None:
    expected, found = fingerprint(one), fingerprint(other)
    different = [name for name in expected if found.get(name) != expected[name]]
    assert expected.keys() == found.keys()
    assert not different, f"differs: {different}"
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("what", [PLAIN, FULL], ids=["plain", "accumulation and EMA"])
def test_killed_at_random_and_resumed_gives_the_same_bits(
    task: str, what: dict[str, Any], datasets: dict[str, Path], tmp_path: Path
) -> None:
    base = STEPS | what
    assert run(Job(task, datasets[task], base | {"checkpoint.grid": False, "train.workers": 0}), tmp_path / "one")
    rows = (tmp_path / "one" / "metrics.jsonl").read_text().count("\n")
    kills = {"toy": 10, "sr": 2}.get(task, 4)  # most for the quickest; an update of sr takes long
    hits = resumed = 0
    for workers, grid in ((0, True), (1, False), (2, True)):
        job = Job(task, datasets[task], base | {"checkpoint.grid": grid, "train.workers": workers})
        folder = tmp_path / f"killed-{workers}"
        hit, left = run_with_kills(job, folder, seed=workers, rows=rows, kills=kills)
        hits, resumed = hits + hit, resumed + left
        _same(tmp_path / "one", folder)
        if grid:
            assert all((path / "grid.png").exists() for path in folder.glob("ckpt-*"))
    assert hits >= 6, "the kills came too late to prove anything"
    assert resumed >= 3, "the kills came too early to prove anything"


@pytest.mark.parametrize("task", TASKS)
def test_killed_before_any_operation_on_files_and_resumed_gives_the_same_bits(
    task: str, datasets: dict[str, Path], tmp_path: Path
) -> None:
    """Each place inside writing rows, saving, pointing, pruning and drawing, for the first three checkpoints."""
    short = {"train.steps": 5, "checkpoint.every": 2, "tracking.every": 1, "checkpoint.keep_last": 1, **PLAIN}
    job = Job(task, datasets[task], short)
    assert run(job, tmp_path / "one")
    place, ended = 0, False
    step = {"toy": 1, "sr": 19}.get(task, 11)  # every place for the toy, a sample of them for the slower ones
    while not ended:
        place += step
        folder = tmp_path / f"at-{place}"
        ended = run(job, folder, die_at=place)
        if not ended:
            assert run(job, folder)
            _same(tmp_path / "one", folder)
            assert not list(folder.glob(".partial-*")), "a leftover of the killed process stayed"
    assert place > 40


def test_latents_that_are_quantised_at_random_steps_resume_to_the_same_bits(
    datasets: dict[str, Path], tmp_path: Path
) -> None:
    """Noise in place of rounding and a step drawn for each sample are both chance of the update itself."""
    codec = {
        "model.arch": "gdn",
        "model.base_channels": 4,
        "model.latent_channels": 6,
        "model.quantize": "noise",
        "model.quantize_steps": (0.25, 4.0),
        "loss.rate_weight": 0.01,
        "data.patch": 32,
        "checkpoint.grid": False,
        "eval.max_samples": 4,
    }
    job = Job("sar", datasets["sar"], STEPS | FULL | codec)
    assert run(job, tmp_path / "one")
    for place in (7, 23, 41):
        folder = tmp_path / f"at-{place}"
        assert not run(job, folder, die_at=place)
        assert run(job, folder)
        _same(tmp_path / "one", folder)


def test_early_stopping_ends_at_the_same_step_after_a_kill(datasets: dict[str, Path], tmp_path: Path) -> None:
    never_better = {"eval.early_stop_patience": 2, "eval.early_stop_min_delta": 100.0}
    job = Job("toy", datasets["toy"], STEPS | PLAIN | never_better)
    assert run(job, tmp_path / "one")
    assert (tmp_path / "one" / "last").read_text() == "ckpt-9\n"  # the first is a gain, the next two are not
    for place in range(60, 120, 6):
        folder = tmp_path / f"at-{place}"
        ended = run(job, folder, die_at=place)
        assert ended or run(job, folder)
        assert run(job, folder), "an ended run is resumed to nothing"
        _same(tmp_path / "one", folder)


def test_accelerate_settings_from_outside_change_no_number(
    datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlkit.commands.session import open_accelerator

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    accelerator = open_accelerator("cpu")
    assert accelerator.mixed_precision == "no"
    network = accelerator.prepare_model(torch.nn.Linear(4, 4))
    assert network(torch.zeros(1, 4)).dtype == torch.float32
    assert type(network) is torch.nn.Linear


def test_a_changed_weight_decay_has_its_effect_after_a_resume(datasets: dict[str, Path], tmp_path: Path) -> None:
    from accelerate import Accelerator

    from mlkit.checkpoint import newest_good
    from mlkit.data.manifest import open_manifest
    from mlkit.training.progress import Silent
    from mlkit.training.setup import restore, set_up

    job = Job("toy", datasets["toy"], STEPS | PLAIN)
    assert run(job, tmp_path / "one")
    found, _ = newest_good(tmp_path / "one")
    assert found is not None
    changed = Job("toy", datasets["toy"], STEPS | PLAIN | {"train.weight_decay": 0.5, "train.betas": (0.5, 0.9)})
    accelerator = Accelerator(cpu=True)
    resumed = set_up(
        task_of(changed), open_manifest(job.data), tmp_path / "one", accelerator, "one", "0", None, Silent()
    )
    restore(resumed, found)
    assert [group["weight_decay"] for group in resumed.optimizer.param_groups] == [0.5, 0.0]
    assert all(group["betas"] == (0.5, 0.9) for group in resumed.optimizer.param_groups)


def test_epochs_mean_passes_over_the_data_when_the_batch_changes() -> None:
    ten = TrainSettings(epochs=10, batch_size=4)
    assert plan(ten, 48).steps == 120
    # Half of them are done; the other five epochs take 240 samples, 30 updates of 8.
    assert plan(ten.model_copy(update={"batch_size": 8}), 48, step=60, samples_seen=240).steps == 90


@pytest.mark.parametrize(
    ("task", "alone"),
    [("toy", {}), ("sr", {"loss.ftd": 0.0, "loss.l1": 1.0, "train.steps": 5, "checkpoint.every": 2})],
    ids=["toy", "dropout of an adapter"],
)
def test_without_the_seed_of_each_step_the_proof_fails(
    task: str, alone: dict[str, Any], datasets: dict[str, Path], tmp_path: Path
) -> None:
    """The tests above can fail: take the seeding of each update out, and a resumed run has other weights."""
    job = Job(task, datasets[task], STEPS | PLAIN | alone, breakage="step seeds")
    assert run(job, tmp_path / "one")
    run(job, tmp_path / "killed", die_at=40)
    assert run(job, tmp_path / "killed")
    with pytest.raises(AssertionError, match="differs"):
        _same(tmp_path / "one", tmp_path / "killed")

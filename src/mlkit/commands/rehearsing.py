"""`mlkit train --rehearse`: everything that a long training would stumble over, in under a minute, beside the runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlkit.commands import rehearsal_runs as short_runs
from mlkit.commands.card import step_seconds
from mlkit.commands.checks import (
    check_ids,
    check_named,
    checkpoint_bytes,
    kept_checkpoints,
    refuse_little_disk,
    size_text,
)
from mlkit.commands.display import duration
from mlkit.commands.rehearsal_data import check_data
from mlkit.commands.rehearsal_table import Found, Items
from mlkit.commands.session import dataset_for, open_accelerator
from mlkit.data.limit import Tick
from mlkit.data.manifest import DatasetManifest
from mlkit.errors import MlkitError, NotReadyError, counted
from mlkit.seeding import derive_seed, isolated_rng
from mlkit.settings import Places, RunSettings
from mlkit.task import Task, training_source
from mlkit.tasks import load_task

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mlkit.checkpoint import Checkpoint
    from mlkit.commands.starting import Request

_REAL_S = 15.0  # an update that takes longer is rehearsed with fewer samples
_PROOF_S = 3.0  # of an update, of which the proof makes five; with fewer samples where one takes longer
_FEW = 2  # samples of an update in place of the real number


def rehearse(request: Request, settings: RunSettings, start_from: Path | None) -> dict[str, Any]:
    """Rehearse a training and tell how it went; nothing is written but a folder that is gone afterwards.

    Returns:
        what `--json` prints.

    Raises:
        NotReadyError: naming everything that is wrong.
    """
    with Items(f"mlkit train --rehearse  {settings.preset}") as items:
        _Rehearsal(request, settings, start_from, items).go()
    result = items.result()
    if not result["ready"]:
        if request.as_json:
            from mlkit.commands.session import print_json

            print_json(result)
        raise NotReadyError(*items.problems())
    return result


class _Rehearsal:
    """One rehearsal in progress."""

    def __init__(self, request: Request, settings: RunSettings, start_from: Path | None, items: Items) -> None:
        self.request, self.settings, self.start_from, self.items = request, settings, start_from, items
        self.folder = Places().runs_dir / (request.name or settings.preset)
        self.weights: Checkpoint | None = None
        self.accelerator: Accelerator | None = None
        self.step_s = 0.0

    def go(self) -> None:
        """Check settings, data and the training, as far as one allows the next."""
        items = self.items
        if not items.do("settings", lambda tick: self._check_settings()):
            return
        self.accelerator = open_accelerator(self.request.device)
        if self.accelerator.num_processes > 1:
            raise MlkitError("--rehearse runs in one process; start it without accelerate launch")
        opened: list[tuple[Task, DatasetManifest]] = []
        if not items.do("dataset", lambda tick: self._open(opened)):
            return
        task, data = opened[0]
        if not check_data(items, task, data):
            items.skip("training", "the data come first")
            return
        if items.do("precision", lambda tick: self._decide(task, data)):
            self._check_training(load_task(self.settings), data)

    # ---- settings and data -----------------------------------------------------------------------------------

    def _check_settings(self) -> Found:
        from mlkit.commands.starting import check_ewc, opened_weights

        self.weights = opened_weights(self.start_from, self.settings) if self.start_from else None
        check_named(self.settings)
        check_ewc(self.settings, self.weights)
        return Found(f"preset {self.settings.preset}, task {self.settings.task}, seed {self.settings.seed}")

    def _open(self, opened: list[tuple[Task, DatasetManifest]]) -> Found:
        task = load_task(self.settings)
        data = dataset_for(task, self.request.data, self.accelerator)
        for source in (training_source(task, data), task.eval_source(data)):
            if not len(source):
                raise MlkitError(f"dataset {data.folder} gives no samples with these settings")
        check_ids(task, data)
        opened.append((task, data))
        size = sum(int(about["bytes"]) for about in data.files.values())
        counts = ", ".join(f"{count:,} {name}" for name, count in data.splits.items())
        return Found(
            f"{data.folder}: {counts}; {counted(len(data.files), 'file')}, {size_text(size)}, none missing or cut"
        )

    # ---- the training ----------------------------------------------------------------------------------------

    def _decide(self, task: Task, data: DatasetManifest) -> Found:
        """Decide what is `auto`, and measure about how long an update takes."""
        from mlkit.commands.starting import decide_precision
        from mlkit.training.freezing import build_net

        assert self.accelerator is not None
        bare = self.weights is not None
        task, reason = decide_precision(task, data, self.accelerator, bare=bare)
        self.settings = task.settings
        with isolated_rng(derive_seed(self.settings.seed, "init")):
            net = build_net(task, bare=bare)
        self.step_s = step_seconds(task, net, data, self.accelerator)
        self.checkpoint_bytes = checkpoint_bytes(net, self.settings)
        if self.accelerator.device.type == "cuda":
            import torch

            del net
            torch.cuda.empty_cache()
        layout = " channels-last" if self.settings.train.channels_last else ""
        return Found(
            f"{self.settings.train.precision}{layout} on {self.accelerator.device}" + (f"; {reason}" if reason else "")
        )

    def _check_training(self, task: Task, data: DatasetManifest) -> None:
        items = self.items
        with _scratch() as scratch:
            free = _free(scratch)
            if free < 6 * self.checkpoint_bytes:
                needs = (
                    f"{size_text(6 * self.checkpoint_bytes)} in {scratch.parent} for checkpoints that it removes again"
                )
                way = f"{size_text(free)} are free; name another folder with TMPDIR"
                items.add("training", Found("", [f"the rehearsal needs {needs}, and {way}"]))
                return
            batch = None if self.step_s <= _REAL_S else min(_FEW, self.settings.train.batch_size)
            proves = batch is not None or self.step_s <= _PROOF_S
            whole = self._planned(data, scratch / "whole", steps=2 if proves else 1, batch_size=batch)
            measured = self._train_once(data, whole, batch)
            self._check_disk(task, data, scratch / "whole" if measured else None)
            if not measured:
                items.skip("kill and resume", "the training comes first")
            elif proves:
                items.do("kill and resume", lambda tick: self._prove(whole, scratch, batch, twin=None))
            else:
                few = min(_FEW, self.settings.train.batch_size)
                twin = self._planned(data, scratch / "twin", steps=2, batch_size=few, pictures=False)
                items.do("kill and resume", lambda tick: self._prove(twin, scratch, few, twin=twin))

    def _planned(
        self, data: DatasetManifest, folder: Path, *, steps: int, batch_size: int | None, pictures: bool = True
    ) -> short_runs.Planned:
        import torch

        assert self.accelerator is not None
        return short_runs.Planned(
            settings=short_runs.short_settings(self.settings, steps=steps, batch_size=batch_size, pictures=pictures),
            data=data.folder,
            folder=folder,
            device=self.accelerator.device.type,
            threads=torch.get_num_threads(),
            init_from=self.weights.folder if self.weights else None,
        )

    def _train_once(self, data: DatasetManifest, planned: short_runs.Planned, batch: int | None) -> bool:
        """Train a step or two, and tell each of their parts; returns whether all went well."""
        from mlkit.training.memory import free_bytes

        items = self.items
        assert self.accelerator is not None
        free = free_bytes(self.accelerator.device)
        with items.stage("training") as tell:
            ended = short_runs.run(planned, tell)
        steps = planned.settings["train"]["steps"]
        size = f"batch {planned.settings['train']['batch_size']}" + (
            f" of {self.settings.train.batch_size}: an update takes about {duration(self.step_s)}" if batch else ""
        )
        scored = min(planned.settings["eval"]["max_samples"], data.splits["validation"])
        told = {
            "train": f"{duration(ended.phases['train'].seconds / steps)} an update, {size}" if ended.done else size,
            "validation": counted(scored, "image"),
            "checkpoint": "saved and verified",
            "grid": counted(min(self.settings.checkpoint.grid_images, scored), "image"),
        }
        if not self.settings.checkpoint.grid:
            del told["grid"]
        reached = True
        for name, about in told.items():
            phase = ended.phases.get(name)
            failed_here = bool(ended.problems) and (ended.at == name or (ended.at == "start" and name == "train"))
            if failed_here:
                reached = False
                items.add(name, Found("", [f"{name}: {problem}" for problem in ended.problems]))
            elif phase is None or not reached:
                items.skip(name, "not reached")
            else:
                peak = f"; peak memory {size_text(phase.peak_bytes)}" if phase.peak_bytes else ""
                peak += f" of {size_text(free)} free" if peak and free else ""
                too_much = free is not None and phase.peak_bytes > free
                needs = f"{name} needs {size_text(phase.peak_bytes)} of memory, and {size_text(free or 0)} are free"
                problems = [f"{needs}; lower --batch-size or eval.batch_size"] if too_much else []
                items.add(name, Found(about + peak, problems, seconds=phase.seconds, peak_bytes=phase.peak_bytes))
        return ended.done

    def _check_disk(self, task: Task, data: DatasetManifest, measured: Path | None) -> None:
        from mlkit.training.schedule import plan

        def check(tick: Tick) -> Found:
            settings = self.settings
            steps = plan(settings.train, len(training_source(task, data))).steps
            kept = kept_checkpoints(settings.checkpoint, steps)
            one, grid, once = self.checkpoint_bytes, 0, 0
            if measured is not None:
                one = max(one, max(_size_of(path) for path in measured.glob("ckpt-*")))
                grid = max((path.stat().st_size for path in (measured / "grids").glob("*.png")), default=0)
                held = measured / "ewc.safetensors"
                once = held.stat().st_size if held.exists() else 0
            saves = -(-steps // settings.checkpoint.every)
            needed = kept * one + saves * grid + once
            refuse_little_disk(self.folder, needed, kept)
            return Found(
                f"{size_text(needed)} for up to {counted(kept, 'checkpoint')} of {size_text(one)} and "
                f"{counted(saves, 'grid')}; {size_text(_free(self.folder))} free"
            )

        self.items.do("disk", check)

    def _prove(
        self, whole: short_runs.Planned, scratch: Path, batch: int | None, twin: short_runs.Planned | None
    ) -> Found:
        """Kill a training in its second step, resume it, and compare it with one that was left alone."""
        from dataclasses import replace

        from mlkit.training.sameness import differences

        with self.items.stage("kill and resume") as tell:
            if twin is not None and (problem := _problem(short_runs.run(twin, tell))):
                return Found("", [problem])
            killed = replace(whole, folder=scratch / "killed", hold_at=2)
            ended = short_runs.run(killed, lambda phase: tell(f"to be killed: {phase}"))
            if not ended.held:
                return Found("", [_problem(ended) or "the training that was to be killed came to its end"])
            resumed = replace(killed, hold_at=0, resume=True)
            if problem := _problem(short_runs.run(resumed, lambda phase: tell(f"resumed: {phase}"))):
                return Found("", [f"resumed after a kill: {problem}"])
        found = differences(whole.folder, killed.folder)
        if found and whole.device == "cpu":
            return Found("", [f"killed and resumed, the training differs from one left alone in {', '.join(found)}"])
        if found:
            return Found(f"differs in {', '.join(found)}: on {whole.device} sums may be taken in another order")
        size = f", batch {batch}" if batch is not None else ""
        return Found(f"killed in update 2, resumed from update 1: every bit as left alone{size}")


def _problem(ended: short_runs.Ended) -> str:
    return "; ".join(f"{ended.at}: {problem}" for problem in ended.problems)


@contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a folder that is gone afterwards, whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="mlkit-rehearsal-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free(folder: Path) -> int:
    from mlkit.files import existing_parent

    return shutil.disk_usage(existing_parent(folder)).free


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

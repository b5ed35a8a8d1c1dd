"""One training loop for every task. Read it top to bottom; nothing here knows which task it trains.

Three rules make resume exact:
  1. state.step counts completed updates; a checkpoint at step N continues with update N. No "+ 1" anywhere.
  2. Data order, augmentation, noise and dropout are functions of (seed, step), so no generator state is saved.
  3. The learning rate is a function of the step, so there is no scheduler object.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit.checkpoint import Checkpoint
from mlkit.data.manifest import DatasetManifest
from mlkit.data.sampler import StepSampler, batches
from mlkit.seeding import derive_seed, seed_everything
from mlkit.task import Task
from mlkit.training import ewc, validation
from mlkit.training.drawing import draw, finish_drawing
from mlkit.training.dumping import dump
from mlkit.training.forgetting import closing_words
from mlkit.training.guards import StopSignal, memory_named, stop_if_not_finite
from mlkit.training.progress import Progress, Silent
from mlkit.training.ranks import agreed
from mlkit.training.saving import save, settle
from mlkit.training.schedule import lr_at
from mlkit.training.setup import restore, set_up
from mlkit.training.state import Outcome, Run, TrainState
from mlkit.training.tracking import RowFile, Trackers, final_rows

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)


def fit(
    task: Task,
    data: DatasetManifest,
    folder: Path,
    *,
    accelerator: Accelerator,
    name: str,
    run_id: str,
    resume: Checkpoint | None = None,
    init_from: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train until the planned number of updates, a signal, or early stopping; returns how it ended.

    Args:
        task: the task, with settings in which precision and channels_last are decided.
        data: the dataset.
        folder: the run's folder; it exists.
        accelerator: device and processes.
        name: the run's name.
        run_id: the run's id.
        resume: continue exactly from this checkpoint.
        init_from: start a new run from these weights.
        progress: where to tell what goes on.

    Raises:
        NonFiniteError, MemoryShortError, CheckpointError, DataError: each with the way on.
    """
    with memory_named(), StopSignal() as stop, ExitStack() as files:
        told = progress or Silent()
        bare = resume is not None or init_from is not None
        run = set_up(task, data, folder, accelerator, name, run_id, init_from, told, bare=bare)
        if resume:
            state = restore(run, resume)
            run.ewc = ewc.restored(run, resume)
        else:
            state = TrainState()
            ewc.refuse_without_weights(task.settings, init_from is not None)
            run.ewc = ewc.measure(run)
        return _train(run, state, stop, resume, files, from_weights=init_from is not None)


def _train(
    run: Run, state: TrainState, stop: StopSignal, resumed: Checkpoint | None, files: ExitStack, *, from_weights: bool
) -> Outcome:
    settings, accelerator = run.task.settings, run.accelerator
    rows = timing = trackers = None
    if run.main:
        kept = state.step if resumed else -1  # a start has no rows, not even that of step 0
        rows = files.enter_context(closing(RowFile(run.folder / "metrics.jsonl", kept)))
        timing = files.enter_context(closing(RowFile(run.folder / "timing.jsonl", kept)))
        trackers = Trackers(
            settings.tracking,
            run.folder,
            name=run.name,
            run_id=run.run_id,
            start_step=state.step,
            values=settings.model_dump(mode="json"),
            say=run.progress.say,
        )
        files.callback(trackers.finish)  # also on an error: a tracker's run must not be left open
    saved = resumed
    if saved and run.main and saved.folder.parent == run.folder:
        # A kill may have come between a checkpoint and what follows it.
        settle(run, saved)
        finish_drawing(run, state, saved, trackers)
    run.progress.begin(state.step, run.plan.steps, run.plan.samples_per_step)
    data = _training_batches(run, state)
    warned: set[str] = set()
    stopped_early = validation.patience_is_over(run, state)  # a kill may have come between the save and the end
    means: Mapping[str, float] = resumed.info.get("scores", {}) if resumed else {}
    if run.guard and from_weights and not resumed:
        started = validation.begin_guard(run, state)
        if rows and trackers and started:
            row = {"step": 0, "split": "validation", **started}
            rows.add(row)
            trackers.log(row)
    elif run.guard and state.guard_start is None:
        run.progress.say(
            "eval.guard_data is scored but compared with nothing: this run did not begin with it and --init-from"
        )

    while state.step < run.plan.steps and not stopped_early:
        # ---- one update ------------------------------------------------------------------------------------
        started_s = perf_counter()
        seed_everything(derive_seed(settings.seed, "step", state.step, accelerator.process_index))
        lr = lr_at(state.step, settings.train, run.plan.steps, run.plan.warmup_steps)
        scalars, warnings, stopping, batch = _update(run, data, stop, step=state.step, lr=lr)
        run.ema.update(run.net, state.step)
        state.step += 1
        state.samples_seen += run.plan.samples_per_step
        state.train_s += perf_counter() - started_s

        # ---- tell ------------------------------------------------------------------------------------------
        at_end = state.step >= run.plan.steps
        if run.main:
            assert rows and timing and trackers
            run.progress.update(state.step, scalars | {"lr": lr})
            for warning in warnings:
                kind = warning.partition(":")[0]  # "latent 3: KL 0.01 nat ..." is told once for each latent
                if kind not in warned:
                    warned.add(kind)
                    run.progress.say(f"warning at step {state.step}: {warning}")
                    log.warning("step %d: %s", state.step, warning)
            if at_end or state.step % settings.tracking.every == 0:
                row = {"step": state.step, "samples": state.samples_seen, "lr": lr, **scalars}
                rows.add(row)
                timing.add({"step": state.step, "train_s": round(state.train_s, 3)})
                trackers.log(row)
            if batch is not None:
                dump(run, state, batch)
                batch = None  # its memory is free again before the next update

        # ---- score, save, draw -----------------------------------------------------------------------------
        save_due = at_end or state.step % settings.checkpoint.every == 0
        eval_due = save_due or (settings.eval.every is not None and state.step % settings.eval.every == 0)
        scored = guarded = None
        if eval_due:
            scored = validation.score(run, state)  # every process: early stopping must be agreed
            means = scored.means() if scored is not None else {}  # no older scores beside these weights
            if scored is not None:
                guarded = validation.score_guarded(run, state)
                means = {**means, **(run.guard.means(guarded) if run.guard else {})}
                validation.take_note(run, state, means)
                validation.watch(run, state, means)
                if run.main:
                    assert rows and trackers
                    row = {"step": state.step, "split": "validation", **means}
                    rows.add(row)
                    trackers.log(row)
            # The main process decides: what fails there alone must not part the others from it.
            stopped_early = agreed(validation.patience_is_over(run, state), accelerator)
        if save_due or stopping or stopped_early:
            if run.main:
                assert rows and timing
                rows.sync()
                timing.sync()
                saved = save(run, state, scored, guarded)
                draw(run, state, saved, scored, trackers)
            accelerator.wait_for_everyone()
        if stopping:
            break

    # ---- finish --------------------------------------------------------------------------------------------
    run.progress.end()
    finished = state.step >= run.plan.steps or stopped_early
    if run.main:
        assert trackers
        if finished:
            final = final_rows(means, state.step, run.task.primary_metric, state.best, state.best_step)
            trackers.log_final(final, state.step)
        trackers.finish()
        run.failures += trackers.failed
        if run.guard and (words := closing_words(run.guard, state, means)):
            run.failures.append(words)
    if saved is None:  # another process than the main one: it opens what the main one wrote
        from mlkit.checkpoint import newest_good

        saved, _ = newest_good(run.folder)
        assert saved is not None
    return Outcome(
        state=state,
        checkpoint=saved,
        stopped_by=None if finished else (stop.asked_by or "another process"),
        stopped_early=stopped_early,
        means=means,
        failures=tuple(run.failures),
        warnings=tuple(run.warnings),
    )


def _training_batches(run: Run, state: TrainState) -> Iterator[dict[str, Tensor]]:
    settings = run.task.settings
    sampler = StepSampler(
        len(run.source),
        seed=settings.seed,
        batch_size=settings.train.batch_size,
        first_sample=state.samples_seen,
        num_batches=(run.plan.steps - state.step) * settings.train.accumulate,
        rank=run.accelerator.process_index,
        ranks=run.accelerator.num_processes,
    )
    return batches(
        run.source,
        sampler,
        seed=settings.seed,
        purpose="sample",
        workers=settings.train.workers,
        device=run.accelerator.device,
    )


def _update(
    run: Run, data: Iterator[dict[str, Tensor]], stop: StopSignal, *, step: int, lr: float
) -> tuple[dict[str, float], list[str], bool, dict[str, Tensor] | None]:
    """One optimizer update over `accumulate` forward passes.

    Returns:
        the means of loss and parts over passes and processes with the gradient norm; warnings; whether any process
        was asked to stop; the batch of the last pass where it is to be drawn.
    """
    settings, accelerator = run.task.settings.train, run.accelerator
    run.network.train()  # a hook may have left it in eval mode
    for layer in run.held:
        layer.eval()
    run.optimizer.zero_grad(set_to_none=True)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    sums: dict[str, Tensor] = {}
    warnings: list[str] = []
    samples: list[int] = []
    for micro in range(settings.accumulate):
        batch = next(data)
        is_last = micro == settings.accumulate - 1
        with nullcontext() if is_last else accelerator.no_sync(run.network):
            loss = run.task.loss(run.network, batch, step=step)
            run.scaler.scale(loss.total / settings.accumulate).backward()  # type: ignore[no-untyped-call]
        for key, value in {"loss": loss.total.detach(), **loss.parts}.items():
            sums[key] = sums.get(key, torch.zeros((), device=value.device)) + value.float() / settings.accumulate
        warnings += loss.warnings
        samples += batch["index"].tolist()
    run.scaler.unscale_(run.optimizer)
    if run.ewc:
        sums["ewc"] = run.ewc.add_gradient(run.net).float()
        sums["loss"] = sums["loss"] + sums["ewc"]
    trained = [value for value in run.net.parameters() if value.grad is not None]
    limit = settings.grad_clip_norm if settings.grad_clip_norm is not None else float("inf")
    grad_norm = nn.utils.clip_grad_norm_(trained, limit)
    flag = torch.tensor(float(stop.asked_by is not None), device=grad_norm.device)
    stacked = torch.stack([*sums.values(), grad_norm.float(), flag])
    # .tolist() is the one device-to-host sync of the step: the price of a guard that names the exact step.
    *values, asked = accelerator.reduce(stacked, reduction="mean").tolist()
    scalars = dict(zip([*sums, "grad_norm"], values, strict=True))
    stop_if_not_finite(
        scalars,
        run.folder,
        step=step,
        samples=[run.source.sample_id(index) for index in samples] if not _finite(scalars) else [],
        rank=accelerator.process_index,
        fp16=run.scaler.is_enabled(),
    )
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return scalars, warnings, asked > 0, batch if run.task.settings.debug.dump_due(step + 1) else None


def _finite(scalars: Mapping[str, float]) -> bool:
    return all(abs(value) < float("inf") for value in scalars.values())

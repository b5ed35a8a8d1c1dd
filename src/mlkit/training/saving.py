"""A checkpoint of a running training, and what follows one: pointers, and the removal of what no rule keeps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlkit.checkpoint import Checkpoint, checkpoint_folders, prune, save_checkpoint, write_pointer
from mlkit.training import validation
from mlkit.training.state import Run, TrainState


def save(
    run: Run, state: TrainState, scored: validation.Evaluation | None, guarded: validation.Evaluation | None = None
) -> Checkpoint:
    """Save, verify, move the pointers, and only then remove what no rule keeps."""
    settings = run.task.settings
    run.progress.stage("saving")
    facts: dict[str, Any] = {
        "task": settings.task,
        "step": state.step,
        "run": run.name,
        "run_id": run.run_id,
        "settings": settings.model_dump(mode="json"),
        "dataset_sha256": run.data.sha256,
        "dataset_label": run.data.label,
        "preprocessing": run.data.preprocessing,
        "parameters": sum(value.numel() for value in run.net.parameters()),
        "facts": dict(run.task.facts),
        "scores": validation.finite(scored.means() | (run.guard.means(guarded) if run.guard else {})) if scored else {},
        **({"ewc_sha256": run.ewc.sha256} if run.ewc else {}),
    }
    report = {"eval.json": validation.eval_report(run, state, scored, guarded)} if scored else {}
    saved = save_checkpoint(
        run.folder / f"ckpt-{state.step}",
        run.net,
        info=facts,
        ema=run.ema.state(),
        optimizer={"optimizer": run.optimizer.state_dict(), "scaler": run.scaler.state_dict()},
        training_state=asdict(state),
        reports=report,
    )
    settle(run, saved)
    run.progress.stage("")
    return saved


def settle(run: Run, saved: Checkpoint) -> None:
    """Move the pointers and remove what no rule keeps; doing it again changes nothing."""
    settings = run.task.settings.checkpoint

    def score(folder: Path) -> float | None:
        return validation.stored_score(folder, run.task.primary_metric)

    write_pointer(run.folder, "last", saved.folder)
    scored = [(value, folder) for folder in checkpoint_folders(run.folder) if (value := score(folder)) is not None]
    if scored and settings.keep_best:
        write_pointer(run.folder, "best", max(scored, key=lambda pair: pair[0])[1])  # the first of equals
    prune(
        run.folder,
        keep_last=settings.keep_last,
        keep_best=settings.keep_best,
        keep_every=settings.keep_every,
        score=score,
        protect=[saved.folder],
    )

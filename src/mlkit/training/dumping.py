"""Pictures of training batches, `debug.dump_every`: what the network was given, and what it makes of it now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from mlkit.imaging.grids import comparison_grid, write_png
from mlkit.seeding import derive_seed, isolated_rng
from mlkit.training.hooks import failed
from mlkit.training.state import Run, TrainState

if TYPE_CHECKING:
    from torch import Tensor


def dump(run: Run, state: TrainState, batch: Mapping[str, Tensor]) -> None:
    """Draw the first samples of a batch under the weights of `state.step`; a failure is counted like a grid's.

    The weights are those that train, not their average, and nothing of training changes: eval mode, no gradient,
    generators of its own.
    """
    run.progress.stage("drawing")
    try:
        count = min(run.task.settings.debug.dump_images, len(batch["index"]))
        seed = derive_seed(run.task.settings.seed, "debug", state.step)
        few = {key: value[:count] for key, value in batch.items()}
        run.net.eval()
        with torch.no_grad(), isolated_rng(seed):
            outputs = run.task.predict(run.net, few)
            rows = [run.task.panels(outputs, few, place) for place in range(count)]
        ids = [run.source.sample_id(index) for index in few["index"].tolist()]
        picture = comparison_grid(rows, heading=f"{run.name}  step {state.step}, training batch", labels=ids)
        write_png(run.folder / "debug" / f"step_{state.step:08d}.png", picture)
    except Exception:  # noqa: BLE001 - named, counted, and raised where strict_hooks asks for it
        failed(run, state, "debug picture", state.step)
    run.progress.stage("")

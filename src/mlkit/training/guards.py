"""Guards of the loop: numbers that are not finite, signals, memory."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mlkit.errors import MemoryShortError, NonFiniteError
from mlkit.files import write_json


def stop_if_not_finite(
    scalars: Mapping[str, float], run_dir: Path, *, step: int, samples: Sequence[str], rank: int, fp16: bool
) -> None:
    """Raise when a value is not finite, before the optimizer step, so that weights and checkpoints stay good.

    Args:
        scalars: loss, its parts and the gradient norm, means over all processes, so that every process decides alike.
        run_dir: where the evidence goes.
        step: the update that was being made, 0-based.
        samples: ids of this process's samples.
        rank: this process.
        fp16: whether a loss scaler is at work; an infinite gradient is routine then, and the scaler skips the update.

    Raises:
        NonFiniteError: naming the values, the evidence file and the way on.
    """
    bad = [name for name, value in scalars.items() if not math.isfinite(value) and not (fp16 and name == "grad_norm")]
    if not bad:
        return
    evidence = run_dir / f"nonfinite-{step:08d}-rank{rank}.json"
    shown = {name: value if math.isfinite(value) else str(value) for name, value in scalars.items()}
    # Every process its own samples: any of them may hold the one that did it.
    write_json(evidence, {"format_version": 1, "step": step, "values": shown, "samples": list(samples)})
    raise NonFiniteError(
        f"step {step}: {', '.join(bad)} not finite; the weights were not updated. Evidence (values, sample ids): "
        f"{evidence}. Resuming would meet it again: look at those samples, or start a new run with a lower train.lr "
        f"or train.grad_clip_norm by --init-from the last checkpoint"
    )


class StopSignal:
    """SIGINT and SIGTERM ask the loop to finish its update and save; a second SIGINT leaves at once."""

    def __init__(self) -> None:
        self.asked_by: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: the caller owns the signals then
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked_by is not None and number == signal.SIGINT:
            # Leave at once: no cleanup may hang. What is on disk is complete by construction.
            os._exit(130)
        self.asked_by = signal.Signals(number).name


@contextmanager
def memory_named() -> Iterator[None]:
    """Turn an out-of-memory error of torch or Python into one sentence."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MemoryShortError(_memory_sentence(str(error))) from error
    except RuntimeError as error:
        said = ("not enough memory", "out of memory", "can't allocate memory")  # torch's CPU allocator has two of them
        if any(words in str(error) for words in said):
            raise MemoryShortError(_memory_sentence(str(error))) from error
        raise


def _memory_sentence(detail: str) -> str:
    first = detail.splitlines()[0] if detail else "no detail"
    return (
        f"out of memory ({first}); lower --batch-size (and raise train.accumulate to keep the same update), "
        f"or use --precision bf16"
    )

"""Work that is tried again in smaller parts when memory is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mlkit.errors import MemoryShortError

Plan = TypeVar("Plan")
Made = TypeVar("Made")


def with_memory(
    attempt: Callable[[Plan], Made],
    plan: Plan,
    smaller: Callable[[Plan], Plan | None],
    *,
    on_retry: Callable[[Plan, Plan], None],
    when_short: Callable[[Plan], str],
) -> tuple[Made, Plan]:
    """Return what `attempt` makes under the first plan that fits into memory, and that plan.

    Args:
        attempt: makes it under a plan.
        plan: to begin with.
        smaller: the next plan to try; None at the end.
        on_retry: told the plan that did not fit and the next one.
        when_short: the sentence when even the last plan does not fit.

    Raises:
        MemoryShortError: when even the last plan does not fit.
    """
    while True:
        try:
            return attempt(plan), plan
        except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, which holds the frames and so the tensors.
        _free_device_memory()
        following = smaller(plan)
        if following is None:
            raise MemoryShortError(when_short(plan))
        on_retry(plan, following)
        plan = following


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is short, on the machine or the device."""
    import torch

    # On a CPU torch raises a plain RuntimeError: "DefaultCPUAllocator: can't allocate memory".
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or ("allocate" in text and "memory" in text)


def _free_device_memory() -> None:
    import torch

    torch.cuda.empty_cache()  # does nothing where CUDA was never used

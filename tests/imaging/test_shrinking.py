"""Work that is tried again in smaller parts when memory is short."""

from __future__ import annotations

import pytest
import torch

from mlkit.errors import MemoryShortError
from mlkit.imaging.shrinking import is_out_of_memory, with_memory

CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"


def halved(size: int) -> int | None:
    return size // 2 or None


def test_smaller_plans_are_tried_until_one_fits() -> None:
    told: list[tuple[int, int]] = []

    def attempt(size: int) -> str:
        if size > 2:
            raise MemoryError
        return f"made of {size}"

    made = with_memory(attempt, 8, halved, on_retry=lambda *sizes: told.append(sizes), when_short=str)
    assert made == ("made of 2", 2)
    assert told == [(8, 4), (4, 2)]


def test_the_end_is_one_sentence() -> None:
    def attempt(size: int) -> None:
        raise RuntimeError(CPU_ERROR)

    with pytest.raises(MemoryShortError) as refused:
        with_memory(attempt, 2, halved, on_retry=lambda *sizes: None, when_short=lambda size: f"{size} does not fit")
    assert refused.value.problems == ("1 does not fit",)


def test_other_errors_are_not_tried_again() -> None:
    tried = []

    def attempt(size: int) -> None:
        tried.append(size)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        with_memory(attempt, 8, halved, on_retry=lambda *sizes: None, when_short=str)
    assert tried == [8]


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError(CPU_ERROR), True),
        (RuntimeError("index out of range"), False),
        (ValueError("memory"), False),
    ],
)
def test_what_counts_as_short_memory(error: BaseException, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory

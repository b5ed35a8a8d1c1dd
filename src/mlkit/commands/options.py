"""What the commands of several tasks share: settings told as options, and a work that a signal ends cleanly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def option_problems(sentences: list[str]) -> list[str]:
    """Return what is wrong with settings as said of options: "val_share = 2: ..." becomes "--val-share = 2: ..."."""
    told = []
    for sentence in sentences:
        key, separator, rest = sentence.partition(" = ")
        name = key.partition(".")[0].replace("_", "-")  # one of the two percentiles is told like both
        told.append(f"--{name}{separator}{rest}" if separator else sentence.removeprefix("settings: "))
    return told


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: by default a process dies without removing what it has begun."""
    import signal

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

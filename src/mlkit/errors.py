"""What mlkit raises at a user, one class per exit code; anything else that is raised is a defect of mlkit.

MlkitError                      2  usage: an unknown name, an option that cannot be meant
|-- SettingsError               3  settings or a resume refused
|   `-- CheckpointError         3  a checkpoint that is missing, broken or of another task
|-- DataError                   4  missing, broken or unfit data
|-- NonFiniteError              5  a NaN or an infinity, found before the optimizer step
|-- MemoryShortError            6  out of memory
|-- NotReadyError               7  a rehearsal that found something wrong
|-- GateError                   8  a comparison that --fail-if does not let pass
`-- StoppedError               75  stopped by a signal, and saved
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class MlkitError(Exception):
    """A problem that the user can solve; its text is one sentence with what, the value and what would work.

    Several problems found together are reported together: `problems` holds one sentence each.
    """

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        assert problems, "an error needs a sentence"
        self.problems: tuple[str, ...] = problems
        super().__init__("\n".join(problems))


class SettingsError(MlkitError):
    """Settings, a preset or a resume that is refused."""

    exit_code = 3


class CheckpointError(SettingsError):
    """A checkpoint that is missing, broken, newer than this mlkit, or made for something else."""


class NewerCheckpointError(CheckpointError):
    """A checkpoint that a newer mlkit wrote: it is whole, so nothing takes its place."""


class DataError(MlkitError):
    """Data that is missing, broken or unfit."""

    exit_code = 4


class NewerFormatError(DataError):
    """A file that a newer mlkit wrote: whole, and nothing to be skipped or written over."""


class NonFiniteError(MlkitError):
    """A loss, gradient or output that is NaN or infinite."""

    exit_code = 5


class MemoryShortError(MlkitError):
    """Not enough memory, on the device or the machine."""

    exit_code = 6


class NotReadyError(MlkitError):
    """A rehearsal that found something which a training would stumble over."""

    exit_code = 7


class GateError(MlkitError):
    """A condition of `mlkit compare --fail-if` holds, or could not be judged."""

    exit_code = 8


class StoppedError(MlkitError):
    """Stopped by SIGINT or SIGTERM after a checkpoint was saved."""

    exit_code = 75


def did_you_mean(name: str, known: Iterable[str], aliases: dict[str, str] | None = None) -> str:
    """Return " (did you mean 'x'?)" for the nearest known name, or the empty string."""
    # What people call it elsewhere may be mistyped too.
    meant = {name: name for name in known}
    meant |= {alias: key for alias, key in (aliases or {}).items() if key in meant and alias not in meant}
    near = difflib.get_close_matches(name, list(meant), n=1, cutoff=0.6)
    # Of "lr", one letter is half the name, which is far by any ratio.
    near = near or [other for other in meant if _one_slip_apart(name, other)][:1]
    return f" (did you mean '{meant[near[0]]}'?)" if near else ""


def _one_slip_apart(name: str, other: str) -> bool:
    """Return whether one letter more, less or changed, or two neighbours swapped, makes one name of the other."""
    if len(name) > len(other):
        name, other = other, name
    start = next((place for place, letter in enumerate(name) if letter != other[place]), len(name))
    rest, other_rest = name[start:], other[start:]
    if len(name) < len(other):
        return rest == other_rest[1:]
    return rest[1:] == other_rest[1:] or (rest[:2] == other_rest[:2][::-1] and rest[2:] == other_rest[2:])


def listing(names: Sequence[str], limit: int = 12) -> str:
    """Return names joined by commas, cut after `limit` with the count of the rest."""
    if not names:
        return "none"
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def counted(number: int, noun: str) -> str:
    """Return "1 patch", "2 patches" or "1,234 scenes"."""
    plural = "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"

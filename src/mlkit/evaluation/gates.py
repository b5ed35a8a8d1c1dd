"""Conditions on a comparison that end it with an exit code of its own: `--fail-if "psnr < -0.05 @95%"`.

    METRIC  <|<=|>|>=  NUMBER  [@LEVEL%]

The number is an improvement over the first model as the tables print it: in the metric's unit, positive is better in
whatever direction the metric goes. Without a level the mean improvement is judged; with one, the whole interval of that
level has to lie there, so that "psnr < -0.05 @95%" holds where a loss of more than 0.05 dB is shown.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlkit.errors import MlkitError, did_you_mean, listing
from mlkit.evaluation.comparison import Comparison
from mlkit.evaluation.rows import Row
from mlkit.evaluation.statistics import Interval, improvements, paired_bootstrap
from mlkit.metrics import METRICS

_GATE = re.compile(r"\s*([A-Za-z]\w*)\s*(<=|>=|<|>)\s*([^\s@]+)\s*(?:@\s*([^\s%]+)\s*%)?\s*")
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FORM = "METRIC <, <=, > or >= NUMBER, then @LEVEL% if it is to be shown, such as 'psnr < -0.05 @95%'"


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on the improvement of one metric."""

    metric: str
    sign: str
    bound: float
    level: float | None  # 0.95; None: of the mean alone

    def __str__(self) -> str:
        shown = f" @{100 * self.level:g}%" if self.level is not None else ""
        return f"{self.metric} {self.sign} {self.bound:g}{shown}"

    def holds(self, improvement: Interval) -> bool | None:
        """Return whether the condition holds; None where it cannot be known."""
        compare = _SIGNS[self.sign]
        if self.level is None:
            return compare(improvement.mean, self.bound) if math.isfinite(improvement.mean) else None
        if math.isnan(improvement.low) or math.isnan(improvement.high):
            return None
        return compare(improvement.low, self.bound) and compare(improvement.high, self.bound)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a condition for one model."""

    gate: Gate
    model: str
    improvement: Interval  # of the condition's level
    holds: bool | None  # None: it could not be judged


def parse_gate(text: str) -> Gate:
    """Return the condition that a text means.

    Raises:
        MlkitError: for what does not follow the grammar, and for an unknown metric.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise MlkitError(f"--fail-if '{text}' is no condition: write {_FORM}")
    metric, sign, bound, level = match.groups()
    problems = []
    if metric not in METRICS or metric == "loss":
        known = [key for key in METRICS if key != "loss"]
        problems.append(
            f"--fail-if '{text}': unknown metric '{metric}'{did_you_mean(metric, known)}; there are: "
            f"{listing(known, 40)}"
        )
    for name, number in (("number", bound), ("level", level)):
        if number is not None and not _finite(number):
            problems.append(f"--fail-if '{text}': the {name} '{number}' is no number; write {_FORM}")
    if level is not None and _finite(level) and not 50 <= float(level) < 100:
        problems.append(f"--fail-if '{text}': the level {level} % is not from 50 up to 100; 95 is usual")
    if problems:
        raise MlkitError(*problems)
    return Gate(metric, sign, float(bound), float(level) / 100 if level is not None else None)


def parse_gates(texts: Sequence[str]) -> list[Gate]:
    """Return the conditions that texts mean; one MlkitError has everything that is wrong with any."""
    gates: list[Gate] = []
    problems: list[str] = []
    for text in texts:
        try:
            gates.append(parse_gate(text))
        except MlkitError as error:
            problems += error.problems
    if problems:
        raise MlkitError(*problems)
    return gates


def judge_gates(gates: Sequence[Gate], comparison: Comparison, *, seed: int = 0) -> list[Outcome]:
    """Return what comes of each condition for each model but the first.

    Raises:
        MlkitError: when the comparison lacks a metric.
    """
    absent = list(dict.fromkeys(gate.metric for gate in gates if gate.metric not in comparison.metrics))
    if absent:
        raise MlkitError(
            *(
                f"--fail-if: {key} was not scored in every run{did_you_mean(key, comparison.metrics)}; compared are: "
                f"{listing(list(comparison.metrics), 40)}"
                for key in absent
            )
        )
    first, *others = comparison.rows
    return [_judged(gate, first, row, seed) for gate in gates for row in others]


def _judged(gate: Gate, first: Row, row: Row, seed: int) -> Outcome:
    improvement = row.differences[gate.metric].improvement
    if gate.level is not None and not math.isclose(gate.level, improvement.level):
        gains = improvements(first.values[gate.metric], row.values[gate.metric], METRICS[gate.metric].better)
        improvement = paired_bootstrap(gains, seed=seed, level=gate.level)
    return Outcome(gate, row.name, improvement, gate.holds(improvement))


def _finite(number: str) -> bool:
    try:
        return math.isfinite(float(number))
    except ValueError:
        return False

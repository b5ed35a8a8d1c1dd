"""What a comparison found, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlkit.errors import counted
from mlkit.evaluation.comparison import Comparison
from mlkit.evaluation.rows import Row
from mlkit.evaluation.statistics import Difference
from mlkit.metrics import METRICS
from mlkit.report.tables import main_metrics
from mlkit.report.values import format_p, format_value

_VERDICTS = {"better": "Better too", "worse": "Worse", "no difference shown": "No difference shown"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One model against the first."""

    model: str
    place: int  # among the rows
    kind: str  # better, worse, same
    verdict: str  # "better than a"
    number: str  # the improvement of the main metric; "" where there is none
    unit: str
    metric: str
    interval: str  # "95 % interval +0.31 to +0.53"; "" where there is none
    sentences: Sequence[str]


def findings(comparison: Comparison) -> list[Finding]:
    """Return what was found of each model but the first."""
    return [_finding(comparison, place) for place in range(1, len(comparison.rows))]


def _finding(comparison: Comparison, place: int) -> Finding:
    row = comparison.rows[place]
    key, first = comparison.main, comparison.rows[0].name
    found = row.differences[key]
    kind = {"better": "better", "worse": "worse"}.get(found.verdict, "same")
    verdict = {"better": f"better than {first}", "worse": f"worse than {first}"}.get(
        found.verdict, f"no difference to {first} shown"
    )
    metric, improvement = METRICS[key], found.improvement
    return Finding(
        model=row.name,
        place=place,
        kind=kind,
        verdict=verdict,
        number=format_value(key, improvement.mean, signed=True) if math.isfinite(improvement.mean) else "",
        unit=metric.unit,
        metric=metric.name + (" nearer to 1" if metric.better == "one" else ""),
        interval=_interval(key, found),
        sentences=[_main_sentence(comparison, found), *_others(comparison, row), *_seeds(row, key), *_criteria(row)],
    )


def _interval(key: str, found: Difference) -> str:
    ends = [found.improvement.low, found.improvement.high]
    if not all(map(math.isfinite, ends)):
        return ""
    return f"95 % interval {' to '.join(format_value(key, end, signed=True) for end in ends)}"


def _main_sentence(comparison: Comparison, found: Difference) -> str:
    """Return "15 of 17 images are better, 1 is worse (p <0.001).", and what so many could have shown."""
    improvement = found.improvement
    if not improvement.num_pairs:
        return "No image has both scores."
    counts = [(found.wins, "better"), (found.losses, "worse"), (found.ties, "equal")]
    images = ", ".join(f"{count} {word}" for count, word in counts if count)
    told = f"Of {counted(improvement.num_pairs, 'image')} {images}"
    if improvement.num_pairs in (found.wins, found.losses, found.ties) and improvement.num_pairs > 1:
        told = f"All {improvement.num_pairs} images are {images.split()[1]}"
    sentence = f"{told} (sign-flip p {_p(found)})."
    if not _interval(comparison.main, found):
        return f"{sentence} So few images cannot show a difference."
    if found.verdict in ("better", "worse"):
        return sentence
    least = format_value(comparison.main, found.smallest_shown, unit=True)
    return f"{sentence} As many such images show a difference of {least} or more in four cases of five."


def _p(found: Difference) -> str:
    text = format_p(found.p_holm)
    of_several = f", corrected for {found.comparisons} comparisons" if found.comparisons > 1 else ""
    return f"{text if text.startswith('<') else '= ' + text}{of_several}"


def _others(comparison: Comparison, row: Row) -> list[str]:
    """Return which other main metrics got better, worse, or neither."""
    others = [key for key in main_metrics(comparison) if key != comparison.main]
    by_verdict = {
        words: [METRICS[key].name for key in others if row.differences[key].verdict == verdict]
        for verdict, words in (
            ("better", "Better too"),
            ("worse", "Worse"),
            ("no difference shown", "No difference shown"),
        )
    }
    if row.differences[comparison.main].verdict != "better":
        by_verdict = {words.replace("Better too", "Better"): names for words, names in by_verdict.items()}
    parts = [f"{words}: {', '.join(names)}." for words, names in by_verdict.items() if names]
    return [" ".join(parts)] if parts else []


def _seeds(row: Row, key: str) -> list[str]:
    """Return what training again would change."""
    if row.seeds is None or key not in row.seeds.improvements:
        return []
    found = row.seeds.improvements[key]
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return []
    ends = " to ".join(format_value(key, end, signed=True) for end in (found.low, found.high))
    shown = {"better": "the gain holds", "worse": "the loss holds"}.get(
        row.seeds.verdict(key), "seeds alone could explain it"
    )
    runs = counted(len(row.seeds.names), "run")
    return [f"Training again: over {runs} the interval is {ends}; {shown}."]


def _criteria(row: Row) -> list[str]:
    judged = [one for one in row.criteria if one.passed is not None]
    if not judged:
        return []
    failed = [one.sentence for one in judged if not one.passed]
    if not failed:
        return [f"{'Its criterion is' if len(judged) == 1 else f'All {len(judged)} criteria are'} met."]
    return [f"{len(failed)} of {counted(len(judged), 'criterion').replace('criterions', 'criteria')} missed: "
            f"{'; '.join(failed)}."]  # fmt: skip

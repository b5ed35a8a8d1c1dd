"""Every score mlkit knows, with unit, direction and protocol; importing this never imports torch.

The entries stand in `*_entries.py`; how a score is computed in `image.py`, `photo.py`, `mosaic.py`, `labels.py` and
`sar.py`. A signature names everything that moves the number; scores are ranked against each other only where their
signatures are equal.
"""

from __future__ import annotations

from mlkit.errors import MlkitError, did_you_mean, listing
from mlkit.metrics.metric import BETTER_TEXT, Better, Metric
from mlkit.metrics.table import METRICS

__all__ = ["BETTER_TEXT", "METRICS", "Better", "Metric", "get_metric", "goodness", "metric_table_markdown"]


def get_metric(key: str) -> Metric:
    """Return the metric of that key.

    Raises:
        MlkitError: for an unknown key; the sentence names the nearest one and all there are.
    """
    if key not in METRICS:
        raise MlkitError(f"unknown metric '{key}'{did_you_mean(key, METRICS)}; known: {listing(list(METRICS))}")
    return METRICS[key]


def goodness(key: str, value: float) -> float:
    """Return a number that rises as the score gets better: the value, its negative, or minus its distance from 1."""
    better = get_metric(key).better
    if better == "one":
        return -abs(value - 1.0)
    return value if better == "higher" else -value


def metric_table_markdown() -> str:
    """Return the table of docs/metrics.md: one row a metric."""
    lines = ["| key | name | unit | better | meaning | signature |", "| --- | --- | --- | --- | --- | --- |"]
    for metric in METRICS.values():
        signature = metric.signature.replace("|", "\\|")  # also inside code, a bar would end the cell
        lines.append(
            f"| `{metric.key}` | {metric.name} | {metric.unit or '-'} | {BETTER_TEXT[metric.better]} "
            f"| {metric.summary} | `{signature}` |"
        )
    return "\n".join(lines) + "\n"

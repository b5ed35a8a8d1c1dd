"""Every score mlkit knows, by key, in the order in which tables show them."""

from __future__ import annotations

from mlkit.metrics.label_entries import LABELS
from mlkit.metrics.map_entries import MAPS
from mlkit.metrics.metric import Metric
from mlkit.metrics.mosaic_entries import MOSAICS
from mlkit.metrics.picture_entries import PICTURES
from mlkit.metrics.sar_entries import RADAR

METRICS: dict[str, Metric] = {metric.key: metric for metric in (*PICTURES, *RADAR, *LABELS, *MOSAICS, *MAPS)}

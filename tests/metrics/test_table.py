"""The table of metrics: complete, found by key, and light to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlkit.errors import MlkitError
from mlkit.metrics import METRICS, get_metric, goodness, metric_table_markdown


def test_importing_the_table_does_not_import_torch() -> None:
    code = "import sys, mlkit.metrics; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_keys_signatures_and_units_are_consistent() -> None:
    assert {"loss", "psnr", "ssim", "enl_ratio", "epi"} <= set(METRICS)
    for key, metric in METRICS.items():
        assert metric.key == key
        assert metric.signature.startswith(f"{key}|") and metric.signature.split("|")[-1] == "v1"
    assert METRICS["psnr"].unit == "dB" and METRICS["psnr"].signature == "psnr|gray|crop0|clip01|mean-of-images|v1"
    assert METRICS["ssim"].signature == "ssim|gray|gauss11s1.5|crop5|mean-of-images|v1"
    assert METRICS["enl_ratio"].better == "one"


def test_goodness_rises_as_a_score_gets_better() -> None:
    assert goodness("psnr", 21.0) > goodness("psnr", 20.0)
    assert goodness("loss", 0.1) > goodness("loss", 0.2)
    assert goodness("enl_ratio", 1.1) > goodness("enl_ratio", 0.7) > goodness("enl_ratio", 95.0)


def test_an_unknown_metric_is_named_with_the_nearest_one() -> None:
    with pytest.raises(MlkitError, match=r"unknown metric 'pnsr'.*did you mean 'psnr'\?.*known: loss, psnr"):
        get_metric("pnsr")


def test_the_markdown_table_has_a_row_for_each_metric_and_whole_cells() -> None:
    lines = metric_table_markdown().splitlines()
    assert len(lines) == 2 + len(METRICS)
    assert all(line.replace("\\|", "").count("|") == 7 for line in lines)

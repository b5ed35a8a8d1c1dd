"""Run folders as training leaves them, with planted scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str, *, gain_db: float = 0.0, num: int = 24, criteria: Any = (), **changed: Any) -> Path:
        run = tmp_path / "runs" / name
        checkpoint = run / "ckpt-500"
        checkpoint.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"format_version": 1, "name": name, "status": "success"}))
        (run / "best").write_text("ckpt-500\n")
        info = {
            "format_version": 1,
            "step": 500,
            "settings": {"eval": {"criteria": list(criteria)}},
            "parameters": 1_234_567,
            "facts": {"values_ratio": 16.0, "bits_per_px": 2.0},
        }
        (checkpoint / "checkpoint.json").write_text(json.dumps(info))
        images = np.random.default_rng(0)  # the same images for every run
        psnr = images.normal(30, 4, num) + gain_db
        if gain_db:
            psnr += np.random.default_rng(1).normal(0, 0.1, num)
        report = {
            "format_version": 1,
            "step": 500,
            "dataset_sha256": "a" * 64,
            "dataset_label": "",
            "split": "validation",
            "protocol": "default",
            "signatures": {"psnr": "psnr|gray|v1", "enl_ratio": "enl|v1"},
            "ids": [f"{index:06d}" for index in range(num)],
            "scores": {"psnr": psnr.tolist(), "enl_ratio": [0.9] * num},
        }
        if changed.pop("without_eval", False):
            return run
        (checkpoint / "eval.json").write_text(json.dumps({**report, **changed}))
        return run

    return make

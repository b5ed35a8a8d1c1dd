"""`mlkit infer sar --latents`: a scene to a small file and back, and every refusal as the user reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from mlkit.checkpoint import save_checkpoint
from mlkit.settings import TrainSettings
from mlkit.tasks.sar.settings import SarModel, SarSettings
from mlkit.tasks.sar.task import SarTask

Mlkit = Callable[..., Any]


def saved(runs: Path, name: str, seed: int, **model: Any) -> None:
    """Write a run with the checkpoint of a small network that was not trained."""
    torch.manual_seed(seed)
    settings = SarSettings(model=SarModel(base_channels=4, **model), train=TrainSettings(steps=6))
    info = {"task": "sar", "step": 6, "settings": settings.model_dump(mode="json"), "run": name}
    info["preprocessing"] = {"db_min": -20.0, "db_max": 3.0}
    save_checkpoint(runs / name / "ckpt-6", SarTask(settings).build_model(), info=info)
    (runs / name / "run.json").write_text(json.dumps({"format_version": 1, "name": name, "status": "success"}))


@pytest.fixture
def scene(runs: Path, tmp_path: Path) -> Path:
    """Return one scene in the current folder; the runs "first", "second" and "plain" lie in runs/."""
    saved(runs, "first", 0, arch="gdn", latent_channels=64, quantize="noise")
    saved(runs, "second", 1, arch="gdn", latent_channels=64, quantize="noise")
    saved(runs, "plain", 0, latent_channels=4)
    intensity = np.random.default_rng(0).gamma(4.4, 0.2, (70, 90)) + 1e-6
    np.save(tmp_path / "scene.npy", intensity.astype(np.float32))
    return tmp_path / "scene.npy"


@pytest.mark.parametrize("model", ["first", "plain"])
def test_a_scene_is_coded_and_read_back_to_the_same(mlkit: Mlkit, scene: Path, tmp_path: Path, model: str) -> None:
    file = tmp_path / "coded" / "a.mlk"
    done = mlkit("infer", "sar", scene, "--checkpoint", model, "--latents", file, "--out", tmp_path / "first")
    assert done.code == 0, done.err
    size = file.stat().st_size
    assert f"a.mlk: 90 x 70 px in {size:,} bytes, {8 * size / 6300:.3f} bit/px, PSNR " in done.out
    assert f"with -20.00 to 3.00 dB as 0 to 1, by {model} ckpt-6; " in done.out
    again = mlkit("infer", "sar", file, "--checkpoint", model, "--out", tmp_path / "second")
    assert again.code == 0 and "speckle: none put back" in again.out
    one, two = (tifffile.imread(tmp_path / name / "scene_reconstructed.tif") for name in ("first", "second"))
    assert np.array_equal(one, two)
    db = (10 * np.log10(np.load(scene))).clip(-20, 3)
    told = float(re.search(r"PSNR ([\d.]+) dB", done.out)[1])  # type: ignore[index]
    assert told == pytest.approx(20 * np.log10(23 / np.sqrt(np.mean((one - db) ** 2))), abs=0.02)


def test_several_scenes_go_to_a_folder_at_a_rate(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.load(scene)[:64, :64])
    words = ("--checkpoint", "first", "--latents", tmp_path / "coded", "--bits-per-px", "1.5")
    done = mlkit("infer", "sar", scene, tmp_path / "other.npy", *words)
    assert done.code == 0, done.err
    for name, num_px in (("scene", 6300), ("other", 4096)):
        assert 8 * (tmp_path / "coded" / f"{name}.mlk").stat().st_size / num_px <= 1.5
    kept = mlkit("infer", "sar", scene, *words)
    assert kept.code == 4 and "scene.mlk exists; give another --latents, or --overwrite to replace it" in kept.err


def test_files_that_cannot_be_read_back_are_refused_in_one_sentence(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.mlk"
    assert mlkit("infer", "sar", scene, "--checkpoint", "first", "--latents", file).code == 0
    other = mlkit("infer", "sar", file, "--checkpoint", "second", "--out", tmp_path / "out")
    assert other.code == 4 and len(other.err.strip().splitlines()) == 1
    assert "a.mlk was coded by first ckpt-6 (" in other.err and "give the run that made it as --checkpoint" in other.err
    content = file.read_bytes()
    for damaged in (content[:-3], content[:40] + b"?" + content[41:]):
        file.write_bytes(damaged)
        done = mlkit("infer", "sar", file, "--checkpoint", "first", "--out", tmp_path / "out")
        assert done.code == 4 and len(done.err.strip().splitlines()) == 1
        assert "a.mlk is truncated or was altered (checksum); make it again from the scene" in done.err
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_go_together_are_told_at_once(mlkit: Mlkit, scene: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mlk").write_bytes(b"")

    def said(*words: object) -> str:
        done = mlkit("infer", "sar", *words, "--checkpoint", "first")
        assert done.code == 2, done.err
        return str(done.err)

    assert "nowhere to write to; give --out, or --latents to code the scene" in said(scene)
    assert "nowhere to write to; give --out\n" in said("a.mlk")
    assert "a.mlk is coded already; leave out --latents and give --out" in said(
        "a.mlk", "--latents", "b.mlk", "--out", "o"
    )
    assert "one file for several scenes; give a folder" in said(scene, scene, "--latents", "b.mlk")
    assert "--bits-per-px is for --latents; leave it out" in said(scene, "--out", "o", "--bits-per-px", "1")
    assert "which coded latents no longer are" in said(scene, "--latents", "b.mlk", "--speckle", "resample")
    assert "is not; give one kind a call" in said(scene, "a.mlk", "--out", "o")

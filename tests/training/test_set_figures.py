"""Figures of a whole set reach eval.json and the reader; pictures of both parts lie beside each checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from mlkit.checkpoint import open_checkpoint
from mlkit.data.manifest import DatasetManifest
from mlkit.evaluation.evaluate import evaluate, report_json
from mlkit.settings import RunSettings
from mlkit.task import Batch
from mlkit.training import trainer
from mlkit.training.state import Outcome
from shiftingtask import Heard
from talliedtask import FamilySource, TalliedTask, settings
from toytask import ToyTask


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return ToyTask(settings()).build_dataset(None, tmp_path_factory.mktemp("data") / "toy")


def fit(task: ToyTask, data: DatasetManifest, folder: Path, heard: Heard, **start: Any) -> Outcome:
    folder.mkdir(exist_ok=True)
    return trainer.fit(
        task, data, folder, accelerator=Accelerator(cpu=True), name="toy", run_id="0", progress=heard, **start
    )


@pytest.fixture(scope="module")
def trained(data: DatasetManifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, Heard]:
    folder, heard = tmp_path_factory.mktemp("run") / "tallied", Heard()
    return folder, fit(TalliedTask(settings()), data, folder, heard), heard


def _pixels(indices: range) -> list[float]:
    """Return the mean pixel of the validation samples, made as the toy makes them: from seed 50 + index."""
    return [float(np.random.default_rng(50 + index).random((3, 4, 4)).mean()) for index in indices]


# ---------------------------------------------------------------------------------------- evaluation


def test_the_figures_count_every_image_once_whatever_the_batches(data: DatasetManifest) -> None:
    task = TalliedTask(settings())
    torch.manual_seed(0)
    net = task.build_model()
    found = []
    for batch_size in (1, 4, 10):
        result = evaluate(
            task,
            net,
            task.eval_source(data),
            device=torch.device("cpu"),
            batch_size=batch_size,
            indices=range(7),
        )
        assert result.set_scores["num_seen"] == 7
        assert result.set_scores["mean_pixel"] == pytest.approx(np.mean(_pixels(range(7))), rel=1e-6)
        assert result.families == ["stripes", "real"] * 3 + ["stripes"]
        found.append(json.loads(report_json(result)))
    assert found[0]["set_scores"]["undefined"] is None, "JSON has no NaN"
    assert found[0]["families"] == found[2]["families"]


def test_a_task_without_them_leaves_an_eval_json_without_them(data: DatasetManifest) -> None:
    task = ToyTask(settings())
    result = evaluate(
        task, task.build_model(), task.eval_source(data), device=torch.device("cpu"), batch_size=5, indices=[0, 1]
    )
    assert (result.set_scores, result.warnings, result.families) == ({}, [], [])
    assert not {"set_scores", "families"} & set(json.loads(report_json(result)))


def test_each_checkpoint_keeps_the_figures_and_families_of_its_evaluation(trained: tuple[Path, Outcome, Heard]) -> None:
    folder, _, _ = trained
    for step in (4, 8, 10):
        stored = json.loads((folder / f"ckpt-{step}" / "eval.json").read_text())
        assert stored["set_scores"]["num_seen"] == 10
        assert stored["families"] == ["stripes", "real"] * 5


# ------------------------------------------------------------------------------------------ warnings


def test_what_a_set_says_is_wrong_is_told_once_a_kind_and_again_at_the_end(
    trained: tuple[Path, Outcome, Heard],
) -> None:
    _, outcome, heard = trained
    sentence = f"dim images: the mean is {np.mean(_pixels(range(10))):.3f}"
    assert [line for line in heard.lines if "warning" in line] == [f"warning at step 4: validation: {sentence}"]
    assert outcome.warnings == (f"validation at step 10: {sentence}",)
    assert outcome.failures == ()


@pytest.mark.parametrize(("warns_from", "told_at"), [(5, [8]), (8, [8]), (11, [])])
def test_what_has_hardly_been_trained_is_not_warned_of(
    data: DatasetManifest, tmp_path: Path, warns_from: int, told_at: list[int]
) -> None:
    task, heard = TalliedTask(settings()), Heard()
    task.warns_from = warns_from
    outcome = fit(task, data, tmp_path / "run", heard)
    steps = [int(line.split()[3].rstrip(":")) for line in heard.lines if "warning" in line]
    assert steps == told_at
    assert bool(outcome.warnings) == bool(told_at), "the last evaluation's are told again, or none"


# ------------------------------------------------------------------------------------------ pictures


class Scripted(TalliedTask):
    """Scores 30, 20 and 40 dB in turn on the 10 validation samples."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        self.left = [30.0, 20.0, 40.0]

    def metrics(self, outputs: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
        found = super().metrics(outputs, batch)
        whole = len(batch["index"]) == 10  # pictures are drawn one by one
        return {**found, "psnr": torch.full((10,), self.left.pop(0))} if whole else found


def test_pictures_of_both_parts_are_named_by_epoch_and_by_the_best_so_far(
    data: DatasetManifest, tmp_path: Path
) -> None:
    folder, heard = tmp_path / "run", Heard()
    outcome = fit(Scripted(settings()), data, folder, heard)
    # 10 of 50 samples an update: after 4, 8 and 10 updates 0, 1 and 2 whole epochs
    expected = {
        4: ["pairs_epoch_0.png", "pairs_best.png"],
        8: ["pairs_epoch_1.png"],
        10: ["pairs_epoch_2.png", "pairs_best.png"],
    }
    for step, names in expected.items():
        assert {path.name for path in (folder / f"ckpt-{step}").glob("*.png")} == {"grid.png", *names}
    assert [line for line in heard.lines if line.startswith("[VISUALIZATION]")] == [
        f"[VISUALIZATION] Saved: {folder / f'ckpt-{step}' / name}" for step, names in expected.items() for name in names
    ]
    assert outcome.state.best_step == 10


def test_training_samples_stand_beside_validation_samples_without_their_augmentation(
    data: DatasetManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids: list[Any] = []

    def compose(rows: Any, *, heading: str = "", labels: Any = (), footer: str = "") -> Any:
        grids.append((rows, heading, labels))
        return np.full((8 + len(rows), 5, 3), len(rows), np.uint8)

    monkeypatch.setattr("mlkit.evaluation.evaluate.comparison_grid", compose)
    fit(TalliedTask(settings(steps=4)), data, tmp_path / "run", Heard())
    # 3 of 50 and 4 (checkpoint.grid_images) of 10, evenly spaced; ids count from 0 and from 50
    parts = [
        ("toy  step 4, epoch 0  (simulated data): training", ["000000", "000016", "000033"]),
        ("validation", ["000050", "000052", "000055", "000057"]),
    ]
    for (rows, heading, labels), (told, ids) in zip(grids[1:], parts, strict=True):
        assert (heading, labels) == (told, ids)
        for row, name in zip(rows, ids, strict=True):
            image = np.kron(np.random.default_rng(int(name)).random((3, 4, 4)), np.ones((1, 4, 4)))
            assert np.allclose(row[0].image_hwc, image.transpose(1, 2, 0), atol=1e-6)
    made = np.asarray(Image.open(tmp_path / "run" / "ckpt-4" / "pairs_epoch_0.png"))
    assert made.shape == (12, 10, 3) and (made[:11, :5] == 3).all() and (made[:, 5:] == 4).all()
    assert (made[11:, :5] > 240).all(), "paper below the lower one"


def test_pictures_and_figures_change_nothing_that_is_trained(
    trained: tuple[Path, Outcome, Heard], data: DatasetManifest, tmp_path: Path
) -> None:
    class OnlyFamilies(ToyTask):
        def eval_source(self, data: DatasetManifest) -> FamilySource:
            return FamilySource(data.splits["validation"], 50, 0.1)

    fit(OnlyFamilies(settings()), data, tmp_path / "plain", Heard())

    def content(folder: Path, name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    for name in ("metrics.jsonl", "ckpt-10/model.safetensors", "ckpt-8/model.safetensors"):
        assert content(trained[0], name) == content(tmp_path / "plain", name)


def test_a_resume_draws_what_a_kill_left_undrawn(data: DatasetManifest, tmp_path: Path) -> None:
    folder, task = tmp_path / "run", TalliedTask(settings(steps=4))
    fit(task, data, folder, Heard())
    pictures = sorted((folder / "ckpt-4").glob("pairs_*.png"))
    assert [path.name for path in pictures] == ["pairs_best.png", "pairs_epoch_0.png"]
    before = [np.asarray(Image.open(path)) for path in pictures]
    pictures[0].unlink()  # killed between the two
    fit(task, data, folder, Heard(), resume=open_checkpoint(folder / "ckpt-4"))
    assert all(np.array_equal(old, np.asarray(Image.open(path))) for old, path in zip(before, pictures, strict=True))


def test_no_grid_means_none_of_these_pictures(data: DatasetManifest, tmp_path: Path) -> None:
    wanted = settings(steps=4)
    without = wanted.model_copy(update={"checkpoint": wanted.checkpoint.model_copy(update={"grid": False})})
    fit(TalliedTask(without), data, tmp_path / "run", Heard())
    assert not list((tmp_path / "run").rglob("*.png"))

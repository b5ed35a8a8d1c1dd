"""The task's verbs: scores by hand, warnings of what is at its bound, panels, pairs and the user's own photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lensfiles import SMALL, photograph
from mlkit.data.manifest import DatasetManifest
from mlkit.data.sampler import stack
from mlkit.errors import DataError
from mlkit.presets import resolve_preset
from mlkit.tasks.lens.dataset import build_dataset
from mlkit.tasks.lens.geometry import IDENTITY, NAMES, identity_grid, profile_grid
from mlkit.tasks.lens.inputs import said_by_lines
from mlkit.tasks.lens.scores import bends, map_scores, picture_scores
from mlkit.tasks.lens.settings import LensBuild
from mlkit.tasks.lens.task import LensTask
from running import Job, run


def task(preset: str = "debug_smoke", **changes: Any) -> LensTask:
    assignments = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in changes.items()]
    return LensTask(resolve_preset(preset, assignments=assignments).settings)


def batch_of(one: LensTask, data: DatasetManifest, count: int = 2) -> dict[str, torch.Tensor]:
    source = one.eval_source(data)
    return stack([source.sample(index, np.random.default_rng(0)) for index in range(count)])


def truth(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return profile_grid(batch["profile"], batch["frame"], *batch["image"].shape[-2:])


@pytest.fixture(scope="module")
def batch(dataset: DatasetManifest) -> dict[str, torch.Tensor]:
    return batch_of(task(), dataset)


def outputs(batch: dict[str, torch.Tensor], grid: torch.Tensor, **params: float) -> dict[str, torch.Tensor]:
    values = torch.tensor([[params.get(name, IDENTITY[place]) for place, name in enumerate(NAMES)]] * len(grid))
    return {"map": grid, "parametric_map": grid, "params": values, "flow": torch.zeros(len(grid), 2, 8, 8)}


# ---- scores -------------------------------------------------------------------------------------------------------


def test_the_true_map_has_no_error_and_none_has_all_of_it(batch: dict[str, torch.Tensor]) -> None:
    right = map_scores(outputs(batch, truth(batch)), batch)
    assert float(right["epe_px"].max()) < 1e-3 and float(right["epe_corner_px"].max()) < 1e-3
    identity = identity_grid(*batch["image"].shape[-2:]).expand_as(truth(batch))
    none = map_scores(outputs(batch, identity), batch)
    width_px = 500 / batch["frame"][:, 0].double().numpy()
    moved = ((truth(batch) - identity) * batch["frame"][:, None, None]).double().norm(dim=-1).numpy()
    np.testing.assert_allclose(none["epe_px"], moved.mean(axis=(1, 2)) * width_px, rtol=1e-4)
    expected = none["epe_px"].numpy() / np.maximum(none["epe_px"].numpy(), 0.2)
    np.testing.assert_allclose(none["epe_share"], expected, rtol=1e-6)


def test_lines_are_straight_under_the_true_lens_and_bent_without(batch: dict[str, torch.Tensor]) -> None:
    """Of poly3 the lens model is exact: k1 and scale from the polynomial."""
    k, frame = -0.05, batch["frame"]
    profile = torch.tensor([[1 - k, 0.0, k, 0.0, 0.0, 0.0, 0.0]] * 2)
    scale = 1 / (1 - k)
    lens = outputs(batch, truth(batch), k1=k * scale**3, scale=scale)
    right = bends(lens["params"], lens["flow"], profile, frame)
    assert float(right.max()) < 2e-3
    none = outputs(batch, truth(batch))
    assert float(bends(none["params"], none["flow"], profile, frame).min()) > 0.5
    # scale and position do not bend
    moved = outputs(batch, truth(batch), k1=k * scale**3, scale=scale)
    plain = torch.tensor([[0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]] * 2)
    shifted = outputs(batch, truth(batch), cx=0.05, scale=1.1)
    assert float(bends(shifted["params"], shifted["flow"], plain, frame).max()) < 1e-3
    assert moved["params"].shape == (2, 8)


def test_scores_inside_the_valid_area_are_scikit_images() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 64, 64, 3)).astype(np.float32)
    made, target = (torch.from_numpy(one).permute(2, 0, 1)[None] for one in (x, y))
    whole = picture_scores(made, target, torch.ones(1, 64, 64, dtype=torch.bool))
    assert float(whole["psnr"][0]) == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1.0), abs=1e-5)
    options: dict[str, Any] = {"channel_axis": 2, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5}
    theirs = structural_similarity(x, y, use_sample_covariance=False, **options)
    assert float(whole["ssim"][0]) == pytest.approx(theirs, abs=1e-5)
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, :, 40:] = False
    part = picture_scores(made, target, valid)
    assert float(part["psnr"][0]) == pytest.approx(
        peak_signal_noise_ratio(y[:, :40], x[:, :40], data_range=1.0), abs=1e-5
    )
    theirs = structural_similarity(x[:, :40], y[:, :40], use_sample_covariance=False, **options)
    assert float(part["ssim"][0]) == pytest.approx(theirs, abs=1e-5)


# ---- warnings -----------------------------------------------------------------------------------------------------


def test_parameters_and_flow_at_their_bounds_are_told_by_name_and_share(dataset: DatasetManifest) -> None:
    one = task(model__lines=False)  # with lines there is a flow only where they are followed
    net = one.build_model()
    given = batch_of(one, dataset)
    assert one.loss(net, given, step=0).warnings == []
    with torch.no_grad():
        net.parametric.last.bias[1] = 9.0  # type: ignore[union-attr, operator, index]
        net.residual.last.bias.fill_(9.0)  # type: ignore[union-attr, operator]
    told = one.loss(net, given, step=0).warnings
    assert len(told) == 2
    assert told[0].startswith("k2 at its bound: in 100% of the images")
    assert told[1].startswith(
        "residual flow at its bound: 100% of it is beyond 90% of model.max_disp = 0.02 (mean 0.02"
    )
    assert one.loss(net, given, step=3).warnings == ()  # looked at every tenth step


# ---- stages -------------------------------------------------------------------------------------------------------


def test_every_stage_has_its_own_parts_and_takes_the_others_weights(dataset: DatasetManifest) -> None:
    small = {"data__size": 64, "model__backbone": "tiny", "model__channels": 8, "model__head_channels": 16}
    stages = [task(name, **small) for name in ("stage1_param_only", "stage2_hybrid", "stage3_finetune")]
    states = [one.build_model().state_dict() for one in stages]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    parts = [set(one.loss(one.build_model(), batch_of(one, dataset), step=1).parts) for one in stages]
    images = {"map", "pixel", "ssim_loss", "edge", "orientation"}
    of_flow = {"flow_tv", "flow_mag", "flow_curv", "jacobian"}
    assert parts == [images, images | of_flow, images | of_flow]
    assert stages[2].settings.loss.jacobian == 2 * stages[1].settings.loss.jacobian


def test_the_second_stage_changes_the_residual_head_alone(dataset: DatasetManifest, tmp_path: Path) -> None:
    small = {"data.size": 64, "model.backbone": "tiny", "model.channels": 8, "model.head_channels": 16}
    short = {"train.steps": 2, "train.batch_size": 4, "checkpoint.every": 1, "eval.max_samples": 1}
    changes = small | short | {"model.reduce": 1, "model.sure": 0.0, "checkpoint.grid": False}
    for preset, still in (("stage2_hybrid", ("backbone.", "parametric.")), ("stage3_finetune", ())):
        folder = tmp_path / preset
        assert run(Job("lens", dataset.folder, changes, preset=preset), folder)
        before, after = (load_file(folder / f"ckpt-{step}/model.safetensors") for step in (1, 2))
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert any(name.startswith("residual.") for name in changed)
        assert not any(name.startswith(still) for name in changed) if still else len(changed) > len(before) / 2


# ---- panels and other sources -------------------------------------------------------------------------------------


def test_panels_of_both_heads(dataset: DatasetManifest) -> None:
    one = task()
    given = batch_of(one, dataset)
    with torch.no_grad():
        made = one.predict(one.build_model().eval(), given)
    panels = one.panels(made, given, 1)
    titles = [panel.title for panel in panels]
    assert titles == ["Distorted", "Truth", "Parameters alone", "Parameters and flow", "|error| x8"]
    alone = task("lens_tiny", data__size=64)
    with torch.no_grad():
        titles = [panel.title for panel in alone.panels(alone.predict(alone.build_model().eval(), given), given, 0)]
    assert titles == ["Distorted", "Truth", "Corrected", "|error| x8"]


def test_pairs_are_trained_on_and_scored_without_a_true_map(tmp_path: Path) -> None:
    for number in range(3):
        photograph(tmp_path / f"pairs/distorted/a{number}.png", seed=number)
        photograph(tmp_path / f"pairs/corrected/a{number}.png", seed=number)
    build = LensBuild.model_validate(SMALL)
    data = build_dataset(None, tmp_path / "d", build=build, pairs=tmp_path / "pairs").manifest
    one = task()
    net = one.build_model()
    source = one.train_source(data)
    loss = one.loss(net, stack([source.sample(0, np.random.default_rng(0))]), step=0)
    assert "map" not in loss.parts and bool(torch.isfinite(loss.total))
    given = batch_of(one, data, 1)
    with torch.no_grad():
        scores = one.metrics(one.predict(net.eval(), given), given)
    assert torch.isnan(scores["epe_px"]).all() and torch.isfinite(scores["loss"]).all()
    assert float(scores["ssim"][0]) == pytest.approx(1.0, abs=1e-3)  # equal halves, nothing moved


def test_the_users_photographs_have_panels_of_the_map(dataset: DatasetManifest, tmp_path: Path) -> None:
    one = task()
    source = one.images_source(dataset, [photograph(tmp_path / "mine.png")])
    assert source.sample_id(0) == "mine.png"
    given = stack([source.sample(0, np.random.default_rng(0))])
    with torch.no_grad():
        made = one.predict(one.build_model().eval(), given)
        scores = one.metrics(made, given)
    assert torch.isnan(scores["psnr"]).all() and float(scores["det_min"][0]) == pytest.approx(1.0, abs=1e-4)
    titles = [panel.title for panel in one.panels(made, given, 0)]
    assert titles == ["Distorted", "Parameters alone", "Parameters and flow", "Flow", "Jacobian"]
    hearing = task("lens_tiny")
    heard = hearing.images_source(dataset, [tmp_path / "mine.png"]).sample(0, np.random.default_rng(0))
    with Image.open(tmp_path / "mine.png") as whole:
        said = said_by_lines(np.asarray(whole), heard["frame"], 0.7)
    assert all(torch.equal(heard[key], said[key]) for key in ("lines_params", "lines_facts"))
    net, given = hearing.build_model().eval(), stack([heard])
    assert net.parametric.gate is not None  # type: ignore[union-attr]
    with torch.no_grad():
        net.parametric.gate.bias.fill_(9.0)  # type: ignore[union-attr, operator]
        given["lines_params"][0, 0] = -0.1  # what it hears is what the sample says
        assert float(hearing.predict(net, given)["params"][0, 0]) == pytest.approx(-0.1, abs=1e-4)
    with pytest.raises(DataError, match="upscale 2 is of no use here"):
        one.images_source(dataset, [tmp_path / "mine.png"], upscale=2)

"""What every task promises to the trainer, the evaluation and the grids."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlkit.data.manifest import open_manifest, verify_manifest
from mlkit.data.sampler import stack
from mlkit.imaging.grids import comparison_grid
from mlkit.metrics import METRICS
from mlkit.presets import load_settings, to_toml
from mlkit.tasks import available_tasks
from running import Job, task_of

TASKS = ("toy", *available_tasks())


@pytest.fixture(params=TASKS)
def job(request: pytest.FixtureRequest, datasets: dict[str, Path]) -> Job:
    return Job(request.param, datasets[request.param], {"train.steps": 2})


def _batch(source: Any, count: int = 2, first: int = 0) -> dict[str, torch.Tensor]:
    return stack([source.sample(index, np.random.default_rng(index)) for index in range(first, first + count)])


def test_the_embedded_dataset_is_whole_labelled_and_in_two_parts(job: Job) -> None:
    manifest = open_manifest(job.data)
    verify_manifest(manifest)
    assert manifest.task == job.task
    assert manifest.splits["train"] >= 2
    assert manifest.splits["validation"] >= 2


def test_the_sources_are_functions_of_index_and_generator_alone(job: Job) -> None:
    task, data = task_of(job), open_manifest(job.data)
    for source in (task.train_source(data), task.eval_source(data)):
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        before = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())  # noqa: NPY002
        one = source.sample(1, np.random.default_rng(7))
        again = pickle.loads(pickle.dumps(source)).sample(1, np.random.default_rng(7))
        after = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())  # noqa: NPY002
        assert before == after, "a source drew from a global generator"
        assert one.keys() == again.keys()
        assert all(torch.equal(one[key], again[key]) for key in one)
        ids = [source.sample_id(index) for index in range(len(source))]
        assert len(set(ids)) == len(ids) > 0


def test_the_validation_samples_need_no_randomness(job: Job) -> None:
    source = task_of(job).eval_source(open_manifest(job.data))
    if job.task == "toy":
        pytest.skip("the toy adds noise to validation samples too")
    one, other = (source.sample(0, np.random.default_rng(seed)) for seed in (1, 2))
    assert all(torch.equal(one[key], other[key]) for key in one)


class _Watched(nn.Module):
    """Counts the calls that pass through it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.net(*args, **kwargs)


def test_the_loss_goes_through_the_model_falls_and_trains_what_is_marked(job: Job) -> None:
    task, data = task_of(job), open_manifest(job.data)
    torch.manual_seed(0)
    net = _Watched(task.build_model()).train()
    batch = _batch(task.train_source(data))
    trained = [value for value in net.parameters() if value.requires_grad]
    assert trained
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    losses = []
    for step in range(12):
        loss = task.loss(net, batch, step=step)
        loss.total.backward()
        assert all(torch.isfinite(value) for value in (loss.total, *loss.parts.values()))
        assert not any(value.requires_grad for value in loss.parts.values()), "parts must be detached"
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.total.detach()))
    assert net.calls >= 12, "the network was reached past model(...), which breaks DDP and autocast"
    assert min(losses[6:]) < losses[0]
    reached = [value for value in trained if value in optimizer.state]
    assert len(reached) == len(trained), "some trained parameter never got a gradient, which DDP refuses"


def test_prediction_scores_each_image_and_leaves_the_model_alone(job: Job) -> None:
    task, data = task_of(job), open_manifest(job.data)
    torch.manual_seed(0)
    net = task.build_model().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    source = task.eval_source(data)
    batch = _batch(source, 2)
    with torch.no_grad():
        outputs = task.predict(net, batch)
        scores = task.metrics(outputs, batch)
        alone = [task.metrics(task.predict(net, one), one) for one in (_batch(source, 1), _batch(source, 1, first=1))]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert task.primary_metric in scores
    for key, values in scores.items():
        assert key in METRICS, f"{key} has no unit, direction and signature"
        assert values.shape == (2,)
        for place in range(2):  # an image's score must not depend on its neighbours in the batch
            assert float(values[place]) == pytest.approx(float(alone[place][key][0]), rel=1e-3, abs=1e-4, nan_ok=True)
    panels = [task.panels(outputs, batch, index) for index in range(2)]
    roles = [panel.role for panel in panels[0]]
    assert roles.count("made") == 1 and "given" in roles, "a time line and a comparison need to know which is which"
    for panel in panels[0]:
        assert panel.image_hwc.dtype == np.float32
        assert panel.image_hwc.shape[2] == 3
        assert 0 <= panel.image_hwc.min() <= panel.image_hwc.max() <= 1
    assert comparison_grid(panels).dtype == np.uint8


def test_a_training_batch_can_be_drawn_too(job: Job) -> None:
    task, data = task_of(job), open_manifest(job.data)
    batch = _batch(task.train_source(data))
    with torch.no_grad():
        outputs = task.predict(task.build_model().eval(), batch)
    picture = comparison_grid([task.panels(outputs, batch, index) for index in range(2)])
    assert picture.ndim == 3 and picture.std() > 0


def test_the_settings_survive_their_file(job: Job, tmp_path: Path) -> None:
    settings = task_of(job).settings
    if job.task == "toy":
        pytest.skip("the toy has no folder among the tasks")
    (tmp_path / "settings.toml").write_text(to_toml(settings))
    assert load_settings(tmp_path / "settings.toml") == settings


def test_facts_are_plain_numbers(job: Job) -> None:
    assert all(isinstance(value, float | int) for value in task_of(job).facts.values())

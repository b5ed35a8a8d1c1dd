"""Frozen parameters stay as they are, bit for bit, and a name that freezes nothing is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mlkit.checkpoint import open_checkpoint, read_training_state
from mlkit.errors import SettingsError
from mlkit.seeding import derive_seed, seed_everything
from mlkit.training.freezing import freeze, held_layers
from running import Job, build_sample, settings_of, train
from toytask import ToyTask


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "toy"
    build_sample("toy", folder)
    return folder


def net() -> nn.Module:
    """Return a network with the parameters 0.weight, 0.bias, 1.weight, 1.bias, 4.weight and 4.bias; 1 is BatchNorm."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 3, 3))


@pytest.mark.parametrize(
    ("patterns", "trained"),
    [
        ((), ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]),
        (("0.*",), ["1.weight", "1.bias", "4.weight", "4.bias"]),
        (("*.bias",), ["0.weight", "1.weight", "4.weight"]),
        (("0.weight", "[14].bias"), ["0.bias", "1.weight", "4.weight"]),
    ],
)
def test_the_names_that_match_are_frozen_and_no_other(patterns: tuple[str, ...], trained: list[str]) -> None:
    made = net()
    freeze(made, patterns)
    assert [name for name, value in made.named_parameters() if value.requires_grad] == trained


def test_names_that_match_nothing_are_refused_all_at_once_with_the_nearest() -> None:
    with pytest.raises(SettingsError) as refused:
        freeze(nn.ModuleDict({"encoder": net(), "head": nn.Linear(2, 2)}), ("encoder", "head.*", "heed.weight"))
    there = "there are encoder.0.weight, encoder.0.bias, encoder.1.weight, encoder.1.bias, encoder.4.weight, "
    there += "encoder.4.bias and 2 more"
    assert refused.value.problems == (
        f"train.freeze: 'encoder' matches no parameter (did you mean 'encoder.*'?); {there}",
        f"train.freeze: 'heed.weight' matches no parameter (did you mean 'head.weight'?); {there}",
    )


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"train.freeze = \['\*'\] leaves no parameter to train; freeze fewer"):
        freeze(net(), ("*",))


def test_a_layer_keeps_its_statistics_only_where_all_its_parameters_are_frozen() -> None:
    made = net()
    assert held_layers(made, ("1.*",)) == [made[1]]  # type: ignore[index]
    assert held_layers(made, ("1.weight", "0.*")) == []
    assert held_layers(made, ()) == []


def test_training_leaves_frozen_weights_and_statistics_as_they_are(data: Path, tmp_path: Path) -> None:
    job = Job("toy", data, {"train.steps": 4, "train.freeze": ("0.*", "1.*"), "train.ema_decay": 0.5, "train.lr": 0.1})
    train(job, tmp_path / "run")
    seed_everything(derive_seed(0, "init"))
    initial = ToyTask(settings_of(job)).build_model().state_dict()
    saved = open_checkpoint(tmp_path / "run" / "ckpt-4")
    weights = load_file(saved.folder / "model.safetensors")
    assert weights.keys() == initial.keys(), "a checkpoint holds what is frozen too"
    stayed = {name for name, value in weights.items() if torch.equal(value, initial[name])}
    assert stayed == {name for name in initial if name.startswith(("0.", "1."))}
    _, state = read_training_state(saved)
    assert sum(len(group["params"]) for group in state["optimizer"]["param_groups"]) == 2
    assert load_file(saved.folder / "ema.safetensors").keys() == {"4.weight", "4.bias"}

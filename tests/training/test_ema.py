"""The average equals its closed form, lends itself to the model, and gives the weights back to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mlkit.training.ema import Ema


def net() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
    made[2].weight.requires_grad_(False)  # frozen: no average of it
    return made


TRAINED = {"0.weight", "0.bias", "1.weight", "1.bias", "2.bias"}
AVERAGED = TRAINED | {"1.running_mean", "1.running_var"}


def weights_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().astype(np.float64) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_is_the_geometric_sum_of_the_weights(decay: float) -> None:
    model = net()
    start, history, rng = weights_of(model), [], np.random.default_rng(4)
    ema = Ema(model, decay)
    for number in range(40):
        with torch.no_grad():
            for value in (*model.parameters(), model[1].running_mean, model[1].running_var):
                value.add_(torch.tensor(rng.standard_normal(tuple(value.shape)), dtype=torch.float32))
        ema.update(model, number)
        history.append(weights_of(model))
    assert ema.state().keys() == AVERAGED
    for name, average in ema.state().items():
        # closed form: what update i brings in is kept by all later ones; update i keeps min(d, (1 + i) / (10 + i))
        kept = np.minimum(decay, (1 + np.arange(40)) / (10 + np.arange(40)))
        expected = np.prod(kept) * start[name]
        for number, weights in enumerate(history):
            expected = expected + (1 - kept[number]) * np.prod(kept[number + 1 :]) * weights[name]
        np.testing.assert_allclose(average.numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("fails", [False, True])
def test_the_average_is_in_the_model_inside_the_block_and_the_weights_after_it_bit_for_bit(fails: bool) -> None:
    model = net()
    ema = Ema(model, 0.9)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.7)
    ema.update(model, 1000)
    objects = [id(value) for value in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = {name: value.clone() for name, value in ema.state().items()}

    def inside() -> None:
        for name, value in model.state_dict().items():
            assert torch.equal(value, average[name] if name in AVERAGED else before[name])
        if fails:
            raise KeyError("inside")

    if fails:
        with pytest.raises(KeyError), ema.applied(model):
            inside()
    else:
        with ema.applied(model):
            inside()
    assert any(not torch.equal(average[name], before[name]) for name in TRAINED)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert [id(value) for value in model.parameters()] == objects  # an optimizer keeps its parameters
    assert all(value.requires_grad == (name in TRAINED) for name, value in model.named_parameters())
    for name, value in ema.state().items():
        assert torch.equal(value, average[name])


def test_switched_off_it_does_nothing() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ema = Ema(model, None)
    ema.update(model, 1000)
    assert ema.state() == {}
    with ema.applied(model):
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_loaded_average_goes_on_as_the_saved_one() -> None:
    model = net()
    whole = Ema(model, 0.8)
    with torch.no_grad():
        model[0].weight.add_(1)
    whole.update(model, 1000)
    again = Ema(net(), 0.8)
    again.load({name: value.clone() for name, value in whole.state().items()})
    with torch.no_grad():
        model[0].weight.mul_(-2)
    whole.update(model, 1000)
    again.update(model, 1000)
    assert all(torch.equal(again.state()[name], value) for name, value in whole.state().items())


def test_half_precision_weights_are_averaged_in_float32() -> None:
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = Ema(model, 0.999)
    with torch.no_grad():
        model.weight.fill_(2.0)
    for _ in range(10):
        ema.update(model, 10_000)  # each step is 0.001: below what bfloat16 holds at 1.0
    assert ema.state()["weight"].item() == pytest.approx(2 - 0.999**10, rel=1e-5)


def test_the_initial_weights_are_soon_forgotten() -> None:
    model = net()
    ema = Ema(model, 0.999)
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(1.0)
    for step in range(200):
        ema.update(model, step)
    for name in TRAINED:
        average = ema.state()[name]
        torch.testing.assert_close(average, torch.ones_like(average), atol=1e-4, rtol=0)


def test_averaged_weights_have_the_statistics_that_belong_to_them() -> None:
    """Weights that double back and forth: with the last batch's statistics the average would normalise wrongly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64, bias=False), nn.BatchNorm1d(64, affine=False, momentum=1.0))
    ema = Ema(model, 0.9)
    batch, weight = torch.randn(256, 4), model[0].weight.detach().clone()
    for step in range(200, 400):
        with torch.no_grad():
            model[0].weight.copy_(weight * (3.0 if step % 2 else 1.0))
            model.train()(batch)
        ema.update(model, step)
    model.eval()
    with torch.no_grad(), ema.applied(model):
        spread = model(batch).std(dim=0)
    assert 0.85 < spread.mean() < 1.05, "by the last update's statistics alone it is 0.67 or 2"


def test_statistics_of_a_frozen_layer_stay_its_own() -> None:
    model = net()
    model[1].requires_grad_(False)
    assert Ema(model, 0.9).state().keys() == {"0.weight", "0.bias", "2.bias"}

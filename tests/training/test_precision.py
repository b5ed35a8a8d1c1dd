"""The network is called in the chosen format and memory order; `auto` takes the fastest that loses no quality."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlkit.data.sampler import StepSampler, batches
from mlkit.errors import SettingsError
from mlkit.settings import RunSettings
from mlkit.training import precision
from mlkit.training.precision import Choice, Network, choose, fused_adamw_works
from toytask import ToySource, ToyTask

CPU = torch.device("cpu")


class Seen(nn.Module):
    """Convolves, and keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor, *, also: Tensor | None = None) -> Any:
        self.x, self.also = x, also
        made = self.conv(x)
        self.made = made
        return {"image": made, "pair": (made, [made]), "count": torch.tensor(3), "name": "conv"}


def task(**train: Any) -> ToyTask:
    return ToyTask(RunSettings.model_validate({"task": "toy", "train": {"steps": 1, **train}}))


def sample() -> dict[str, Tensor]:
    sampler = StepSampler(20, seed=0, batch_size=4, first_sample=0, num_batches=1)
    return next(batches(ToySource(20, 0, 0.1), sampler, seed=0, purpose="sample", workers=0, device=CPU))


def test_bf16_computes_in_bf16_and_gives_float32_with_float32_weights() -> None:
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))
    net = Seen()
    exact = net(x)["image"].detach()
    outputs = Network(net, CPU, Choice("bf16", False))(x)
    assert net.made.dtype == torch.bfloat16
    assert outputs["image"].dtype == outputs["pair"][0].dtype == outputs["pair"][1][0].dtype == torch.float32
    assert (outputs["count"].dtype, outputs["name"]) == (torch.int64, "conv")
    assert {value.dtype for value in net.parameters()} == {torch.float32}
    error = (outputs["image"] - exact).abs().max().item()
    assert 0 < error < 2**-8 * 4 * 4  # 8 bits of mantissa on values of a few units
    outputs["image"].sum().backward()
    assert net.conv.weight.grad is not None and net.conv.weight.grad.dtype == torch.float32


def test_fp32_is_the_plain_call_to_the_bit() -> None:
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))
    net = Seen()
    plain = net(x)["image"]
    assert torch.equal(Network(net, CPU, Choice("fp32", False))(x)["image"], plain)


@pytest.mark.parametrize("last", [False, True])
def test_channels_last_orders_weights_and_images_and_keeps_the_values(last: bool) -> None:
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6).reshape(2, 3)
    expected = Seen()(x)["image"]
    net = Seen()
    found = Network(net, CPU, Choice("fp32", last))(x, also=labels)["image"]
    assert net.x.is_contiguous(memory_format=torch.channels_last) == last
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last) == last
    assert net.also is labels
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_fp16_on_a_cpu_is_refused_with_what_works() -> None:
    with pytest.raises(SettingsError) as caught:
        Network(Seen(), CPU, Choice("fp16", False))
    assert str(caught.value) == "train.precision = 'fp16' needs a GPU; on a CPU use fp32, bf16 or auto"


# ---- choosing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "order"), [("fp32", True), ("bf16", False), ("fp32", False)])
def test_what_is_asked_for_is_taken_without_a_trial(asked: str, order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_trials", None)  # calling it would fail
    chosen = choose(task(precision=asked, channels_last=order), sample(), CPU)
    assert chosen == Choice(asked, order)  # type: ignore[arg-type]


def planted(monkeypatch: pytest.MonkeyPatch, *results: tuple[float, float]) -> None:
    def trials(task: Any, sample: Any, device: Any, candidates: Any, bare: bool) -> list[Any]:
        return [precision._Trial(choice, *result) for choice, result in zip(candidates, results, strict=True)]

    monkeypatch.setattr(precision, "_trials", trials)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        # seconds and dB of: fp32, fp32 channels-last, bf16, bf16 channels-last
        ([(1.0, 20.0), (0.9, 20.0), (0.6, 19.96), (0.5, 20.04)], ("bf16", True)),
        ([(1.0, 20.0), (0.9, 20.0), (0.6, 19.96), (0.5, 19.9)], ("bf16", False)),
        ([(1.0, 20.0), (0.9, 20.0), (0.6, 19.9), (0.5, 20.1)], ("fp32", True)),  # better by chance is no reason
        ([(1.0, 20.0), (1.1, 20.0), (1.6, 20.0), (1.5, 20.0)], ("fp32", False)),
        ([(1.0, 20.0), (1.1, 20.0), (0.6, -1e9), (0.5, -1e9)], ("fp32", False)),
    ],
)
def test_auto_takes_the_fastest_within_a_20th_of_a_decibel(
    results: list[tuple[float, float]], expected: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, *results)
    chosen = choose(task(), sample(), CPU)
    assert (chosen.precision, chosen.channels_last) == expected


def test_the_reason_lists_every_candidate_with_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, (1.0, 20.0), (0.8, 20.0), (0.5, 18.0), (2.0, 20.0))
    reason = choose(task(), sample(), CPU).reason
    assert reason.startswith("auto chose fp32 channels-last on this ")
    assert reason.endswith(
        ": fp32 1.00x, fp32 channels-last 1.25x, bf16 2.00x but not as good, bf16 channels-last 0.50x"
    )


@pytest.mark.parametrize(
    ("asked", "tried"),
    [
        ({"precision": "bf16"}, ["bf16", "bf16 channels-last"]),
        ({"channels_last": True}, ["fp32 channels-last", "bf16 channels-last"]),
    ],
)
def test_auto_tries_only_what_is_free(asked: dict[str, Any], tried: list[str]) -> None:
    reason = choose(task(**asked), sample(), CPU).reason
    speeds = re.findall(r"[:,] ([a-z0-9 -]+) \d+\.\d\dx", reason)
    assert speeds == tried


def test_real_trials_leave_samples_and_global_generators_alone() -> None:
    batch = sample()
    before = {key: value.clone() for key, value in batch.items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    toy = task()
    chosen = choose(toy, batch, CPU)
    assert chosen.precision in ("fp32", "bf16")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(batch[key], value) for key, value in before.items())


def test_fused_adamw_is_used_where_it_exists_and_makes_the_same_step() -> None:
    assert fused_adamw_works([CPU])
    assert not fused_adamw_works([CPU, torch.device("meta")])
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        value = nn.Parameter(torch.randn(50))
        optimizer = torch.optim.AdamW([value], lr=1e-2, fused=fused)
        for step in range(5):
            value.grad = torch.sin(value.detach() * (step + 1))
            optimizer.step()
        weights.append(value.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=1e-7)

"""Two processes with half a batch each normalise as one with the whole: outputs, gradients and running statistics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlkit.training.ranks import SyncedBatchNorm2d, synced

pytestmark = pytest.mark.skipif(os.name != "posix" or not dist.is_available(), reason="gloo as on POSIX")


def make_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, affine=False, momentum=0.3))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.5, 1.5, -1.0]))
        net[1].bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return net


def images(step: int) -> Tensor:
    """Return [6, 2, 8, 7]: halves of very different mean and spread, which an unsynced layer would hide."""
    x = torch.randn(6, 2, 8, 7, generator=torch.Generator().manual_seed(step))
    x[3:] = 4 * x[3:] + 5
    return x


def passes(net: nn.Module, part: slice) -> list[Tensor]:
    """Return the outputs of two training passes of this part of the images, with gradients left in the net."""
    outputs = []
    for step in (1, 2):
        made = net(images(step)[part])
        weights = torch.linspace(-1, 1, made[0].numel()).reshape(made[0].shape)
        (made.square() * weights).sum().backward()
        outputs.append(made.detach())
    return outputs


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    net = synced(make_net()).train()
    outputs = passes(net, slice(3 * rank, 3 * rank + 3))
    for value in net.parameters():
        assert value.grad is not None
        dist.all_reduce(value.grad)  # what DDP does, as a sum
    net.eval()
    torch.save(
        {
            "outputs": outputs,
            "grads": {name: value.grad for name, value in net.named_parameters()},
            "state": net.state_dict(),
            "eval": net(images(3)[:2]).detach(),
        },
        Path(folder) / f"rank{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def test_two_processes_normalise_as_one_with_the_concatenated_batch(ranks: list[dict[str, Any]]) -> None:
    whole = make_net().train()
    expected = passes(whole, slice(0, 6))
    for step in range(2):
        found = torch.cat([ranks[rank]["outputs"][step] for rank in range(2)])
        torch.testing.assert_close(found, expected[step], rtol=1e-4, atol=1e-5)
    for name, value in whole.named_parameters():
        torch.testing.assert_close(ranks[0]["grads"][name], value.grad, rtol=1e-3, atol=1e-3)
    for name, value in whole.state_dict().items():  # running statistics too, unbiased variance
        torch.testing.assert_close(ranks[0]["state"][name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(ranks[0]["state"][name], ranks[1]["state"][name])
    # in evaluation a layer is the plain one, without a word to other processes
    torch.testing.assert_close(ranks[0]["eval"], whole.eval()(images(3)[:2]), rtol=1e-5, atol=1e-5)


def test_the_halves_alone_would_normalise_otherwise() -> None:
    whole, half = make_net().train(), make_net().train()
    expected, alone = passes(whole, slice(0, 6)), passes(half, slice(0, 3))
    assert (expected[0][:3] - alone[0]).abs().max() > 0.5  # so the test above can fail


def test_syncing_keeps_names_tensors_and_everything_but_the_class() -> None:
    net = make_net()
    tensors = {name: id(value) for name, value in [*net.named_parameters(), *net.named_buffers()]}
    assert synced(net) is net
    assert [type(child) for child in net] == [nn.Conv2d, SyncedBatchNorm2d, nn.ReLU, SyncedBatchNorm2d]
    assert {name: id(value) for name, value in [*net.named_parameters(), *net.named_buffers()]} == tensors

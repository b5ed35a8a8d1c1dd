"""What several processes must agree on so that their number does not change what is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sum_over_ranks(value: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(value)  # type: ignore[no-untyped-call]
    return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batch of all processes, on any device (torch's own SyncBatchNorm refuses the CPU).

    Every process holds the same number of samples, so means of means are exact.
    """

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        if not self.training:
            return super().forward(x)
        ranks = dist.get_world_size()
        mean = _sum_over_ranks(x.float().mean(dim=(0, 2, 3))) / ranks
        centred = x.float() - mean[:, None, None]
        variance = _sum_over_ranks(centred.square().mean(dim=(0, 2, 3))) / ranks
        count = x.numel() // x.shape[1] * ranks
        if self.track_running_stats:
            assert self.momentum is not None and self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)
                self.num_batches_tracked.add_(1)
        normalised: Tensor = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            normalised = normalised * self.weight[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)


def agreed(decision: bool, accelerator: Accelerator) -> bool:
    """Return what the main process decided, on every process."""
    if accelerator.num_processes == 1:
        return decision
    from accelerate.utils import broadcast_object_list

    return bool(broadcast_object_list([decision])[0])


def synced(net: nn.Module) -> nn.Module:
    """Return the network with its BatchNorm layers synced over processes; names, tensors and hooks stay the same."""
    for child in net.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SyncedBatchNorm2d
    return net

"""Sums and moments over the ranks of a distributed run."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """x summed over all ranks, on every rank; x itself in a run of one process. Differentiable."""
    return x if world_size() == 1 else _SumOverRanks.apply(x)


def moments_over_ranks(mean: Tensor, var: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances of each rank's samples to those of all samples, on every rank. Differentiable.

    One message forward, one backward. Means are subtracted before anything is squared, so that fp32 does not
    cancel (Chan, Golub and LeVeque 1979).

    Args:
        mean, var: (D,) of this rank's samples; var is the mean square distance from the mean.
        count: () number of them, in the same dtype.

    Returns:
        mean, var and count of all samples; the arguments themselves in a run of one process.
    """
    return (mean, var, count) if world_size() == 1 else _MomentsOverRanks.apply(mean, var, count)


def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors with rank 0's."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # Every rank's loss depends on every rank's x.
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _MomentsOverRanks(torch.autograd.Function):
    """With n_r, mean_r and var_r of rank r, and n the sum of n_r:

    mean = sum_r n_r mean_r / n,  var = sum_r n_r (var_r + (mean_r - mean)^2) / n.
    """

    @staticmethod
    def forward(ctx, mean: Tensor, var: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mine = torch.cat((mean, var, count[None]))
        parts = mine.new_empty(world_size() * len(mine))
        dist.all_gather_into_tensor(parts, mine)
        means, variances, counts = parts.view(-1, len(mine)).split((len(mean), len(var), 1), dim=1)
        total = counts.sum().clamp(min=1)
        shares = counts / total
        whole = (shares * means).sum(0)
        steps = means - whole
        ctx.save_for_backward(mean - whole, count / total)
        ctx.mark_non_differentiable(total)
        return whole, (shares * (variances + steps.square())).sum(0), total

    @staticmethod
    def backward(ctx, d_mean: Tensor, d_var: Tensor, _) -> tuple[Tensor, Tensor, None]:
        step, share = ctx.saved_tensors
        # Every rank's loss depends on every rank's moments.
        total = torch.cat((d_mean, d_var))
        dist.all_reduce(total)
        d_mean, d_var = total.chunk(2)
        # The whole mean's own change leaves the variance as it is: the steps to it sum to zero.
        return share * (d_mean + 2 * step * d_var), share * d_var, None

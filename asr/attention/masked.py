"""Sums, means and co-moments over the valid frames of each utterance.

Masks come after the feature map: phi(0) is not 0, so zeroing q or k before it would let padding in.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """What a linear mechanism needs to know of all keys and values. Means over valid frames."""

    count: Tensor  # (B, 1, 1, 1) valid frames; (B, H, 1, 1) sums of weights where frames have some
    key_mean: Tensor  # (B, H, 1, f) of phi(k) as the normaliser takes it: unrotated
    placed_mean: Tensor  # (B, H, 1, f) of phi(k) with its positions
    value_mean: Tensor  # (B, H, 1, d) of v
    comoment: Tensor  # (B, H, f, d): sum of (placed phi(k) - mean)(v - mean)^T

    @property
    def covariance(self) -> Tensor:
        """C = mean (phi(k) - kbar)(v - vbar)^T: (B, H, f, d)."""
        return self.comoment / self.count.clamp(min=1)


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean of x (B, H, N, d) over the frames where valid (B, N) holds: (B, H, 1, d)."""
    return (x * frame_mask(valid, x)).sum(-2, keepdim=True) / frame_count(valid, x).clamp(min=1)


def statistics(phi_k: Tensor, placed_phi_k: Tensor, v: Tensor, valid: Tensor) -> Statistics:
    """Statistics of one batch of keys and values."""
    return weighted_statistics(phi_k, placed_phi_k, v, frame_mask(valid, v))


def weighted_statistics(phi_k: Tensor, placed_phi_k: Tensor, v: Tensor, weight: Tensor) -> Statistics:
    """Statistics in which frames have weights (..., N, 1), not negative, zero on padding.

    Subtracting the means first keeps fp32 exact to 5e-7; expanding the product would cancel.
    """
    count = weight.sum(-2, keepdim=True)
    some = torch.where(count > 0, count, 1)

    def mean(x: Tensor) -> Tensor:
        return (x * weight).sum(-2, keepdim=True) / some

    value_mean, placed_mean = mean(v), mean(placed_phi_k)
    centred_k = (placed_phi_k - placed_mean) * weight
    comoment = centred_k.transpose(-2, -1) @ (v - value_mean)
    # Unplaced keys are the same tensor: their mean need not be taken twice.
    key_mean = placed_mean if placed_phi_k is phi_k else mean(phi_k)
    return Statistics(count, key_mean, placed_mean, value_mean, comoment)


def combine_statistics(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of consecutive chunks to those of the whole (Chan, Golub, LeVeque 1979), in fp64."""
    wide = [Statistics(*(item.double() for item in part)) for part in parts]
    whole = reduce(merge_statistics, wide)
    return Statistics(*(item.to(like.dtype) for item, like in zip(whole, parts[0], strict=True)))


def merge_statistics(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of two sets of frames to those of both."""
    count = a.count + b.count
    share = b.count / torch.where(count > 0, count, 1)
    key_step = b.placed_mean - a.placed_mean
    value_step = b.value_mean - a.value_mean
    return Statistics(
        count,
        a.key_mean + share * (b.key_mean - a.key_mean),
        a.placed_mean + share * key_step,
        a.value_mean + share * value_step,
        a.comoment + b.comoment + a.count * share * (key_step.transpose(-2, -1) * value_step),
    )


class SoftmaxSum(NamedTuple):
    """A softmax-weighted sum of values that is not yet divided, so that it can be added to."""

    peak: Tensor  # (..., r, 1) greatest score so far
    total: Tensor  # (..., r, 1) sum of exp(score - peak)
    weighted: Tensor  # (..., r, d) sum of exp(score - peak) v

    @property
    def mean(self) -> Tensor:
        """softmax(scores) v: (..., r, d)."""
        return self.weighted / self.total


def softmax_sum(scores: Tensor, v: Tensor) -> SoftmaxSum:
    """scores (..., r, N), very negative where masked, and v (..., N, d)."""
    peak = scores.amax(-1, keepdim=True).detach()
    exponentials = (scores - peak).exp()
    return SoftmaxSum(peak, exponentials.sum(-1, keepdim=True), exponentials @ v)


def combine_softmax_sums(parts: Sequence[SoftmaxSum]) -> SoftmaxSum:
    """Sums over consecutive chunks to the sum over all of them."""
    peak = torch.stack([part.peak for part in parts]).amax(0)
    factors = [(part.peak - peak).exp() for part in parts]
    total = sum(f * part.total for f, part in zip(factors, parts, strict=True))
    weighted = sum(f * part.weighted for f, part in zip(factors, parts, strict=True))
    return SoftmaxSum(peak, total, weighted)


def mask_scores(scores: Tensor, valid: Tensor) -> Tensor:
    """scores (B, H, r, N) made very negative where valid (B, N) does not hold.

    Not -inf: an utterance without a single valid frame must give numbers, not NaN.
    """
    return scores.masked_fill(~valid[:, None, None, :], torch.finfo(scores.dtype).min / 2)


def frame_mask(valid: Tensor, like: Tensor) -> Tensor:
    """valid (B, N) as 0 and 1 in the dtype of ``like``: (B, 1, N, 1)."""
    return valid[:, None, :, None].to(like.dtype)


def frame_count(valid: Tensor, like: Tensor) -> Tensor:
    """Number of valid frames: (B, 1, 1, 1) in the dtype of ``like``."""
    return valid.sum(-1)[:, None, None, None].to(like.dtype)

"""Means and covariances over the valid frames of each utterance.

Masks come after the feature map: phi(0) is not 0, so zeroing q or k before it would let padding in.
"""

from typing import NamedTuple

from torch import Tensor


class Statistics(NamedTuple):
    """What a linear mechanism needs to know of all keys and values. Means over valid frames."""

    key_mean: Tensor  # (B, H, 1, d) of phi(k), unrotated: the normaliser's
    value_mean: Tensor  # (B, H, 1, d) of v
    covariance: Tensor  # (B, H, d, d) of phi(k), rotated where positions are rotary, with v


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean of x (B, H, N, d) over the frames where valid (B, N) holds: (B, H, 1, d)."""
    keep = frame_mask(valid, x)
    return (x * keep).sum(-2, keepdim=True) / frame_count(valid, x)


def statistics(phi_k: Tensor, rotated_phi_k: Tensor, v: Tensor, valid: Tensor) -> Statistics:
    """Key mean, value mean and C = mean (phi(k) - kbar)(v - vbar)^T, each over valid frames.

    Subtracting the means first keeps fp32 exact to 5e-7; expanding the product would cancel.
    """
    value_mean = masked_mean(v, valid)
    centred_k = (rotated_phi_k - masked_mean(rotated_phi_k, valid)) * frame_mask(valid, v)
    covariance = centred_k.transpose(-2, -1) @ (v - value_mean) / frame_count(valid, v)
    return Statistics(masked_mean(phi_k, valid), value_mean, covariance)


def frame_mask(valid: Tensor, like: Tensor) -> Tensor:
    """valid (B, N) as 0 and 1 in the dtype of ``like``: (B, 1, N, 1)."""
    return valid[:, None, :, None].to(like.dtype)


def frame_count(valid: Tensor, like: Tensor) -> Tensor:
    """Number of valid frames, at least 1: (B, 1, 1, 1) in the dtype of ``like``."""
    return valid.sum(-1).clamp(min=1)[:, None, None, None].to(like.dtype)

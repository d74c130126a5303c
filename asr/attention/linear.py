"""Linear attention, and the base of the mechanisms built on its statistics."""

import os
import sys
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from asr.attention.base import Frames, SelfAttention
from asr.attention.features import KERNELS
from asr.attention.masked import (
    Statistics,
    combine_statistics,
    frame_count,
    frame_mask,
    masked_mean,
    statistics,
)
from asr.attention.positions import rotary_table, rotate

# phi(q) . kbar is positive but can underflow; below this the output is the mean of v.
TINY = 1e-12
# Least cosine of phi(q) and kbar with rotary positions. t is turned and m is not: features that meet only
# when turned would make t / m as large as one likes. elu's features are far from it.
LEAST_COSINE = 0.01


class CentredAttention(SelfAttention):
    """Mechanisms whose output is y_i = share_i vbar + gain_i t_i, in the notation of docs/attention.md:

        m_i = s phi(q_i) . kbar      t_i = s phi(q_i) C      C = mean (phi(k) - kbar)(v - vbar)^T

    share_i is the sum of row i of the weights: one, but for two ablations of MALA. Rotary positions
    turn phi(q) and phi(k) in t (C takes the mean of the turned keys) and leave m alone, which keeps m
    positive and the sum one. Time and memory grow with N, not N^2.
    """

    POSITIONS = ("rotary", "sinusoid", "none")
    # Name by which the fused kernels know this gain; None where they do not.
    FUSED_GAIN: ClassVar[str | None] = None

    @abstractmethod
    def coefficients(self, m: Tensor) -> tuple[Tensor, Tensor | float]:
        """gain and share from m (B, H, N, 1)."""

    @property
    def kernel(self) -> str:
        """Name of the elementwise feature map phi; mechanisms with another say nothing."""
        return "identity"

    @property
    def fused_gain(self) -> str | None:
        """The fused kernels' name of this mechanism as it is configured; None: they do not take it."""
        return self.FUSED_GAIN

    def query_features(self, q: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """phi(q) (B, H, N, f) as m takes it, and with its positions as t takes it."""
        phi = KERNELS[self.kernel](q)
        return phi, rotate(phi, frames.start) if self.positions == "rotary" else phi

    def key_features(self, k: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """The same of the keys."""
        return self.query_features(k, frames)

    def fused_core(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames) -> Tensor:
        from asr.attention.kernels import centred  # imports Triton, which not every machine has

        table = rotary_table(q.shape[-2], self.head_dim, q.device) if self.positions == "rotary" else None
        by_frame = (x.transpose(1, 2) for x in (q, k, v))
        y = centred.centred_attention(*by_frame, frames.lengths, table, self.kernel, self.fused_gain)
        return y.transpose(1, 2)

    def fused_refusal(self, q: Tensor) -> str | None:
        if self.fused_gain is None:
            return super().fused_refusal(q)
        # On a CPU Triton has nothing to do but where it interprets, and its import takes a while.
        if q.device.type == "cpu" and "triton" not in sys.modules and "TRITON_INTERPRET" not in os.environ:
            return "no CUDA device"
        from asr.attention.kernels import centred

        return centred.refusal(q, self.kernel, self.fused_gain)

    def fused_variant(self, q: Tensor) -> Hashable:
        from asr.attention.kernels import centred

        return centred.launch_variant(q.transpose(1, 2), self.kernel)

    def summarise(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, before: None) -> Statistics:
        return statistics(*self.key_features(k, frames), v, frames.valid)

    def combine(self, summaries: Sequence[Statistics]) -> Statistics:
        return combine_statistics(summaries)

    def attend(self, q: Tensor, summary: Statistics, frames: Frames) -> Tensor:
        phi, placed = self.query_features(q, frames)
        gain, share = self.coefficients(self.magnitude(phi, summary.key_mean))
        return share * summary.value_mean + gain * (self.scale * placed @ summary.covariance)

    def weights(self, q: Tensor, k: Tensor, frames: Frames) -> Tensor:
        phi, placed = self.query_features(q, frames)
        phi_k, placed_k = self.key_features(k, frames)
        centred_k = placed_k - masked_mean(placed_k, frames.valid)
        gain, share = self.coefficients(self.magnitude(phi, masked_mean(phi_k, frames.valid)))
        t = self.scale * placed @ centred_k.transpose(-2, -1)
        keep = frame_mask(frames.valid, k).transpose(-2, -1)
        return (share + gain * t) * keep / frame_count(frames.valid, k).clamp(min=1)

    def magnitude(self, phi_q: Tensor, key_mean: Tensor) -> Tensor:
        """m_i = s phi(q_i) . kbar, held above what would make 1 / m burst: (B, H, N, 1)."""
        m = self.scale * (phi_q * key_mean).sum(-1, keepdim=True)
        if self.positions != "rotary":
            return m.clamp(min=TINY)
        norms = phi_q.detach().norm(dim=-1, keepdim=True) * key_mean.detach().norm(dim=-1, keepdim=True)
        return torch.maximum(m, (LEAST_COSINE * self.scale * norms).clamp(min=TINY))


class NormalisedAttention(CentredAttention):
    """Mechanisms whose weights are phi(q_i) . phi(k_j) over their sum: gain 1 / m, share 1."""

    def coefficients(self, m: Tensor) -> tuple[Tensor, float]:
        return 1 / m, 1.0


class LinearAttention(NormalisedAttention):
    """Linear attention (Katharopoulos et al., arXiv 2006.16236, Eq. 4-5; MALA paper Eq. 2).

    y_i = phi(q_i) sum_j phi(k_j) v_j^T / phi(q_i) . sum_j phi(k_j) = vbar + t_i / m_i.
    Scaling phi(q_i) changes nothing: it cannot see the query's magnitude.
    """

    FUSED_GAIN = "linear"

    @property
    def kernel(self) -> str:
        return "elu"

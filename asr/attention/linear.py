"""Linear attention, and the base of the mechanisms built on its statistics."""

import math
import os
import sys
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from asr.attention.base import AttentionOptions, Frames, SelfAttention, at_least_fp32
from asr.attention.blocks import carry, fade, see, summarise_to_ends
from asr.attention.chunks import visible
from asr.attention.features import KERNELS
from asr.attention.masked import (
    Statistics,
    combine_statistics,
    frame_mask,
    statistics,
)
from asr.attention.positions import rotary_table, rotate
from asr.bounds import bounded

# phi(q) . kbar is positive but can underflow; below this the output is the mean of v.
TINY = 1e-12
# Least cosine of phi(q) and kbar with rotary positions. t is turned and m is not: features that meet only
# when turned would make t / m as large as one likes. elu's features are far from it.
LEAST_COSINE = 0.01


@dataclass(frozen=True)
class CentredOptions(AttentionOptions):
    """Options of the mechanisms that are built on means and a co-moment.

    Args:
        forget: none (all frames weigh the same), fixed or learnt (frame j weighs 2^(-|i - j| / h) for query
            i, with a half-life h per head; in eager PyTorch).
        half_life: encoded frames, of the first head; where it is learnt, at first.
        spread: each further head's half-life is so many times the one's before it.
    """

    forget: Literal["none", "fixed", "learnt"] = "none"
    half_life: float = bounded(750.0, 1, 10_000)
    spread: float = bounded(1.0, 1, 100)


class Ends(NamedTuple):
    """A stretch, where frames weigh less with distance, as later and as earlier queries see it."""

    to_end: Statistics
    to_start: Statistics
    length: int


class CentredAttention(SelfAttention):
    """Mechanisms whose output is y_i = share_i vbar + gain_i t_i, in the notation of docs/attention.md:

        m_i = s phi(q_i) . kbar      t_i = s phi(q_i) C      C = mean (phi(k) - kbar)(v - vbar)^T

    share_i is the sum of row i of the weights: one, but for two ablations of MALA. Rotary positions
    turn phi(q) and phi(k) in t (C takes the mean of the turned keys) and leave m alone, which keeps m
    positive and the sum one. Time and memory grow with N, not N^2.

    With chunks or forgetting the means and C are a query's own (asr/attention/blocks.py), and n is the sum of
    the weights of the frames that it sees.
    """

    POSITIONS = ("rotary", "sinusoid", "none")
    Options = CentredOptions
    # Name by which the fused kernels know this gain; None where they do not.
    FUSED_GAIN: ClassVar[str | None] = None

    def __init__(self, dim: int, heads: int, positions: str = "auto", options=None) -> None:
        super().__init__(dim, heads, positions, options)
        if self.forgets:
            self._set_half_lives()

    def _set_half_lives(self) -> None:
        half_lives = self.options.half_life * self.options.spread ** torch.arange(self.heads)
        logs = half_lives.float().log().to(self.query.weight)
        if self.options.forget == "learnt":
            self.log_half_life = nn.Parameter(logs)
        else:
            self.register_buffer("log_half_life", logs, persistent=False)

    def forget(self, half_life: float) -> None:
        """Let a trained layer forget from now on: a half-life in encoded frames, the same in all heads."""
        self.options = replace(self.options, forget="fixed", half_life=half_life, spread=1.0)
        if hasattr(self, "log_half_life"):
            del self.log_half_life
        self._set_half_lives()

    @property
    def forgets(self) -> bool:
        """Whether frames weigh less with distance."""
        return self.options.forget != "none"

    @property
    def rate(self) -> Tensor | None:
        """Of forgetting, in nats a frame: (H,), or None."""
        return math.log(2) * torch.exp(-self.log_half_life) if self.forgets else None

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
        if self.fused_gain is None or self.forgets:
            return super().fused_refusal(q)
        # On a CPU Triton has nothing to do but where it interprets, and its import takes a while.
        if q.device.type == "cpu" and "triton" not in sys.modules and "TRITON_INTERPRET" not in os.environ:
            return "no CUDA device"
        from asr.attention.kernels import centred

        return centred.refusal(q, self.kernel, self.fused_gain)

    def fused_variant(self, q: Tensor) -> Hashable:
        from asr.attention.kernels import centred

        return centred.launch_variant(q.transpose(1, 2), self.kernel)

    def eager_core(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames) -> Tensor:
        if not self.forgets:
            return super().eager_core(q, k, v, frames)
        with torch.autocast(q.device.type, enabled=False):
            return self.core_after(*(at_least_fp32(x) for x in (q, k, v)), frames, None)[0]

    def chunk_refusal(self) -> str | None:
        return None

    def core_after(
        self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, past: Statistics | None
    ) -> tuple[Tensor, Statistics]:
        return self._answer(q, k, v, frames, past, None)

    def summarise(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, before: None) -> Statistics | Ends:
        features = self.key_features(k, frames)
        if self.forgets:
            ends = summarise_to_ends(*features, v, frames.valid, self.rate)
            return Ends(*ends, v.shape[-2])
        return statistics(*features, v, frames.valid)

    def combine(self, summaries: Sequence[Statistics]) -> Statistics:
        return combine_statistics(summaries)

    def attend(self, q: Tensor, summary: Statistics, frames: Frames) -> Tensor:
        phi, placed = self.query_features(q, frames)
        gain, share = self.coefficients(self.magnitude(phi, summary.key_mean))
        return share * summary.value_mean + gain * (self.scale * placed @ summary.covariance)

    def spread(self, summaries: Sequence[Statistics | Ends]) -> list[Any]:
        if not self.forgets:
            return super().spread(summaries)
        ends, starts, lengths = zip(*summaries, strict=True)
        before = carry(ends, lengths, self.rate, None)[:-1]
        after = carry(starts[::-1], lengths[::-1], self.rate, None)[:-1][::-1]
        return list(zip(before, after, strict=True))

    def answer(self, q: Tensor, k: Tensor, v: Tensor, known: Any, frames: Frames) -> Tensor:
        if not self.forgets:
            return super().answer(q, k, v, known, frames)
        return self._answer(q, k, v, frames, *known)[0]

    def _answer(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        frames: Frames,
        before: Statistics | None,
        after: Statistics | None,
    ) -> tuple[Tensor, Statistics]:
        phi, placed = self.query_features(q, frames)
        features = self.key_features(k, frames)
        seen, past = see(placed, *features, v, frames.valid, frames.chunk, self.rate, before, after)
        gain, share = self.coefficients(self.magnitude(phi, seen.key_mean))
        return share * seen.value_mean + gain * (self.scale * seen.product), past

    def weights(self, q: Tensor, k: Tensor, frames: Frames) -> Tensor:
        phi, placed = self.query_features(q, frames)
        phi_k, placed_k = self.key_features(k, frames)
        weight = self._weight(k, frames)
        centred_q = placed @ placed_k.transpose(-2, -1) - (placed * (weight @ placed_k)).sum(-1, keepdim=True)
        gain, share = self.coefficients(self.magnitude(phi, weight @ phi_k))
        return (share + gain * self.scale * centred_q) * weight

    def _weight(self, like: Tensor, frames: Frames) -> Tensor:
        """What frame j weighs for query i, in rows that sum to one: (B, 1 or H, N, N)."""
        n = like.shape[-2]
        number = torch.arange(n, device=like.device, dtype=like.dtype)
        weight = fade(self.rate, (number[:, None] - number).abs())
        weight = weight * visible(n, frames.chunk, like.device)
        weight = weight * frame_mask(frames.valid, like).transpose(-2, -1)
        total = weight.sum(-1, keepdim=True)
        return weight / torch.where(total > 0, total, 1)

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

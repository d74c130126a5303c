"""Magnitude-Aware Linear Attention (arXiv 2507.00698)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from asr.attention.base import Frames
from asr.attention.linear import TINY, CentredAttention, CentredOptions
from asr.attention.masked import frame_count, frame_mask, masked_mean
from asr.errors import UserError


@dataclass(frozen=True)
class MalaOptions(CentredOptions):
    """Options of MALA; the last two are the paper's ablations.

    Args:
        form: centred (the default; rows of the weights sum to one, also with rotary positions),
            released (the authors' code: positions turn the numerator only) or eq13 (the paper's
            Eq. 13 with sums instead of means; outputs grow with length). The last two are for study.
        kernel: feature map elu (elu(x) + 1), relu or exp (paper, Table 10).
        terms: both, no-beta (beta = 1), no-gamma (gamma = 0) or learnable (beta and gamma N are
            learnt per head and no longer follow the query; paper, Table 11).
    """

    form: Literal["centred", "released", "eq13"] = "centred"
    kernel: Literal["elu", "relu", "exp"] = "elu"
    terms: Literal["both", "no-beta", "no-gamma", "learnable"] = "both"


class LiteralSummary(NamedTuple):
    """What the forms other than ``centred`` need: plain sums."""

    count: Tensor  # (B, 1, 1, 1)
    key_sum: Tensor  # (B, H, 1, d) of phi(k), unrotated
    value_sum: Tensor  # (B, H, 1, d)
    key_value: Tensor  # (B, H, d, d): sum of phi(k) v^T


class MagnitudeAwareLinearAttention(CentredAttention):
    """MALA (arXiv 2507.00698, Eq. 8-14): weights beta_i phi(q_i) . phi(k_j) - gamma_i with

        beta_i = 1 + 1 / S_i      gamma_i = S_i / N      S_i = sum_j phi(q_i) . phi(k_j)

    The centred form is y_i = vbar + (1 + 1 / m_i) t_i, with phi(q) scaled by s / n as the authors'
    code has it; without rotary positions it equals their formula. Weights may be negative.
    """

    Options = MalaOptions

    def __init__(self, dim: int, heads: int, positions: str = "auto", options=None) -> None:
        super().__init__(dim, heads, positions, options)
        if self.forgets:
            self._require_centred(f"--mala.forget {self.options.forget}")
        if self.options.terms == "learnable":
            # What both are where m = 1.
            self.beta = nn.Parameter(torch.full((heads, 1, 1), 2.0))
            self.gamma = nn.Parameter(torch.ones(heads, 1, 1))

    def forget(self, half_life: float) -> None:
        self._require_centred("--forget")
        super().forget(half_life)

    def _require_centred(self, option: str) -> None:
        if self.options.form != "centred":
            raise UserError(f"{option}: only with --mala.form centred, and this is {self.options.form}")

    @property
    def kernel(self) -> str:
        return self.options.kernel

    @property
    def fused_gain(self) -> str | None:
        plain = self.options.form == "centred" and self.options.terms == "both"
        return "mala" if plain else None

    def terms(self, total: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """beta and gamma N from the sum of a query's products with all keys (B, H, N, 1)."""
        if self.options.terms == "learnable":
            return self.beta, self.gamma
        beta = 1.0 if self.options.terms == "no-beta" else 1 + 1 / total.clamp(min=TINY)
        gamma = 0.0 if self.options.terms == "no-gamma" else total
        return beta, gamma

    def coefficients(self, m: Tensor) -> tuple[Tensor | float, Tensor | float]:
        beta, gamma = self.terms(m)
        # The weights' sum beta m - gamma is one for the paper's beta and gamma; say so exactly.
        return beta, 1.0 if self.options.terms == "both" else beta * m - gamma

    def chunk_refusal(self) -> str | None:
        form = self.options.form
        return None if form == "centred" else f"--mala.form {form} is for study; only centred has means"

    def summarise(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, before: None):
        if self.options.form == "centred":
            return super().summarise(q, k, v, frames, before)
        phi, placed = self.key_features(k, frames)
        keep = frame_mask(frames.valid, k)
        count = frame_count(frames.valid, k)
        # Scaled by the utterance's length, sums stay of order one; attend takes the scale back.
        inverse = self._inverse_length(frames, k)
        key_value = (placed * keep * inverse).transpose(-2, -1) @ v
        return LiteralSummary(
            count, (phi * keep).sum(-2, keepdim=True), (v * keep).sum(-2, keepdim=True), key_value
        )

    def combine(self, summaries):
        if self.options.form == "centred":
            return super().combine(summaries)
        return LiteralSummary(*(sum(items) for items in zip(*summaries, strict=True)))

    def attend(self, q: Tensor, summary, frames: Frames) -> Tensor:
        if self.options.form == "centred":
            return super().attend(q, summary, frames)
        phi, placed = self.query_features(q, frames)
        n = summary.count.clamp(min=1)
        factor = self._factor(n)
        beta, gamma = self.terms(factor * (phi * summary.key_sum).sum(-1, keepdim=True))
        return beta * (factor * n) * (placed @ summary.key_value) - gamma / n * summary.value_sum

    def weights(self, q: Tensor, k: Tensor, frames: Frames) -> Tensor:
        if self.options.form == "centred":
            return super().weights(q, k, frames)
        phi, placed = self.query_features(q, frames)
        phi_k, placed_k = self.key_features(k, frames)
        n = frame_count(frames.valid, k).clamp(min=1)
        factor = self._factor(n)
        beta, gamma = self.terms(factor * n * (phi * masked_mean(phi_k, frames.valid)).sum(-1, keepdim=True))
        product = factor * placed @ placed_k.transpose(-2, -1)
        return (beta * product - gamma / n) * frame_mask(frames.valid, k).transpose(-2, -1)

    def _factor(self, n: Tensor) -> Tensor:
        """What phi(q) is multiplied by: s / n in the authors' code, 1 in the paper's Eq. 13."""
        return n / n if self.options.form == "eq13" else self.scale / n

    @staticmethod
    def _inverse_length(frames: Frames, like: Tensor) -> Tensor:
        return 1 / frames.lengths.clamp(min=1)[:, None, None, None].to(like.dtype)

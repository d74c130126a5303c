"""Magnitude-Aware Linear Attention (arXiv 2507.00698)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from asr.attention.linear import TINY, CentredAttention
from asr.attention.masked import frame_count, frame_mask, masked_mean


@dataclass(frozen=True)
class MalaOptions:
    """Options of MALA.

    Args:
        form: centred (the default; rows of the weights sum to one, also with rotary positions),
            released (the authors' code: positions turn the numerator only) or eq13 (the paper's
            Eq. 13 with sums instead of means; outputs grow with length). The last two are for study.
    """

    form: Literal["centred", "released", "eq13"] = "centred"


class MagnitudeAwareLinearAttention(CentredAttention):
    """MALA (arXiv 2507.00698, Eq. 8-14): weights beta_i phi(q_i) . phi(k_j) - gamma_i with

        beta_i = 1 + 1 / S_i      gamma_i = S_i / N      S_i = sum_j phi(q_i) . phi(k_j)

    The centred form is y_i = vbar + (1 + 1 / m_i) t_i, with phi(q) scaled by s / n as the authors'
    code has it; without rotary positions it equals their formula. Weights may be negative.
    """

    Options = MalaOptions

    def gain(self, m: Tensor) -> Tensor:
        return 1 + 1 / m.clamp(min=TINY)

    def core(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
        if self.options.form == "centred":
            return super().core(q, k, v, valid)
        phi_q, phi_k = self.feature_map(q), self.feature_map(k)
        beta, gamma, factor = self._literal(phi_q, phi_k, valid)
        keep = frame_mask(valid, k)
        # Two factors near 1 / sqrt(n) rather than one: the sums stay of order one.
        key_value = (self.place(phi_k) * keep * factor).transpose(-2, -1) @ (v * factor)
        return beta * (self.place(phi_q) @ key_value) - gamma * (v * keep).sum(-2, keepdim=True)

    def weights(self, q: Tensor, k: Tensor, valid: Tensor) -> Tensor:
        if self.options.form == "centred":
            return super().weights(q, k, valid)
        phi_q, phi_k = self.feature_map(q), self.feature_map(k)
        beta, gamma, factor = self._literal(phi_q, phi_k, valid)
        product = self.place(phi_q) @ (self.place(phi_k) * factor**2).transpose(-2, -1)
        return (beta * product - gamma) * frame_mask(valid, k).transpose(-2, -1)

    def _literal(self, phi_q: Tensor, phi_k: Tensor, valid: Tensor):
        """beta and gamma (B, H, N, 1), and the factor on k and v that scales their product."""
        n = frame_count(valid, phi_k)
        mean = (phi_q * masked_mean(phi_k, valid)).sum(-1, keepdim=True)
        if self.options.form == "eq13":
            total = n * mean
            return 1 + 1 / total.clamp(min=TINY), total / n, n / n
        m = self.scale * mean
        return 1 + 1 / m.clamp(min=TINY), m / n, (self.scale / n) ** 0.5

"""Linear attention, and the base of the mechanisms built on its statistics."""

from abc import abstractmethod

import torch.nn.functional as F
from torch import Tensor

from asr.attention.base import SelfAttention
from asr.attention.masked import frame_count, frame_mask, masked_mean, statistics
from asr.attention.positions import rotate

# phi(q) . kbar is positive but can underflow; below this the output is the mean of v.
TINY = 1e-12


class CentredAttention(SelfAttention):
    """Mechanisms whose output is y_i = vbar + gain(m_i) t_i, in the notation of docs/attention.md:

        m_i = s phi(q_i) . kbar      t_i = s phi(q_i) C      C = mean (phi(k) - kbar)(v - vbar)^T

    Rows of their weights sum to one whatever the gain is. Rotary positions turn phi(q) and phi(k) in
    t (C takes the mean of the turned keys) and leave m alone, which keeps m positive and the sum one.
    Time and memory grow with N, not N^2.
    """

    POSITIONS = ("rotary", "sinusoid", "none")

    @abstractmethod
    def gain(self, m: Tensor) -> Tensor:
        """What t is multiplied by, from m (B, H, N, 1)."""

    def feature_map(self, x: Tensor) -> Tensor:
        """phi(x) = elu(x) + 1, positive everywhere."""
        return F.elu(x) + 1

    def core(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
        phi_q, phi_k = self.feature_map(q), self.feature_map(k)
        stats = statistics(phi_k, self.place(phi_k), v, valid)
        t = self.scale * self.place(phi_q) @ stats.covariance
        return stats.value_mean + self.gain(self.magnitude(phi_q, stats.key_mean)) * t

    def weights(self, q: Tensor, k: Tensor, valid: Tensor) -> Tensor:
        phi_q, phi_k = self.feature_map(q), self.feature_map(k)
        placed_k = self.place(phi_k)
        centred_k = placed_k - masked_mean(placed_k, valid)
        t = self.scale * self.place(phi_q) @ centred_k.transpose(-2, -1)
        gain = self.gain(self.magnitude(phi_q, masked_mean(phi_k, valid)))
        share = (1 + gain * t) / frame_count(valid, k)
        return share * frame_mask(valid, k).transpose(-2, -1)

    def place(self, phi: Tensor) -> Tensor:
        """Features with their positions, where those are rotary."""
        return rotate(phi) if self.positions == "rotary" else phi

    def magnitude(self, phi_q: Tensor, key_mean: Tensor) -> Tensor:
        """m_i = s phi(q_i) . kbar: (B, H, N, 1)."""
        return self.scale * (phi_q * key_mean).sum(-1, keepdim=True)


class LinearAttention(CentredAttention):
    """Linear attention (Katharopoulos et al., arXiv 2006.16236, Eq. 4-5; MALA paper Eq. 2).

    y_i = phi(q_i) sum_j phi(k_j) v_j^T / phi(q_i) . sum_j phi(k_j) = vbar + t_i / m_i.
    Scaling phi(q_i) changes nothing: it cannot see the query's magnitude.
    """

    def gain(self, m: Tensor) -> Tensor:
        return 1 / m.clamp(min=TINY)

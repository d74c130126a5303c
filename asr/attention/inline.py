"""Injective linear attention (InLine, arXiv 2412.06590)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from asr.attention.base import AttentionOptions, Frames, Projected, merge_heads
from asr.attention.linear import CentredAttention

TAPS = 3


@dataclass(frozen=True)
class InlineOptions(AttentionOptions):
    """Options of InLine.

    Args:
        kernel: feature map identity (the paper's default), elu, relu or exp.
        residual: the local residual, a depthwise convolution over v whose three taps are predicted
            from the mean frame.
    """

    kernel: Literal["identity", "elu", "relu", "exp"] = "identity"
    residual: bool = True


class InlineAttention(CentredAttention):
    """InLine (arXiv 2412.06590, Eq. 5): normalised by a difference, not by a quotient,

        w_ij = phi(q_i) . phi(k_j) - mean_j phi(q_i) . phi(k_j) + 1 / N,    so    y_i = vbar + t_i

    with phi(q) scaled by s / n as the authors' code has it. To it comes the local residual
    sum_o r_o v_(i+o), here over o = -1, 0, 1 in time, where r = MLP(mean x) is an utterance's
    own, per channel; the MLP's two layers are grouped by head.
    """

    FUSED_GAIN = "inline"
    Options = InlineOptions

    def __init__(self, dim: int, heads: int, positions: str = "auto", options=None) -> None:
        super().__init__(dim, heads, positions, options)
        if self.options.residual:
            self.taps = nn.Sequential(
                nn.Conv1d(dim, dim, 1, groups=heads), nn.GELU(), nn.Conv1d(dim, TAPS * dim, 1, groups=heads)
            )

    @property
    def wants_token(self) -> bool:
        return self.options.residual

    @property
    def kernel(self) -> str:
        return self.options.kernel

    @property
    def halo(self) -> int:
        return max(super().halo, TAPS // 2 if self.options.residual else 0)

    def coefficients(self, m: Tensor) -> tuple[float, float]:
        return 1.0, 1.0

    def local(self, projected: Projected, token: Tensor | None, frames: Frames) -> Tensor | None:
        lepe = super().local(projected, token, frames)
        if not self.options.residual:
            return lepe
        taps = self.taps(token[..., None])[..., 0].unflatten(-1, (-1, TAPS))
        v = merge_heads(projected.v) * frames.valid[..., None]
        residual = apply_taps(v, taps)
        return residual if lepe is None else residual + lepe


def apply_taps(v: Tensor, taps: Tensor) -> Tensor:
    """sum_o taps_o v_(i+o) over o = -1, 0, 1, zero beyond the ends: v (B, N, D), taps (B, D, 3)."""
    n = v.shape[1]
    padded = nn.functional.pad(v, (0, 0, 1, 1))
    return sum(padded[:, o : o + n] * taps[:, None, :, o] for o in range(TAPS))

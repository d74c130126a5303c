"""Injective linear attention (InLine, arXiv 2412.06590)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from asr.attention.base import Frames, Projected, merge_heads
from asr.attention.chunks import last_frames, windows
from asr.attention.linear import CentredAttention, CentredOptions

TAPS = 3


@dataclass(frozen=True)
class InlineOptions(CentredOptions):
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
    own, per channel; the MLP's two layers are grouped by head. With chunks r is a chunk's own, from the
    mean of what there has been up to its end, and no v after the chunk is taken.
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

    def local(
        self, projected: Projected, token: Tensor | None, frames: Frames, before: Tensor | None = None
    ) -> Tensor | None:
        lepe = super().local(projected, token, frames, before)
        if not self.options.residual:
            return lepe
        v = merge_heads(projected.v) * frames.valid[..., None]
        if frames.chunk:
            residual = self._chunked_residual(v, token, frames.chunk, before)
        else:
            residual = apply_taps(nn.functional.pad(v, (0, 0, 1, 1)), self._predict(token))
        return residual if lepe is None else residual + lepe

    def _predict(self, token: Tensor) -> Tensor:
        """Taps (B, D, 3) from mean frames (B, D)."""
        return self.taps(token[..., None])[..., 0].unflatten(-1, (-1, TAPS))

    def _chunked_residual(self, v: Tensor, token: Tensor, chunk: int, before: Tensor | None) -> Tensor:
        reach = TAPS // 2
        before = None if before is None else last_frames(before, reach, None)
        cut = windows(v, min(chunk, v.shape[1]), reach, before)
        residual = apply_taps(cut.flatten(0, 1), self._predict(token.flatten(0, 1)))
        return residual.unflatten(0, cut.shape[:2]).flatten(1, 2)[:, : v.shape[1]]


def apply_taps(padded: Tensor, taps: Tensor) -> Tensor:
    """sum_o taps_o v_(i+o) over o = -1, 0, 1.

    padded: v with a frame more at either end, (B, N + 2, D); taps (B, D, 3).
    """
    n = padded.shape[1] - 2
    return sum(padded[:, o : o + n] * taps[:, None, :, o] for o in range(TAPS))

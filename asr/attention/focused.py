"""Focused linear attention (FLatten Transformer, arXiv 2308.00442)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.attention.base import Frames
from asr.attention.linear import NormalisedAttention
from asr.attention.positions import rotate

POWER = 3  # the paper's focusing factor p
SMALLEST = 1e-6  # keeps features positive, as in the authors' code


class FocusedLinearAttention(NormalisedAttention):
    """Focused linear attention (arXiv 2308.00442): features keep their norm, not their direction,

        phi(x) = f(relu(x))      f(x) = |x| / |x^p| x^p      p = 3, elementwise

    of q and k divided by a learnt scale per channel. |.| is a head's norm. The vision model adds a
    depthwise convolution of v: ``lepe`` 5.
    """

    def __init__(self, dim: int, heads: int, positions: str = "auto", options=None) -> None:
        super().__init__(dim, heads, positions, options)
        self.log_scale = nn.Parameter(torch.zeros(heads, 1, self.head_dim))

    def query_features(self, q: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        phi = focus((F.relu(q) + SMALLEST) / F.softplus(self.log_scale))
        return phi, rotate(phi, frames.start) if self.positions == "rotary" else phi


def focus(x: Tensor) -> Tensor:
    """|x| x^p / |x^p| for positive x (..., d)."""
    # Divided by its greatest entry first: x^p must not underflow, and the quotient does not change.
    sharp = (x / x.amax(-1, keepdim=True)) ** POWER
    return sharp * (x.norm(dim=-1, keepdim=True) / sharp.norm(dim=-1, keepdim=True))

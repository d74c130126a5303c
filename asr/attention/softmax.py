"""Softmax attention, with Conformer's relative positions or rotary ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.attention.base import AttentionOptions, Frames, SelfAttention
from asr.attention.masked import mask_scores
from asr.attention.positions import relative_shift, relative_sinusoids, rotate

# Queries are taken in blocks whose scores by position stay under this many bytes.
SCORE_BYTES = 2**28


@dataclass(frozen=True)
class SoftmaxOptions(AttentionOptions):
    """Options of softmax attention.

    Args:
        unit_query: divide every query by its norm, which takes its magnitude away (the MALA
            paper's Table 1).
    """

    unit_query: bool = False


class Keys(NamedTuple):
    """Softmax has no shorter summary than all keys and values."""

    k: Tensor  # (B, H, N, d), rotated where positions are rotary
    v: Tensor  # (B, H, N, d)
    valid: Tensor  # (B, N)


class SoftmaxAttention(SelfAttention):
    """softmax(q k^T / sqrt(d)) v ("Attention Is All You Need", Eq. 1).

    With ``relative`` positions (Conformer's own) the scores are Transformer-XL's,
    (q_i + a) . k_j + (q_i + b) . W r_{i-j}, with learnt biases a and b per head (arXiv 1901.02860).
    Time grows with N^2; memory with N, as queries are taken in blocks where N is large.
    """

    POSITIONS = ("relative", "rotary", "sinusoid", "none")
    Options = SoftmaxOptions

    def __init__(self, dim: int, heads: int, positions: str = "auto", options=None) -> None:
        super().__init__(dim, heads, positions, options)
        if self.positions == "relative":
            self.offset = nn.Linear(dim, dim, bias=False)
            self.content_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))
            self.offset_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))

    def summarise(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, before: None) -> Keys:
        k = rotate(k, frames.start) if self.positions == "rotary" else k
        return Keys(k, v, frames.valid)

    def combine(self, summaries: Sequence[Keys]) -> Keys:
        k, v, valid = zip(*summaries, strict=True)
        return Keys(torch.cat(k, -2), torch.cat(v, -2), torch.cat(valid, -1))

    def attend(self, q: Tensor, summary: Keys, frames: Frames) -> Tensor:
        if torch.compiler.is_exporting():  # the number of blocks would be fixed in the graph
            return self._attend_block(q, summary, frames.start)
        b, h, n, _ = q.shape
        rows = max(1, SCORE_BYTES // (4 * b * h * summary.k.shape[-2]))
        outputs = [
            self._attend_block(q[:, :, first : first + rows], summary, frames.start + first)
            for first in range(0, n, rows)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -2)

    def weights(self, q: Tensor, k: Tensor, frames: Frames) -> Tensor:
        keys = self.summarise(q, k, k, frames, None)
        q, bias = self._inputs(q, keys, frames.start)
        return torch.softmax(q @ keys.k.transpose(-2, -1) * self.scale + bias, dim=-1)

    def _attend_block(self, q: Tensor, keys: Keys, start: int) -> Tensor:
        """The output (B, H, n, d) for n queries from frame ``start``."""
        q, bias = self._inputs(q, keys, start)
        return F.scaled_dot_product_attention(q, keys.k, keys.v, attn_mask=bias, scale=self.scale)

    def _inputs(self, q: Tensor, keys: Keys, start: int) -> tuple[Tensor, Tensor]:
        """Queries from frame ``start``, and the bias (B, H or 1, n or 1, N) that masks and places keys."""
        bias = mask_scores(torch.zeros_like(keys.k[:, :1, None, :, 0]), keys.valid)
        if self.options.unit_query:
            q = F.normalize(q, dim=-1)
        if self.positions == "rotary":
            q = rotate(q, start)
        if self.positions == "relative":
            dim = self.heads * self.head_dim
            offsets = relative_sinusoids(q.shape[-2], keys.k.shape[-2], start, dim, q.device, q.dtype)
            offsets = F.linear(offsets, self.offset.weight.to(q.dtype))
            offsets = offsets.unflatten(-1, (self.heads, self.head_dim)).transpose(0, 1)
            by_offset = (q + self.offset_bias) @ offsets.transpose(-2, -1)
            bias = bias + relative_shift(by_offset) * self.scale
            q = q + self.content_bias
        return q, bias

"""Softmax attention, with Conformer's relative positions or rotary ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.attention.base import SelfAttention
from asr.attention.positions import relative_shift, relative_sinusoids, rotate


class SoftmaxAttention(SelfAttention):
    """softmax(q k^T / sqrt(d)) v ("Attention Is All You Need", Eq. 1).

    With ``relative`` positions (Conformer's own) the scores are Transformer-XL's,
    (q_i + a) . k_j + (q_i + b) . W r_{i-j}, with learnt biases a and b per head (arXiv 1901.02860).
    """

    POSITIONS = ("relative", "rotary", "sinusoid", "none")

    def __init__(self, dim: int, heads: int, positions: str = "auto", options=None) -> None:
        super().__init__(dim, heads, positions, options)
        if self.positions == "relative":
            self.offset = nn.Linear(dim, dim, bias=False)
            self.content_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))
            self.offset_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))

    def core(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
        q, k, bias = self._inputs(q, k, valid)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)

    def weights(self, q: Tensor, k: Tensor, valid: Tensor) -> Tensor:
        q, k, bias = self._inputs(q, k, valid)
        return torch.softmax(q @ k.transpose(-2, -1) * self.scale + bias, dim=-1)

    def _inputs(self, q: Tensor, k: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, and the bias (B, H or 1, N or 1, N) that masks and places them."""
        # Not -inf: an utterance without a single valid frame must give numbers, not NaN.
        bias = torch.zeros_like(q[:, :1, 0, 0])[:, None, None, :]
        bias = bias.masked_fill(~valid[:, None, None, :], torch.finfo(q.dtype).min / 2)
        if self.positions == "rotary":
            q, k = rotate(q), rotate(k)
        if self.positions == "relative":
            n = q.shape[-2]
            offsets = relative_sinusoids(n, self.heads * self.head_dim, q.device)
            offsets = F.linear(offsets.to(q.dtype), self.offset.weight.to(q.dtype))
            offsets = offsets.unflatten(-1, (self.heads, self.head_dim)).transpose(0, 1)
            by_offset = (q + self.offset_bias) @ offsets.transpose(-2, -1)
            bias = bias + relative_shift(by_offset) * self.scale
            q = q + self.content_bias
        return q, k, bias

"""Efficient attention (arXiv 1812.01243)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.attention.base import Frames, SelfAttention
from asr.attention.chunks import visible
from asr.attention.masked import SoftmaxSum, combine_softmax_sums, mask_scores, softmax_sum


class EfficientAttention(SelfAttention):
    """Efficient attention (Shen et al., arXiv 1812.01243, with softmax normalisation):

        y_i = softmax_d(q_i) . softmax_N(k)^T v

    Queries are normalised over channels, keys over frames: rows of the weights sum to one.
    """

    POSITIONS = ("none", "sinusoid")

    def summarise(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, before: None) -> SoftmaxSum:
        return softmax_sum(mask_scores(k.transpose(-2, -1), frames.valid), v)

    def combine(self, summaries: Sequence[SoftmaxSum]) -> SoftmaxSum:
        return combine_softmax_sums(summaries)

    def attend(self, q: Tensor, summary: SoftmaxSum, frames: Frames) -> Tensor:
        return q.softmax(-1) @ summary.mean

    def chunk_refusal(self) -> str | None:
        return None

    def core_after(
        self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, past: SoftmaxSum | None
    ) -> tuple[Tensor, SoftmaxSum]:
        chunk = min(frames.chunk, q.shape[-2])
        queries, keys, values = (_cut(x, chunk) for x in (q, k, v))  # (B, H, C, chunk, d)
        valid = _cut(frames.valid[:, None, :, None], chunk)
        scores = keys.masked_fill(~valid, torch.finfo(keys.dtype).min / 2).transpose(-2, -1)
        sums = softmax_sum(scores, values)
        so_far = []
        for part in zip(*(item.double().unbind(2) for item in sums), strict=True):
            past = combine_softmax_sums([past, SoftmaxSum(*part)] if past else [SoftmaxSum(*part)])
            so_far.append(past.mean)
        y = queries.softmax(-1) @ torch.stack(so_far, 2).to(q.dtype)
        return y.flatten(2, 3)[:, :, : q.shape[-2]], past

    def weights(self, q: Tensor, k: Tensor, frames: Frames) -> Tensor:
        if not frames.chunk:
            return q.softmax(-1) @ mask_scores(k.transpose(-2, -1), frames.valid).softmax(-1)
        n = k.shape[-2]
        seen = visible(n, frames.chunk, k.device) & frames.valid[:, None, None, None, :]
        scores = k.transpose(-2, -1)[..., None, :].expand(-1, -1, -1, n, -1)  # (B, H, d, N, N)
        shares = scores.masked_fill(~seen, torch.finfo(k.dtype).min / 2).softmax(-1)
        return torch.einsum("bhid,bhdij->bhij", q.softmax(-1), shares)


def _cut(x: Tensor, chunk: int) -> Tensor:
    """(B, H, N, d) to (B, H, C, chunk, d), filled up with zeros."""
    return F.pad(x, (0, 0, 0, -x.shape[-2] % chunk)).unflatten(-2, (-1, chunk))

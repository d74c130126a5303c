"""Efficient attention (arXiv 1812.01243)."""

from collections.abc import Sequence

from torch import Tensor

from asr.attention.base import Frames, SelfAttention
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

    def weights(self, q: Tensor, k: Tensor, frames: Frames) -> Tensor:
        return q.softmax(-1) @ mask_scores(k.transpose(-2, -1), frames.valid).softmax(-1)

"""Agent attention (arXiv 2312.08874)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from asr.attention.base import AttentionOptions, Frames, SelfAttention
from asr.attention.masked import SoftmaxSum, combine_softmax_sums, mask_scores, softmax_sum
from asr.bounds import bounded


@dataclass(frozen=True)
class AgentOptions(AttentionOptions):
    """Options of agent attention.

    Args:
        agents: number of agents an utterance's queries are pooled into.
    """

    agents: int = bounded(32, 1, 4096)


class AgentSummary(NamedTuple):
    """The agents (B, H, a, d), and after the second pass what they gathered."""

    agents: Tensor
    gathered: SoftmaxSum | None = None


class AgentAttention(SelfAttention):
    """Agent attention (Han et al., arXiv 2312.08874): two softmaxes through a few agents,

        y_i = softmax(s q_i A^T) softmax(s A k^T) v      A = pool(q)

    A is the mean query of each of ``agents`` equal stretches of the utterance (stretches share frames
    where the length is no multiple, as in adaptive average pooling). The paper's position biases are
    made for images; its depthwise convolution of v is ``lepe``.
    """

    POSITIONS = ("none", "sinusoid")
    PASSES = 2  # pool the agents, then let them gather
    Options = AgentOptions

    def chunk_refusal(self) -> str | None:
        return "its agents are pooled from the whole utterance"

    def summarise(
        self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, before: AgentSummary | None
    ) -> AgentSummary:
        if before is None:
            return AgentSummary(self._pooling(frames, q) @ q)
        scores = mask_scores(self.scale * before.agents @ k.transpose(-2, -1), frames.valid)
        return AgentSummary(before.agents, softmax_sum(scores, v))

    def combine(self, summaries: Sequence[AgentSummary]) -> AgentSummary:
        if summaries[0].gathered is None:
            return AgentSummary(sum(item.agents for item in summaries))
        gathered = combine_softmax_sums([item.gathered for item in summaries])
        return AgentSummary(summaries[0].agents, gathered)

    def attend(self, q: Tensor, summary: AgentSummary, frames: Frames) -> Tensor:
        return self._ask(q, summary.agents) @ summary.gathered.mean

    def weights(self, q: Tensor, k: Tensor, frames: Frames) -> Tensor:
        agents = self._pooling(frames, q) @ q
        scores = mask_scores(self.scale * agents @ k.transpose(-2, -1), frames.valid)
        return self._ask(q, agents) @ scores.softmax(-1)

    def _ask(self, q: Tensor, agents: Tensor) -> Tensor:
        return (self.scale * q @ agents.transpose(-2, -1)).softmax(-1)

    def _pooling(self, frames: Frames, like: Tensor) -> Tensor:
        """(B, 1, a, N): row j holds 1 / size on the frames of stretch j that are here, else 0."""
        count = self.options.agents
        stretch = torch.arange(count, device=like.device)
        length = frames.lengths[:, None]
        first = stretch * length // count
        end = ((stretch + 1) * length + count - 1) // count
        number = torch.arange(frames.start, frames.start + like.shape[-2], device=like.device)
        inside = (number >= first[..., None]) & (number < end[..., None])
        return (inside / (end - first).clamp(min=1)[..., None])[:, None].to(like.dtype)

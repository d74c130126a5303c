"""Norm-aware linear attention (NaLaFormer, arXiv 2506.21137)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.attention.base import Frames
from asr.attention.linear import NormalisedAttention
from asr.attention.positions import rotate


class NormAwareLinearAttention(NormalisedAttention):
    """NaLaFormer's attention (Meng et al., arXiv 2506.21137): the query's norm sharpens its features.

        phi(q) = [relu(u)^p ; relu(-u)^p]     u = q / |q|     p = 3 (0.5 + tanh |q|)
        phi(k) = [relu(k^3) ; relu(-k^3)]

    normalised as linear attention is. Rotary positions turn both halves alike, in t only. The vision
    model has ``gate`` silu and ``lepe`` 5 beside it.
    """

    def query_features(self, q: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        direction = F.normalize(q, dim=-1)  # zero, not NaN, for a zero query
        power = 3 * (0.5 + torch.tanh(q.norm(dim=-1, keepdim=True)))
        return self._halves(F.relu(direction) ** power, F.relu(-direction) ** power, frames)

    def key_features(self, k: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        cube = k**3
        return self._halves(F.relu(cube), F.relu(-cube), frames)

    def _halves(self, positive: Tensor, negative: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        phi = torch.cat((positive, negative), -1)
        if self.positions != "rotary":
            return phi, phi
        turned = (rotate(half, frames.start) for half in (positive, negative))
        return phi, torch.cat(tuple(turned), -1)

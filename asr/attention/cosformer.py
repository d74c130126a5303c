"""cosFormer (arXiv 2202.08791)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.attention.base import Frames
from asr.attention.linear import NormalisedAttention
from asr.attention.positions import cosine


class CosformerAttention(NormalisedAttention):
    """cosFormer (Qin et al., arXiv 2202.08791): relu features, weighed down with distance,

        w_ij ~ relu(q_i) . relu(k_j) cos(pi (i - j) / 2 M)

    which splits into cos cos + sin sin, so features are [relu(x) cos(pi i / 2M) ; relu(x) sin(pi i / 2M)].
    M is the utterance's own length: the batch's would make the weights depend on its mates. The
    weighing is its own kind of position. A query without a positive product attends evenly.
    """

    POSITIONS = ("none", "sinusoid")

    def chunk_refusal(self) -> str | None:
        return "its weights follow the length of the whole utterance"

    def query_features(self, q: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        length = frames.lengths.clamp(min=1)[:, None].double()
        number = torch.arange(frames.start, frames.start + q.shape[-2], device=q.device)
        # Frames beyond the end are anyone's: keep their weights as harmless as the last one's.
        angle = (math.pi / 2) * torch.minimum(number, length - 1) / length
        angle = angle[:, None, :, None]
        phi = F.relu(q)
        placed = torch.cat((phi * cosine(angle).to(q.dtype), phi * angle.sin().to(q.dtype)), -1)
        return placed, placed

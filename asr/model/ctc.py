"""Connectionist temporal classification (Graves et al. 2006)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.model.classes import BLANK
from asr.model.frames import valid_frames


class CTCHead(nn.Module):
    """Encoded frames to log-probabilities over the pieces and the blank, and the loss on them.

    Class 0 is the blank; class i is the tokenizer's piece i - 1.
    """

    def __init__(self, dim: int, pieces: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, pieces + 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, D) to log-probabilities (B, N, pieces + 1), fp32 at least."""
        logits = self.project(x)
        return F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))

    @staticmethod
    def loss(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """Negative log-likelihood of each utterance, (B,), in nats.

        Args:
            log_probs: (B, N, pieces + 1).
            lengths: (B,) valid frames; on the CPU, or the device is waited for (PyTorch wants them there).
            targets: (B, U) classes, padded with anything; where log_probs are.
            target_lengths: (B,); like lengths.
        """
        with torch.autocast(log_probs.device.type, enabled=False):
            return F.ctc_loss(
                log_probs.transpose(0, 1), targets, lengths, target_lengths, BLANK, reduction="none"
            )

    @staticmethod
    def consistency(log_probs: Tensor, lengths: Tensor) -> Tensor:
        """How far two views of each utterance are apart (CR-CTC, Yao et al., arXiv 2410.05101), in nats.

            1/2 sum_t [KL(stop(p_b,t) || p_a,t) + KL(stop(p_a,t) || p_b,t)]

        Args:
            log_probs: (2 B, N, classes), the first views before the second ones.
            lengths: (2 B,) valid frames, on any device.

        Returns:
            (B,); gradients flow into the second arguments of KL only.
        """
        a, b = log_probs.chunk(2)
        valid = valid_frames(lengths.chunk(2)[0].to(a.device, non_blocking=True), a.shape[1])

        def divergence(target: Tensor, found: Tensor) -> Tensor:
            target = target.detach()
            return (target.exp() * (target - found)).sum(-1)

        return (0.5 * (divergence(a, b) + divergence(b, a)) * valid).sum(-1)


def frames_needed(classes: list[int]) -> int:
    """Frames that CTC needs for these classes: one each, and a blank between equal neighbours."""
    return len(classes) + sum(a == b for a, b in pairwise(classes))

"""Utterances cut into pieces that are put together anew, for a student whose teacher says what is heard.

A small corpus is learnt by heart: what was said before tells what comes next. Pieces of other utterances in
between leave the sounds and take the order away, and a teacher can be asked about any recording. That is
function matching for speech (Beyer et al., "Knowledge distillation: a good teacher is patient and
consistent", arXiv 2106.05237, who mix pictures).
"""

import torch
from torch import Tensor

from asr.data.batches import Batch
from asr.model.frames import SAMPLE_RATE

SHORTEST, LONGEST = 0.5, 3.0  # seconds of a piece
FADE = round(0.01 * SAMPLE_RATE)  # samples over which a piece comes in and goes out: a cut would click


def spliced(batch: Batch, share: float) -> Batch:
    """A batch as it is or, so often, with its waveforms in pieces (``splice``) and without transcripts."""
    if not share or torch.rand(()) >= share:  # runs without it draw what they always drew
        return batch
    waveforms, lengths = splice(batch.waveforms, batch.lengths)
    none = torch.zeros(len(lengths), dtype=torch.long)
    return batch._replace(
        waveforms=waveforms,
        lengths=lengths,
        targets=batch.targets[:, :0],
        target_lengths=none,
        transcribed=none.bool(),
    )


def splice(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The pieces of a batch in a new order across its utterances, all of one length, which is drawn.

    An utterance keeps its number of pieces. What it has beside whole ones is left out, at its ends.

    Args:
        waveforms: (B, S), integers or floats.
        lengths: (B,) samples, on the CPU. No piece is longer than the shortest utterance.

    Returns:
        waveforms (B, S') of the same dtype, with zeros behind the pieces, and lengths (B,).
    """
    longest = min(round(LONGEST * SAMPLE_RATE), int(lengths.min()))
    shortest = min(round(SHORTEST * SAMPLE_RATE), longest)
    size = int(torch.randint(shortest, longest + 1, ()))
    counts = lengths // size
    begins = (torch.rand(len(lengths)) * (lengths % size + 1)).long()
    there = torch.arange(int(counts.max())) < counts[:, None]  # (B, pieces)
    rows, numbers = there.nonzero(as_tuple=True)
    order = torch.randperm(len(rows))
    firsts = (begins[rows] + numbers * size)[order].to(waveforms.device)
    places = firsts[:, None] + torch.arange(size, device=waveforms.device)
    pieces = waveforms[rows[order].to(waveforms.device)[:, None], places] * _window(size, waveforms.device)
    result = waveforms.new_zeros(*there.shape, size)
    result[there.to(waveforms.device)] = pieces.to(waveforms.dtype)
    return result.flatten(1), counts * size


def _window(size: int, device: torch.device) -> Tensor:
    """(size,) that a piece is multiplied by: 1, but for the fades at its ends."""
    fade = torch.linspace(0, 1, min(FADE, size // 2), device=device)
    return torch.cat([fade, torch.ones(size - 2 * len(fade), device=device), fade.flip(0)])

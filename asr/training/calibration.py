"""Where a student's attention starts: each head's queries shifted so that it is nearest to the teacher's.

A shift by -c of MALA's or linear attention's queries scales phi(q) = elu(q) + 1 by up to e^-c, and m with it.
MALA's deviation from the mean value is 1 + m times linear attention's, and queries and keys that were trained
for softmax are long: m is large, and MALA starts far beyond its teacher. A step of Adam moves a bias by about
the learning rate, so that training would take thousands of steps to find what a search finds at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from asr.attention import SelfAttention
from asr.data.batches import SpeechDataset, collate
from asr.data.joining import Joined
from asr.data.manifest import Utterance
from asr.data.tokenizer import Tokenizer
from asr.model.frontend import as_float
from asr.model.recogniser import Model
from asr.training.distillation import Taught, Teacher, layer_error

SHIFTS = (0, 1, 2, 3, 4, 6, 8)
SECONDS = 60.0  # of audio to search on


@torch.no_grad()
def calibrate(student: Model, taught: Taught) -> tuple[float, float]:
    """Shift the query biases to where each layer's relative error is least.

    First all heads of a layer together, then each by itself. No layer gets worse.

    Returns:
        the mean error of the layers before and after.
    """
    errors = [
        _shift(block.attention, x, wanted, taught.valid)
        for block, (x, wanted) in zip(student.encoder.blocks, taught.attention, strict=True)
    ]
    before, after = zip(*errors, strict=True)
    return sum(before) / len(errors), sum(after) / len(errors)


def _shift(attention: SelfAttention, x: Tensor, wanted: Tensor, valid: Tensor) -> tuple[float, float]:
    bias = attention.query.bias.clone()

    def error(shifts: list[int]) -> float:
        by_unit = torch.tensor(shifts, dtype=bias.dtype).repeat_interleave(attention.head_dim)
        attention.query.bias.copy_(bias - by_unit)
        return layer_error(attention(x, valid), wanted, valid).mean().item()

    shifts = min(([shift] * attention.heads for shift in SHIFTS), key=error)
    for head in range(attention.heads):
        tried = ([*shifts[:head], shift, *shifts[head + 1 :]] for shift in SHIFTS)
        shifts = min(tried, key=error)
    return error([0] * attention.heads), error(shifts)


def calibrate_on(
    student: Model, teacher: Teacher, utterances: Sequence[Utterance | Joined], tokenizer: Tokenizer
) -> str:
    """``calibrate`` on some of the utterances, evenly from the whole list; what it found, in words."""
    step = max(1, round(sum(item.duration for item in utterances) / SECONDS))
    dataset = SpeechDataset(utterances[::step], tokenizer)
    batch = collate([dataset[index] for index in range(len(dataset))])
    frontend = student.frontend
    waveforms = as_float(batch.waveforms)
    features = frontend.features(waveforms, batch.lengths)
    before, after = calibrate(student, teacher.teach(waveforms, batch.lengths, *features))
    return f"queries shifted: the attention's relative error starts at {after:.3g} and not {before:.3g}"

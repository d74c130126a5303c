"""Where a student's attention starts: each head's queries scaled and shifted to be nearest to the teacher's.

A shift by -c of MALA's or linear attention's queries scales phi(q) = elu(q) + 1 by up to e^-c, and m with it.
MALA's deviation from the mean value is 1 + m times linear attention's, and queries and keys that were trained
for softmax are long: m is large, and MALA starts far beyond its teacher. InLine's features are the queries
themselves, which no shift makes small: its deviation from the mean goes with their scale. A step of Adam
moves a weight by about the learning rate, so that training would take thousands of steps to find what a
search finds at once.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from asr.attention import SelfAttention
from asr.data.batches import collate, some_speech
from asr.data.joining import Joined
from asr.data.manifest import Utterance
from asr.data.tokenizer import Tokenizer
from asr.model.frontend import as_float
from asr.model.recogniser import Model
from asr.training.distances import layer_error
from asr.training.distillation import Taught, Teacher

SHIFTS = (0, 1, 2, 3, 4, 6, 8)
SCALES = (1, 2, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
SECONDS = 60.0  # of audio to search on


@torch.no_grad()
def calibrate(student: Model, taught: Taught) -> tuple[float, float]:
    """Scale and shift the queries to where each layer's relative error is least.

    First the shift, then the scale; of all heads of a layer together, then of each by itself. No layer gets
    worse.

    Returns:
        the mean error of the layers before and after.
    """
    errors = [
        _nearest(student.get_submodule(name), inputs[0], wanted, taught.valid)
        for name, (inputs, wanted, _) in taught.modules.items()
        if name.endswith(".attention")
    ]
    before, after = zip(*errors, strict=True)
    return sum(before) / len(errors), sum(after) / len(errors)


def _nearest(attention: SelfAttention, x: Tensor, wanted: Tensor, valid: Tensor) -> tuple[float, float]:
    """Of one layer: its error before and after."""
    query, heads = attention.query, attention.heads
    weight, bias = query.weight.clone(), query.bias.clone()

    def error(shifts: list[float], scales: list[float]) -> float:
        parts = (torch.tensor(part, dtype=bias.dtype) for part in (shifts, scales))
        shift, scale = (part.repeat_interleave(attention.head_dim) for part in parts)
        query.weight.copy_(scale[:, None] * weight)
        query.bias.copy_(scale * bias - shift)
        return layer_error(attention(x, valid), wanted, valid).mean().item()

    shifts, scales = [0.0] * heads, [1.0] * heads
    before = error(shifts, scales)
    if before == 0:  # it is the teacher's
        return before, before
    for chosen in (range(heads), *([head] for head in range(heads))):
        shifts = min((_changed(shifts, chosen, shift) for shift in SHIFTS), key=lambda s: error(s, scales))
        scales = min((_changed(scales, chosen, scale) for scale in SCALES), key=lambda s: error(shifts, s))
    return before, error(shifts, scales)


def _changed(values: list[float], places: Iterable[int], value: float) -> list[float]:
    return [value if place in places else old for place, old in enumerate(values)]


def calibrate_on(
    student: Model, teacher: Teacher, utterances: Sequence[Utterance | Joined], tokenizer: Tokenizer
) -> str:
    """``calibrate`` on some of the utterances, evenly from the whole list; what it found, in words."""
    batch = collate([*some_speech(utterances, SECONDS, tokenizer)])
    frontend = student.frontend
    waveforms = as_float(batch.waveforms)
    features = frontend.features(waveforms, batch.lengths)
    taught = teacher.teach(waveforms, batch.lengths, *features, training=False)
    before, after = calibrate(student, taught)
    errors = f"the attention's relative error starts at {after:.3g} and not {before:.3g}"
    return f"queries scaled and shifted: {errors}"

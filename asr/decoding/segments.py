"""A recording cut where it is quiet, each segment encoded by itself, for models that want short ones.

Encoding a recording in one pass (asr/model/long.py) is exact, which is no help where it is longer than what a
model was trained on, or has several speakers: the features' mean, and linear attention's, are then those of
all of it (RESULTS.md).
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.decoding.posteriors import log_probs_of
from asr.model.frames import HOP, SAMPLE_RATE
from asr.model.recogniser import Model

QUIET = 0.3  # seconds, whose loudness is compared


def segment_log_probs(
    model: Model, parts: Iterable[Tensor], seconds: float, together: int
) -> Iterator[np.ndarray]:
    """Log-probabilities of one recording whose segments know nothing of each other.

    Args:
        model: in evaluation mode.
        parts: samples (n,) in [-1, 1] at 16 kHz, part by part.
        seconds: of a segment, at most; at least half of it, bar the last.
        together: segments in a batch.

    Yields:
        (n, classes) fp32 for consecutive segments, which together have a frame for each of the recording's.
    """
    frame = model.framing.factor * HOP
    segments = iter(cut_at_quiet(parts, seconds, frame))
    while batch := list(islice(segments, together)):
        lengths = torch.tensor([len(samples) for samples in batch])
        found = log_probs_of(model, pad_sequence(batch, batch_first=True), lengths)
        for row, samples in zip(found, batch, strict=True):
            # Some front ends give a frame more at an utterance's end, which would move all times after it.
            yield row[: max(1, -(-len(samples) // frame))]


def cut_at_quiet(parts: Iterable[Tensor], seconds: float, multiple: int = 1) -> Iterator[Tensor]:
    """Samples (n,) of consecutive parts to segments of half of ``seconds`` to ``seconds``.

    They are cut in the middle of the quietest 0.3 s in reach, at a multiple of so many samples; the last may
    be shorter. Joined, they are the parts joined; they do not depend on how these were divided.
    """
    longest = max(2, int(seconds * SAMPLE_RATE) // multiple) * multiple
    width = round(QUIET * SAMPLE_RATE)
    held = torch.empty(0)
    for part in parts:
        held = torch.cat((held.to(part), part))
        while len(held) > longest:
            energy = torch.nn.functional.pad(held[:longest].double().square().cumsum(0), (1, 0))
            place = torch.arange(longest // multiple // 2, longest // multiple) * multiple
            first, last = (place - width // 2).clamp(min=0), (place + width // 2).clamp(max=longest)
            cut = int(place[((energy[last] - energy[first]) / (last - first)).argmin()])
            yield held[:cut]
            held = held[cut:]
    if len(held):
        yield held

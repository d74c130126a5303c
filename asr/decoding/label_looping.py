"""A transducer's likeliest next class, again and again, for a batch at a time.

Greedy decoding goes from a frame to the next on a blank, and else says the piece and stays on the frame.
Done frame by frame and utterance by utterance it is two loops in Python. Label looping (Bataev et al., arXiv
2406.06220) turns them round: each pass of the one loop finds every utterance's next piece. Between two pieces
the prediction network stands still, so that the frames ahead are looked at together, a window in each pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.attention.base import at_least_fp32
from asr.model.ctc import BLANK
from asr.model.transducer import Transducer

MOST_A_FRAME = 10  # pieces; what says more on a frame of 40 ms is stuck there
WINDOW = 8  # frames looked at in a pass
TOGETHER = 30_000  # frames of a batch, padding included


class Hypothesis(NamedTuple):
    """What was found in an utterance."""

    classes: list[int]  # (U,) of the pieces, without blanks
    frames: list[int]  # (U,) on which each was said
    log_probs: list[float]  # (U,) of each, given those before


@torch.no_grad()
def transducer_greedy(
    transducer: Transducer, x: Tensor, lengths: Tensor, window: int = WINDOW, most: int = MOST_A_FRAME
) -> list[Hypothesis]:
    """What a transducer, in evaluation mode, makes of each utterance.

    Args:
        x: encoded frames (B, N, D).
        lengths: (B,) valid frames, on any device.
        window: frames looked at in a pass; decides the speed only.
        most: pieces on a frame at most.
    """
    joint, device = transducer.joint, x.device
    encoded = F.pad(joint.encoder(x), (0, 0, 0, window))  # the last windows reach beyond the end
    lengths, rows = lengths.to(device), torch.arange(len(x), device=device)[:, None]
    ahead = torch.arange(window, device=device)
    frame = torch.zeros_like(lengths)  # that each utterance is on
    on_frame = torch.zeros_like(lengths)  # pieces said there
    predicted, state = transducer.prediction.step(torch.full_like(rows, BLANK))
    said = []
    while (frame < lengths).any():
        frames = frame[:, None] + ahead
        logits = joint(encoded[rows, frames.clamp(max=encoded.shape[1] - 1)], joint.prediction(predicted))
        best, classes = at_least_fp32(logits).log_softmax(-1).max(-1)
        speaks = (classes != BLANK) & (frames < lengths[:, None])
        found, first = speaks.any(1), speaks.int().argmax(1, keepdim=True)
        classes, best = classes.gather(1, first), best.gather(1, first)
        at = torch.where(found, frame + first[:, 0], frame + window)
        said.append((found, classes[:, 0], at, best[:, 0]))

        on_frame = torch.where(at == frame, on_frame, 0) + found
        full = on_frame >= most
        frame, on_frame = at + full, on_frame.masked_fill(full, 0)
        after, new = transducer.prediction.step(classes, state)
        predicted = torch.where(found[:, None, None], after, predicted)
        state = tuple(torch.where(found[:, None], a, b) for a, b in zip(new, state, strict=True))
    return _hypotheses(said, len(x))


def greedy_in_batches(transducer: Transducer, frames: Sequence[np.ndarray]) -> list[Hypothesis]:
    """``transducer_greedy`` of any number of utterances (N, D), those of like length together."""
    device = transducer.joint.encoder.weight.device
    order = sorted(range(len(frames)), key=lambda number: -len(frames[number]))
    found: dict[int, Hypothesis] = {}
    while order:
        count = max(1, TOGETHER // len(frames[order[0]]))
        batch, order = order[:count], order[count:]
        x = pad_sequence([torch.from_numpy(frames[number]) for number in batch], batch_first=True)
        lengths = torch.tensor([len(frames[number]) for number in batch])
        found |= zip(batch, transducer_greedy(transducer, x.to(device), lengths), strict=True)
    return [found[number] for number in range(len(frames))]


def _hypotheses(said: list[tuple[Tensor, Tensor, Tensor, Tensor]], count: int) -> list[Hypothesis]:
    """The passes' pieces, of those utterances that said one, to each utterance's."""
    if not said:
        return [Hypothesis([], [], []) for _ in range(count)]
    found, *columns = (torch.stack(column, 1).cpu() for column in zip(*said, strict=True))
    return [Hypothesis(*(column[row][found[row]].tolist() for column in columns)) for row in range(count)]

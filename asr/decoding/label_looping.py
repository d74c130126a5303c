"""A transducer's likeliest next class, again and again, for a batch at a time.

Greedy decoding goes from a frame to the next on a blank, and else says the piece and stays on the frame.
Done frame by frame and utterance by utterance it is two loops in Python. Label looping (Bataev et al., arXiv
2406.06220) turns them round: each pass of the one loop finds every utterance's next piece. Between two pieces
the prediction network stands still, so that the frames ahead are looked at together, a window in each pass.

A model with durations (TDT, Xu et al., arXiv 2304.06795) says with every piece and blank how many frames to
go on by, a blank one at least. It is the same loop: without durations, a blank goes on by one frame, and a
piece by none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.attention.base import at_least_fp32
from asr.model.classes import BLANK
from asr.model.transducer import Transducer

WINDOW = 8  # frames looked at in a pass
TOGETHER = 30_000  # frames of a batch, padding included


class Hypothesis(NamedTuple):
    """What was found in an utterance."""

    classes: list[int]  # (U,) of the pieces, without blanks
    frames: list[int]  # (U,) on which each was said
    log_probs: list[float]  # (U,) of each, given those before


@torch.no_grad()
def transducer_greedy(
    transducer: Transducer, x: Tensor, lengths: Tensor, window: int = WINDOW
) -> list[Hypothesis]:
    """What a transducer, in evaluation mode, makes of each utterance.

    Args:
        x: encoded frames (B, N, D).
        lengths: (B,) valid frames, on any device.
        window: frames looked at in a pass; decides the speed only.
    """
    joint, device = transducer.joint, x.device
    durations = torch.tensor(transducer.config.durations, dtype=torch.long, device=device)
    encoded = joint.encoder(x)
    lengths, rows = lengths.to(device), torch.arange(len(x), device=device)[:, None]
    ahead = torch.arange(window, device=device)
    frame = torch.zeros_like(lengths)  # that each utterance is on
    on_frame = torch.zeros_like(lengths)  # pieces said there
    predicted, state = transducer.prediction.step(torch.full_like(rows, BLANK))
    said = []
    while (frame < lengths).any():
        frames = frame[:, None] + ahead
        inside = frames < lengths[:, None]  # the last windows reach beyond the end
        logits = joint(encoded[rows, frames.clamp(max=encoded.shape[1] - 1)], joint.prediction(predicted))
        logits, of_durations = at_least_fp32(logits).tensor_split([logits.shape[-1] - len(durations)], -1)
        best, classes = logits.log_softmax(-1).max(-1)
        speaks = (classes != BLANK) & inside
        if len(durations):
            jumps = durations[of_durations.argmax(-1)]
            jumps = torch.where(speaks, jumps, jumps.clamp(min=1))
        else:
            jumps = (~speaks).long()
        first = _first_stop(speaks, jumps)
        found = (first < window).squeeze(1)
        at, first = frame + first[:, 0], first.clamp(max=window - 1)
        classes, best, jump = (each.gather(1, first) for each in (classes, best, jumps))
        said.append((found, classes[:, 0], at, best[:, 0]))

        on_frame = torch.where(at == frame, on_frame, 0) + found
        jump = torch.where(found, jump[:, 0], 0)
        jump = torch.where(on_frame >= transducer.config.most, jump.clamp(min=1), jump)
        frame, on_frame = at + jump, on_frame.masked_fill(jump > 0, 0)
        after, new = transducer.prediction.step(classes, state)
        predicted = torch.where(found[:, None, None], after, predicted)
        state = tuple(torch.where(found[:, None], a, b) for a, b in zip(new, state, strict=True))
    return _hypotheses(said, len(x))


def _first_stop(speaks: Tensor, jumps: Tensor) -> Tensor:
    """Where the way through a window ends that goes on by ``jumps`` until something speaks.

    Args:
        speaks: (B, window).
        jumps: (B, window), frames to go on by where nothing speaks; at least one.

    Returns:
        (B, 1), the place of what speaks; at least ``window`` where nothing does, the frame to look at then.
    """
    count, window = speaks.shape
    places = torch.arange(window, device=speaks.device).expand(count, -1)
    stops = torch.where(speaks, places, places + jumps)
    for _ in range((window - 1).bit_length()):  # twice as far each time
        inside = stops < window
        stops = torch.where(inside, stops.gather(1, stops.clamp(max=window - 1)), stops)
    return stops[:, :1]


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

"""Best path: the likeliest class of every frame, repeats merged, blanks dropped."""

from itertools import groupby

from torch import Tensor

from asr.model.classes import BLANK


def greedy(log_probs: Tensor, lengths: Tensor) -> list[list[int]]:
    """log_probs (B, N, classes) and lengths (B,) to the classes of each utterance."""
    best = log_probs.argmax(-1).tolist()
    return [
        [number for number, _ in groupby(path[:length]) if number != BLANK]
        for path, length in zip(best, lengths.tolist(), strict=True)
    ]

"""When each word was said: from the frames of a CTC path to words with times and confidences.

CTC learns which pieces come in which order, not how long they last: a piece is one or a few frames somewhere
in its sound, and blanks fill the rest. So a word's times lie within or near its sound and are not its
edges. Frame n stands for the time from n to n + 1 times the model's frame length (asr/model/frames.py). With
frames of 40 ms that lie inside the recording, its convolutions are centred on 0.04 n + 0.016 s.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from asr.data.tokenizer import SPACE, Tokenizer
from asr.model.classes import BLANK


@dataclass(frozen=True)
class Word:
    """A word of a transcript.

    Args:
        text: the word.
        start: seconds from the recording's beginning to its first piece's first frame.
        end: the same to the end of its last piece's last frame.
        confidence: 0 to 1, the posterior of its least certain piece, at that piece's best frame. Models
            are too sure of themselves: good for finding doubtful words, no probability of being right.
    """

    text: str
    start: float
    end: float
    confidence: float


class CTCPath(NamedTuple):
    """A class for every frame, blanks and repeats included."""

    classes: np.ndarray  # (N,)
    log_probs: np.ndarray  # (N,) of these classes


def best_path(parts: Iterable[np.ndarray]) -> CTCPath:
    """The likeliest class of every frame. Takes log-probabilities (n, classes) part by part, keeps none."""
    best = [(part.argmax(1), part.max(1)) for part in parts]
    return CTCPath(*(np.concatenate(column) for column in zip(*best, strict=True)))


def forced_path(log_probs: np.ndarray, pieces: Sequence[int]) -> CTCPath:
    """The likeliest path that spells given pieces.

    Args:
        log_probs: (N, classes) fp32.
        pieces: classes without blanks; N must be at least ``frames_needed`` of them.
    """
    if not pieces:
        return CTCPath(np.full(len(log_probs), BLANK), log_probs[:, BLANK])
    # Here: the processes of beam search, which align nothing, do without PyTorch.
    import torch
    from torchaudio.functional import forced_align

    # Copied: torch warns of arrays that may not be written to.
    path, found = forced_align(torch.tensor(log_probs)[None], torch.tensor([list(pieces)]), blank=BLANK)
    return CTCPath(path[0].numpy(), found[0].numpy())


def collapse(path: CTCPath) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pieces on a path: classes, first frames, ends (exclusive), best log-probabilities; (U,) each."""
    classes = path.classes
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    ends = np.append(starts[1:], len(classes))
    best = np.maximum.reduceat(path.log_probs, starts) if len(starts) else path.log_probs
    kept = classes[starts] != BLANK
    return classes[starts][kept], starts[kept], ends[kept], best[kept]


def words_on_path(path: CTCPath, tokenizer: Tokenizer, frame_seconds: float, first: int = 0) -> list[Word]:
    """The words that a path spells.

    Args:
        path: in classes of the tokenizer.
        frame_seconds: that a frame stands for.
        first: number of the path's first frame in the recording.
    """
    return words_of_pieces(*collapse(path), tokenizer, frame_seconds, first)


def words_of_pieces(
    pieces: Sequence[int],
    starts: Sequence[int],
    ends: Sequence[int],
    best: Sequence[float],
    tokenizer: Tokenizer,
    frame_seconds: float,
    first: int = 0,
) -> list[Word]:
    """``words_on_path`` from what ``collapse`` gives."""
    classes = [int(piece) for piece in pieces]
    bounds = [*word_starts(classes, tokenizer), len(classes)]
    # A bare space has no sound, hence no time.
    groups = [
        [number for number in range(start, end) if tokenizer.piece(classes[number]) != SPACE]
        for start, end in pairwise(bounds)
    ]
    return [
        Word(
            tokenizer.decode([classes[number] for number in group]).strip(),
            round((first + int(starts[group[0]])) * frame_seconds, 3),
            round((first + int(ends[group[-1]])) * frame_seconds, 3),
            round(float(np.exp(min(best[number] for number in group))), 3),
        )
        for group in groups
        if group
    ]


def word_starts(classes: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Numbers of the pieces that begin a word."""
    found: list[int] = []
    apart = True  # whether the next piece begins a word whatever it is
    for number, piece in enumerate(classes):
        unknown = piece == tokenizer.unknown
        if apart or unknown or tokenizer.piece(piece).startswith(SPACE):
            found.append(number)
        apart = unknown
    return found

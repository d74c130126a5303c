"""A long recording's posteriors cut at pauses, so that a bounded part is in memory and is searched at a time.

The search could go on over the parts, but in one process for the whole recording. A cut costs the LM its
memory of two or three words, at a place where a sentence often ends (``benchmarks/transcribe.py --cutting``
measures it).
"""

from collections.abc import Iterable, Iterator

import numpy as np

from asr.model.classes import BLANK

# Seconds. Nothing up to 40 s is cut, so that an utterance is decoded as it is when WER is measured.
LONGEST = 40.0


def cut_at_pauses(parts: Iterable[np.ndarray], longest: int) -> Iterator[np.ndarray]:
    """Log-probabilities (n, classes) of consecutive parts to segments of longest / 4 to longest frames.

    The last may be shorter. Joined, they are the parts joined; they do not depend on how these were divided.
    """
    held, shortest = None, longest // 4
    for part in parts:
        held = part if held is None else np.concatenate((held, part))
        while len(held) > longest:
            cut = shortest + _pause(held[shortest:longest])
            yield held[:cut]
            held = held[cut:]
    if held is not None:
        yield held


def _pause(log_probs: np.ndarray) -> int:
    """The middle of the longest run of blanks; where there is none, the frame most like one."""
    blank = log_probs.argmax(1) == BLANK
    if not blank.any():
        return int(log_probs[:, BLANK].argmax())
    edges = np.flatnonzero(np.diff(blank.astype(np.int8), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    longest = (ends - starts).argmax()
    return int(starts[longest] + ends[longest]) // 2

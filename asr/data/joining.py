"""Utterances one after another as one: what long recordings are like, to train on and to measure with."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from asr.data.manifest import Utterance
from asr.model.frames import SAMPLE_RATE

PAUSE = 0.3  # seconds between two utterances


@dataclass(frozen=True)
class Joined:
    """Utterances that are read one after another, with a pause between two, in the place of one."""

    parts: tuple[Utterance, ...]

    @property
    def id(self) -> str:
        """The first one's, and how many follow."""
        return f"{self.parts[0].id}+{len(self.parts) - 1}"

    @property
    def text(self) -> str:
        """What is said in all of them."""
        return " ".join(part.text for part in self.parts if part.text.strip())

    @property
    def transcribed(self) -> bool:
        """Whether all that is said is in the text."""
        return all(part.transcribed for part in self.parts)

    @property
    def duration(self) -> float:
        """Seconds, with the pauses."""
        return sum(part.duration for part in self.parts) + PAUSE * (len(self.parts) - 1)


def join_samples(parts: Sequence[np.ndarray], pause: float = PAUSE) -> np.ndarray:
    """Samples (S,) of utterances as one recording; int16 where all of them are, else fp32.

    A pause goes on with the end of one utterance and the beginning of the next, both mirrored, the one fading
    out while the other fades in. So it has their background: digital silence lies far below any room in
    log-mel features, and would move a recording's mean and deviation.

    Args:
        parts: (n,) at 16 kHz, of at least a sample each; fp32 in [-1, 1] or int16.
        pause: seconds between two of them.
    """
    packed = all(part.dtype == np.int16 for part in parts)
    parts = [part if packed or part.dtype != np.int16 else part / np.float32(32768) for part in parts]
    fade = np.sqrt(np.linspace(0, 1, round(pause * SAMPLE_RATE), dtype=np.float32))
    joined = [parts[0]]
    for before, after in pairwise(parts):
        joined += [
            _mirrored(before, len(fade)) * fade[::-1] + _mirrored(after[::-1], len(fade))[::-1] * fade,
            after,
        ]
    dtype = np.int16 if packed else np.float32
    return np.concatenate([_as(part, dtype) for part in joined])


def join_utterances(utterances: Sequence[Utterance], seconds: float) -> list[Utterance | Joined]:
    """Consecutive utterances joined, to be trained on.

    The greatest length of each is drawn evenly from 0 to ``seconds``, so that a model goes on hearing short
    ones too. The same utterances come out joined in the same way. A longer utterance stays as it is.
    """
    rng = random.Random(f"join {seconds}")
    return [
        group[0] if len(group) == 1 else Joined(tuple(group)) for group in _groups(utterances, seconds, rng)
    ]


def _groups(utterances: Sequence[Utterance], seconds: float, rng: random.Random) -> Iterator[list[Utterance]]:
    group: list[Utterance] = []
    length, most = 0.0, rng.uniform(0, seconds)
    for utterance in utterances:
        if group and length + PAUSE + utterance.duration > most:
            yield group
            group, length, most = [], 0.0, rng.uniform(0, seconds)
        length += utterance.duration + (PAUSE if group else 0.0)
        group.append(utterance)
    if group:
        yield group


def _mirrored(samples: np.ndarray, n: int) -> np.ndarray:
    """How samples would go on for n more, mirrored at their end; several times where they are fewer."""
    end = samples[max(0, len(samples) - n) :].astype(np.float32)
    return np.pad(end, (0, n), mode="symmetric")[len(end) :]


def _as(samples: np.ndarray, dtype: type) -> np.ndarray:
    """Samples in a dtype of the same scale; those that the fades add up to more than it holds are clipped."""
    if samples.dtype == dtype:
        return samples
    return np.clip(samples.round(), -32768, 32767).astype(np.int16) if dtype is np.int16 else samples

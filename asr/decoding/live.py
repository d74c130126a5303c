"""Words while they are spoken: decoding that goes on from chunk to chunk, greedy or by beam search.

session = Session(model, tokenizer)         # asr.checkpoints.checkpoint.load_model gives both
for samples in microphone:                  # 16 kHz, blocks of any size
    heard = session.feed(samples)           # heard.words will not change; heard.partial may
    for utterance in heard.ended:           # after a pause
        print(utterance.start, utterance.end, utterance.text)
heard = session.finish()
"""

import math
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from asr.data.tokenizer import Tokenizer
from asr.decoding import PAUSE
from asr.decoding.alignment import Word
from asr.decoding.live_words import GreedyWords, Heard, LiveWords, Utterance
from asr.model.classes import BLANK
from asr.model.recogniser import Model
from asr.model.streaming import CHUNK_SECONDS


class Pauses:
    """Where utterances end: after a piece, so many frames of blanks."""

    def __init__(self, frames: int) -> None:
        self.frames, self._blanks, self._spoken = frames, 0, False

    def cut(self, log_probs: np.ndarray) -> list[np.ndarray]:
        """Log-probabilities (n, classes) of the next frames to parts; each but the last ends an utterance."""
        ends = []
        for number, blank in enumerate((log_probs.argmax(1) == BLANK).tolist()):
            self._blanks = self._blanks + 1 if blank else 0
            self._spoken = self._spoken or not blank
            if self._spoken and self.frames and self._blanks >= self.frames:
                ends.append(number + 1)
                self._spoken = False
        return np.split(log_probs, ends)


class Session:
    """One recording in the course of being heard, as words.

    Args:
        model: in evaluation mode.
        tokenizer: its own.
        seconds: of a chunk.
        words: what makes words of log-probabilities; None: greedy decoding.
        pause: seconds without a piece that end an utterance, after which decoding begins anew (the encoder
            goes on); 0: there are no utterances, and ``ended`` stays empty.

    Raises:
        UserError: see ``Model.stream``.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        seconds: float = CHUNK_SECONDS,
        words: LiveWords | None = None,
        pause: float = PAUSE,
    ) -> None:
        self.stream = model.stream(seconds)
        self._words = words or GreedyWords(tokenizer, model.framing.seconds)
        self._pauses = Pauses(math.ceil(pause / model.framing.seconds))
        self._said: list[Word] = []  # of this utterance

    def feed(self, samples: Tensor | np.ndarray) -> Heard:
        """Hear more: (S,) at 16 kHz, floats in [-1, 1] or 16-bit integers."""
        return _joined(list(self.listen(samples)))

    def listen(self, samples: Tensor | np.ndarray) -> Iterator[Heard]:
        """As ``feed``, one by one: each but the last ends an utterance."""
        return self._decode(self.stream.feed(samples).cpu().numpy(), False)

    def finish(self) -> Heard:
        """The rest; nothing can be heard afterwards."""
        return _joined(list(self.finish_each()))

    def finish_each(self) -> Iterator[Heard]:
        """As ``finish``, one by one: each ends an utterance, where there are any and anything was said."""
        return self._decode(self.stream.finish().cpu().numpy(), True)

    def _decode(self, log_probs: np.ndarray, last: bool) -> Iterator[Heard]:
        *ending, rest = self._pauses.cut(log_probs)
        for part in ending:
            yield self._end(part)
        yield self._end(rest) if last else self._go_on(self._words.push(rest))

    def _go_on(self, heard: Heard) -> Heard:
        if self._pauses.frames:  # else they would be kept for ever
            self._said += heard.words
        return heard

    def _end(self, part: np.ndarray) -> Heard:
        """The words of an utterance's last frames."""
        first = self._go_on(self._words.push(part))
        heard = self._go_on(self._words.finish())
        said, self._said = self._said, []
        text = " ".join(word.text for word in said)
        ended = (Utterance(text, said[0].start, said[-1].end),) if said else ()
        return Heard(first.words + heard.words, "", ended)


def _joined(parts: list[Heard]) -> Heard:
    words = [word for part in parts for word in part.words]
    return Heard(words, parts[-1].partial, tuple(item for part in parts for item in part.ended))

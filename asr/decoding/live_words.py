"""Words from log-probabilities that come bit by bit, greedily or by beam search."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from asr.data.tokenizer import Tokenizer
from asr.decoding.alignment import Word, collapse, forced_path, word_starts, words_of_pieces
from asr.decoding.weights import Weights
from asr.model.classes import BLANK
from asr.model.ctc import frames_needed

if TYPE_CHECKING:
    from asr.decoding.beam import BeamDecoder

LOOK_BACK = 10.0  # seconds: what hypotheses of a beam may still differ in
SETTLE = 1.0  # seconds between looks whether they do


@dataclass(frozen=True)
class Utterance:
    """What was said between two pauses, from its first word's start to its last one's end in seconds."""

    text: str
    start: float
    end: float


class Heard(NamedTuple):
    """What a block of samples brought."""

    words: list[Word]  # that are complete: the next has begun, or the utterance or stream has ended
    partial: str  # what there is of the words after them
    ended: tuple[Utterance, ...] = ()


class LiveWords(ABC):
    """Words from log-probabilities that come bit by bit. Keeps the pieces of the last word that is certain.

    Args:
        tokenizer: of the model.
        frame_seconds: that a frame stands for.
    """

    def __init__(self, tokenizer: Tokenizer, frame_seconds: float) -> None:
        self.tokenizer, self.frame_seconds = tokenizer, frame_seconds
        self._frame = 0  # number of the next one
        self._pieces: list[tuple[int, int, int, float]] = []  # class, first frame, end, log-probability

    @abstractmethod
    def push(self, log_probs: np.ndarray) -> Heard:
        """Log-probabilities (n, classes) of the next frames."""

    @abstractmethod
    def finish(self) -> Heard:
        """The end of an utterance: all words are complete, and what comes begins anew."""

    def _complete(self) -> list[Word]:
        """Take out the words that another one follows."""
        starts = word_starts([piece for piece, *_ in self._pieces], self.tokenizer)
        done = starts[-1] if starts else 0
        words, self._pieces = self._words(self._pieces[:done]), self._pieces[done:]
        return words

    def _words(self, pieces: list[tuple[int, int, int, float]]) -> list[Word]:
        columns = zip(*pieces, strict=True) if pieces else ([], [], [], [])
        return words_of_pieces(*columns, self.tokenizer, self.frame_seconds)


class GreedyWords(LiveWords):
    """The best path's words."""

    _last = BLANK

    def push(self, log_probs: np.ndarray) -> Heard:
        for piece, score in zip(log_probs.argmax(1).tolist(), log_probs.max(1).tolist(), strict=True):
            if piece != BLANK and piece == self._last:
                _, start, _, best = self._pieces[-1]
                self._pieces[-1] = piece, start, self._frame + 1, max(best, score)
            elif piece != BLANK:
                self._pieces.append((piece, self._frame, self._frame + 1, score))
            self._last = piece
            self._frame += 1
        words = self._complete()
        return Heard(words, " ".join(word.text for word in self._words(self._pieces)))

    def finish(self) -> Heard:
        words, self._pieces, self._last = self._words(self._pieces), [], BLANK
        return Heard(words, "")


class BeamWords(LiveWords):
    """The words that beam search with an LM finds: ``BeamDecoder``'s of the whole utterance.

    A piece is certain once all hypotheses have it. Those that differ from the best one in what is older than
    LOOK_BACK are dropped, which is where the search may find less than over the whole; how frames are cut
    changes nothing.

    Args:
        tokenizer, frame_seconds: see ``LiveWords``.
        decoder: for this stream alone.
        weights: how the LM counts.
        look_back: seconds.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        frame_seconds: float,
        decoder: "BeamDecoder",
        weights: Weights,
        look_back: float = LOOK_BACK,
    ) -> None:
        super().__init__(tokenizer, frame_seconds)
        self._decoder, self._weights = decoder, weights
        self._look_back = round(look_back / frame_seconds)
        self._period = max(1, round(SETTLE / frame_seconds))
        self._held: np.ndarray | None = None  # log-probabilities, for the times of pieces not yet certain
        self._decoder.begin(weights)

    def push(self, log_probs: np.ndarray) -> Heard:
        while len(log_probs):
            # Always to the same frames, however they are cut.
            part = log_probs[: self._period - self._frame % self._period]
            log_probs = log_probs[len(part) :]
            due = self._frame - self._frame % self._period + self._period
            self._decoder.push(part, due)
            self._held = part if self._held is None else np.concatenate((self._held, part))
            self._frame += len(part)
            stable = self._decoder.settle(due - self._look_back if self._frame == due else -1)
            if stable:
                self._place(stable, self._decoder.best()[0])
            self._held = self._held[-(self._look_back + self._period) :]
        words = self._complete()
        pieces = [piece for piece, *_ in self._pieces] + self._decoder.best()[0]
        return Heard(words, self.tokenizer.decode(pieces).strip())

    def finish(self) -> Heard:
        if pieces := self._decoder.best()[0]:
            self._place(pieces, [])
        words, self._pieces, self._held = self._words(self._pieces), [], None
        self._decoder.begin(self._weights)
        return Heard(words, "")

    def _place(self, stable: list[int], others: list[int]) -> None:
        """Find the times of pieces that are certain, before ``others`` that may follow; drop their frames."""
        pieces, first = stable + others, self._frame - len(self._held)
        # Where earlier pieces took frames that these would have wanted, they share what is left.
        share = -(-frames_needed(pieces) // len(self._held))
        path = forced_path(np.repeat(self._held, share, 0), pieces)
        columns = zip(*(column.tolist() for column in collapse(path)), strict=True)
        placed = [
            (piece, first + start // share, first + -(-end // share), score)
            for piece, start, end, score in columns
        ][: len(stable)]
        self._pieces += placed
        # From its first frame's neighbour on the next piece may be there.
        self._held = self._held[min(placed[-1][1] + 1 - first, len(self._held) - 1) :]

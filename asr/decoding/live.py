"""Words while they are spoken: decoding that goes on from chunk to chunk, greedy or by beam search.

session = Session(model, tokenizer)         # asr.checkpoints.checkpoint.load_model gives both
for samples in microphone:                  # 16 kHz, blocks of any size
    heard = session.feed(samples)           # heard.words will not change; heard.partial may
    for utterance in heard.ended:           # after a pause
        print(utterance.start, utterance.end, utterance.text)
heard = session.finish()
"""

import json
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
from torch import Tensor

from asr.data.tokenizer import Tokenizer
from asr.decoding.alignment import Word, collapse, forced_path, word_starts, words_of_pieces
from asr.decoding.weights import Weights
from asr.model.classes import BLANK
from asr.model.ctc import frames_needed
from asr.model.frames import SAMPLE_RATE
from asr.model.recogniser import Model
from asr.model.streaming import CHUNK_SECONDS

if TYPE_CHECKING:
    from asr.decoding.beam import BeamDecoder

PACE = 0.1  # seconds of a file that are fed at a time where it is played at the speed of speech
PAUSE = 0.8  # seconds without a piece that end an utterance
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
            goes on); 0: none ends before the stream.

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

    def feed(self, samples: Tensor) -> Heard:
        """Hear more: (S,) at 16 kHz, floats in [-1, 1] or 16-bit integers."""
        return _joined(list(self.listen(samples)))

    def listen(self, samples: Tensor) -> Iterator[Heard]:
        """As ``feed``, one by one: each but the last ends an utterance."""
        return self._decode(self.stream.feed(samples).cpu().numpy(), False)

    def finish(self) -> Heard:
        """The rest; nothing can be heard afterwards."""
        return _joined(list(self._decode(self.stream.finish().cpu().numpy(), True)))

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


def paced(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Blocks of samples at the speed at which they were spoken."""
    begun, done = time.monotonic(), 0
    for block in blocks:
        for part in block.split(round(PACE * SAMPLE_RATE)):
            done += len(part)
            time.sleep(max(0.0, begun + done / SAMPLE_RATE - time.monotonic()))
            yield part


def show(session: Session, blocks: Iterable[Tensor], form: str, out: TextIO) -> None:
    """Write what is heard while it is: text, in place on a terminal, or JSON lines.

    Args:
        session: to feed.
        blocks: of samples, as they arrive; Ctrl-C ends them.
        form: txt or json. A JSON line has ``words`` (as in transcripts), ``partial`` and ``seconds`` heard;
            where an utterance has ended, also ``final`` (its text), ``start`` and ``end``.
        out: standard output.
    """
    writer = _JsonLines(out) if form == "json" else _InPlace(out) if out.isatty() else _Text(out)
    samples, partial = 0, ""
    try:
        for block in blocks:
            samples += len(block)
            for heard in session.listen(block):
                if heard.words or heard.ended or heard.partial != partial:
                    writer.write(heard, samples / SAMPLE_RATE)
                partial = heard.partial
    except KeyboardInterrupt:
        pass  # whoever speaks is done
    writer.write(session.finish(), samples / SAMPLE_RATE)
    writer.end()


class _Text:
    """Complete words; a line an utterance."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.line = out, ""

    def write(self, heard: Heard, seconds: float) -> None:
        for word in heard.words:
            self.out.write(f" {word.text}" if self.line else word.text)
            self.line = word.text
        if heard.ended:
            self.end()
        self.out.flush()

    def end(self) -> None:
        if self.line:
            self.out.write("\n")
        self.line = ""
        self.out.flush()


class _InPlace(_Text):
    """Lines of a terminal's width; the last one, with what is partial, is written over."""

    def write(self, heard: Heard, seconds: float) -> None:
        width = shutil.get_terminal_size().columns - 1
        for word in heard.words:
            longer = f"{self.line} {word.text}".strip()
            if len(longer) > width and self.line:
                self.out.write(f"\r\x1b[K{self.line}\n")
                longer = word.text
            self.line = longer
        shown = f"{self.line} {heard.partial}".strip()
        self.out.write(f"\r\x1b[K{shown[-width:]}")
        if heard.ended:
            self.end()
        self.out.flush()


class _JsonLines(_Text):
    def write(self, heard: Heard, seconds: float) -> None:
        words = [asdict(word) for word in heard.words]
        line = {"words": words, "partial": heard.partial, "seconds": round(seconds, 3)}
        for utterance in heard.ended:
            line |= {"final": utterance.text, "start": utterance.start, "end": utterance.end}
        print(json.dumps(line), file=self.out)
        self.out.flush()

    def end(self) -> None:
        pass

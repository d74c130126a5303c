"""Words while they are spoken: greedy decoding that goes on from chunk to chunk.

session = Session(model, tokenizer)         # asr.checkpoints.checkpoint.load_model gives both
for samples in microphone:                  # 16 kHz, blocks of any size
    heard = session.feed(samples)           # heard.words will not change; heard.partial may
heard = session.finish()
"""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import NamedTuple, TextIO

import numpy as np
from torch import Tensor

from asr.data.tokenizer import Tokenizer
from asr.decoding.alignment import Word, word_starts, words_of_pieces
from asr.model.ctc import BLANK
from asr.model.frames import SAMPLE_RATE
from asr.model.recogniser import Model
from asr.model.streaming import CHUNK_SECONDS

PACE = 0.1  # seconds of a file that are fed at a time where it is played at the speed of speech


class Heard(NamedTuple):
    """What a block of samples brought."""

    words: list[Word]  # that are complete: the next has begun, or the stream has ended
    partial: str  # what there is of the word after them


class GreedyWords:
    """The best path's words, from log-probabilities that come bit by bit. Keeps the last word's pieces only.

    Args:
        tokenizer: of the model.
        frame_seconds: that a frame stands for.
    """

    def __init__(self, tokenizer: Tokenizer, frame_seconds: float) -> None:
        self.tokenizer, self.frame_seconds = tokenizer, frame_seconds
        self._frame, self._last = 0, BLANK
        self._pieces: list[tuple[int, int, int, float]] = []  # class, first frame, end, log-probability

    def push(self, log_probs: np.ndarray) -> Heard:
        """Log-probabilities (n, classes) of the next frames."""
        for piece, score in zip(log_probs.argmax(1).tolist(), log_probs.max(1).tolist(), strict=True):
            if piece != BLANK and piece == self._last:
                _, start, _, best = self._pieces[-1]
                self._pieces[-1] = piece, start, self._frame + 1, max(best, score)
            elif piece != BLANK:
                self._pieces.append((piece, self._frame, self._frame + 1, score))
            self._last = piece
            self._frame += 1
        starts = word_starts([piece for piece, *_ in self._pieces], self.tokenizer)
        done = starts[-1] if starts else 0
        words, self._pieces = self._words(self._pieces[:done]), self._pieces[done:]
        return Heard(words, " ".join(word.text for word in self._words(self._pieces)))

    def finish(self) -> Heard:
        """The end: the last word is complete."""
        words, self._pieces = self._words(self._pieces), []
        return Heard(words, "")

    def _words(self, pieces: list[tuple[int, int, int, float]]) -> list[Word]:
        columns = zip(*pieces, strict=True) if pieces else ([], [], [], [])
        return words_of_pieces(*columns, self.tokenizer, self.frame_seconds)


class Session:
    """One recording in the course of being heard, as words.

    Args:
        model: in evaluation mode.
        tokenizer: its own.
        seconds: of a chunk.

    Raises:
        UserError: see ``Model.stream``.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, seconds: float = CHUNK_SECONDS) -> None:
        self.stream = model.stream(seconds)
        self._words = GreedyWords(tokenizer, model.framing.seconds)

    def feed(self, samples: Tensor) -> Heard:
        """Hear more: (S,) at 16 kHz, floats in [-1, 1] or 16-bit integers."""
        return self._words.push(self.stream.feed(samples).cpu().numpy())

    def finish(self) -> Heard:
        """The rest; nothing can be heard afterwards."""
        first = self._words.push(self.stream.finish().cpu().numpy())
        return Heard(first.words + self._words.finish().words, "")


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
        form: txt or json. A JSON line has ``words`` (as in transcripts), ``partial`` and ``seconds`` heard.
        out: standard output.
    """
    writer = _JsonLines(out) if form == "json" else _InPlace(out) if out.isatty() else _Text(out)
    samples, before = 0, Heard([], "")
    try:
        for block in blocks:
            samples += len(block)
            heard = session.feed(block)
            if heard.words or heard.partial != before.partial:
                writer.write(heard, samples / SAMPLE_RATE)
            before = heard
    except KeyboardInterrupt:
        pass  # whoever speaks is done
    writer.write(session.finish(), samples / SAMPLE_RATE)
    writer.end()


class _Text:
    """Complete words, in one line."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.line = out, ""

    def write(self, heard: Heard, seconds: float) -> None:
        for word in heard.words:
            self.out.write(f" {word.text}" if self.line else word.text)
            self.line = word.text
        self.out.flush()

    def end(self) -> None:
        self.out.write("\n")
        self.out.flush()


class _InPlace(_Text):
    """Lines of a terminal's width; the last one, with the partial word, is written over."""

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
        self.out.flush()


class _JsonLines(_Text):
    def write(self, heard: Heard, seconds: float) -> None:
        words = [asdict(word) for word in heard.words]
        print(
            json.dumps({"words": words, "partial": heard.partial, "seconds": round(seconds, 3)}),
            file=self.out,
        )
        self.out.flush()

    def end(self) -> None:
        pass

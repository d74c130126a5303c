"""What is heard, written while it is: text, in place on a terminal, or JSON lines."""

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TextIO

from torch import Tensor

from asr.decoding.live import Session
from asr.decoding.live_words import Heard
from asr.model.frames import SAMPLE_RATE

PACE = 0.1  # seconds of a file that are fed at a time where it is played at the speed of speech


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
    for heard in session.finish_each():
        writer.write(heard, samples / SAMPLE_RATE)
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

"""Transcripts as files: plain text, JSON, CTM, and the captions of SubRip (srt) and WebVTT (vtt)."""

import html
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from asr.decoding.alignment import Word
from asr.decoding.nbest import NBest

# Captions as television has them: two lines that the eye takes in at once, and time to read them.
LINE, LINES = 42, 2  # letters, lines
LONGEST, SHORTEST = 7.0, 1.0  # seconds that a caption stands; shorter ones stay on where there is room
PAUSE = 1.0  # seconds of silence that end a caption


@dataclass(frozen=True)
class Transcript:
    """What was said in one recording.

    Args:
        path: the recording.
        duration: seconds.
        text: the words, with single spaces.
        words: the same with their times in the file.
        id: what a list or a manifest calls it; empty where none does.
        start: seconds into the file at which the recording begins.
        channel: of the file; None: all.
        nbest: n-best lists where they were asked for, of each part that was searched at once.
    """

    path: str
    duration: float
    text: str
    words: list[Word]
    id: str = ""
    start: float = 0.0
    channel: int | None = None
    nbest: tuple[NBest, ...] = ()

    @property
    def label(self) -> str:
        """As ``asr.data.recordings.Recording`` has it."""
        channel = "" if self.channel is None else f" (channel {self.channel})"
        return self.id or f"{self.path}{channel}"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Caption:
    """Lines shown from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    lines: list[str]


def make_captions(words: Sequence[Word]) -> list[Caption]:
    """Words to captions that follow each other without overlap, unless two begin at once.

    A caption ends at a pause, or before a word that would make it too long to show or to read. A word longer
    than a line has a line to itself.
    """
    groups: list[list[Word]] = []
    for word in words:
        if not groups or not _fits(groups[-1], word):
            groups.append([])
        groups[-1].append(word)
    captions = [Caption(group[0].start, group[-1].end, _wrap(group)) for group in groups]
    following = [*(caption.start for caption in captions), math.inf][1:]
    return [_shown_until(caption, start) for caption, start in zip(captions, following, strict=True)]


def _shown_until(caption: Caption, following: float) -> Caption:
    """With an end that suits the eye, and the start of the following caption."""
    if following <= caption.start:  # a transducer may say two words on one frame
        return caption
    # CTC's words end early, and a short caption is hard to read; a transducer's end with the next one begun.
    return replace(caption, end=min(max(caption.end, caption.start + SHORTEST), following))


def _fits(group: Sequence[Word], word: Word) -> bool:
    return (
        word.start - group[-1].end < PAUSE
        and word.end - group[0].start <= LONGEST
        and len(_wrap([*group, word])) <= LINES
    )


def _wrap(group: Sequence[Word]) -> list[str]:
    text = " ".join(word.text for word in group)
    return textwrap.wrap(text, LINE, break_long_words=False, break_on_hyphens=False)


def as_text(transcript: Transcript, timestamps: bool) -> str:
    """The text on a line; with ``timestamps`` a line a word instead: start, end, confidence, word."""
    if not timestamps:
        return transcript.text + "\n"
    rows = (f"{w.start:10.2f} {w.end:10.2f} {w.confidence:6.2f}  {w.text}\n" for w in transcript.words)
    return "".join(rows)


def as_json(transcript: Transcript) -> str:
    """One line of JSON: path, duration, text, words (text, start, end, confidence).

    With id, start and channel where the recording has them, and nbest where it was asked for: for each part
    that was searched at once its start, its end and its alternatives (``Alternative.as_record``).
    """
    content = asdict(replace(transcript, nbest=()))
    content["nbest"] = [
        {
            "start": part.start,
            "end": part.end,
            "alternatives": [item.as_record() for item in part.alternatives],
        }
        for part in transcript.nbest
    ]
    for name, without in (("id", ""), ("start", 0.0), ("channel", None), ("nbest", [])):
        if content[name] == without:
            del content[name]
    return json.dumps(content, ensure_ascii=False) + "\n"


def as_ctm(transcript: Transcript) -> str:
    """NIST's CTM: a line a word: recording, channel (from 1), start, duration, word, confidence.

    The recording is its id, or its file's name, in which blanks become underscores.
    """
    name = "_".join((transcript.id or Path(transcript.path).stem).split())
    channel = 1 if transcript.channel is None else 1 + transcript.channel
    return "".join(
        f"{name} {channel} {w.start:.2f} {w.end - w.start:.2f} {w.text} {w.confidence:.2f}\n"
        for w in transcript.words
    )


def as_srt(transcript: Transcript) -> str:
    """SubRip: number, times, lines, an empty line."""
    blocks = []
    for number, caption in enumerate(make_captions(transcript.words), 1):
        times = f"{_clock(caption.start, ',')} --> {_clock(caption.end, ',')}"
        blocks.append("\n".join([str(number), times, *caption.lines]) + "\n")
    return "\n".join(blocks)


def as_vtt(transcript: Transcript) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1)."""
    blocks = ["WEBVTT\n"]
    for caption in make_captions(transcript.words):
        times = f"{_clock(caption.start, '.')} --> {_clock(caption.end, '.')}"
        blocks.append("\n".join([times, *(html.escape(line, quote=False) for line in caption.lines)]) + "\n")
    return "\n".join(blocks)


def _clock(seconds: float, mark: str) -> str:
    """HH:MM:SS, ``mark``, milliseconds."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"

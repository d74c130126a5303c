"""Captions as strict readers of SubRip and WebVTT want them."""

import html
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.alignment import Word
from asr.decoding.captions import (
    LINE,
    LINES,
    LONGEST,
    PAUSE,
    Transcript,
    as_ctm,
    as_json,
    as_srt,
    as_text,
    as_vtt,
    make_captions,
)


@st.composite
def transcripts(draw) -> Transcript:
    words, now = [], draw(st.integers(0, 20_000_000))  # milliseconds: up to some hours
    letters = st.text("ABC'<&>", min_size=1, max_size=12) | st.just("A" * 60)
    for text in draw(st.lists(letters, max_size=60)):
        now = max(0, now + draw(st.integers(-39, 400) | st.integers(0, 5000)))  # transducers' words overlap
        start, now = now, now + draw(st.integers(40, 900))
        words.append(Word(text, start / 1000, now / 1000, 0.5))
    return Transcript("a.wav", now / 1000, " ".join(word.text for word in words), words)


@given(transcripts())
def test_captions_fit_and_follow_each_other(transcript):
    captions = make_captions(transcript.words)
    assert " ".join(line for caption in captions for line in caption.lines) == transcript.text
    for caption in captions:
        assert caption.start < caption.end
        assert 1 <= len(caption.lines) <= LINES
        assert all(len(line) <= LINE or " " not in line for line in caption.lines)
    for one, two in itertools.pairwise(captions):
        assert one.end <= two.start
    for caption in captions:
        said = [w for w in transcript.words if caption.start <= w.start < caption.end]
        if len(said) > 1:
            assert said[-1].end - said[0].start <= LONGEST + 1e-9
            assert all(b.start - a.end < PAUSE for a, b in itertools.pairwise(said))


CLOCK = r"(\d{2,}):([0-5]\d):([0-5]\d)%s(\d{3})"


def seconds(clock: re.Match, first: int) -> float:
    hours, minutes, rest, thousandths = (int(clock[first + i]) for i in range(4))
    return 3600 * hours + 60 * minutes + rest + thousandths / 1000


def check_blocks(blocks: list[str], mark: str, transcript: Transcript, numbered: bool) -> None:
    captions = make_captions(transcript.words)
    assert len(blocks) == len(captions)
    last = 0.0
    for number, (block, caption) in enumerate(zip(blocks, captions, strict=True), 1):
        lines = block.split("\n")
        if numbered:
            assert lines.pop(0) == str(number)
        times = re.fullmatch(f"{CLOCK % mark} --> {CLOCK % mark}", lines.pop(0))
        start, end = seconds(times, 1), seconds(times, 5)
        assert last <= start < end
        assert (start, end) == pytest.approx((caption.start, caption.end), abs=0.0006)
        last = end
        assert lines == caption.lines and all("-->" not in line for line in lines)


@given(transcripts())
def test_srt(transcript):
    content = as_srt(transcript)
    if not transcript.words:
        assert content == ""
        return
    assert content.endswith("\n") and not content.endswith("\n\n")
    check_blocks(content.removesuffix("\n").split("\n\n"), ",", transcript, numbered=True)


@given(transcripts())
def test_vtt(transcript):
    header, *blocks = as_vtt(transcript).removesuffix("\n").split("\n\n")
    assert header == "WEBVTT"
    for block in blocks:
        text = block.partition("\n")[2]
        assert "<" not in text and not re.search("&(?!(amp|lt|gt);)", text)
    times = [block.partition("\n") for block in blocks]
    blocks = [f"{clock}\n{html.unescape(text)}" for clock, _, text in times]
    check_blocks(blocks, r"\.", transcript, numbered=False)


def test_by_hand():
    words = [
        Word("HELLO", 0.4, 0.88, 0.9),
        Word("WORLD", 1.0, 1.24, 0.5),
        Word("AGAIN", 3661.5, 3661.54, 1.0),
    ]
    transcript = Transcript("talks/ä.wav", 3662.0, "HELLO WORLD AGAIN", words)
    assert as_srt(transcript) == (
        "1\n00:00:00,400 --> 00:00:01,400\nHELLO WORLD\n\n2\n01:01:01,500 --> 01:01:02,500\nAGAIN\n"
    )
    assert as_vtt(transcript) == (
        "WEBVTT\n\n00:00:00.400 --> 00:00:01.400\nHELLO WORLD\n\n01:01:01.500 --> 01:01:02.500\nAGAIN\n"
    )
    assert as_text(transcript, timestamps=False) == "HELLO WORLD AGAIN\n"
    assert as_text(transcript, timestamps=True).splitlines()[1].split() == ["1.00", "1.24", "0.50", "WORLD"]
    assert as_json(transcript).count("\n") == 1
    assert json.loads(as_json(transcript)) == {
        "path": "talks/ä.wav",
        "duration": 3662.0,
        "text": "HELLO WORLD AGAIN",
        "words": [vars(word) for word in words],
    }


def test_words_of_one_frame_are_both_shown():
    words = [Word(text, 1.0, 1.04, 0.5) for text in ("A" * LINE, "B" * LINE, "C")]
    assert [caption.end > caption.start for caption in make_captions(words)] == [True, True]


def test_ctm_has_the_times_of_the_file():
    words = [Word("HELLO", 1.0, 1.24, 0.987), Word("THERE", 1.5, 2.0, 0.5)]
    plain = Transcript("calls/a b.wav", 3.0, "HELLO THERE", words)
    assert as_ctm(plain) == "a_b 1 1.00 0.24 HELLO 0.99\na_b 1 1.50 0.50 THERE 0.50\n"
    side = Transcript("calls/a b.wav", 3.0, "HELLO", words[:1], "call-7", 1.0, 1)
    assert as_ctm(side) == "call-7 2 1.00 0.24 HELLO 0.99\n"
    shown = json.loads(as_json(side))
    assert (shown["id"], shown["start"], shown["channel"]) == ("call-7", 1.0, 1)
    assert "id" not in json.loads(as_json(plain))

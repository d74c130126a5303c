"""Paths and word times, against every path there is."""

from itertools import groupby, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decoding.alignment import CTCPath, best_path, collapse, forced_path, words_on_path
from asr.decoding.greedy import greedy
from asr.decoding.pauses import cut_at_pauses
from asr.model.classes import BLANK
from asr.model.ctc import frames_needed

LONGEST = 1000  # frames


@pytest.fixture(scope="module", params=["unigram", "char"])
def tokenizer(request) -> Tokenizer:
    texts = ["THE CAT SAT ON THE MAT", "A CAT AND A HAT", "THAT HAT SAT ON A CAT'S MAT"] * 5
    return Tokenizer(train_tokenizer(texts, 20 if request.param == "unigram" else 16, request.param))


def random_log_probs(n: int, classes: int, seed: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(0, 2, (n, classes))
    return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


def split(rows: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(rows, sorted(cut % len(rows) for cut in cuts))


def spelled(path) -> list[int]:
    return [number for number, _ in groupby(path) if number != BLANK]


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(0, 10**6))
def test_forced_path_is_the_best_of_all_paths(data, n, seed):
    log_probs = random_log_probs(n, 3, seed)
    pieces = data.draw(st.lists(st.integers(1, 2), max_size=n).filter(lambda p: frames_needed(p) <= n))
    scores = {
        path: sum(log_probs[range(n), path])
        for path in product(range(3), repeat=n)
        if spelled(path) == pieces
    }
    found = forced_path(log_probs, pieces)
    assert spelled(found.classes.tolist()) == pieces
    assert found.log_probs.sum() == pytest.approx(max(scores.values()), abs=1e-4)
    assert np.array_equal(found.log_probs, log_probs[range(n), found.classes])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.lists(st.integers(0, 79), max_size=6), st.integers(0, 10**6))
def test_greedy_decoding_in_parts_is_that_of_the_whole(n, cuts, seed):
    log_probs = random_log_probs(n, 4, seed)
    path = best_path(split(log_probs, cuts))
    [whole] = greedy(torch.from_numpy(log_probs)[None], torch.tensor([n]))
    pieces, starts, ends, best = collapse(path)
    assert pieces.tolist() == whole
    for piece, start, end, score in zip(pieces, starts, ends, best, strict=True):
        assert (path.classes[start:end] == piece).all() and score == log_probs[start:end, piece].max()
        assert start == 0 or path.classes[start - 1] != piece
        assert end == n or path.classes[end] != piece


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_words_on_a_path_are_the_words_of_its_text(tokenizer, data):
    classes = data.draw(st.lists(st.integers(0, tokenizer.pieces), max_size=40))
    log_probs = np.log(np.linspace(0.1, 0.9, len(classes), dtype=np.float32))
    words = words_on_path(CTCPath(np.array(classes, dtype=int), log_probs), tokenizer, 0.04, first=25)
    text = tokenizer.decode(spelled(classes))
    assert " ".join(word.text for word in words) == " ".join(text.split())
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(1.0 <= word.start < word.end <= 1.0 + 0.04 * len(classes) + 1e-9 for word in words)
    assert all(0.1 <= word.confidence <= 0.9 for word in words)


def test_times_and_confidences_by_hand(tokenizer):
    cat = tokenizer.encode("CAT")
    sounding = [piece for piece in cat if tokenizer.piece(piece) != "\u2581"]
    space = [piece for piece in cat if piece not in sounding]
    classes = [BLANK, *space, BLANK, *np.repeat(sounding, 2).tolist(), BLANK, *space, *sounding]
    log_probs = np.full(len(classes), np.log(0.5), np.float32)
    first = 2 + len(space)
    log_probs[first : first + 2 * len(sounding) : 2] = np.log(0.8)  # each piece's better frame
    log_probs[-1] = np.log(0.25)
    one, two = words_on_path(CTCPath(np.array(classes), log_probs), tokenizer, 0.04)
    assert (one.text, two.text) == ("CAT", "CAT")
    assert (one.start, one.end) == pytest.approx((0.04 * first, 0.04 * (first + 2 * len(sounding))))
    assert (two.start, two.end) == pytest.approx((0.04 * (len(classes) - len(sounding)), 0.04 * len(classes)))
    assert (one.confidence, two.confidence) == (0.8, 0.25)


def test_forced_words_lie_where_they_were_said(tokenizer):
    pieces = tokenizer.encode("THE CAT SAT")
    classes = [BLANK] * 5 + [item for piece in pieces for item in (piece, piece, BLANK, BLANK)] + [BLANK] * 5
    log_probs = np.full((len(classes), tokenizer.pieces + 1), -8, np.float32)
    log_probs[range(len(classes)), classes] = -0.01
    forced = forced_path(log_probs, pieces)
    assert forced.classes.tolist() == classes
    assert [word.text for word in words_on_path(forced, tokenizer, 0.04)] == ["THE", "CAT", "SAT"]
    assert (forced_path(log_probs, []).classes == BLANK).all()


def noisy_pauses(n: int, seed: int) -> np.ndarray:
    """Random speech of three pieces, with a run of blanks here and there."""
    rng = np.random.default_rng(seed)
    log_probs = random_log_probs(n, 4, seed)
    for start in rng.integers(0, n, n // 100):
        log_probs[start : start + rng.integers(1, 60), BLANK] = 0
    return log_probs


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6000), st.lists(st.integers(0, 5999), max_size=12), st.integers(0, 10**6))
def test_segments_do_not_depend_on_the_parts(n, cuts, seed):
    log_probs = noisy_pauses(n, seed)
    segments = list(cut_at_pauses(split(log_probs, cuts), LONGEST))
    assert np.array_equal(np.concatenate(segments), log_probs)
    assert all(LONGEST // 4 <= len(segment) <= LONGEST for segment in segments[:-1])
    assert 1 <= len(segments[-1]) <= LONGEST
    again = list(cut_at_pauses([log_probs], LONGEST))
    assert [len(segment) for segment in segments] == [len(segment) for segment in again]


def test_the_longest_pause_is_cut_in_the_middle():
    log_probs = np.tile(np.log(np.float32([0.1, 0.7, 0.2])), (LONGEST + 500, 1))
    for start, end in ((100, 200), (400, 410), (600, 640), (900, 905)):
        log_probs[start:end] = np.log(np.float32([0.8, 0.1, 0.1]))
    assert [len(segment) for segment in cut_at_pauses([log_probs], LONGEST)] == [620, LONGEST + 500 - 620]
    speech = log_probs[:50].repeat(LONGEST // 25, axis=0)  # nothing but speech
    speech[LONGEST // 4 + 30, BLANK] = np.log(0.3)
    assert next(cut_at_pauses([speech], LONGEST)).shape[0] == LONGEST // 4 + 30


def test_what_is_short_is_not_cut():
    log_probs = np.zeros((LONGEST, 3), np.float32)
    assert len(list(cut_at_pauses([log_probs[:400], log_probs[400:]], LONGEST))) == 1
    assert list(cut_at_pauses([], LONGEST)) == []

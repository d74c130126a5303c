"""The words of an LM as a tree of letters, walked by pieces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.tokenizer import SPACE, Tokenizer, train_tokenizer
from asr.decoding.lexicon import ROOT, make_lexicon, walk

WORDS = ["CATS", "CAT", "DO", "DOG", "GOD", "ZEBRA", "A"]
LIKELIHOODS = np.array([-4.0, -3.0, -1.0, -2.0, -1.5, -0.5, -2.5])
UNKNOWN = len(WORDS)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_tokenizer(["CAT CATS DOG DO GOD A", "CATS DOGS GODS"] * 5, 16))


@pytest.fixture(scope="module")
def lexicon(tokenizer):
    return make_lexicon(WORDS, LIKELIHOODS, tokenizer.spoken())


@given(st.data())
@settings(deadline=None)  # compiles at first
def test_whatever_the_pieces_only_their_letters_count(tokenizer, lexicon, data):
    spoken = tokenizer.spoken()
    pieces = data.draw(st.lists(st.sampled_from([i for i, text in enumerate(spoken) if text]), max_size=6))
    node, letters = ROOT, ""
    for piece in pieces:
        node = walk(lexicon, node, piece)
        letters += spoken[piece].removeprefix(SPACE)
    spelled = [word for word in WORDS if word != "ZEBRA"]
    if not letters:
        assert node == ROOT
    elif not any(word.startswith(letters) for word in spelled):
        assert node == len(lexicon.word) - 1
    else:
        assert lexicon.word[node] == (WORDS.index(letters) if letters in spelled else UNKNOWN)
        longer = [
            LIKELIHOODS[WORDS.index(word)] for word in spelled if word.startswith(letters) and word != letters
        ]
        assert lexicon.below[node] == max(longer, default=-np.inf)


def test_every_word_is_found_once(tokenizer, lexicon):
    assert sorted(lexicon.word[lexicon.word != UNKNOWN]) == [
        i for i, word in enumerate(WORDS) if word != "ZEBRA"
    ]
    for number, word in enumerate(WORDS):
        node = ROOT
        for piece in tokenizer.encode(word):
            node = walk(lexicon, node, piece)
        assert word == "ZEBRA" or lexicon.word[node] == number


def test_a_word_with_a_letter_that_no_piece_has_is_left_out(lexicon):
    assert WORDS.index("ZEBRA") not in lexicon.word
    assert lexicon.below[ROOT] == -1.0


def test_which_pieces_are_text(tokenizer, lexicon):
    for number, text in enumerate(tokenizer.spoken()):
        assert lexicon.is_text[number] == (number not in (0, tokenizer.unknown))
        assert lexicon.begins[number] == (text is not None and text.startswith(SPACE))


def test_no_words_are_a_root_and_the_unknown(tokenizer):
    lexicon = make_lexicon([], np.array([]), tokenizer.spoken())
    assert lexicon.word.tolist() == [0, 0]
    assert walk(lexicon, ROOT, tokenizer.encode("DOG")[-1]) == 1

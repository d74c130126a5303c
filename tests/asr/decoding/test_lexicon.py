"""The words of an LM as a tree of pieces."""

import numpy as np
import pytest

from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decoding.lexicon import ROOT, make_lexicon, spell


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_tokenizer(["CAT CATS DOG DO"], 12, "char"))


def test_words_that_cannot_be_spelled_are_left_out(tokenizer):
    numbers = spell(["CAT", "ZEBRA", "DOG"], [-1.0, -0.5, -2.0], tokenizer)
    assert numbers == {tuple(tokenizer.encode("CAT")): 0, tuple(tokenizer.encode("DOG")): 2}


def test_of_words_with_one_spelling_the_likeliest_stands(tokenizer):
    assert list(spell(["DO", "DO", "DO"], [-2.0, -1.0, -3.0], tokenizer).values()) == [1]


def test_every_word_is_found_along_its_pieces(tokenizer):
    words, likelihoods = ["CATS", "CAT", "DO", "DOG"], [-4.0, -3.0, -1.0, -2.0]
    lexicon = make_lexicon(spell(words, likelihoods, tokenizer), likelihoods)
    for number, word in enumerate(words):
        node, spelling = ROOT, tokenizer.encode(word)
        for place, piece in enumerate(spelling, 1):
            edges = slice(lexicon.first[node], lexicon.first[node + 1])
            assert (np.diff(lexicon.piece[edges]) > 0).all()
            [node] = lexicon.child[edges][lexicon.piece[edges] == piece]
            begin_so = [tokenizer.encode(other)[:place] == spelling[:place] for other in words]
            assert lexicon.best[node] == max(np.array(likelihoods)[begin_so])
        assert lexicon.word[node] == number
    assert lexicon.best[ROOT] == -1.0
    assert (lexicon.word >= 0).sum() == 4


def test_no_words_are_a_root(tokenizer):
    lexicon = make_lexicon({}, [])
    assert lexicon.first.tolist() == [0, 0] and lexicon.word.tolist() == [-1]

"""Texts brought to the way that another one is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.style import Style, style_of
from asr.data.tokenizer import SPACE, Tokenizer, train_tokenizer

LIBRISPEECH = "I DON'T KNOW HE SAID IT IS FIVE O'CLOCK".split()
SENTENCES = "I don't know, he said. It is five o'clock - well-known.".split()


@pytest.mark.parametrize(
    ("words", "text", "written"),
    [
        (
            LIBRISPEECH,
            "I don\u2019t know; a well-known \u201cthing\u201d\u2014no?",
            "I DON'T KNOW A WELL KNOWN THING NO",
        ),
        (LIBRISPEECH, "\u00c9t\u00e9 at 3%", "\u00c9T\u00c9 AT 3"),
        ([w.lower() for w in LIBRISPEECH], "I Don't know.", "i don't know"),
        (["DONT", "KNOW"], "don't know", "DONT KNOW"),
        (["WELL-KNOWN", "MAN"], "a well-known man's", "A WELL-KNOWN MANS"),
        (SENTENCES, "Yes; A \u201cThing\u201d", "Yes; A \u201cThing\u201d"),
        (["Ein", "Wort"], "ein Wort, Sir!", "ein Wort Sir"),
        (["1984", "7"], "In 1984, yes", "In 1984 yes"),
        ([], "Anything, goes", "Anything goes"),
        (LIBRISPEECH, "the \u2047 cat", "THE \u2047 CAT"),
    ],
)
def test_a_text_is_written_as_another_is(words, text, written):
    assert " ".join(style_of(words).apply(text).split()) == written


def test_a_few_strays_do_not_count():
    words = 1000 * ["WORD"] + 5 * ["stray", "etc."]
    assert style_of(words).apply("A word, etc.") == "A WORD ETC"
    assert style_of(words[:20] + words[-10:]) == Style()


@given(st.text(), st.text(), st.sampled_from([LIBRISPEECH, SENTENCES, ["a"]]))
def test_each_character_by_itself(one, other, words):
    style = style_of(words)
    assert style.apply(one + other) == style.apply(one) + style.apply(other)
    assert style.apply(style.apply(one)) == style.apply(one)


def test_pieces_spell_words_in_a_style():
    tokenizer = Tokenizer(train_tokenizer(["The cat-like dog.", "A Cat, a dog!"] * 5, 40, "char"))
    spoken = dict(
        zip(
            map(tokenizer.piece, range(1, tokenizer.pieces + 1)),
            tokenizer.spoken(style_of(LIBRISPEECH))[1:],
            strict=True,
        )
    )
    assert spoken == spoken | {"c": "C", "C": "C", ".": "", ",": "", "-": SPACE, SPACE: SPACE, "<unk>": None}
    assert tokenizer.beyond(style_of(LIBRISPEECH)) in spoken and tokenizer.beyond(Style()) == ""
    assert tokenizer.spoken(Style()) == tokenizer.spoken()

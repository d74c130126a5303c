"""Tokenizers of others in this recipe's case."""

import pytest
from plain_nemo import TOKENIZER

from asr.checkpoints.foreign.pieces import adapt
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError


def test_pieces_without_capitals_become_upper_case_and_keep_their_ids():
    original, found = Tokenizer(TOKENIZER), adapt(TOKENIZER, "it")
    for text in ("the cat", "that hat sat on a cat's mat"):
        assert found.encode(text.upper()) == original.encode(text)
        assert found.decode(original.encode(text)) == text.upper()
    assert found.unknown == original.unknown and found.spells


def test_lower_casing_before_encoding_is_switched_off():
    """NeMo's own are trained with nmt_nfkc_cf, which would make upper-case words unknown."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat"] * 5),
        model_writer=model,
        vocab_size=14,
        normalization_rule_name="nmt_nfkc_cf",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    original, found = Tokenizer(model.getvalue()), adapt(model.getvalue(), "it")
    assert found.encode("THE CAT") == original.encode("THE CAT") == original.encode("the cat")
    assert found.unknown not in found.encode("THE CAT SAT")


def test_pieces_with_capitals_and_those_to_keep_stay():
    mixed = train_tokenizer(["The cat sat on a mat.", "A cat and a Hat?"] * 5, 24)
    assert Tokenizer(mixed).encode("The cat.") == adapt(mixed, "it").encode("The cat.")
    assert adapt(TOKENIZER, "it", "keep").encode("the cat") == Tokenizer(TOKENIZER).encode("the cat")


def test_letters_that_would_meet_in_upper_case_stay():
    data = train_tokenizer(["strasse straße gross groß ss"] * 5, 14, "char")
    text = "straße strasse"
    assert adapt(data, "it").decode(Tokenizer(data).encode(text)) in (text, text.upper())
    found = adapt(data, "it")
    assert len({found.piece(i + 1) for i in range(found.pieces)}) == found.pieces


@pytest.mark.parametrize("data", [b"", b"nonsense"])
def test_what_is_no_tokenizer_is_named(data):
    with pytest.raises(UserError, match=r"^it: not a SentencePiece model"):
        adapt(data, "it")

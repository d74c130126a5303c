import pytest

from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError

TEXTS = ["THE CAT SAT ON THE MAT", "A DOG RAN AT THE CAT", "THE END OF THE DAY'S WORK"] * 5


@pytest.fixture(scope="module", params=["unigram", "bpe", "char"])
def tokenizer(request):
    return Tokenizer(train_tokenizer(TEXTS, 24, request.param))


def test_text_survives(tokenizer):
    for text in TEXTS:
        classes = tokenizer.encode(text)
        assert tokenizer.decode(classes) == text
        assert min(classes) > 0 and max(classes) <= tokenizer.pieces


def test_unknown_letters_get_the_unknown_class(tokenizer):
    assert tokenizer.unknown in tokenizer.encode("ÉTÉ")
    assert tokenizer.unknown not in tokenizer.encode("THE CAT")


def test_training_is_reproducible():
    assert train_tokenizer(TEXTS, 24) == train_tokenizer(TEXTS, 24)


def test_little_text_gets_fewer_pieces():
    assert 10 < Tokenizer(train_tokenizer(TEXTS, 5000)).pieces < 100


@pytest.mark.parametrize(("pieces", "kind"), [(5000, "bpe"), (3, "unigram")])
def test_impossible_sizes_are_one_line_of_advice(pieces, kind):
    with pytest.raises(UserError, match=f"--pieces {pieces} does not suit this text: ") as error:
        train_tokenizer(TEXTS, pieces, kind)
    assert "\n" not in str(error.value)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match="no such tokenizer"):
        Tokenizer.load(tmp_path / "absent.model")
    path = tmp_path / "bad.model"
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"bad\.model: not a SentencePiece model"):
        Tokenizer.load(path)

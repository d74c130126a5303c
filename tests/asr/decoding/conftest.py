import pytest
from little_corpus import TEXT

from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.lm import build as lm


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_tokenizer(TEXT, 16, "unigram"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text("\n".join(TEXT))
    lm.estimate([folder / "text.txt"], 3, folder / "lm.bin", estimator="own")
    return folder / "lm.bin"

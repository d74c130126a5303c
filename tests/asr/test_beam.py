import numpy as np
import pytest

from asr import lm
from asr.decoding.beam import BeamDecoder, BeamPool, merge_runs
from asr.decoding.tuning import check_dev, tune
from asr.errors import UserError
from asr.tokenizer import Tokenizer, train_tokenizer

TEXT = ["THE CAT SAT", "THE CAT RAN", "A DOG SAT", "THE DOG SAT ON THE CAT", "A CAT RAN"] * 10


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_tokenizer(TEXT, 16, "unigram"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text("\n".join(TEXT))
    lm.estimate([folder / "text.txt"], 3, folder / "lm.bin", estimator="own")
    return folder / "lm.bin"


def posteriors(tokenizer, text: str, hold: int = 3, sure: float = 6.0, seed: int = 0) -> np.ndarray:
    """Frames that spell a text: each piece ``hold`` frames long, blanks between, a little noise."""
    classes = []
    for number in tokenizer.encode(text):
        classes += [0] + [number] * hold
    logits = np.random.default_rng(seed).normal(size=(len(classes) + 1, tokenizer.pieces + 1))
    logits[np.arange(len(classes)), classes] += sure
    logits[-1, 0] += sure
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def test_runs_of_a_piece_are_averaged_and_blanks_stay():
    frames = np.log(
        np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7]])
    )
    merged = merge_runs(frames)
    assert np.allclose(merged, [frames[0], frames[1], frames[2:4].mean(0), frames[4]])


def test_repeats_with_a_blank_between_stay_apart():
    best = np.eye(3)[[1, 1, 0, 1, 0, 0]]
    assert merge_runs(best).argmax(1).tolist() == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("hold", [1, 2, 5])
@pytest.mark.parametrize("sentence", sorted(set(TEXT)))
def test_sure_posteriors_are_read_whatever_the_pieces_length(tokenizer, model, sentence, hold):
    decoder = BeamDecoder(model, tokenizer)
    assert decoder.decode(posteriors(tokenizer, sentence, hold), lm_weight=0.5, word_score=0.0) == sentence


def test_the_lm_decides_where_the_sound_does_not(tokenizer, model):
    """Noise drowns the words; with enough LM weight only its own sentences come out."""
    decoder = BeamDecoder(model, tokenizer)
    noisy = posteriors(tokenizer, "THE CAT SAT", sure=1.5, seed=3)
    assert decoder.decode(noisy, lm_weight=2.0, word_score=0.0) in set(TEXT)


def test_no_frames_give_no_words(tokenizer, model):
    assert (
        BeamDecoder(model, tokenizer).decode(np.zeros((0, tokenizer.pieces + 1), np.float32), 0.5, 0.0) == ""
    )


def test_pool_gives_what_one_decoder_gives(tokenizer, model):
    items = [posteriors(tokenizer, text, seed=i) for i, text in enumerate(TEXT[:5])]
    decoder = BeamDecoder(model, tokenizer)
    with BeamPool(model, tokenizer, jobs=2) as pool:
        assert pool.decode(items, 0.5, 1.0) == [decoder.decode(item, 0.5, 1.0) for item in items]


def test_an_lm_that_is_none_is_named(tokenizer, tmp_path):
    path = tmp_path / "not.bin"
    path.write_bytes(b"\x00\x01nonsense")
    with pytest.raises(UserError, match=r"not\.bin: not a KenLM binary"):
        BeamPool(path, tokenizer)


def test_an_lm_in_another_case_is_refused_with_advice(model):
    lower = Tokenizer(train_tokenizer([text.lower() for text in TEXT], 16, "unigram"))
    with pytest.raises(UserError, match="cannot spell 100 % of its words"):
        BeamPool(model, lower)


@pytest.mark.parametrize("best", [(0.9, 1.0), (0.3, 2.0), (1.5, 0.5)])
def test_tuning_finds_the_lowest(best):
    # A valley along which weight and score make up for each other, as in real use.
    def wer(weight: float, score: float) -> float:
        across, along = score - best[1] - 2 * (weight - best[0]), weight - best[0]
        return 10 + across**2 + along**2

    weight, score, tried = tune(wer)
    assert tried[weight, score] == min(tried.values()) < 10.1


def test_tuning_on_test_is_refused():
    with pytest.raises(UserError, match="never tuned on test"):
        check_dev("test-clean")

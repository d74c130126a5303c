import itertools
import math
import multiprocessing
import os
import shutil
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decoding.beam import BeamDecoder, BeamPool
from asr.decoding.prefix_beam import prefix_beam_search
from asr.decoding.tuning import check_dev, format_surface, tune
from asr.errors import UserError
from asr.lm import build as lm
from asr.lm import files as lm_files

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


decoder_of = cache(BeamDecoder)


@given(
    seed=st.integers(0, 10_000),
    sure=st.floats(0.0, 6.0),
    text=st.sampled_from(sorted(set(TEXT))),
    weights=st.sampled_from([(0.3, 0.0), (0.7, 0.5), (1.4, 2.0)]),
    beam=st.sampled_from([10, 100]),
)
@settings(max_examples=60, deadline=None)
def test_the_search_finds_what_the_plain_one_finds(tokenizer, model, seed, sure, text, weights, beam):
    log_probs = posteriors(tokenizer, text, sure=sure, seed=seed)
    words, score = decoder_of(model, tokenizer, beam).decode_scored(log_probs, *weights)
    spellings = {tuple(tokenizer.encode(word)): word for word in lm_files.vocabulary(model)}
    plain, plain_score = prefix_beam_search(log_probs, spellings, lm_files.load(model), *weights, beam)
    # It leaves out what is too unlikely to matter, no more.
    assert words == " ".join(plain)
    assert score == pytest.approx(plain_score, abs=1e-2)


def test_what_was_decoded_before_changes_nothing(tokenizer, model):
    one, other = (posteriors(tokenizer, text, sure=2.0, seed=5) for text in TEXT[3:5])
    decoder = BeamDecoder(model, tokenizer)
    first = decoder.decode_scored(one, 0.7, 0.5)
    for item in (other, np.full_like(one, np.nan), other[:0]):
        decoder.decode_scored(item, 0.9, 1.0)
    assert decoder.decode_scored(one, 0.7, 0.5) == first


def test_another_models_posteriors_are_refused(tokenizer, model):
    with pytest.raises(ValueError, match="the tokenizer has"):
        decoder_of(model, tokenizer).decode(np.zeros((5, tokenizer.pieces), np.float32), 0.5, 0.0)


def test_the_plain_search_sums_over_all_alignments():
    """Against every path of a few frames, one by one; with an LM that does not count."""
    spellings = {(1,): "A", (1, 2): "AB", (2, 2): "BB", (3,): "C"}
    by_word = {word: spelling for spelling, word in spellings.items()}
    log_probs = np.log(np.random.default_rng(3).dirichlet(np.ones(4), size=5))
    sequences = {}
    for count in range(6):
        for words in itertools.product(by_word, repeat=count):
            pieces = tuple(itertools.chain(*(by_word[word] for word in words)))
            sequences.setdefault(pieces, []).append(words)
    totals = dict.fromkeys(sequences, 0.0)
    for path in itertools.product(range(4), repeat=5):
        pieces = tuple(piece for piece, _ in itertools.groupby(path) if piece)
        if pieces in totals:
            totals[pieces] += np.exp(log_probs[np.arange(5), list(path)].sum())

    class Flat:
        def BeginSentenceWrite(self, state):
            pass

        def BaseScore(self, *_):
            return 0.0

        def score(self, *_, **__):
            return 0.0

    for word_score in (0.0, 0.7, 2.0):
        found = prefix_beam_search(log_probs, spellings, Flat(), 0.0, word_score, beam=1000, merge=False)
        words, score = found
        scores = {
            words: math.log(totals[pieces]) + word_score * len(words)
            for pieces, ways in sequences.items()
            if totals[pieces] > 0
            for words in ways
        }
        assert score == pytest.approx(max(scores.values()))
        assert scores[tuple(words)] == pytest.approx(score)


@pytest.mark.parametrize("beam", [1, 4, 100])
def test_an_end_inside_a_word_loses_no_more_than_that_word(tokenizer, model, beam):
    whole = posteriors(tokenizer, "THE DOG SAT ON THE CAT", sure=9.0)
    decoder = BeamDecoder(model, tokenizer, beam)
    for end in range(20, len(whole)):
        words, score = decoder.decode_scored(whole[:end], 0.5, 0.0)
        assert words and "THE DOG SAT ON THE CAT".startswith(words.rsplit(" ", 1)[0])
        assert math.isfinite(score)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_posteriors_that_are_none_give_no_words(tokenizer, model, value):
    nothing = np.full((9, tokenizer.pieces + 1), value, np.float32)
    assert decoder_of(model, tokenizer).decode(nothing, 0.5, 0.0) == ""


def test_more_lm_scores_than_the_memory_holds(tokenizer, model, monkeypatch):
    """It grows within an utterance, and is emptied between two."""
    items = [posteriors(tokenizer, text, sure=2.0, seed=7) for text in TEXT[:5]]
    expected = [BeamDecoder(model, tokenizer).decode_scored(item, 0.7, 0.5) for item in items]
    monkeypatch.setattr("asr.decoding.beam.MEMORY", 4)
    monkeypatch.setattr("asr.decoding.beam.ROOM", 4)
    decoder = BeamDecoder(model, tokenizer)
    assert [decoder.decode_scored(item, 0.7, 0.5) for item in items] == expected


def test_no_frames_give_no_words(tokenizer, model):
    assert (
        BeamDecoder(model, tokenizer).decode(np.zeros((0, tokenizer.pieces + 1), np.float32), 0.5, 0.0) == ""
    )


@pytest.mark.parametrize("change", ["cut", "written over"])
def test_an_lm_that_changes_while_processes_map_it_is_named(tokenizer, model, tmp_path, change):
    """A process that reads mapped pages beyond a file's end is killed; others may get wrong scores."""
    path = tmp_path / "lm.bin"
    shutil.copy(model, path)
    shutil.copy(f"{model}.sha256", f"{path}.sha256")
    items = [posteriors(tokenizer, text, seed=seed) for seed, text in enumerate(TEXT)]
    with BeamPool(path, tokenizer, jobs=2) as pool:
        pool.decode(items[:8], 0.5, 0.0)
        if change == "cut":
            os.truncate(path, 0)
        else:
            path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(UserError, match=r"lm\.bin"):
            pool.decode(items, 0.5, 0.0)


def test_pool_gives_what_one_decoder_gives(tokenizer, model):
    items = [posteriors(tokenizer, text, seed=i) for i, text in enumerate(TEXT[:5])]
    decoder = BeamDecoder(model, tokenizer)
    expected = [decoder.decode(item, 0.5, 1.0) for item in items]
    frames = sum(map(len, items))
    with BeamPool(model, tokenizer, jobs=2, alone=2 * frames) as pool:
        for processes in (0, 0, 2, 2):  # once there is enough to do for more than this one
            assert pool.decode(items, 0.5, 1.0) == expected
            assert len(multiprocessing.active_children()) == processes
    with BeamPool(model, tokenizer, jobs=1, alone=0) as pool:
        assert pool.decode(items, 0.5, 1.0) == expected
        assert not multiprocessing.active_children()


def test_a_lexicon_from_the_disk_gives_the_same_words_and_scores(tokenizer, model):
    items = [posteriors(tokenizer, text, sure=2.0, seed=5) for text in TEXT[:5]]
    found = []
    for known in (False, True):
        kept = list(model.parent.glob("*.lexicon"))
        assert not known or len(kept) == 1
        for path in kept if not known else []:
            path.unlink()
        decoder = BeamDecoder(model, tokenizer)
        found.append([decoder.decode_scored(item, 0.7, 0.5) for item in items])
    assert found[0] == found[1]


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


def test_the_surface_shows_every_point_and_marks_the_best():
    _, _, tried = tune(lambda weight, word_score: 10 + (weight - 0.7) ** 2 + (word_score - 0.5) ** 2)
    lines = format_surface(tried).splitlines()
    assert len(lines) == 1 + len({weight for weight, _ in tried})
    shown = [float(cell.rstrip("*")) for line in lines[1:] for cell in line.split()[1:] if cell != "."]
    assert sorted(shown) == sorted(round(wer, 2) for wer in tried.values())
    assert sum(line.count("*") for line in lines) == 1

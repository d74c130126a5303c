import itertools
import math
import multiprocessing
import os
import shutil
from collections import defaultdict
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from little_corpus import TEXT

from asr.data.style import style_of
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decoding.beam import BeamDecoder, BeamPool
from asr.decoding.greedy import greedy
from asr.decoding.prefix_beam import prefix_beam_search
from asr.decoding.weights import GREEDY, Weights
from asr.errors import UserError
from asr.lm import files as lm_files

CLOSED = 50.0


# With words that the LM does not have, and one that has other words' beginnings in it.
OPEN = ["THE GOAT SAT", "A CATERAN RAN", "THED OG", "TOAD"]


def posteriors(tokenizer, text: str, hold: int = 3, sure: float = 6.0, seed: int = 0) -> np.ndarray:
    """Frames that spell a text: each piece ``hold`` frames long, blanks between, a little noise."""
    return frames(tokenizer, tokenizer.encode(text), hold, sure, seed)


def frames(tokenizer, pieces: list[int], hold: int = 3, sure: float = 6.0, seed: int = 0) -> np.ndarray:
    classes = []
    for number in pieces:
        classes += [0] + [number] * hold
    logits = np.random.default_rng(seed).normal(size=(len(classes) + 1, tokenizer.pieces + 1))
    logits[np.arange(len(classes)), classes] += sure
    logits[-1, 0] += sure
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


@cache
def decoder_of(model, tokenizer, beam: int = 100) -> BeamDecoder:
    return BeamDecoder(model, tokenizer, beam)


def words_of(tokenizer, model, log_probs: np.ndarray, *weights: float) -> str:
    return tokenizer.decode(decoder_of(model, tokenizer).decode(log_probs, Weights(*weights)))


@pytest.mark.parametrize("hold", [1, 2, 5])
@pytest.mark.parametrize("sentence", sorted(set(TEXT)))
def test_sure_posteriors_are_read_whatever_the_pieces_length(tokenizer, model, sentence, hold):
    assert words_of(tokenizer, model, posteriors(tokenizer, sentence, hold), 0.5, 0.0, 5.0) == sentence


def test_the_lm_decides_where_the_sound_does_not(tokenizer, model):
    """Noise drowns the words; with enough LM weight only its own sentences come out."""
    noisy = posteriors(tokenizer, "THE CAT SAT", sure=1.5, seed=3)
    assert words_of(tokenizer, model, noisy, 2.0, 0.0, CLOSED) in set(TEXT)


@pytest.mark.parametrize("sentence", OPEN)
def test_words_that_the_lm_does_not_have_are_found_until_they_cost_too_much(tokenizer, model, sentence):
    sure = posteriors(tokenizer, sentence)
    assert words_of(tokenizer, model, sure, 0.5, 0.0, 2.0) == sentence
    closed = words_of(tokenizer, model, sure, 0.5, 0.0, CLOSED)
    assert closed != sentence and set(closed.split()) <= set(lm_files.vocabulary(model))


def test_a_word_has_every_spelling(tokenizer, model):
    """Also the one letter by letter, which the tokenizer never chooses, found as it was said."""
    number = {tokenizer.piece(i): i for i in range(1, tokenizer.pieces + 1)}
    pieces = [number[letter] for letter in "\u2581CAT\u2581RAN"]
    assert pieces != tokenizer.encode("CAT RAN")
    decoder = decoder_of(model, tokenizer)
    assert decoder.decode(frames(tokenizer, pieces), Weights(0.5, 0.0, CLOSED)) == pieces
    assert tokenizer.decode(pieces) == "CAT RAN"


@given(st.integers(0, 10_000), st.floats(0.0, 6.0), st.sampled_from([*TEXT[:5], *OPEN]))
@settings(max_examples=30, deadline=None)
def test_without_weights_the_best_path_is_taken(tokenizer, model, seed, sure, text):
    log_probs = posteriors(tokenizer, text, sure=sure, seed=seed)
    [best] = greedy(torch.from_numpy(log_probs)[None], torch.tensor([len(log_probs)]))
    assert decoder_of(model, tokenizer).decode(log_probs, GREEDY) == best


@given(
    seed=st.integers(0, 10_000),
    sure=st.floats(0.0, 6.0),
    text=st.sampled_from([*sorted(set(TEXT)), *OPEN]),
    weights=st.sampled_from(
        [(0.3, 0.0, 0.0), (0.7, 0.5, 3.0), (1.4, 2.0, 6.0), (0.7, 0.5, CLOSED), (0.0, 1.0, -2.0)]
    ),
    beam=st.sampled_from([10, 100]),
)
@example(seed=305, sure=4.0, text="THE GOAT SAT", weights=(0.7, 0.5, CLOSED), beam=100)
@settings(max_examples=40, deadline=None)
def test_the_search_finds_what_the_plain_one_finds(tokenizer, model, seed, sure, text, weights, beam):
    log_probs = posteriors(tokenizer, text, hold=2, sure=sure, seed=seed)
    pieces, score = decoder_of(model, tokenizer, beam).decode_scored(log_probs, Weights(*weights))
    plain, plain_score = prefix_beam_search(
        log_probs,
        tokenizer.spoken(),
        lm_files.vocabulary(model),
        lm_files.load(model),
        Weights(*weights),
        beam,
    )
    # It leaves out what is too unlikely to matter, no more.
    assert pieces == plain
    if score != pytest.approx(plain_score, abs=1e-2):
        # A full beam drops alignments of the best one too, by ranks that differ a little. What it drops shows
        # in a wider one, and the two may differ by no more than a tenth of that.
        wider = prefix_beam_search(
            log_probs,
            tokenizer.spoken(),
            lm_files.vocabulary(model),
            lm_files.load(model),
            Weights(*weights),
            10 * beam,
        )[1]
        assert score == pytest.approx(plain_score, abs=0.1 * (wider - plain_score))


def test_what_was_decoded_before_changes_nothing(tokenizer, model):
    one, other = (posteriors(tokenizer, text, sure=2.0, seed=5) for text in TEXT[3:5])
    decoder, weights = BeamDecoder(model, tokenizer), Weights(0.7, 0.5, 3.0)
    first = decoder.decode_scored(one, weights)
    for item in (other, np.full_like(one, np.nan), other[:0]):
        decoder.decode_scored(item, Weights(0.9, 1.0, 1.0))
    assert decoder.decode_scored(one, weights) == first


def test_another_models_posteriors_are_refused(tokenizer, model):
    with pytest.raises(ValueError, match="the tokenizer has"):
        decoder_of(model, tokenizer).decode_scored(np.zeros((5, tokenizer.pieces), np.float32), GREEDY)


class Flat:
    """An LM to which all words are alike."""

    def BeginSentenceWrite(self, state):
        pass

    def BaseScore(self, *_):
        return -1.0

    def score(self, *_, **__):
        return -1.0


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (0.2, 0.7, 1.0), (0.0, 2.0, -1.5)])
def test_the_plain_search_sums_over_all_alignments(weights):
    """Against every path of a few frames, one by one."""
    spoken, weights = [None, "\u2581A", "B", "\u2581"], Weights(*weights)
    log_probs = np.log(np.random.default_rng(3).dirichlet(np.ones(4), size=5))
    totals = defaultdict(float)
    for path in itertools.product(range(4), repeat=5):
        pieces = tuple(piece for piece, _ in itertools.groupby(path) if piece)
        totals[pieces] += np.exp(log_probs[np.arange(5), list(path)].sum())
    scores = {}
    for pieces, total in totals.items():
        words = "".join(spoken[piece] for piece in pieces).replace("\u2581", " ").split()
        scores[pieces] = math.log(total) + sum(weights.of_word(-1.0, word != "AB") for word in words)
    found, score = prefix_beam_search(log_probs, spoken, ["AB"], Flat(), weights, beam=2000, merge=False)
    assert score == pytest.approx(max(scores.values()) - weights.decimal)
    assert scores[tuple(found)] == pytest.approx(max(scores.values()))


@pytest.mark.parametrize("beam", [1, 4, 100])
@pytest.mark.parametrize("penalty", [3.0, CLOSED])
def test_an_end_inside_a_word_loses_no_more_than_that_word(tokenizer, model, beam, penalty):
    whole = posteriors(tokenizer, "THE DOG SAT ON THE CAT", sure=9.0)
    decoder = BeamDecoder(model, tokenizer, beam)
    for end in range(20, len(whole)):
        pieces, score = decoder.decode_scored(whole[:end], Weights(0.5, 0.0, penalty))
        words = tokenizer.decode(pieces)
        assert words and "THE DOG SAT ON THE CAT".startswith(words.rsplit(" ", 1)[0])
        assert math.isfinite(score)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_posteriors_that_are_none_give_no_words(tokenizer, model, value):
    nothing = np.full((9, tokenizer.pieces + 1), value, np.float32)
    assert decoder_of(model, tokenizer).decode(nothing, Weights(0.5, 0.0, 3.0)) == []


def test_more_lm_scores_than_the_memory_holds(tokenizer, model, monkeypatch):
    """It grows within an utterance, and is emptied between two."""
    items = [posteriors(tokenizer, text, sure=2.0, seed=7) for text in TEXT[:5]]
    weights = Weights(0.7, 0.5, 3.0)
    expected = [BeamDecoder(model, tokenizer).decode_scored(item, weights) for item in items]
    monkeypatch.setattr("asr.decoding.beam.MEMORY", 4)
    monkeypatch.setattr("asr.decoding.beam.ROOM", 4)
    decoder = BeamDecoder(model, tokenizer)
    assert [decoder.decode_scored(item, weights) for item in items] == expected


@pytest.mark.parametrize("weights", [GREEDY, Weights(0.5, 0.0, 3.0)])
def test_no_frames_give_no_words(tokenizer, model, weights):
    nothing = np.zeros((0, tokenizer.pieces + 1), np.float32)
    assert decoder_of(model, tokenizer).decode(nothing, weights) == []


@pytest.mark.parametrize("change", ["cut", "written over"])
def test_an_lm_that_changes_while_processes_map_it_is_named(tokenizer, model, tmp_path, change):
    """A process that reads mapped pages beyond a file's end is killed; others may get wrong scores."""
    path, weights = copied(model, tmp_path), Weights(0.5, 0.0, 3.0)
    items = [posteriors(tokenizer, text, seed=seed) for seed, text in enumerate(TEXT)]
    with BeamPool(path, tokenizer, jobs=2, alone=0) as pool:
        pool.decode(items[:8], weights)
        if change == "cut":
            os.truncate(path, 0)
        else:
            path.write_bytes(path.read_bytes()[::-1])
        with pytest.raises(UserError, match=r"lm\.bin"):
            pool.decode(items, weights)


def test_an_lm_that_changes_does_not_matter_to_this_process(tokenizer, model, tmp_path):
    path, weights = copied(model, tmp_path), Weights(0.5, 0.0, 3.0)
    items = [posteriors(tokenizer, text, seed=seed) for seed, text in enumerate(TEXT)]
    with BeamPool(path, tokenizer) as pool:
        os.truncate(path, 0)
        assert pool.decode(items, weights) == BeamPool(model, tokenizer).decode(items, weights)


def copied(model, folder):
    for name in (model, f"{model}.sha256"):
        shutil.copy(name, folder)
    return folder / model.name


def test_pool_gives_what_one_decoder_gives(tokenizer, model):
    items = [posteriors(tokenizer, text, seed=i) for i, text in enumerate(TEXT[:5])]
    decoder, weights = BeamDecoder(model, tokenizer), Weights(0.5, 1.0, 3.0)
    expected = [decoder.decode(item, weights) for item in items]
    frames = sum(map(len, items))
    with BeamPool(model, tokenizer, jobs=2, alone=2 * frames) as pool:
        for processes in (0, 0, 2, 2):  # once there is enough to do for more than this one
            assert pool.decode(items, weights) == expected
            assert len(multiprocessing.active_children()) == processes
    with BeamPool(model, tokenizer, jobs=1, alone=0) as pool:
        assert pool.decode(items, weights) == expected
        assert not multiprocessing.active_children()


def test_an_lm_that_is_none_is_named(tokenizer, tmp_path):
    path = tmp_path / "not.bin"
    path.write_bytes(b"\x00\x01nonsense")
    with pytest.raises(UserError, match=r"not\.bin: not a KenLM binary"):
        BeamPool(path, tokenizer)


@pytest.fixture(scope="module")
def cased():
    """A tokenizer with capitals and punctuation, as those of NVIDIA's "pc" models."""
    text = ["The cat sat.", "A dog-like cat, the DOG!", "On The Cat? A dog ran.", "THE CAT SAT ON DOG R"]
    return Tokenizer(train_tokenizer(text * 5, 40))


WRITTEN = ["The cat sat.", "the Cat, sat!", "A Dog-cat ran.", "- The doG sat?", "The dog ran - on the cat"]


@pytest.mark.parametrize("text", WRITTEN)
def test_words_are_looked_up_as_the_lm_s_are_written(cased, model, text):
    """An LM in capitals helps a model that writes sentences, whose own writing comes out."""
    decoder = BeamDecoder(model, cased)
    assert str(decoder.style) == "in upper case, without punctuation"
    assert cased.decode(decoder.decode(posteriors(cased, text, sure=9.0), Weights(0.5, 0.0, CLOSED))) == text


@given(seed=st.integers(0, 10_000), sure=st.floats(0.0, 6.0), text=st.sampled_from(WRITTEN))
@settings(max_examples=20, deadline=None)
def test_with_folding_too_the_search_finds_what_the_plain_one_finds(cased, model, seed, sure, text):
    log_probs = posteriors(cased, text, hold=2, sure=sure, seed=seed)
    words, weights = lm_files.vocabulary(model), Weights(0.7, 0.5, 3.0)
    spoken = cased.spoken(style_of(words))
    plain, plain_score = prefix_beam_search(log_probs, spoken, words, lm_files.load(model), weights, 20)
    pieces, score = decoder_of(model, cased, 20).decode_scored(log_probs, weights)
    assert pieces == plain
    assert score == pytest.approx(plain_score, abs=1e-2)


def test_the_pool_s_processes_fold_as_it_does(cased, model):
    items, weights = [posteriors(cased, text, sure=4.0) for text in WRITTEN], Weights(0.7, 0.0, CLOSED)
    found = {}
    for fold in (True, False):
        with BeamPool(model, cased, alone=0, jobs=2, fold=fold) as pool:
            found[fold] = pool.decode(items, weights)
        decoder = BeamDecoder(model, cased, fold=fold)
        assert found[fold] == [decoder.decode(item, weights) for item in items]
    assert found[True] != found[False]


def test_an_lm_in_another_case_is_folded_or_refused_with_advice(model):
    lower = Tokenizer(train_tokenizer([text.lower() for text in TEXT], 16, "unigram"))
    sure = posteriors(lower, "the cat sat", sure=9.0)
    assert lower.decode(BeamDecoder(model, lower).decode(sure, Weights(0.5, 0.0, CLOSED))) == "the cat sat"
    with pytest.raises(UserError, match="cannot spell 100 % of its words"):
        BeamPool(model, lower, fold=False)

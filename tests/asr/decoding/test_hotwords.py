"""Hotwords: the file, what phrases earn, and that both searches find them."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.tokenizer import SPACE
from asr.decoding import beam
from asr.decoding.beam import BeamDecoder, BeamPool
from asr.decoding.hotwords import BOOST, Hotword, Phrases, read_hotwords
from asr.decoding.live_words import BeamWords
from asr.decoding.prefix_beam import prefix_beam_search
from asr.decoding.transducer_beam import TransducerSearch
from asr.decoding.weights import GREEDY, Weights
from asr.decoding.words import Reader, WordModel
from asr.errors import UserError
from asr.lm import files as lm_files
from asr.model.transducer import Transducer, TransducerConfig

WEIGHTS = Weights(0.5, 0.0, 3.0)
HOTWORDS = (Hotword("GOAT", 5.0), Hotword("THE TOAD", 4.0), Hotword("CAT", 1.0))
LETTERS = "ABC"


@cache
def decoder_of(model, tokenizer, hotwords=(), beam: int = 100) -> BeamDecoder:
    return BeamDecoder(model, tokenizer, beam, hotwords=hotwords)


def spell(tokenizer, text: str) -> list[int]:
    """Letter by letter."""
    number = {tokenizer.piece(i): i for i in range(1, tokenizer.pieces + 1)}
    return [number[letter] for letter in "".join(f"\u2581{word}" for word in text.split())]


def posteriors(tokenizer, text: str, sure: float = 6.0, seed: int = 0, other: str = "", by: float = 0.0):
    """Noisy frames (N, classes) of a text; ``other``, of as many letters, may be likelier by so much."""
    pieces, others = spell(tokenizer, text), spell(tokenizer, other or text)
    logits = np.random.default_rng(seed).normal(size=(3 * len(pieces), tokenizer.pieces + 1))
    for place, (piece, instead) in enumerate(zip(pieces, others, strict=True)):
        logits[3 * place, 0] += sure
        logits[3 * place + 1 : 3 * place + 3, piece] += sure
        if instead != piece:
            logits[3 * place + 1 : 3 * place + 3, instead] += sure + by
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


# ---- The file


def test_a_file_has_a_word_or_phrase_a_line_and_maybe_a_boost(tmp_path):
    (tmp_path / "words").write_text("Grete  Samsa\n\nMcConnell\t2.5\r\nkaffeine\t\n", "utf-8")
    found = read_hotwords(tmp_path / "words", 3.0)
    assert found == (Hotword("Grete Samsa", 3.0), Hotword("McConnell", 2.5), Hotword("kaffeine", 3.0))
    assert Hotword("x").boost == BOOST
    (tmp_path / "words").write_text("ve\u0301lo\n", "utf-8")
    assert read_hotwords(tmp_path / "words")[0].text == "v\u00e9lo"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\tmuch\n", r"words:2: 'much' is no boost"),
        (b"a\t99\n", r"words:1: boost 99 of 'a': must lie above 0"),
        (b"a\t-1\n", r"words:1: boost -1 "),
        (b"a\tnan\n", r"words:1: boost nan "),
        (b"\t3\n", r"words:1: a boost without a word"),
        (b"\n \n", r"words: 0 words"),
        (b"\xff", r"words: not UTF-8"),
        (None, r"words: cannot be read: No such file"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "words").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_hotwords(tmp_path / "words")


# ---- Phrases


def earned(phrases: list[tuple[str, float]], words: str) -> float:
    automaton, node, total = Phrases(phrases), 0, 0.0
    for word in [*words, None]:
        node, more = automaton.step(node, word)
        total += more
    assert node == 0
    return total


def by_hand(phrases: list[tuple[str, float]], words: str) -> float:
    """Of each place and phrase that is there in full, and begins with no other one that is listed."""
    worth = {}
    for phrase, boost in phrases:
        worth[phrase] = max(worth.get(phrase, 0.0), boost * len(phrase))
    total = 0.0
    for begin, end in itertools.combinations(range(len(words) + 1), 2):
        phrase = words[begin:end]
        if phrase in worth:
            shorter = [phrase[:n] for n in range(1, len(phrase)) if phrase[:n] in worth]
            total += worth[phrase] - (worth[shorter[-1]] if shorter else 0.0)
    return total


@given(
    st.lists(
        st.tuples(st.text(LETTERS, min_size=1, max_size=4), st.sampled_from([1.0, 2.5])),
        min_size=1,
        max_size=6,
    ),
    st.text(LETTERS, max_size=12),
)
def test_phrases_earn_once_they_are_whole_and_nothing_otherwise(phrases, words):
    assert earned(phrases, words) == pytest.approx(by_hand(phrases, words))


def test_a_phrase_earns_word_by_word_and_pays_back():
    phrases = Phrases([("AB", 2.0)])
    node, first = phrases.step(0, "A")
    assert first == 2.0 and phrases.step(node, "B")[1] == 2.0
    assert phrases.step(node, "C") == (0, -2.0) and phrases.step(node, None) == (0, -2.0)
    assert phrases.first == {"A": 2.0} and phrases.within == 2.0


# ---- CTC's search


@given(
    seed=st.integers(0, 10_000),
    sure=st.floats(0.0, 6.0),
    text=st.sampled_from(["THE CAT SAT", "THE GOAT", "A TOAD ON THE TOAD", "THE TO AD"]),
    weights=st.sampled_from([(0.3, 0.0, 0.0), (0.7, 0.5, 3.0), (1.4, 2.0, 6.0), (0.0, 0.0, 0.0)]),
    beam=st.sampled_from([10, 40]),
)
@settings(max_examples=12, deadline=None)
def test_the_search_finds_what_the_plain_one_finds(tokenizer, model, seed, sure, text, weights, beam):
    log_probs = posteriors(tokenizer, text, sure, seed)
    pieces, score = decoder_of(model, tokenizer, HOTWORDS, beam).decode_scored(log_probs, Weights(*weights))
    plain, plain_score = prefix_beam_search(
        log_probs,
        tokenizer.spoken(),
        lm_files.vocabulary(model),
        lm_files.load(model),
        Weights(*weights),
        beam,
        hotwords=dict(HOTWORDS),
    )
    assert pieces == plain
    assert score == pytest.approx(plain_score, abs=1e-2)


@pytest.mark.parametrize("with_lm", [True, False])
@pytest.mark.parametrize(
    ("said", "heard", "hotword"),
    [
        ("THE GOAT SAT", "THE DOAT SAT", "GOAT"),
        ("A DOG OGRE", "A DOG OGDE", "dog ogre"),
        ("THE TAT", "THE CAT", "TAT"),
    ],
)
def test_hotwords_are_found_where_other_words_sound_likelier(tokenizer, model, said, heard, hotword, with_lm):
    """Words that the LM lacks, in whatever case they are listed, with the LM and without."""
    log_probs = posteriors(tokenizer, said, other=heard, by=1.0)
    lm_path, weights = (model, WEIGHTS) if with_lm else (None, GREEDY)
    without = decoder_of(lm_path, tokenizer).decode(log_probs, weights)
    found = decoder_of(lm_path, tokenizer, (Hotword(hotword, 8.0),)).decode(log_probs, weights)
    assert tokenizer.decode(without) != said
    assert tokenizer.decode(found) == said


def test_a_hotword_that_the_lm_lacks_pays_no_unknown_penalty(tokenizer, model):
    log_probs, closed = posteriors(tokenizer, "THE GOAT SAT"), Weights(0.5, 0.0, 50.0)
    assert tokenizer.decode(decoder_of(model, tokenizer).decode(log_probs, closed)) != "THE GOAT SAT"
    decoder = decoder_of(model, tokenizer, (Hotword("GOAT", 0.01),))
    assert tokenizer.decode(decoder.decode(log_probs, closed)) == "THE GOAT SAT"


def test_half_a_phrase_earns_nothing(tokenizer, model):
    """Or whatever a list has much of would be heard everywhere."""
    log_probs = posteriors(tokenizer, "THE GOAT SAT", sure=8.0)
    plain, scored = (
        decoder_of(model, tokenizer, words).decode_scored(log_probs, WEIGHTS)
        for words in (
            (Hotword("GOAT", 0.001),),
            (Hotword("GOAT", 0.001), Hotword("THE GOAT SATSATSATSATSAT", 2.0)),
        )
    )
    assert plain[0] == scored[0]
    assert plain[1] == pytest.approx(scored[1], abs=1e-3)


def test_a_hotword_that_cannot_be_spelled_is_named(tokenizer, model):
    with pytest.raises(UserError, match="hotword 'café': the model cannot write 'F'"):
        BeamDecoder(model, tokenizer, hotwords=[Hotword("café")])


def test_processes_know_the_hotwords(tokenizer, model, monkeypatch):
    log_probs = posteriors(tokenizer, "THE GOAT SAT", other="THE DOAT SAT", by=1.0)
    with BeamPool(model, tokenizer, jobs=2, hotwords=[Hotword("GOAT", 8.0)]) as pool:
        with monkeypatch.context() as patched:
            patched.setattr(beam, "start_worker", lambda: None)  # which watches a parent process
            beam._start_worker(*pool._arguments)
        pieces = beam._run_task(("decode", log_probs, WEIGHTS))
        assert tokenizer.decode(pieces) == "THE GOAT SAT"
        assert pool.decode([log_probs], WEIGHTS) == [pieces]


@pytest.mark.parametrize("with_lm", [True, False])
def test_streams_hear_them_too(tokenizer, model, with_lm):
    log_probs = posteriors(tokenizer, "THE GOAT SAT", other="THE DOAT SAT", by=1.0)
    lm_path, weights = (model, WEIGHTS) if with_lm else (None, GREEDY)
    decoder = BeamDecoder(lm_path, tokenizer, hotwords=[Hotword("goat", 8.0)])
    stream = BeamWords(tokenizer, 0.04, decoder, weights)
    words = [word for part in np.array_split(log_probs, 5) for word in stream.push(part).words]
    assert " ".join(word.text for word in words + stream.finish().words) == "THE GOAT SAT"


# ---- n-best lists


@pytest.mark.parametrize("hotwords", [(), HOTWORDS])
@pytest.mark.parametrize("with_lm", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_an_n_best_list_has_the_best_first_and_adds_up(tokenizer, model, hotwords, with_lm, seed):
    log_probs = posteriors(tokenizer, "THE GOAT", sure=4.0, seed=seed)
    lm_path, weights = (model, WEIGHTS) if with_lm else (None, GREEDY)
    decoder = BeamDecoder(lm_path, tokenizer, 400, hotwords=hotwords)
    found = decoder.n_best(log_probs, weights, 60)
    scores = [item.parts.score for item in found]
    assert len(found) == 60 and scores == sorted(scores, reverse=True)
    assert len({tokenizer.decode(item.pieces) for item in found}) == len(found)
    assert scores[0] > decoder.decode_scored(log_probs, weights)[1] - 0.05  # which merges hypotheses
    targets = [torch.tensor([item.pieces]) for item in found]
    exact = [
        -torch.nn.functional.ctc_loss(
            torch.from_numpy(log_probs)[:, None].double(),
            target,
            [len(log_probs)],
            [target.shape[1]],
            reduction="sum",
        ).item()
        for target in targets
    ]
    acoustic = [item.parts.acoustic for item in found]
    assert all(part <= whole + 1e-6 for part, whole in zip(acoustic, exact, strict=True))
    assert acoustic[0] > exact[0] - 0.5  # the beam may have lost more alignments of others


def test_the_parts_of_a_score_are_what_they_say(tokenizer, model):
    words = WordModel(model, tokenizer, hotwords=HOTWORDS)
    weights = Weights(0.7, 0.3, 2.0)
    lm, by_words, hotwords = words.explain(tokenizer.encode("THE TOAD RAN DOGGO CAT"), weights)
    assert lm == pytest.approx(weights.decimal * words.model.score("THE TOAD RAN DOGGO CAT"))
    assert by_words == pytest.approx(5 * 0.3 - 2.0)  # DOGGO alone is unknown
    assert hotwords == pytest.approx(2 * 4.0 + 1.0)


@given(st.lists(st.sampled_from(["THE", "TOAD", "GOAT", "CAT", "DOGGO", "A"]), max_size=6))
@settings(max_examples=30, deadline=None)
def test_piece_by_piece_the_score_is_the_same(tokenizer, model, said):
    words, weights = WordModel(model, tokenizer, hotwords=HOTWORDS), Weights(0.7, 0.3, 2.0)
    reader, pieces = Reader(words, weights), tokenizer.encode(" ".join(said))
    reading = reader.start()
    for piece in pieces:
        reading = reader.go_on(reading, piece)
    log10, earned, _ = words.judge(reading.ended, len(words.words) - 1)
    whole = reading.now + weights.decimal * log10 + earned
    assert whole == pytest.approx(sum(words.explain(pieces, weights)))


# ---- A transducer's search


@pytest.mark.parametrize("with_lm", [True, False])
def test_a_transducer_finds_hotwords_among_all_that_it_may_say(tokenizer, model, with_lm):
    """Of random networks, with room for everything: the boost counts where the hotword is."""
    torch.manual_seed(1)
    transducer = Transducer(4, tokenizer.pieces, TransducerConfig(hidden=6, joint=5, most=3)).double().eval()
    [x] = [torch.randn(2, 4, dtype=torch.float64).numpy()]
    lm_path, weights = (model, WEIGHTS) if with_lm else (None, GREEDY)
    everything = {"beam": 10**5, "floor": -math.inf, "expansions": 1}
    piece = next(text[1:] for text in tokenizer.spoken() if text and text[0] == SPACE and text[1:])
    plain, hot = (
        TransducerSearch(transducer, WordModel(lm_path, tokenizer, hotwords=words), **everything)
        for words in ((), (Hotword(piece, 3.0),))
    )
    before = {tuple(item.said.classes): item.parts for item in plain.find([x], weights)[0]}
    after = {tuple(item.said.classes): item.parts for item in hot.find([x], weights)[0]}
    assert before.keys() == after.keys()
    count = 0
    for pieces, parts in after.items():
        times = tokenizer.decode(list(pieces)).split().count(piece)
        count += times
        assert parts.hotwords == pytest.approx(3.0 * times)
        assert parts._replace(hotwords=0.0) == pytest.approx(before[pieces])
        assert math.isclose(sum(parts), parts.score)
    assert count
    if not with_lm:  # where greedy decoding would do, hotwords are searched for all the same
        best = max(after, key=lambda pieces: after[pieces].score)
        assert hot.decode([x], GREEDY) == [list(best)]

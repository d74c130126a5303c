"""The transducer's beam search beside an exhaustive one."""

import itertools
import math

import kenlm
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decoding.label_looping import transducer_greedy
from asr.decoding.transducer_beam import TransducerSearch, ctc_log_likelihoods
from asr.decoding.weights import GREEDY, Weights
from asr.decoding.words import WordModel
from asr.errors import UserError
from asr.lm import build as lm
from asr.model.classes import BLANK
from asr.model.ctc import CTCHead
from asr.model.transducer import Transducer, TransducerConfig

DIM = 4
TEXT = ["A B", "AB A", "B", "AB AB", "BA A"] * 10
EVERYTHING = {"beam": 10**6, "floor": -math.inf}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_tokenizer(TEXT, 8, "char"))


@pytest.fixture(scope="module")
def words(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text("\n".join(TEXT))
    lm.estimate([folder / "text.txt"], 2, folder / "lm.bin", estimator="own")
    return WordModel(folder / "lm.bin", tokenizer)


def make(pieces: int, seed: int = 0, blank: float = 0.0) -> Transducer:
    torch.manual_seed(seed)
    transducer = Transducer(DIM, pieces, TransducerConfig(hidden=6, joint=5, most=3)).double().eval()
    with torch.no_grad():
        for parameter in transducer.parameters():
            parameter *= 3
        transducer.joint.project.bias[BLANK] += blank
    return transducer


def noise(*lengths: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, DIM, generator=generator, dtype=torch.float64).numpy() for n in lengths]


@torch.no_grad()
def all_ways(transducer: Transducer, x: torch.Tensor, classes: tuple[int, ...], expansions: int) -> float:
    """ln P of pieces: each way to spread them over the frames, with no more than so many on one."""
    joint = transducer.joint
    predicted = joint.prediction(transducer.prediction(torch.tensor([classes], dtype=torch.long))[0])
    log_probs = joint(joint.encoder(x)[:, None], predicted[None]).log_softmax(-1)  # (N, U + 1, classes)
    ways = []
    for at in itertools.combinations_with_replacement(range(len(x)), len(classes)):
        if all(at.count(n) <= expansions for n in range(len(x))):
            said = sum(log_probs[n, u, classes[u]] for u, n in enumerate(at))
            blanks = sum(log_probs[n, sum(m <= n for m in at), BLANK] for n in range(len(x)))
            ways.append(torch.as_tensor(said + blanks))
    return torch.stack(ways).logsumexp(0).item()


@torch.no_grad()
def internal(transducer: Transducer, classes: tuple[int, ...]) -> float:
    joint = transducer.joint
    predicted = joint.prediction(transducer.prediction(torch.tensor([classes], dtype=torch.long))[0])
    logits = joint(joint.encoder(torch.zeros(DIM, dtype=torch.float64)), predicted)[:, 1:]
    return sum(logits.log_softmax(-1)[u, piece - 1].item() for u, piece in enumerate(classes))


def word_scores(words: WordModel, text: list[str], weights: Weights) -> float:
    """Of a text's words and its end, by the LM itself."""
    state, total = words.start().lm, 0.0
    for word in text:
        after = kenlm.State()
        total += weights.of_word(words.model.BaseScore(state, word, after), word not in words.words[:-2])
        state = after
    return total + weights.decimal * words.model.BaseScore(state, "</s>", kenlm.State())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 2), st.floats(-1, 2), st.floats(0, 1))
def test_without_pruning_it_is_the_exhaustive_search(seed, frames, expansions, blank, ilm_weight):
    transducer, [x] = make(2, seed, blank), noise(frames, seed=seed)
    weights = Weights(0.0, 0.0, 0.0, ilm_weight)
    [found] = TransducerSearch(transducer, expansions=expansions, **EVERYTHING).find([x], weights)
    wanted = {
        classes: all_ways(transducer, torch.from_numpy(x), classes, expansions)
        for count in range(frames * expansions + 1)
        for classes in itertools.product((1, 2), repeat=count)
    }
    assert {tuple(item.said.classes): item.parts.acoustic for item in found} == pytest.approx(
        wanted, abs=1e-9
    )
    scores = {classes: p - ilm_weight * internal(transducer, classes) for classes, p in wanted.items()}
    assert {tuple(item.said.classes): item.score for item in found} == pytest.approx(scores, abs=1e-9)
    assert found == sorted(found, key=lambda item: -item.score)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.floats(0.1, 2), st.floats(-1, 3), st.floats(-2, 5), st.floats(0, 0.8))
def test_words_are_scored_as_the_lm_does(words, tokenizer, seed, lm_weight, word_score, penalty, ilm_weight):
    transducer, [x] = make(tokenizer.pieces, seed), noise(2, seed=seed)
    weights = Weights(lm_weight, word_score, penalty, ilm_weight)
    [found] = TransducerSearch(transducer, words, expansions=2, **EVERYTHING).find([x], weights)
    text = [piece for piece, spoken in enumerate(tokenizer.spoken()) if spoken is not None]
    sequences = [pieces for n in range(5) for pieces in itertools.product(text, repeat=n)]
    wanted = {
        pieces: all_ways(transducer, torch.from_numpy(x), pieces, 2)
        - ilm_weight * internal(transducer, pieces)
        + word_scores(words, tokenizer.decode(list(pieces)).split(), weights)
        for pieces in sequences
    }
    assert {tuple(item.said.classes): item.score for item in found} == pytest.approx(wanted, abs=1e-9)


def test_with_room_enough_on_a_frame_it_is_the_loss():
    transducer, [x] = make(3), noise(3)
    [found] = TransducerSearch(transducer, expansions=3, **EVERYTHING).find([x], Weights(0, 0, 0))
    for item in found:
        if len(item.said.classes) <= 3:
            loss = transducer.loss(
                torch.from_numpy(x)[None],
                torch.tensor([3]),
                torch.tensor([item.said.classes], dtype=torch.long),
                torch.tensor([len(item.said.classes)]),
            )
            assert item.parts.acoustic == pytest.approx(-loss.item(), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 6), st.lists(st.integers(1, 12), min_size=2, max_size=5))
def test_batch_mates_change_nothing(words, tokenizer, seed, beam, lengths):
    transducer, frames = make(tokenizer.pieces, seed, blank=4.0), noise(*lengths, seed=seed)
    search = TransducerSearch(transducer, words, beam)
    weights = Weights(0.5, 0.5, 2.0, 0.2)
    together = search.find(frames, weights)
    alone = [search.find([item], weights)[0] for item in frames]
    for several, single in zip(together, alone, strict=True):
        assert [item.said.classes for item in several] == [item.said.classes for item in single]
        assert [item.said.frames for item in several] == [item.said.frames for item in single]
        assert [item.score for item in several] == pytest.approx([item.score for item in single], abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 8))
def test_no_two_in_the_beam_have_the_same_pieces_and_none_is_overrated(seed, beam):
    transducer, [x] = make(3, seed, blank=1.0), noise(5, seed=seed)
    [found] = TransducerSearch(transducer, beam=beam, expansions=2).find([x], Weights(0, 0, 0))
    pieces = [tuple(item.said.classes) for item in found]
    assert len(set(pieces)) == len(pieces) <= beam
    for item in found:
        whole = all_ways(transducer, torch.from_numpy(x), tuple(item.said.classes), 2)
        assert item.parts.acoustic <= whole + 1e-9


def test_a_wider_beam_finds_what_greedy_does_not():
    """What the search is for: the best has a higher probability, never a lower one."""
    better = 0
    for seed in range(10):
        transducer, [x] = make(4, seed, blank=1.0), noise(5, seed=seed)
        [greedy] = transducer_greedy(transducer, torch.from_numpy(x)[None], torch.tensor([5]))
        [found] = TransducerSearch(transducer, beam=50).find([x], Weights(0, 0, 0))
        by_greedy = all_ways(transducer, torch.from_numpy(x), tuple(greedy.classes), 3)
        assert found[0].parts.acoustic >= by_greedy - 1e-9
        better += found[0].parts.acoustic > by_greedy + 1e-6
    assert better


def test_greedy_weights_are_greedy_decoding():
    transducer, frames = make(4, 1, blank=2.0).float(), [item.astype("float32") for item in noise(7, 4)]
    found = TransducerSearch(transducer).decode(frames, GREEDY)
    for item, classes in zip(frames, found, strict=True):
        [alone] = transducer_greedy(transducer, torch.from_numpy(item)[None], torch.tensor([len(item)]))
        assert classes == alone.classes


def test_a_transducer_with_durations_is_refused():
    with pytest.raises(UserError, match="durations"):
        TransducerSearch(Transducer(DIM, 3, TransducerConfig(hidden=6, joint=5, durations=(0, 1))))


def test_ctc_counts_by_all_alignments():
    transducer, [x] = make(3), noise(4)
    torch.manual_seed(1)
    head = CTCHead(DIM, 3).double().eval()
    search = TransducerSearch(transducer, beam=20, ctc=head, ctc_weight=0.7)
    [found] = search.find([x], Weights(0, 0, 0))
    log_probs = head(torch.from_numpy(x)[None])[0]
    paths: dict[tuple[int, ...], list] = {}
    for path in itertools.product(range(4), repeat=4):
        pieces = tuple(piece for piece, _ in itertools.groupby(path) if piece != BLANK)
        paths.setdefault(pieces, []).append(sum(log_probs[n, piece] for n, piece in enumerate(path)))
    for item in found:
        pieces = tuple(item.said.classes)
        ctc = torch.stack(paths[pieces]).logsumexp(0).item() if pieces in paths else -math.inf
        assert item.score == pytest.approx(item.parts.acoustic + 0.7 * ctc, abs=1e-9)
    assert found == sorted(found, key=lambda item: -item.score)
    [none] = ctc_log_likelihoods(log_probs[:1], [[1, 1, 1]])
    assert none == -math.inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding.label_looping import transducer_greedy
from asr.model.classes import BLANK
from asr.model.transducer import Transducer, TransducerConfig

DIM, PIECES = 4, 6


def make(seed: int, blank: float = 0.0, **options) -> Transducer:
    """An untrained one; louder, so that frames and pieces differ, and with a bias for blanks."""
    torch.manual_seed(seed)
    transducer = Transducer(DIM, PIECES, TransducerConfig(hidden=6, joint=5, **options)).double().eval()
    with torch.no_grad():
        for parameter in transducer.parameters():
            parameter *= 4
        transducer.joint.project.bias[BLANK] += blank
    return transducer


def plain_greedy(transducer: Transducer, x: torch.Tensor):
    """One frame and one piece after the other, with the whole prediction network for each."""
    config = transducer.config
    classes, frames, log_probs = [], [], []
    encoded, n, here = transducer.joint.encoder(x), 0, 0
    while n < len(x):
        predicted = transducer.prediction(torch.tensor([classes], dtype=torch.long))[0, -1]
        logits = transducer.joint(encoded[n], transducer.joint.prediction(predicted))
        best = logits[: PIECES + 1].log_softmax(-1).max(-1)
        speaks = best.indices != BLANK
        jump = 0 if speaks else 1
        if config.durations:
            jump = max(jump, config.durations[logits[PIECES + 1 :].argmax()])
        if speaks:
            classes.append(best.indices.item())
            frames.append(n)
            log_probs.append(best.values.item())
            here += 1
            jump = max(jump, int(here == config.most))
        if jump:
            n, here = n + jump, 0
    return classes, frames, log_probs


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_utterance_is_the_plain_loops(data):
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    window, most = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    durations = data.draw(st.sampled_from([(), (0, 1, 2, 3, 4), (1,), (0,), (3, 0, 12)]))
    activation = data.draw(st.sampled_from(["relu", "tanh", "sigmoid"]))
    seed, layers, blank = (data.draw(s) for s in (st.integers(0, 50), st.integers(1, 2), st.floats(0, 20)))
    transducer = make(seed, blank, layers=layers, durations=durations, activation=activation, most=most)
    x = torch.randn(len(lengths), max(lengths), DIM, dtype=torch.float64)
    found = transducer_greedy(transducer, x, torch.tensor(lengths), window)
    for row, length, one in zip(x, lengths, found, strict=True):
        classes, frames, log_probs = plain_greedy(transducer, row[:length])
        assert (one.classes, one.frames) == (classes, frames)
        assert one.log_probs == pytest.approx(log_probs, rel=1e-5, abs=1e-6)


def test_blanks_and_pieces_both_come():
    """What the other tests draw is no silence, and no endless speech."""
    x, lengths = torch.randn(20, 30, DIM, dtype=torch.float64), torch.full((20,), 30)
    found = [transducer_greedy(make(1, blank), x, lengths) for blank in (0, 10, 40)]
    counts = {len(item.classes) for items in found for item in items}
    assert 0 in counts and len(counts) > 5


def test_one_that_never_says_a_blank_ends():
    transducer = make(0, blank=-1e9)
    [found] = transducer_greedy(transducer, torch.randn(1, 3, DIM, dtype=torch.float64), torch.tensor([3]))
    assert found.frames == [n for n in range(3) for _ in range(transducer.config.most)]


def test_python_loops_over_neither_frames_nor_utterances(monkeypatch):
    """Passes are as many as the longest utterance has pieces, and a window's share of the frames more."""
    transducer = make(3, blank=12)
    x, lengths = torch.randn(16, 400, DIM, dtype=torch.float64), torch.full((16,), 400)
    passes, step = [], transducer.prediction.step
    monkeypatch.setattr(transducer.prediction, "step", lambda *args: passes.append(1) or step(*args))
    found = transducer_greedy(transducer, x, lengths, window=8)
    pieces = [len(item.classes) for item in found]
    assert 0 < max(pieces) < sum(pieces)
    assert len(passes) <= 1 + max(pieces) + 400 // 8 + 1

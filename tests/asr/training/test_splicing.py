import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import UserError
from asr.training import splicing
from asr.training.config import parse_config
from asr.training.splicing import FADE, LONGEST, SHORTEST, splice, spliced

RATE = 16_000


def numbered(lengths: list[int]) -> torch.Tensor:
    """Utterances whose samples are all different, so that each tells where it comes from; padding is -1."""
    waveforms = torch.full((len(lengths), max(lengths)), -1.0, dtype=torch.float64)
    for row, n in enumerate(lengths):
        waveforms[row, :n] = torch.arange(n) + 1_000_000 * (row + 1)
    return waveforms


def numbers(waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """All samples of utterances, one utterance after another."""
    return torch.cat([row[:n] for row, n in zip(waveforms, lengths.tolist(), strict=True)])


@given(st.lists(st.integers(1, 5 * RATE), min_size=1, max_size=5), st.integers(0, 10_000))
def test_every_whole_piece_comes_once_and_no_padding(lengths, seed):
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splicing, "FADE", 0)
        waveforms, counted = splice(numbered(lengths), torch.tensor(lengths))
    assert waveforms.shape == (len(lengths), max(counted)) and (counted <= torch.tensor(lengths)).all()
    assert all((row[n:] == 0).all() for row, n in zip(waveforms, counted.tolist(), strict=True))
    heard = numbers(waveforms, counted)
    assert len(heard) == len(heard.unique())
    assert torch.isin(heard, numbers(numbered(lengths), torch.tensor(lengths))).all()
    # Samples follow one another but where a piece begins.
    size = math.gcd(*counted.tolist())
    runs = heard.view(-1, size) if size <= 3 * RATE else heard[None]
    within = (runs.diff() == 1).sum(1)
    assert (within >= size - 1 - size // min(SHORTEST * RATE, min(lengths))).all()


def test_pieces_are_of_half_a_second_to_three_and_of_any_utterance(monkeypatch):
    monkeypatch.setattr(splicing, "FADE", 0)
    lengths, sizes, rows = [10 * RATE, 9 * RATE, 9 * RATE], set(), set()
    for seed in range(40):
        torch.manual_seed(seed)
        waveforms, counted = splice(numbered(lengths), torch.tensor(lengths))
        first = waveforms[0, : counted[0]]
        ends = [0, *((first.diff() != 1).nonzero().flatten() + 1).tolist(), len(first)]
        sizes.add(min(b - a for a, b in pairwise(ends)))
        rows |= set((first // 1_000_000).int().tolist())
    assert rows == {1, 2, 3} and len(sizes) > 30
    assert SHORTEST * RATE <= min(sizes) <= 0.7 * RATE and 2.5 * RATE <= max(sizes) <= LONGEST * RATE


def test_packed_samples_stay_integers_and_ends_fade():
    torch.manual_seed(3)
    lengths = torch.tensor([3 * RATE, 2 * RATE])
    waveforms, _ = splice(torch.full((2, 3 * RATE), 1000, dtype=torch.int16), lengths)
    assert waveforms.dtype == torch.int16 and waveforms[0, 0] == 0
    assert 490 <= waveforms[0, FADE // 2] <= 510 and waveforms[0, FADE] == 1000


def test_a_run_without_it_draws_nothing_for_it():
    batch, before = object(), torch.get_rng_state()
    assert spliced(batch, 0.0) is batch and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--training.splice 0.5: wants --training.teacher"),
        (["--training.teacher", "x", "--training.distil_encoder", "1"], None),
        (
            ["--training.teacher", "x", "--training.distil_encoder", "1", "--training.splice", "1.5"],
            "--training.splice 1.5: out of range",
        ),
    ],
)
def test_it_wants_a_teacher(options, message):
    arguments = ["--out", "x", "--training.splice", "0.5", *options]
    if message is None:
        assert parse_config(arguments).training.splice == 0.5
        return
    with pytest.raises(UserError, match=f"^{message}"):
        parse_config(arguments)

"""Posteriors of a split: those of its batches, whoever read the audio and when."""

import numpy as np
import pytest
import torch

from asr.data.batches import SpeechDataset, collate, make_batches
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.decoding.posteriors import compute_posteriors, log_probs_of, long_log_probs_of, spread
from asr.model.classes import BLANK
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model


def random_model(pieces: int) -> Model:
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=5)
    return Model(ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20)), pieces).eval()


def test_reading_ahead_changes_no_bit(corpus):
    utterances = read_manifest(corpus / "test.jsonl")
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    model = random_model(tokenizer.pieces)
    found = compute_posteriors(model, utterances, tokenizer, 6.0, "")
    assert found.utterances == utterances
    dataset = SpeechDataset(utterances, tokenizer)
    batches = make_batches([utterance.duration for utterance in utterances], 6.0, rng=None)
    assert len(batches) > 2
    for indices in batches:
        batch = collate([dataset[index] for index in indices])
        for index, expected in zip(indices, log_probs_of(model, batch.waveforms, batch.lengths), strict=True):
            np.testing.assert_array_equal(found.log_probs[index], expected)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_recording_that_stands_still_is_blank_whatever_the_model_and_its_batch_mates(value):
    model = random_model(9)
    model.head.project.bias.data[3] = 100.0  # says one piece to everything
    sound = torch.randn(16_000) / 10
    waveforms = torch.stack((torch.full((16_000,), value), sound))
    lengths = torch.tensor([9_000, 16_000])
    still, moving = log_probs_of(model, waveforms, lengths)
    with torch.no_grad():
        expected, frames = model(waveforms, lengths)
    assert still.shape == (frames[0], 10) and (still.argmax(1) == BLANK).all()
    assert np.isfinite(still).all() and (still[:, BLANK] == 0).all()
    np.testing.assert_array_equal(moving, expected[1].numpy())


@pytest.mark.parametrize("at", [None, 0, 20_000, 49_999])
def test_a_long_recording_is_blank_where_no_sample_of_any_part_differs(at):
    model = random_model(9)
    model.head.project.bias.data[3] = 100.0
    waveform = torch.full((50_000,), 0.25)
    if at is not None:
        waveform[at] = 0.5
    for parts in (waveform, waveform.split(10_000), [waveform[:0], waveform[:1], waveform[1:]]):
        best = np.concatenate(list(long_log_probs_of(model, parts, ""))).argmax(1)
        assert (best == (BLANK if at is None else 3)).all()


def test_utterances_to_tune_on_are_evenly_spread():
    assert spread(list("abcdefghij"), 0) == list("abcdefghij") == spread(list("abcdefghij"), 99)
    assert spread(list("abcdefghij"), 5) == list("acegi")
    assert spread(list("abc"), 2) == list("ab")

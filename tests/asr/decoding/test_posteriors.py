"""Posteriors of a split: those of its batches, whoever read the audio and when."""

import numpy as np
import torch

from asr.data.batches import SpeechDataset, collate, make_batches
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.decoding.posteriors import compute_posteriors, log_probs_of
from asr.model.config import ModelConfig
from asr.model.conformer import EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model


def test_reading_ahead_changes_no_bit(corpus):
    utterances = read_manifest(corpus / "test.jsonl")
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    torch.manual_seed(0)
    encoder = EncoderConfig(dim=16, layers=2, heads=2, kernel=5)
    model = Model(ModelConfig("mala", encoder=encoder, frontend=FrontendConfig(mels=20)), tokenizer.pieces)
    found = compute_posteriors(model.eval(), utterances, tokenizer, 6.0, "")
    assert found.utterances == utterances
    dataset = SpeechDataset(utterances, tokenizer)
    batches = make_batches([utterance.duration for utterance in utterances], 6.0, rng=None)
    assert len(batches) > 2
    for indices in batches:
        batch = collate([dataset[index] for index in indices])
        for index, expected in zip(indices, log_probs_of(model, batch.waveforms, batch.lengths), strict=True):
            np.testing.assert_array_equal(found.log_probs[index], expected)

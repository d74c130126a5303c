"""Recordings in chunks against recordings at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.attention import ATTENTIONS, parse_attention
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.decoding.posteriors import compute_posteriors
from asr.model.config import ModelConfig
from asr.model.conformer import Encoder, EncoderConfig, SubsamplingConfig
from asr.model.frontend import FrontendConfig
from asr.model.long import encode_long, long_features, long_log_probs
from asr.model.nemo_frontend import make_frontend
from asr.model.recogniser import Model

TINY = EncoderConfig(dim=16, layers=2, heads=2, kernel=5, dropout=0.1)
SUBSAMPLINGS = [SubsamplingConfig(kind, factor, 6) for kind in ("full", "depthwise") for factor in (4, 8)]


def make_encoder(attention: str, positions: str = "auto", lepe: int = 0, config=TINY) -> Encoder:
    torch.manual_seed(0)
    options = {name: ATTENTIONS[name].Options(lepe=lepe) for name in parse_attention(attention)}
    encoder = Encoder(config, 20, attention, positions, options).double().eval()
    for buffer in encoder.buffers():
        buffer.uniform_(0.5, 2)
    return encoder


@pytest.mark.parametrize(
    ("attention", "positions"),
    [(name, positions) for name, cls in ATTENTIONS.items() for positions in cls.POSITIONS]
    + [("mala,softmax", "auto"), ("agent,linear", "sinusoid")],
)
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 150), chunk=st.integers(1, 20), lepe=st.sampled_from([0, 5]))
def test_chunks_encode_to_what_the_whole_encodes_to(attention, positions, n, chunk, lepe):
    encoder = make_encoder(attention, positions, lepe)
    features = torch.randn(n, 20, dtype=torch.float64)
    whole, _ = encoder(features[None], torch.tensor([n]))
    assert torch.allclose(encode_long(encoder, features, chunk), whole[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS, ids=str)
@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 150), chunk=st.integers(1, 20))
def test_chunks_of_every_subsampling(subsampling, n, chunk):
    encoder = make_encoder("mala", config=replace(TINY, subsampling=subsampling))
    features = torch.randn(n, 20, dtype=torch.float64)
    whole, _ = encoder(features[None], torch.tensor([n]))
    assert torch.allclose(encode_long(encoder, features, chunk), whole[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [{}, {"kind": "nemo"}, {"kind": "nemo", "edges": "old"}], ids=str)
@settings(max_examples=15, deadline=None)
@given(samples=st.integers(1, 30_000), chunk=st.integers(1, 60), part=st.integers(1, 9000))
def test_features_in_chunks_equal_features_at_once(kind, samples, chunk, part):
    frontend = make_frontend(FrontendConfig(mels=20, **kind)).double().eval()
    waveform = torch.randn(samples, dtype=torch.float64)
    whole, lengths = frontend(waveform[None], torch.tensor([samples]))
    features = long_features(frontend, waveform, chunk)
    assert features.shape == (frontend.framing.features(samples), 20) and lengths.item() == len(features)
    assert torch.allclose(features, whole[0], atol=1e-5)
    assert torch.allclose(long_features(frontend, iter(waveform.split(part)), chunk), features, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_log_probabilities_in_fp32(attention):
    torch.manual_seed(0)
    config = ModelConfig(attention, encoder=TINY, frontend=FrontendConfig(mels=20))
    model = Model(config, pieces=30).eval()
    waveform = torch.randn(5 * 16_000)
    with torch.inference_mode():
        whole, _ = model(waveform[None], torch.tensor([len(waveform)]))
    parts = list(long_log_probs(model, waveform, chunk=37))
    assert [len(part) for part in parts] == [37, 37, 37, 14]
    assert torch.allclose(torch.cat(parts), whole[0], atol=1e-4)


def test_decoding_sends_long_utterances_by_the_long_path(corpus):
    utterances = read_manifest(corpus / "test.jsonl")
    tokenizer = Tokenizer.load(corpus / "tokenizer.model")
    torch.manual_seed(0)
    config = ModelConfig("mala", encoder=TINY, frontend=FrontendConfig(mels=20))
    model = Model(config, tokenizer.pieces).eval()
    together = compute_posteriors(model, utterances, tokenizer, 120.0, "")
    in_chunks = compute_posteriors(model, utterances, tokenizer, 0.1, "")
    for a, b in zip(together.log_probs, in_chunks.log_probs, strict=True):
        assert a.shape == b.shape and np.allclose(a, b, atol=1e-4)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="evaluation mode"):
        encode_long(make_encoder("mala").train(), torch.zeros(9, 20, dtype=torch.float64))

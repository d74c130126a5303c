import dataclasses
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.attention import ATTENTIONS
from asr.errors import UserError
from asr.model.conformer import (
    SIZES,
    Encoder,
    EncoderConfig,
    MaskedBatchNorm,
    Subsampling,
    SubsamplingConfig,
    resolve_size,
)
from asr.model.frames import subsampled, valid_frames

TINY = EncoderConfig(dim=16, layers=2, heads=2, kernel=5, dropout=0.0)


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_encoder_s_with_relative_positions_has_the_published_size():
    assert count(Encoder(EncoderConfig("S"), 80, "softmax")) == pytest.approx(8.71e6, rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_encodes(size):
    encoder = Encoder(dataclasses.replace(EncoderConfig(size), layers=1), 80, "mala")
    x, lengths = encoder(torch.randn(1, 30, 80), torch.tensor([30]))
    assert x.shape == (1, 8, SIZES[size]["dim"]) and lengths.tolist() == [8]


@pytest.mark.parametrize("attention", ATTENTIONS)
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=2, max_size=4), extra=st.integers(0, 9))
def test_padding_and_batch_mates_change_nothing(attention, lengths, extra):
    torch.manual_seed(0)
    encoder = Encoder(TINY, 20, attention).double().eval()
    features = torch.randn(len(lengths), max(lengths) + extra, 20, dtype=torch.float64)
    valid = valid_frames(torch.tensor(lengths), features.shape[1])
    features = torch.where(valid[..., None], features, 100.0)
    together, frames = encoder(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone, n = encoder(features[row : row + 1, :length], torch.tensor([length]))
        assert n.item() == frames[row].item() == subsampled(length, 4) == alone.shape[1]
        assert torch.allclose(together[row, : n.item()], alone[0], atol=1e-9)


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("kind", ["full", "depthwise"])
def test_every_subsampling_leaves_padding_out(kind, factor):
    torch.manual_seed(0)
    subsampling = Subsampling(20, 16, SubsamplingConfig(kind, factor, channels=6)).double()
    features, lengths = torch.randn(5, 70, 20, dtype=torch.float64), [70, 33, 32, 9, 1]
    together, frames = subsampling(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone, n = subsampling(features[row : row + 1, :length], torch.tensor([length]))
        assert n.item() == frames[row].item() == -(-length // factor) == alone.shape[1]
        assert torch.allclose(together[row, : n.item()], alone[0], atol=1e-12)


def test_depthwise_subsampling_is_that_of_fastconformer():
    """Its weights: 3x3 for one channel, then for two strides 3x3 a channel and a matrix of channels."""
    channels, dim, mels = 256, 144, 80
    convolutions = 10 * channels + 2 * (10 * channels + channels * (channels + 1))
    subsampling = Subsampling(mels, dim, SubsamplingConfig("depthwise", 8, channels))
    assert count(subsampling) == convolutions + (channels * mels // 8 + 1) * dim


@pytest.mark.parametrize("attention", [*ATTENTIONS, "mala,softmax"])
def test_training_statistics_leave_padding_out(attention):
    """The loss's gradient in training mode, batch norm included, is the same with more padding."""
    torch.manual_seed(0)
    encoder = Encoder(TINY, 20, attention).double()
    features, lengths = torch.randn(2, 40, 20, dtype=torch.float64), torch.tensor([40, 23])
    gradients = []
    for extra in (0, 8):
        encoder.zero_grad()
        padded = torch.nn.functional.pad(features, (0, 0, 0, extra), value=7.0)
        x, n = encoder(padded, lengths)
        (x * valid_frames(n, x.shape[1])[..., None]).square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def test_masked_batch_norm_equals_batch_norm_on_the_valid_frames():
    torch.manual_seed(0)
    ours, theirs = MaskedBatchNorm(6).double(), torch.nn.BatchNorm1d(6).double()
    x, valid = torch.randn(3, 9, 6, dtype=torch.float64), valid_frames(torch.tensor([9, 4, 1]), 9)
    for _ in range(3):
        assert torch.allclose(ours(x, valid)[valid], theirs(x[valid]))
    assert torch.allclose(ours.running_mean, theirs.running_mean)
    assert torch.allclose(ours.running_var, theirs.running_var)
    assert torch.allclose(ours.eval()(x, valid)[valid], theirs.eval()(x[valid]))


def test_features_on_a_device_and_lengths_on_the_cpu(monkeypatch):
    """As training has them. Meta stands for a device whose values nobody may wait for; it has no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    encoder = Encoder(TINY, 20, "mala").to("meta")
    x, lengths = encoder(torch.empty(2, 30, 20, device="meta"), torch.tensor([30, 9]))
    assert x.is_meta and lengths.tolist() == [8, 3]


def test_a_batch_without_numbers_leaves_no_trace_in_the_running_statistics():
    norm, valid = MaskedBatchNorm(6), torch.ones(2, 5, dtype=torch.bool)
    norm(torch.randn(2, 5, 6), valid)
    before = norm.running_mean.clone(), norm.running_var.clone()
    norm(torch.full((2, 5, 6), float("nan")), valid)
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])


def test_frozen_statistics_are_those_of_evaluation_and_stay():
    norm, valid = MaskedBatchNorm(6, statistics="frozen"), torch.ones(2, 5, dtype=torch.bool)
    torch.nn.init.normal_(norm.running_mean)
    before, x = norm.running_mean.clone(), torch.randn(2, 5, 6)
    trained = norm(x, valid)
    assert torch.equal(norm.running_mean, before)
    assert torch.equal(norm.eval()(x, valid), trained)
    trained.sum().backward()
    assert norm.weight.grad.abs().sum() > 0


def test_the_residual_stream_is_before_and_after_every_block():
    encoder = Encoder(dataclasses.replace(TINY, layers=3), 20, "mala").eval()
    features, lengths = torch.randn(1, 30, 20), torch.tensor([30])
    first, *stream = encoder.residual_stream(features, lengths)
    assert torch.equal(first, encoder.subsampling(features, lengths)[0])
    assert not torch.equal(stream[1], stream[2]) and encoder(features, lengths)[1].tolist() == [8]
    for x in reversed(stream):
        assert torch.equal(x, encoder(features, lengths)[0])
        del encoder.blocks[-1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EncoderConfig("XXL"), "--encoder.size XXL: choose one of XS, S, M, L"),
        (EncoderConfig("S", kernel=4), "--encoder.kernel 4: must be odd"),
        (EncoderConfig("S", layers=-1), "--encoder.layers -1: must be positive"),
    ],
)
def test_bad_sizes_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        resolve_size(config)


def test_unknown_attention_is_refused():
    with pytest.raises(
        UserError, match="--attention nope: 'nope' is unknown; choose from softmax, linear, mala"
    ):
        Encoder(TINY, 20, "nope")


def test_compiled_blocks_do_the_same_at_any_batch_size_and_length():
    torch.manual_seed(0)
    plain, compiled = Encoder(TINY, 20, "mala"), Encoder(TINY, 20, "mala")
    compiled.load_state_dict(plain.state_dict())
    compiled.compile_blocks("aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for rows, frames in ((2, 90), (3, 131)):
        features = torch.randn(rows, frames, 20)
        lengths = torch.tensor([frames, *[frames // 2] * (rows - 1)])
        found = []
        for encoder in (plain, compiled):
            encoder.zero_grad()
            x, n = encoder(features, lengths)
            (x * valid_frames(n, x.shape[1])[..., None]).square().sum().backward()
            found.append([p.grad.clone() for p in encoder.parameters()])
        for one, other in zip(*found, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("attention", "layers"),
    [
        ("mala", "mala mala mala mala mala"),
        ("mala,softmax", "mala softmax mala softmax mala"),
        ("linear,mala,mala,mala,softmax", "linear mala mala mala softmax"),
    ],
)
def test_a_list_of_mechanisms_is_repeated_over_the_layers(attention, layers):
    encoder = Encoder(dataclasses.replace(TINY, layers=5), 20, attention)
    wanted = [ATTENTIONS[name] for name in layers.split()]
    assert [type(block.attention) for block in encoder.blocks] == wanted
    assert {name: type(layer) for name, layer in encoder.mechanisms.items()} == {
        name: ATTENTIONS[name] for name in layers.split()
    }


def test_a_list_longer_than_the_layers_is_refused():
    with pytest.raises(UserError, match="--attention mala,mala,softmax: names 3 layers of 2"):
        Encoder(dataclasses.replace(TINY, layers=2), 20, "mala,mala,softmax")

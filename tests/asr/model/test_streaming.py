"""Streams, chunk by chunk, against one pass over the whole in which no frame sees beyond its chunk."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.attention import ATTENTIONS, parse_attention
from asr.errors import UserError
from asr.model.config import ModelConfig
from asr.model.conformer import Convolution, EncoderConfig, SubsamplingConfig
from asr.model.frontend import FrontendConfig
from asr.model.long import long_features, long_log_probs
from asr.model.recogniser import Model
from asr.model.streaming import Stream

TINY = EncoderConfig(dim=16, layers=2, heads=2, kernel=5, dropout=0.1)
RUNNING = FrontendConfig(mels=20, normalise="running")
STREAMS = [name for name in ATTENTIONS if name not in ("cosformer", "agent")]
CASES = [(name, positions) for name in STREAMS for positions in ATTENTIONS[name].POSITIONS]


def build(attention: str, positions: str = "auto", encoder=TINY, frontend=RUNNING, **options) -> Model:
    torch.manual_seed(0)
    chosen = {}
    for name in parse_attention(attention):
        known = vars(ATTENTIONS[name].Options())
        chosen[name] = ATTENTIONS[name].Options(**{k: v for k, v in options.items() if k in known})
    config = ModelConfig(attention, positions, chosen, encoder, frontend)
    model = Model(config, pieces=30).double().eval()
    for buffer in model.encoder.buffers():
        buffer.uniform_(0.5, 2)
    if frontend.normalise == "running":
        model.frontend.running.mean.fill_(-6.0)
        model.frontend.running.deviation.fill_(2.0)
    return model


def speech(samples: int) -> torch.Tensor:
    """Noise whose loudness changes, so that running means do."""
    loudness = torch.rand(samples // 800 + 1, dtype=torch.float64).repeat_interleave(800)[:samples]
    return (0.3 * loudness * torch.randn(samples, dtype=torch.float64)).clamp(-1, 1)


def whole(model: Model, waveform: torch.Tensor, chunk: int) -> torch.Tensor:
    with torch.inference_mode():
        return model(waveform[None], torch.tensor([len(waveform)]), chunk)[0][0]


def streamed(model: Model, waveform: torch.Tensor, chunk: int, sizes) -> torch.Tensor:
    stream, found, start = Stream(model, chunk), [], 0
    for size in sizes:
        found.append(stream.feed(waveform[start : start + size].numpy()))  # or a tensor
        start += size
    found.append(stream.feed(waveform[start:]))
    return torch.cat([*found, stream.finish()])


@pytest.mark.parametrize(
    ("attention", "positions"), [*CASES, ("mala,softmax", "auto"), ("nala,linear", "none")]
)
@settings(max_examples=8, deadline=None)
@given(
    samples=st.integers(1, 40_000),
    chunk=st.integers(1, 20),
    sizes=st.lists(st.integers(0, 9000), max_size=6),
    lepe=st.sampled_from([0, 5]),
    forget=st.sampled_from(["none", "fixed"]),
    left=st.integers(0, 40),
)
def test_streams_give_what_one_pass_gives(attention, positions, samples, chunk, sizes, lepe, forget, left):
    model = build(attention, positions, lepe=lepe, forget=forget, half_life=20.0, left=left)
    waveform = speech(samples)
    expected = whole(model, waveform, chunk)
    found = streamed(model, waveform, chunk, sizes)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "depthwise"])
@pytest.mark.parametrize("factor", [4, 8])
@settings(max_examples=10, deadline=None)
@given(samples=st.integers(1, 40_000), chunk=st.integers(1, 20), size=st.integers(1, 9000))
def test_every_subsampling(kind, factor, samples, chunk, size):
    model = build("mala", encoder=replace(TINY, subsampling=SubsamplingConfig(kind, factor, 6)))
    waveform = speech(samples)
    found = streamed(model, waveform, chunk, [size] * (samples // size))
    assert torch.allclose(found, whole(model, waveform, chunk), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("edges", ["new", "old"])
@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1, 20_000),
    chunk=st.integers(1, 12),
    sizes=st.lists(st.integers(0, 700) | st.integers(0, 9000), max_size=8),
)
def test_features_of_nemo_s(edges, samples, chunk, sizes):
    """Pre-emphasis and pads go on from block to block too."""
    model = build("mala", frontend=replace(RUNNING, kind="nemo", edges=edges))
    waveform = speech(samples)
    expected = whole(model, waveform, chunk)
    found = streamed(model, waveform, chunk, sizes)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(samples=st.integers(1, 40_000), at_once=st.integers(1, 50), chunk=st.integers(1, 20))
def test_much_at_once_goes_in_parts(samples, at_once, chunk):
    model, waveform = build("mala"), speech(samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asr.model.streaming.AT_ONCE", at_once)
        found = streamed(model, waveform, chunk, [])
    assert torch.allclose(found, whole(model, waveform, chunk), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("attention", STREAMS)
def test_fp32_is_near_float64(attention):
    model, waveform = build(attention), speech(160_000)
    exact = whole(model, waveform, 8)
    found = streamed(model.float(), waveform.float(), 8, [5000] * 30)
    assert found.dtype == torch.float32 and (found - exact).abs().max() < 1e-3


@pytest.mark.parametrize("attention", STREAMS)
def test_nothing_grows(attention):
    model, sizes = build(attention, left=16).float(), []
    stream = Stream(model, 4)
    for _ in range(60):
        stream.feed(speech(2560).float())
        sizes.append(stream.state_bytes)
    assert len(set(sizes[20:])) == 1


def test_chunks_and_padding_do_not_mix():
    """In a batch, in chunks, an utterance gives what it gives alone."""
    model, lengths = build("mala", lepe=3), [30_000, 12_345, 600]
    waveforms = torch.stack([speech(30_000) for _ in lengths])
    together, frames = model(waveforms, torch.tensor(lengths), 4)
    for row, (length, n) in enumerate(zip(lengths, frames.tolist(), strict=True)):
        assert torch.allclose(together[row, :n], whole(model, waveforms[row, :length], 4), atol=1e-9)


@pytest.mark.parametrize("attention", STREAMS)
def test_what_comes_after_a_chunk_changes_nothing(attention):
    model, features = build(attention).encoder, torch.randn(1, 103, 20, dtype=torch.float64)
    for factor_end in (16, 32, 48):  # features of 1, 2 and 3 chunks of 4 encoded frames
        part, _ = model(features[:, :factor_end], torch.tensor([factor_end]), 4)
        all_of_it, _ = model(features, torch.tensor([103]), 4)
        assert torch.allclose(part, all_of_it[:, : factor_end // 4], atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 40), chunk=st.integers(1, 12), kernel=st.sampled_from([1, 3, 15]))
def test_convolutions_see_what_precedes_and_zeros_after_the_chunk(n, chunk, kernel):
    """By definition: each chunk as the end of an utterance."""
    module = Convolution(16, kernel, 0.0).double().eval()
    x, valid = torch.randn(1, n, 16, dtype=torch.float64), torch.ones(1, n, dtype=torch.bool)
    found = module(x, valid, chunk)
    for start in range(0, n, chunk):
        end = min(start + chunk, n)
        assert torch.allclose(
            found[:, start:end], module(x[:, :end], valid[:, :end])[:, start:end], atol=1e-12
        )


def test_the_full_context_is_another_thing():
    model, waveform = build("mala"), speech(30_000)
    chunked, full = whole(model, waveform, 4), whole(model, waveform, 0)
    assert (chunked - full).abs().max() > 1e-3
    long = torch.cat(list(long_log_probs(model, waveform, chunk=7)))
    assert torch.allclose(long, full, atol=1e-9)


class TestRunningFeatures:
    @settings(max_examples=20, deadline=None)
    @given(samples=st.integers(1, 20_000), half_life=st.sampled_from([0.0, 0.05, 3.0]), silent=st.booleans())
    def test_by_their_definition(self, samples, half_life, silent):
        """Frame by frame, the mean and deviation of what has been heard, weighted."""
        model = build("mala", frontend=replace(RUNNING, half_life=half_life))
        frontend, waveform = model.frontend, speech(samples)
        if silent:
            waveform[samples // 3 : 2 * samples // 3] = 0
        raw = frontend.log_mel(waveform[None])[0]
        heard, weights = [], []
        found, _ = frontend.features(waveform[None], torch.tensor([samples]))
        for frame, y in zip(raw, found[0], strict=True):
            if not (frame < -18.4).all():
                weights = [w * (0.5 ** (0.01 / half_life) if half_life else 1.0) for w in weights]
                heard.append(frame)
                weights.append(1.0)
            prior = 200 * (0.5 ** (0.01 * len(heard) / half_life) if half_life else 1.0)
            w = torch.tensor(weights, dtype=torch.float64)[:, None]
            x = torch.stack(heard) if heard else torch.empty(0, 20, dtype=torch.float64)
            total = prior + w.sum()
            mean = (prior * -6.0 + (w * x).sum(0)) / total
            variance = (prior * (4 + (-6.0 - mean) ** 2) + (w * (x - mean) ** 2).sum(0)) / total
            assert torch.allclose(y, (frame - mean) / variance.sqrt().clamp(min=0.5), atol=1e-8)

    @settings(max_examples=15, deadline=None)
    @given(samples=st.integers(1, 30_000), chunk=st.integers(1, 60), half_life=st.sampled_from([0.0, 0.5]))
    def test_in_parts_of_a_long_recording(self, samples, chunk, half_life):
        frontend = build("mala", frontend=replace(RUNNING, half_life=half_life)).frontend
        waveform = speech(samples)
        expected, _ = frontend(waveform[None], torch.tensor([samples]))
        assert torch.allclose(long_features(frontend, waveform, chunk), expected[0], atol=1e-9)

    @pytest.mark.parametrize("half_life", [0.0, 1.0])
    def test_hours_of_digital_silence_change_nothing(self, half_life):
        model = build("mala", frontend=replace(RUNNING, half_life=half_life))
        running = model.frontend.running
        before = torch.randn(1, 100, 20, dtype=torch.float64) - 6
        silence = torch.full((1, 100_000, 20), -18.420680743952367, dtype=torch.float64)
        _, heard = running(before, torch.ones(1, 100, dtype=torch.bool))
        y, after = running(silence, torch.ones(1, 100_000, dtype=torch.bool), heard)
        assert y.isfinite().all()
        assert all(torch.allclose(a, b) for a, b in zip(heard, after, strict=True))


class TestFaults:
    def test_samples_that_are_no_numbers_do_not_outlast_themselves(self):
        model, waveform = build("mala"), speech(40_000)
        broken, mended = waveform.clone(), waveform.clone()
        broken[5000:5100], broken[5100:5200], broken[5200:5300] = float("nan"), float("inf"), 7.0
        mended[5000:5100], mended[5100:5300] = 0, 1
        assert torch.equal(streamed(model, broken, 4, [777] * 9), streamed(model, mended, 4, [777] * 9))

    def test_sixteen_bit_samples_are_taken(self):
        model = build("mala").float()
        integers = (speech(20_000) * 32767).round().to(torch.int16)
        found = streamed(model, integers, 4, [3000])
        assert torch.allclose(found, streamed(model, integers.float() / 32768, 4, [3000]), atol=1e-5)

    def test_nothing_at_all(self):
        stream = build("mala").stream()
        assert stream.feed(torch.empty(0)).shape == (0, 31) and stream.finish().shape == (0, 31)
        with pytest.raises(ValueError, match="has been finished"):
            stream.feed(torch.zeros(9))

    def test_models_that_want_the_whole_recording_are_refused(self):
        plain = FrontendConfig(mels=20)
        with pytest.raises(UserError, match="cannot stream: its features are normalised by the mean"):
            build("mala", frontend=plain).stream()
        for name in ("agent", "cosformer"):
            with pytest.raises(UserError, match=f"cannot stream: {name} cannot work chunk by chunk"):
                build(f"mala,{name}", "none").stream()
        with pytest.raises(ValueError, match="evaluation mode"):
            build("mala").train().stream()

    def test_chunks_are_whole_frames(self):
        assert build("mala").stream(0.16).chunk == 4
        with pytest.raises(
            UserError, match="chunks of 100 ms: must be a multiple of this model's frames of 40"
        ):
            build("mala").stream(0.1)
        with pytest.raises(UserError, match="chunks of 0 ms"):
            build("mala").stream(0)

    def test_forgetting_wants_running_features(self):
        with pytest.raises(UserError, match=r"--frontend\.half_life 3: wants --frontend\.normalise running"):
            build("mala", frontend=FrontendConfig(half_life=3.0))

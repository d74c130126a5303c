import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.model.frames import FFT, HOP, Framing
from asr.model.frontend import Frontend, FrontendConfig
from asr.model.long import long_features
from asr.model.nemo_frontend import make_frontend

KINDS = [
    FrontendConfig(),
    FrontendConfig(kind="nemo", edges="new"),
    FrontendConfig(kind="nemo", edges="old"),
]


@pytest.mark.parametrize("config", KINDS, ids=str)
@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 20_000), min_size=1, max_size=4), extra=st.integers(0, 3000))
def test_features_do_not_depend_on_padding(config, lengths, extra):
    frontend = make_frontend(config).double().eval()
    waveforms = torch.zeros(len(lengths), max(lengths) + extra, dtype=torch.float64)
    for row, length in enumerate(lengths):
        waveforms[row, :length] = torch.randn(length)
    together, frames = frontend(waveforms, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone, n = frontend(waveforms[row : row + 1, :length], torch.tensor([length]))
        assert n.item() == frames[row].item() == frontend.framing.features(length) == alone.shape[1]
        assert torch.allclose(together[row, : n.item()], alone[0], atol=1e-6)
        assert (together[row, n.item() :] == 0).all()


def test_each_mel_bin_has_mean_0_and_deviation_1():
    features, _ = Frontend(FrontendConfig()).eval()(torch.randn(1, 48_000), torch.tensor([48_000]))
    assert features.mean(1).abs().max() < 1e-4
    deviation = features.std(1, correction=0)
    # White noise moves a bin by less than the floor of 0.5 nats only where many FFT bins are averaged.
    assert (deviation <= 1 + 1e-4).all() and (deviation > 0.3).all()


def test_a_tone_shows_in_its_mel_bin():
    time = torch.arange(16_000) / 16_000
    frontend = Frontend(FrontendConfig()).eval()
    mel = frontend.mel(torch.sin(2 * math.pi * 1000 * time)[None])[0].mean(-1)
    # HTK mel scale: 1000 Hz is mel 1000 of 0 ... 2840 in 80 bins.
    assert mel.argmax().item() == pytest.approx(1000 / 2840 * 81 - 1, abs=1)


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_digital_silence_has_features_of_zero_whole_and_in_chunks(config):
    """Rounding is all that a bin that stands still could be blown up from."""
    frontend = make_frontend(config).eval()
    whole, _ = frontend(torch.zeros(1, 50_001), torch.tensor([50_001]))
    assert whole.abs().max() == 0 and long_features(frontend, torch.zeros(50_001), 64).abs().max() < 1e-4


def test_masks_stay_within_the_utterance_and_their_width():
    torch.manual_seed(0)
    config = FrontendConfig(frequency_masks=1, frequency_width=10, time_masks=1, time_width=0.1)
    frontend = Frontend(config)
    lengths = torch.tensor([300, 100])
    for _ in range(50):
        x = torch.ones(2, 300, 80)
        masked = frontend.mask(x, lengths) == 0
        for row, length in enumerate(lengths.tolist()):
            frames = masked[row].all(-1).nonzero().flatten()
            bins = masked[row].all(0).nonzero().flatten()
            assert len(frames) <= 0.1 * length and len(bins) <= 10
            for band in (frames, bins):
                assert not len(band) or band[-1] - band[0] + 1 == len(band)
            assert not len(frames) or frames[-1] < length


def test_masks_differ_between_utterances():
    torch.manual_seed(0)
    masked = Frontend(FrontendConfig()).mask(torch.ones(8, 200, 80), torch.full((8,), 200))
    assert len({tuple(row.flatten().tolist()) for row in masked}) == 8


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_perturbation_changes_length_and_pitch(speed):
    time = torch.arange(16_000) / 16_000
    frontend = Frontend(FrontendConfig(speeds=(speed,))).train()
    tone = torch.sin(2 * math.pi * 440 * time)[None]
    faster, length = frontend.perturb_speed(tone, torch.tensor([16_000]))
    assert length.item() == pytest.approx(16_000 / speed, abs=2) == faster.shape[1]
    spectrum = torch.fft.rfft(faster[0, :14_000]).abs()
    assert spectrum.argmax().item() * 16_000 / 14_000 == pytest.approx(440 * speed, abs=2)


def test_augmentation_is_for_training_only():
    frontend = Frontend(FrontendConfig())
    waveforms, lengths = torch.randn(1, 16_000), torch.tensor([16_000])
    frontend.eval()
    assert torch.equal(frontend(waveforms, lengths)[0], frontend(waveforms, lengths)[0])
    frontend.train()
    assert not torch.equal(frontend(waveforms, lengths)[0], frontend(waveforms, lengths)[0])


def test_frame_lengths_agree_with_the_transform():
    frontend = Frontend(FrontendConfig()).eval()
    for samples in (FFT, FFT + HOP - 1, FFT + HOP, 16_000):
        assert frontend.mel(torch.zeros(1, samples)).shape[-1] == Framing().features(samples)

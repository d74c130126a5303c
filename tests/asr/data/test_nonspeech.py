import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.data.nonspeech import KINDS, LEVELS, NonSpeech, make
from asr.model.frames import SAMPLE_RATE


def level(samples: np.ndarray) -> float:
    """In dB of full scale."""
    return 10 * np.log10(np.square(samples / 32768).mean())


def spectrum(kind: str) -> np.ndarray:
    """Power of ten seconds of a kind in bins of 100 Hz."""
    samples = KINDS[kind](np.random.default_rng(1), 10 * SAMPLE_RATE)
    return np.square(np.abs(np.fft.rfft(samples)))[: 8000 * 10].reshape(80, 1000).mean(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 160, 16_001])
def test_a_kind_is_as_long_as_asked_for_and_a_function_of_the_generator(kind, n):
    first, again, other = (make(kind, n, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (n,) and first.dtype == np.int16
    assert np.array_equal(first, again)
    if n > 160 and kind != "silence":
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "silence"])
def test_levels_are_spread_between_the_limits(kind):
    levels = [level(make(kind, 8000, np.random.default_rng(seed))) for seed in range(40)]
    assert LEVELS[0] - 3 < min(levels) < -65 and -30 < max(levels) <= LEVELS[1] + 0.1


def test_silence_is_digital():
    assert not make("silence", 1000, np.random.default_rng(1)).any()


@pytest.mark.parametrize(("kind", "slope"), [("white", 0), ("pink", 1), ("brown", 2)])
def test_noise_falls_with_the_frequency_as_its_colour_says(kind, slope):
    power = spectrum(kind)
    fall = np.log(power[2:8].mean() / power[20:80].mean()) / np.log(5000 / 500)
    assert fall == pytest.approx(slope, abs=0.25)


def test_hum_is_of_the_mains_harmonics_alone():
    samples = KINDS["hum"](np.random.default_rng(3), SAMPLE_RATE)  # bins of 1 Hz
    power = np.square(np.abs(np.fft.rfft(samples)))
    loud = np.flatnonzero(power > 1e-9 * power.max())
    assert len(loud) and (not (loud % 50).any() or not (loud % 60).any())


def test_clicks_are_few_samples_and_tones_few_frequencies():
    clicks, tones = (KINDS[kind](np.random.default_rng(5), 10 * SAMPLE_RATE) for kind in ("clicks", "tones"))
    for power in (np.square(clicks), np.square(np.abs(np.fft.rfft(tones)))):
        loudest = np.sort(power)[-len(power) // 20 :]
        assert loudest.sum() > 0.8 * power.sum()


@given(number=st.integers(0, 10**6), seed=st.integers(-5, 5), share=st.floats(0, 0.9))
def test_a_clip_is_a_function_of_seed_and_number_and_as_long_as_it_says(number, seed, share):
    first, again = (NonSpeech([0.1, 0.25], share, seed) for _ in range(2))
    utterance, samples = first.utterance(number), first.samples(number)
    assert utterance == again.utterance(number) and np.array_equal(samples, again.samples(number))
    assert utterance.text == "" and len(samples) == utterance.duration * SAMPLE_RATE


def test_clips_have_their_share_of_the_audio_and_every_kind_comes():
    durations = [1.0, 2.0, 3.0, 10.0] * 500
    clips = NonSpeech(durations, 0.1, seed=1)
    seconds = sum(clips.utterance(number).duration for number in range(clips.an_epoch))
    assert seconds / (seconds + sum(durations)) == pytest.approx(0.1, abs=0.02)
    assert {clips.utterance(number).id.split("-")[-1] for number in range(100)} == set(KINDS)
    assert NonSpeech(durations, 0.0, seed=1).an_epoch == 0

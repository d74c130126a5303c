"""Sounds that hold no speech, made by formulas: to train on with empty transcripts, and to try models on.

A model that has heard nothing but speech says words to whatever it hears. Its front end makes that worse:
it brings every recording to the same level, so that a faint hiss looks as loud as a voice.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np

from asr.data.manifest import Utterance
from asr.data.packed import quantise
from asr.model.frames import SAMPLE_RATE

LEVELS = -80.0, -10.0  # dB of full scale, which levels are drawn between

Generator = np.random.Generator
# The generator and a number of samples to samples (n,), at any level.
Sound = Callable[[Generator, int], np.ndarray]


def silence(draw: Generator, n: int) -> np.ndarray:
    """Digital silence: zeros."""
    return np.zeros(n)


def coloured(exponent: float) -> Sound:
    """Gaussian noise whose power falls with the frequency f as f^-exponent, from 20 Hz on."""

    def noise(draw: Generator, n: int) -> np.ndarray:
        frequencies = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
        spectrum = np.fft.rfft(draw.standard_normal(n))
        return np.fft.irfft(spectrum * np.maximum(frequencies, 20) ** (-exponent / 2), n)

    return noise


def gusts(draw: Generator, n: int) -> np.ndarray:
    """Noise that swells and fades one to eight times a second, as wind, waves and rubbing cloth do."""
    rate = draw.uniform(1, 8)
    knots = draw.uniform(-30, 0, int(n / SAMPLE_RATE * rate) + 2)  # dB
    level = np.interp(np.arange(n) / SAMPLE_RATE * rate, np.arange(len(knots)), knots)
    return coloured(draw.uniform(0, 2))(draw, n) * 10 ** (level / 20)


def hum(draw: Generator, n: int) -> np.ndarray:
    """Mains hum: 50 or 60 Hz and some of its harmonics, the higher the weaker."""
    times = np.arange(n) / SAMPLE_RATE
    mains = draw.choice([50.0, 60.0])
    orders = np.arange(1, draw.integers(2, 31))
    amplitudes = orders ** -draw.uniform(0.5, 2) * draw.uniform(0.1, 1, len(orders))
    phases = draw.uniform(0, 2 * np.pi, len(orders))
    return sum(
        amplitude * np.sin(2 * np.pi * mains * order * times + phase)
        for order, amplitude, phase in zip(orders, amplitudes, phases, strict=True)
    )


def clicks(draw: Generator, n: int) -> np.ndarray:
    """Clicks at random, a third of one to ten a second: each rings for some milliseconds."""
    samples = np.zeros(n)
    for _ in range(1 + draw.poisson(n / SAMPLE_RATE * draw.uniform(0.3, 10))):
        decay, pitch = draw.uniform(0.0005, 0.02), draw.uniform(100, 6000)  # s, Hz
        times = np.arange(int(8 * decay * SAMPLE_RATE)) / SAMPLE_RATE
        click = draw.uniform(0.1, 1) * np.exp(-times / decay) * np.cos(2 * np.pi * pitch * times)
        _add(samples, click, draw.integers(n))
    return samples


def tones(draw: Generator, n: int) -> np.ndarray:
    """Music of a kind: decaying notes and chords with harmonics, one to five times a second."""
    samples = np.zeros(n)
    beat = SAMPLE_RATE / draw.uniform(1, 5)
    fade = draw.uniform(0.05, 1.5)  # s
    harmonics = np.arange(1, draw.integers(2, 12))
    shares = harmonics ** -draw.uniform(0.5, 2.5)
    times = np.arange(int(min(5 * fade, n / SAMPLE_RATE) * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = np.exp(-times / fade) * np.minimum(times / 0.005, 1)  # no click at its start
    for start in np.arange(0, n, beat):
        for semitones in draw.integers(-24, 25, draw.integers(1, 5)):
            note = 440 * 2 ** (semitones / 12)
            heard = harmonics * note < SAMPLE_RATE / 2
            waves = np.sin(2 * np.pi * note * harmonics[heard, None] * times)
            _add(samples, draw.uniform(0.3, 1) * envelope * (shares[heard] @ waves), int(start))
    return samples


def _add(samples: np.ndarray, part: np.ndarray, start: int) -> None:
    part = part[: len(samples) - start]
    samples[start : start + len(part)] += part


KINDS: dict[str, Sound] = {
    "silence": silence,
    "white": coloured(0),
    "pink": coloured(1),
    "brown": coloured(2),
    "gusts": gusts,
    "hum": hum,
    "clicks": clicks,
    "tones": tones,
}


def make(kind: str, n: int, draw: Generator) -> np.ndarray:
    """Some sound of a kind: (n,) int16 at 16 kHz, at a random level between LEVELS."""
    samples = KINDS[kind](draw, n)
    power = np.mean(np.square(samples))
    level = 10 ** (draw.uniform(*LEVELS) / 20)
    return quantise(samples * level / np.sqrt(power)) if power else quantise(samples)


class NonSpeech:
    """Clips without end, as utterances with empty transcripts; clip n is a function of the seed and n alone.

    Args:
        durations: of the speech beside which they are, in seconds; each clip is as long as some of it.
        share: that they should have of all audio, below 1.
        seed: another one, other clips.

    Attributes:
        an_epoch: clips beside one pass over the speech.
    """

    def __init__(self, durations: Sequence[float], share: float, seed: int) -> None:
        self.durations, self.seed = durations, seed
        self.an_epoch = round(len(durations) * share / (1 - share))

    def utterance(self, number: int) -> Utterance:
        """Clip ``number`` as a manifest would have it, but that its audio is in no file."""
        kind, duration, _ = self._drawn(number)
        return Utterance(f"nonspeech-{number}-{kind}", "", duration, "", "")

    def samples(self, number: int) -> np.ndarray:
        """Clip ``number``: (S,) int16 at 16 kHz."""
        kind, duration, seed = self._drawn(number)
        return make(kind, round(duration * SAMPLE_RATE), np.random.default_rng(seed))

    def _drawn(self, number: int) -> tuple[str, float, int]:
        draw = random.Random(f"{self.seed}/nonspeech/{number}")
        return draw.choice(list(KINDS)), draw.choice(self.durations), draw.getrandbits(64)

"""Waveforms to normalised log-mel features, on whatever device the batch is, and their augmentation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torchaudio
import torchaudio.functional as AF
from torch import Tensor, nn

from asr.bounds import bounded
from asr.model.frames import FFT, HOP, SAMPLE_RATE, WINDOW, Edges, Framing, valid_frames
from asr.model.running import SMALLEST_DEVIATION, RunningNorm

SMALLEST_ENERGY = 1e-8  # of a mel bin


@dataclass(frozen=True)
class FrontendConfig:
    """Features and their augmentation.

    Args:
        kind: htk (our own) or nemo (those of NVIDIA NeMo's models: pre-emphasis, Slaney's mel scale).
        normalise: what mean and deviation of each mel bin are taken over: utterance, or running (what has
            been heard so far, after a little of the training data; for streams).
        half_life: with running, seconds after which what was heard weighs half; 0: it always weighs the same.
        edges: of kind nemo, how the ends of an utterance are framed: new (NeMo 2.5 and later) or old.
        mels: number of mel bins.
        f_max: top of the highest mel bin in Hz. Lower it where recordings differ in bandwidth.
        frequency_masks: SpecAugment's frequency masks per utterance.
        frequency_width: greatest width of one in mel bins.
        time_masks: SpecAugment's time masks per utterance.
        time_width: greatest width of one as a share of the utterance.
        speeds: speed perturbation: one of these factors is drawn for every training batch.
    """

    kind: Literal["htk", "nemo"] = "htk"
    edges: Literal["new", "old"] = "new"
    normalise: Literal["utterance", "running"] = "utterance"
    half_life: float = bounded(0.0, 0, 10_000)
    mels: int = bounded(80, 1, 1024)
    f_max: float = bounded(8000.0, 1, SAMPLE_RATE / 2)
    frequency_masks: int = bounded(2, 0, 1000)
    frequency_width: int = bounded(27, 0, 1024)
    time_masks: int = bounded(10, 0, 1000)
    time_width: float = bounded(0.05, 0, 1)
    speeds: tuple[float, ...] = bounded((0.9, 1.0, 1.1), 0.5, 2)

    @property
    def framing_edges(self) -> Edges:
        """How windows lie at the ends of an utterance."""
        return self.edges if self.kind == "nemo" else "inside"


class Preparer:
    """``Frontend.prepare`` of one recording that comes in parts. As they are, unless a kind overrides it."""

    def push(self, part: Tensor) -> Tensor:
        """The next part (n,) to what is ready, (m,)."""
        return part

    def finish(self) -> Tensor:
        """What is left, (m,)."""
        return torch.zeros(0)


class Frontend(nn.Module):
    """Waveforms to log-mel, each mel bin normalised to mean 0 and deviation 1.

    Augments in training mode only. Every frame lies inside its utterance, so that padding cannot
    reach it. Other kinds override ``MEL`` and the four steps from ``prepare`` to ``divisor``.
    """

    MEL: ClassVar[dict[str, Any]] = {}  # options of the mel spectrogram beside those that all kinds share

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        self.framing = Framing(config.framing_edges)
        if config.normalise == "running":
            silence = self.log(torch.zeros(())).item()
            self.running = RunningNorm(config.mels, config.half_life, silence)
        self.mel = torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE, FFT, WINDOW, HOP, f_max=config.f_max, n_mels=config.mels, center=False, **self.MEL
        )

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor, views: int = 1) -> tuple[Tensor, Tensor]:
        """waveforms (B, S), lengths (B,) in samples to (B, T, mels), lengths (B,).

        Waveforms are float in [-1, 1], or 16-bit integers as packed recordings have them. In training
        mode with several ``views``, the batch comes so many times, each masked anew: (views B, T, mels).
        Lengths may stay on the CPU while waveforms are elsewhere, and come back from where they were.
        """
        waveforms, lengths = self.perturb(waveforms, lengths)
        return self.masked(*self.features(waveforms, lengths), views)

    @torch.no_grad()
    def perturb(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``forward``'s first step: as floats, and in training mode at another speed."""
        with torch.autocast(waveforms.device.type, enabled=False):
            waveforms = as_float(waveforms)
            return self.perturb_speed(waveforms, lengths) if self.training else (waveforms, lengths)

    @torch.no_grad()
    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The second: floats (B, S), lengths (B,) to features (B, T, mels), lengths (B,)."""
        with torch.autocast(waveforms.device.type, enabled=False):
            on_device = lengths.to(waveforms.device, non_blocking=True)  # the device is not waited for
            x = self.log_mel(self.prepare(waveforms, on_device))
            lengths, on_device = (self.framing.features(n) for n in (lengths, on_device))
            return self.normalise(x, valid_frames(on_device, x.shape[1])), lengths

    @torch.no_grad()
    def masked(self, x: Tensor, lengths: Tensor, views: int = 1) -> tuple[Tensor, Tensor]:
        """The last: in training mode the features so many times, each masked anew."""
        if not self.training:
            return x, lengths
        on_device = lengths.to(x.device, non_blocking=True)
        return torch.cat([self.mask(x, on_device) for _ in range(views)]), lengths.repeat(views)

    def prepare(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """waveforms (B, S), lengths (B,) to what windows are laid over, (B, S + pads)."""
        return waveforms

    def preparer(self) -> "Preparer":
        """``prepare`` of one recording that comes in parts."""
        return Preparer()

    def prepare_parts(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """``prepare`` of one recording that comes in parts, (n,) each, all of which there are."""
        preparer = self.preparer()
        yield from map(preparer.push, parts)
        if len(end := preparer.finish()):
            yield end

    def log_mel(self, prepared: Tensor) -> Tensor:
        """Prepared waveforms (B, S) to log-mel (B, T, mels), not normalised."""
        # A recording shorter than one window still gives one frame.
        shortfall = FFT - prepared.shape[1]
        if shortfall > 0:
            prepared = torch.nn.functional.pad(prepared, (0, shortfall))
        return self.log(self.mel(prepared)).transpose(1, 2)

    def log(self, mel: Tensor) -> Tensor:
        """Logarithm of energies that may be 0."""
        return mel.clamp(min=SMALLEST_ENERGY).log()

    def divisor(self, squares: Tensor, count) -> Tensor:
        """What to divide a bin by, whose ``count`` values have this sum of squares about their mean."""
        return (squares / count).sqrt().clamp(min=SMALLEST_DEVIATION)

    def normalise(self, x: Tensor, valid: Tensor) -> Tensor:
        """Mean 0 and deviation 1 per mel bin; zero on padding. x (B, T, F), valid (B, T)."""
        if self.config.normalise == "running":
            return self.running(x, valid)[0]
        keep = valid[..., None]
        count = keep.sum(1, keepdim=True).clamp(min=1)
        # In fp64, as rounding would be all that is left of a bin that stands still.
        mean = ((x * keep).sum(1, keepdim=True, dtype=torch.float64) / count).to(x.dtype)
        x = (x - mean) * keep
        return x / self.divisor(x.square().sum(1, keepdim=True), count)

    def perturb_speed(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Play the batch at one of the configured speeds (Ko et al. 2015, Interspeech)."""
        speeds = self.config.speeds
        speed = speeds[int(torch.randint(len(speeds), ()))]
        if speed == 1.0:
            return waveforms, lengths
        # Hundredths keep the resampler's filter bank small (9:10 and 11:10).
        percent = round(100 * speed)
        waveforms = AF.resample(waveforms, percent, 100)
        lengths = (lengths * 100 + percent - 1) // percent
        return waveforms, lengths.clamp(max=waveforms.shape[1])

    def mask(self, x: Tensor, lengths: Tensor) -> Tensor:
        """SpecAugment (Park et al., arXiv 1904.08779) with time masks that scale with the utterance."""
        config = self.config
        size = torch.full_like(lengths, config.mels)
        frequency = _random_bands(config.frequency_masks, config.frequency_width, size, config.mels)
        widest = (lengths * config.time_width).long()
        time = _random_bands(config.time_masks, widest[:, None], lengths, x.shape[1])
        return x.masked_fill(frequency[:, None, :] | time[:, :, None], 0.0)


def as_float(waveforms: Tensor) -> Tensor:
    """16-bit samples to [-1, 1]; floats as they are. On the device, to which half as many bytes travel."""
    return waveforms if waveforms.is_floating_point() else waveforms / 32768


def _random_bands(count: int, widest, size: Tensor, n: int) -> Tensor:
    """(B, n) bool: True inside one of ``count`` random bands of up to ``widest`` within ``size`` (B,)."""
    shape = (size.shape[0], count)
    width = (torch.rand(shape, device=size.device) * (widest + 1)).long()
    width = torch.minimum(width, size[:, None])
    start = (torch.rand(shape, device=size.device) * (size[:, None] - width + 1)).long()
    place = torch.arange(n, device=size.device)
    inside = (place >= start[..., None]) & (place < (start + width)[..., None])
    return inside.any(1)

"""Rates, hops and lengths, from samples to encoded frames: the one place that knows them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asr.errors import UserError

SAMPLE_RATE = 16_000
HOP, WINDOW, FFT = 160, 400, 512  # samples: 10 ms, 25 ms, 32 ms

Edges = Literal["inside", "new", "old"]
# Samples put before and after an utterance, so that frames of FFT samples every HOP are centred as wanted.
_PADS: dict[Edges, tuple[int, int]] = {
    "inside": (0, 0),
    "new": (FFT // 2, FFT // 2 - HOP),
    "old": (FFT // 2, FFT // 2),
}


@dataclass(frozen=True)
class Framing:
    """How a model divides time.

    Args:
        edges: ``inside``: a feature's window lies wholly inside the utterance. ``new`` and ``old`` are those
            of NeMo since 2.5 and before: windows centred on every 160th sample, S // 160 of them among
            zeros, or S // 160 + 1 of them with the utterance reflected at its ends.
        factor: features that an encoded frame stands for, a power of two.
    """

    edges: Edges = "inside"
    factor: int = 4

    @property
    def pads(self) -> tuple[int, int]:
        """Samples that the front end puts before and after an utterance."""
        return _PADS[self.edges]

    @property
    def seconds(self) -> float:
        """That an encoded frame stands for."""
        return self.factor * HOP / SAMPLE_RATE

    def frames_in(self, seconds: float) -> int:
        """Encoded frames of a chunk of so many seconds; raises UserError where that is no whole number."""
        frames = round(seconds / self.seconds)
        if frames < 1 or abs(frames * self.seconds - seconds) > 1e-6:
            raise UserError(
                f"chunks of {1000 * seconds:g} ms: must be a multiple of this model's frames of "
                f"{1000 * self.seconds:g} ms"
            )
        return frames

    def features(self, samples):
        """Number of 10 ms frames in so many samples, at least 1. int or Tensor."""
        frames = (samples + sum(self.pads) - FFT) // HOP + 1
        return frames.clamp(min=1) if isinstance(frames, Tensor) else max(frames, 1)

    def encoded(self, samples):
        """Frames that the encoder gives for so many samples. int or Tensor."""
        return subsampled(self.features(samples), self.factor)


def subsampled(length, factor: int):
    """Length after convolutions of kernel 3, stride 2, padding 1 that divide it by ``factor``. int or Tensor.

    Each gives ceil(length / 2) of its input.
    """
    while factor > 1:
        length, factor = (length + 1) // 2, factor // 2
    return length


def valid_frames(lengths: Tensor, n: int) -> Tensor:
    """lengths (B,) to a mask (B, n), True where the frame exists."""
    return torch.arange(n, device=lengths.device) < lengths[:, None]

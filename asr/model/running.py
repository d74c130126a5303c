"""Features normalised by what has been heard so far, so that no frame waits for the utterance's end."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr.model.frames import HOP, SAMPLE_RATE

# Nats. Above a recording's bandwidth a bin hardly moves: do not blow its noise up.
SMALLEST_DEVIATION = 0.5
# Frames that the training data's mean and deviation stand for when a recording begins: two seconds.
PRIOR_FRAMES = 200
# Half-lives that are summed at a time, so that the weights 2^(t / half-life) stay in fp64's range.
REACH = 100


class Heard(NamedTuple):
    """Sums over the frames heard so far, in fp64, of the features less the training data's mean."""

    count: Tensor  # (B, 1)
    total: Tensor  # (B, F)
    squares: Tensor  # (B, F)


class RunningNorm(nn.Module):
    """Each mel bin to mean 0 and deviation 1 over the frames up to this one.

    What is heard begins with PRIOR_FRAMES frames of the training data's mean and deviation, and may be
    forgotten with a half-life. Frames of digital silence (a drop-out, a muted microphone) are not counted,
    and nothing is forgotten in them.

    Args:
        mels: bins F.
        half_life: seconds; 0 to forget nothing.
        silence: what a bin of no energy is.
    """

    def __init__(self, mels: int, half_life: float, silence: float) -> None:
        super().__init__()
        self.silence = silence
        frames = half_life * SAMPLE_RATE / HOP
        self.rate = math.log(2) / frames if frames else 0.0  # nats a frame
        self.register_buffer("mean", torch.zeros(mels))  # set before training (asr/training/streaming.py)
        self.register_buffer("deviation", torch.ones(mels))

    def begin(self, batch: int) -> Heard:
        """Before the first frame."""
        shape = batch, len(self.mean)
        variance = self.deviation.double().square().expand(shape)
        count = torch.full((batch, 1), float(PRIOR_FRAMES), dtype=torch.float64, device=self.mean.device)
        return Heard(count, torch.zeros(shape, dtype=torch.float64, device=count.device), count * variance)

    def forward(self, x: Tensor, valid: Tensor, heard: Heard | None = None) -> tuple[Tensor, Heard]:
        """Normalise.

        Args:
            x: (B, T, F) log-mel.
            valid: (B, T), the first frames of each.
            heard: what an earlier call gave; None at the beginning.

        Returns:
            (B, T, F) in x's dtype, zero on padding; and what the next call wants.
        """
        heard, found = heard or self.begin(len(x)), []
        span = max(1, int(REACH * math.log(2) / self.rate)) if self.rate else max(1, x.shape[1])
        for start in range(0, x.shape[1], span):
            y, heard = self._span(x[:, start : start + span], valid[:, start : start + span], heard)
            found.append(y)
        return (torch.cat(found, 1) if found else x), heard

    def _span(self, x: Tensor, valid: Tensor, heard: Heard) -> tuple[Tensor, Heard]:
        silent = (x <= self.silence + 1e-3).all(-1)
        counted = (valid & ~silent).double()[..., None]
        centred = x.double() - self.mean.double()
        left = torch.exp(-self.rate * counted.cumsum(1))
        count = _sums(heard.count, counted, left)
        mean = _sums(heard.total, counted * centred, left) / count
        squares = _sums(heard.squares, counted * centred.square(), left)
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_DEVIATION)
        y = ((centred - mean) / deviation).to(x.dtype) * valid[..., None]
        return y, Heard(count[:, -1], mean[:, -1] * count[:, -1], squares[:, -1])


def _sums(before: Tensor, x: Tensor, left: Tensor) -> Tensor:
    """What is left at each frame of x (B, T, e) up to it, and of what was ``before`` (B, e).

    left: (B, T, 1), of what was there before the first frame.
    """
    return left * (before[:, None] + (x / left).cumsum(1))

"""The features of NVIDIA NeMo's public models, so that those can be decoded exactly.

NeMo's AudioToMelSpectrogramPreprocessor with its defaults (NeMo 3.0, FilterbankFeatures). It differs from our
own front end in pre-emphasis, a symmetric window, Slaney's mel scale with area normalisation, ln(x + 2^-24),
frames that are centred, and a deviation with n - 1 in its denominator. At the ends of an utterance, NeMo had
one frame more and reflected the samples before its version 2.5; since then it sees zeros.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.errors import UserError
from asr.model.frames import valid_frames
from asr.model.frontend import Frontend, FrontendConfig, Preparer

PRE_EMPHASIS = 0.97
LOG_GUARD = 2.0**-24
DEVIATION_GUARD = 1e-5


class NemoFrontend(Frontend):
    """Waveforms to NeMo's features; padding never reaches a frame.

    In NeMo it does, with the old edges: a padded utterance ends in zeros there. Here it is reflected as it is
    alone. One of less than 257 samples, which NeMo cannot reflect, goes on with its first or last sample.
    """

    MEL: ClassVar[dict[str, Any]] = {
        "norm": "slaney",
        "mel_scale": "slaney",
        "wkwargs": {"periodic": False},
    }

    def prepare(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        x = torch.cat((waveforms[:, :1], waveforms[:, 1:] - PRE_EMPHASIS * waveforms[:, :-1]), 1)
        x = x * valid_frames(lengths, x.shape[1])
        return _reflect(x, lengths, *self.framing.pads) if self._reflects else F.pad(x, self.framing.pads)

    def preparer(self) -> "NemoPreparer":
        return NemoPreparer(*self.framing.pads, self._reflects)

    def log(self, mel: Tensor) -> Tensor:
        return (mel + LOG_GUARD).log()

    def divisor(self, squares: Tensor, count) -> Tensor:
        fewer = count.clamp(min=2) - 1 if isinstance(count, Tensor) else max(count, 2) - 1
        return (squares / fewer).sqrt() + DEVIATION_GUARD

    @property
    def _reflects(self) -> bool:
        return self.config.edges == "old"


def make_frontend(config: FrontendConfig) -> Frontend:
    """The front end of a kind.

    Raises:
        UserError: it has options that do not go together.
    """
    if config.half_life and config.normalise != "running":
        raise UserError(f"--frontend.half_life {config.half_life:g}: wants --frontend.normalise running")
    return {"htk": Frontend, "nemo": NemoFrontend}[config.kind](config)


class NemoPreparer(Preparer):
    """Pre-emphasis and pads of a recording that comes in parts.

    A pad reflects the samples next to an end, bar the last, so it waits for them.

    Args:
        before, after: pads in samples.
        reflects: whether they are the recording mirrored, or zeros.
    """

    def __init__(self, before: int, after: int, reflects: bool) -> None:
        self.before, self.after, self.reflects = before, after, reflects
        self.kept: Tensor | None = None  # of the recording: its last sample
        self.end: Tensor | None = None  # of it emphasised: the samples that the last pad reflects
        self.begun = False

    def push(self, part: Tensor) -> Tensor:
        if not len(part):
            return part
        held = part[:0] if self.kept is None else self.kept
        joined = torch.cat((held, part))
        emphasised = joined[1:] - PRE_EMPHASIS * joined[:-1]
        if self.kept is None:
            emphasised = torch.cat((part[:1], emphasised))
        self.kept = part[-1:].clone()
        if self.begun:
            self.end = torch.cat((self.end, emphasised))[-self.after - 1 :].clone()
            return emphasised
        self.end = emphasised if self.end is None else torch.cat((self.end, emphasised))
        if self.reflects and len(self.end) <= self.before:
            return part[:0]
        return self._begin()

    def finish(self) -> Tensor:
        if self.end is None:
            return torch.zeros(0)
        start = self.end[:0] if self.begun else self._begin()
        return torch.cat((start, self._pad(self.end, 0, self.after)[len(self.end) :]))

    def _begin(self) -> Tensor:
        """All so far, with the first pad."""
        self.begun, found = True, self._pad(self.end, self.before, 0)
        self.end = self.end[-self.after - 1 :].clone()
        return found

    def _pad(self, x: Tensor, before: int, after: int) -> Tensor:
        if not self.reflects:
            return F.pad(x, (before, after))
        return _reflect(x[None], torch.tensor([len(x)]), before, after)[0]


def _reflect(x: Tensor, lengths: Tensor, before: int, after: int) -> Tensor:
    """x (B, S), lengths (B,) to (B, before + S + after): each row goes on mirrored at both of its ends."""
    place = torch.arange(-before, x.shape[1] + after, device=x.device)
    last = (lengths.to(x.device) - 1).clamp(min=0)[:, None]
    mirrored = torch.minimum(place.abs(), last)
    mirrored = torch.where(place > last, (2 * last - place).clamp(min=0), mirrored)
    return x.gather(1, mirrored)

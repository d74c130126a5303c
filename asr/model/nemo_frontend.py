"""The features of NVIDIA NeMo's public models, so that those can be decoded exactly.

NeMo's AudioToMelSpectrogramPreprocessor with its defaults (NeMo 3.0, FilterbankFeatures). It differs from our
own front end in pre-emphasis, a symmetric window, Slaney's mel scale with area normalisation, ln(x + 2^-24),
frames that are centred, and a deviation with n - 1 in its denominator. At the ends of an utterance, NeMo had
one frame more and reflected the samples before its version 2.5; since then it sees zeros.
"""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.errors import UserError
from asr.model.frames import valid_frames
from asr.model.frontend import Frontend, FrontendConfig

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

    def prepare_parts(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        before, after = self.framing.pads
        emphasised = _emphasise_parts(parts)
        if not self._reflects:
            zeros = torch.zeros(before)
            yield zeros
            for part in emphasised:
                zeros = zeros.to(part)
                yield part
            yield zeros[:after]
            return
        # A pad reflects the samples next to an end, bar the last.
        start = next(emphasised, torch.zeros(0))
        while len(start) <= before and (part := next(emphasised, None)) is not None:
            start = torch.cat((start, part))
        yield _reflect(start[None], torch.tensor([len(start)]), before, 0)[0]
        end = start[-after - 1 :]
        for part in emphasised:
            yield part
            end = torch.cat((end, part))[-after - 1 :]
        yield _reflect(end[None], torch.tensor([len(end)]), 0, after)[0, len(end) :]

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
        UserError: it cannot normalise as it is told.
    """
    if config.kind == "nemo" and config.normalise == "running":
        raise UserError(
            "--frontend.normalise running: wants --frontend.kind htk; NeMo's models take the utterance's mean"
        )
    if config.half_life and config.normalise != "running":
        raise UserError(f"--frontend.half_life {config.half_life:g}: wants --frontend.normalise running")
    return {"htk": Frontend, "nemo": NemoFrontend}[config.kind](config)


def _emphasise_parts(parts: Iterable[Tensor]) -> Iterator[Tensor]:
    last = None  # sample of the part before, which the next one needs
    for part in parts:
        if not len(part):
            continue
        held = part[:0] if last is None else last
        joined = torch.cat((held, part))
        rest = joined[1:] - PRE_EMPHASIS * joined[:-1]
        yield torch.cat((part[:1], rest)) if last is None else rest
        last = part[-1:]


def _reflect(x: Tensor, lengths: Tensor, before: int, after: int) -> Tensor:
    """x (B, S), lengths (B,) to (B, before + S + after): each row goes on mirrored at both of its ends."""
    place = torch.arange(-before, x.shape[1] + after, device=x.device)
    last = (lengths.to(x.device) - 1).clamp(min=0)[:, None]
    mirrored = torch.minimum(place.abs(), last)
    mirrored = torch.where(place > last, (2 * last - place).clamp(min=0), mirrored)
    return x.gather(1, mirrored)

"""What a frame of a long recording is told of the rest of it: one change at a time, to a model as it is.

Used by length.py. In one pass over a recording, features are normalised by its mean and deviation, and
attention sees all of its frames. Each setting below replaces one of these, so that what harms a model can be
told from what does not. They are experiments, for softmax and for the mechanisms with centred statistics.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from asr.attention import Frames
from asr.attention.base import Projected, SelfAttention
from asr.attention.linear import CentredAttention
from asr.attention.masked import Statistics
from asr.errors import UserError
from asr.model.conformer import Encoder
from asr.model.frontend import Frontend

SETTINGS = """\
    features      features normalised over each utterance, not over the recording
    features:S    ... over a running window of S seconds around each frame
    attention     attention within each utterance
    attention:S   ... within stretches of S seconds and one more on either side
    means         linear family: each utterance's own means of keys and values, the recording's covariance
    covariance    ... its own covariance, the recording's means
    decay:S       linear family: what is S seconds away counts half, 2 S seconds away a quarter ...
    positions     rotary positions: from 0 again in every utterance
    cut:S         cut where it is quietest, into S / 2 to S seconds (decode.py --segment-seconds S)"""
BARE = ("features", "attention", "means", "covariance", "positions")  # by utterance
TIMED = ("features", "attention", "decay", "cut")
STATISTICS = ("means", "covariance", "decay")
DECAY_SPANS = 4  # to a half-life: statistics are told apart no finer


@dataclass(frozen=True)
class Way:
    """One way of encoding a recording: ``whole``, or settings joined by a plus.

    Args:
        name: as it was given.
        settings: seconds by a setting's name; 0 for the utterance.
    """

    name: str
    settings: dict[str, float]

    @property
    def attention(self) -> str | None:
        """The setting that decides what attention sees; None for everything."""
        return next((name for name in ("attention", *STATISTICS) if name in self.settings), None)


def parse_way(text: str) -> Way:
    """``whole``, or settings joined by a plus: ``features+attention``, ``features:60``.

    Raises:
        UserError: there is no such setting, or two do not go together.
    """
    settings: dict[str, float] = {}
    for part in [] if text == "whole" else text.split("+"):
        found = re.fullmatch(r"([a-z]+)(?::(\d+(?:\.\d+)?))?", part)
        name, seconds = found.groups() if found else ("", None)
        if name not in (BARE if seconds is None else TIMED) or (seconds and float(seconds) <= 0):
            raise UserError(f"--ways {text}: {part} is no setting; --help lists them")
        settings[name] = float(seconds or 0)
    way = Way(text, settings)
    if len(settings.keys() & {"attention", *STATISTICS}) > 1:
        raise UserError(f"--ways {text}: only one setting of what attention sees")
    if "cut" in settings and len(settings) > 1:
        raise UserError(f"--ways {text}: cut goes with no other setting")
    return way


def check_way(way: Way, encoder: Encoder) -> None:
    """Raise UserError where a model's attention has not what the way changes."""
    for name, attention in encoder.mechanisms.items():
        centred = isinstance(attention, CentredAttention)
        if way.attention in STATISTICS and not centred:
            raise UserError(f"--ways {way.name}: wants an attention with centred statistics, not {name}")
        if way.attention == "attention" and not (centred or name == "softmax"):
            raise UserError(f"--ways {way.name}: for softmax and the centred mechanisms, not {name}")
        if way.attention and centred and attention.forgets:
            raise UserError(f"--ways {way.name}: the statistics of {name} forget (--{name}.forget)")
        if "positions" in way.settings and attention.positions != "rotary":
            raise UserError(f"--ways {way.name}: wants rotary positions; {name} has {attention.positions}")


def normalise_spans(frontend: Frontend, x: Tensor, bounds: Sequence[int]) -> Tensor:
    """Log-mel (T, F), normalised over each of the spans between consecutive ``bounds``, from 0 to T."""
    parts = x.split([end - start for start, end in pairwise(bounds)])
    return torch.cat(
        [frontend.normalise(part[None], part.new_ones(1, len(part)).bool())[0] for part in parts]
    )


def normalise_running(frontend: Frontend, x: Tensor, window: int) -> Tensor:
    """Log-mel (T, F), each frame by mean and deviation of ``window`` frames around it, fewer at the ends."""
    place = torch.arange(len(x))
    first = (place - window // 2).clamp(min=0)
    last = (place + window // 2 + 1).clamp(max=len(x))
    count = (last - first)[:, None]
    wide = x.double()
    sums, squares = (torch.cat((y[:1] * 0, y.cumsum(0))) for y in (wide, wide.square()))
    mean = (sums[last] - sums[first]) / count
    variation = squares[last] - squares[first] - count * mean.square()
    return ((wide - mean) / frontend.divisor(variation.clamp(min=0), count)).to(x.dtype)


@contextmanager
def limited(encoder: Encoder, way: Way, bounds: Sequence[int], frame_seconds: float) -> Iterator[None]:
    """Let attention see what ``way`` says; ``bounds`` are the utterances' in encoded frames, from 0 to N."""
    kept = [block.attention for block in encoder.blocks]
    if way.attention or "positions" in way.settings:
        seconds = way.settings.get(way.attention, 0)
        if seconds:
            stretch = seconds / DECAY_SPANS if way.attention == "decay" else seconds
            bounds = [*range(0, bounds[-1], max(1, round(stretch / frame_seconds))), bounds[-1]]
        for block in encoder.blocks:
            block.attention = LimitedAttention(block.attention, way, bounds)
    try:
        yield
    finally:
        for block, attention in zip(encoder.blocks, kept, strict=True):
            block.attention = attention


class LimitedAttention(nn.Module):
    """An attention layer of a long recording whose frames are told less, span by span.

    It stands in the layer's place in asr/model/long.py, whose chunks need not be the spans.

    Args:
        attention: the layer.
        way: what its frames are told.
        bounds: first frames of the spans, and the recording's length.
    """

    def __init__(self, attention: SelfAttention, way: Way, bounds: Sequence[int]) -> None:
        super().__init__()
        self.attention, self.way, self.bounds = attention, way, bounds
        self.PASSES, self.halo = attention.PASSES, attention.halo

    def project(self, x: Tensor, frames: Frames) -> Projected:
        return self.attention.project(x, frames)

    def finish(self, projected: Projected, y: Tensor, token: Tensor | None, frames: Frames) -> Tensor:
        return self.attention.finish(projected, y, token, frames)

    def summarise(self, q: Tensor, k: Tensor, v: Tensor, frames: Frames, before: None) -> list:
        """A summary of each span that the chunk holds a part of, with the span's number."""
        return [
            (span, self.attention.summarise(q[:, :, part], k[:, :, part], v[:, :, part], its, None))
            for span, part, its in self._parts(frames)
        ]

    def combine(self, summaries: Sequence[list]) -> list:
        """A summary of what each span knows."""
        parts: list[list] = [[] for _ in self.bounds[1:]]
        for chunk in summaries:
            for span, summary in chunk:
                parts[span].append(summary)
        return _know(self.way, self.attention, [self.attention.combine(part) for part in parts])

    def spread(self, summaries: Sequence[list]) -> list[list]:
        return [self.combine(summaries)] * len(summaries)

    def answer(self, q: Tensor, k: Tensor, v: Tensor, known: list, frames: Frames) -> Tensor:
        return self.attend(q, known, frames)

    def attend(self, q: Tensor, known: list, frames: Frames) -> Tensor:
        parts = self._parts(frames)
        return torch.cat(
            [self.attention.attend(q[:, :, part], known[span], its) for span, part, its in parts], -2
        )

    def _parts(self, frames: Frames) -> Iterator[tuple[int, slice, Frames]]:
        """The parts of a chunk that lie in different spans: the span's number, where in the chunk, Frames."""
        end = frames.start + frames.valid.shape[1]
        for span, (first, last) in enumerate(pairwise(self.bounds)):
            start, stop = max(first, frames.start), min(last, end)
            if start < stop:
                part = slice(start - frames.start, stop - frames.start)
                origin = first if "positions" in self.way.settings else 0
                yield span, part, Frames(frames.valid[:, part], frames.lengths, start - origin)


def _know(way: Way, attention: SelfAttention, spans: list) -> list:
    if way.attention == "attention":
        near = 1 if way.settings["attention"] else 0
        return [attention.combine(spans[max(0, i - near) : i + near + 1]) for i in range(len(spans))]
    if way.attention == "decay":
        return _decayed(spans, attention.combine)
    whole = attention.combine(spans)
    if way.attention == "means":
        return [span._replace(comoment=whole.covariance * span.count) for span in spans]
    if way.attention == "covariance":
        return [whole._replace(comoment=span.covariance * whole.count) for span in spans]
    return [whole] * len(spans)


def _decayed(spans: list[Statistics], combine: Callable) -> list[Statistics]:
    """Statistics as each span sees them, those of others fading with the spans between."""
    factor = 0.5 ** (1 / DECAY_SPANS)

    def fading(items: list[Statistics]) -> list[Statistics]:
        """Of all items before each."""
        before = [None]
        for item in items[:-1]:
            upto = item if before[-1] is None else combine([before[-1], item])
            before.append(upto._replace(count=factor * upto.count, comoment=factor * upto.comoment))
        return before

    sides = zip(spans, fading(spans), reversed(fading(spans[::-1])), strict=True)
    return [combine([side for side in seen if side is not None]) for seen in sides]

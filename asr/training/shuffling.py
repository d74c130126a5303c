"""Frames of many batches, shuffled: what a module learns from that needs no whole utterance.

A batch holds a handful of utterances, and the frames of one are alike: as a sample of what a feed-forward
hears it is worth far fewer frames than it has, and at a high learning rate a module follows each batch
instead of their mean. So the last minutes of what went into and came out of the teacher's modules are kept,
and every step draws as many frames as its batch has from all of them: single ones for feed-forwards, norms
and the CTC head, and for convolutions pieces, with what they see on either side.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from asr.model.frames import valid_frames
from asr.model.recogniser import Model

PIECE = 64  # frames of a convolution's piece whose output is learnt


class Heard(NamedTuple):
    """What a module of the teacher hears, and what it makes of it."""

    inputs: tuple
    output: Tensor  # (B, N, ...), or of pieces (P, L, ...)
    counts: Tensor | None = None  # of pieces, which frames are learnt: (P, L) bool; None: those of the batch


class ShuffledFrames:
    """The last frames that modules of the teacher heard, in half precision, the oldest overwritten first.

    Utterances lie one behind the other with a gap between them, so that no convolution sees a neighbour.

    Args:
        frames: how many are kept, gaps included.
        halos: by the modules' names, the frames on either side that a frame sees.
    """

    def __init__(self, frames: int, halos: dict[str, int]) -> None:
        self.frames, self.halos = frames, halos
        self.gap = max(halos.values(), default=0)
        self.head, self.filled = 0, 0  # where the next frame goes, and how many places have been written
        self.kept: dict[str, Tensor] = {}  # (frames, ...)

    def exchange(self, modules: dict[str, Heard], valid: Tensor) -> dict[str, Heard]:
        """Keep a batch's frames, and give as many in their place, drawn from all that are kept.

        Args:
            modules: inputs and outputs (B, N, ...) by name; those without a halo come back as they are.
            valid: (B, N).
        """
        self._keep(modules, valid)
        frames = int(valid.sum())
        places = {halo: self._places(frames, halo) for halo in set(self.halos.values())}
        return modules | {name: self._drawn(name, *places[halo]) for name, halo in self.halos.items()}

    def _keep(self, modules: dict[str, Heard], valid: Tensor) -> None:
        valid = pad(valid, (0, self.gap))
        written = valid_frames(valid.sum(1) + self.gap, valid.shape[1])  # an utterance and the gap behind it
        exists = valid[written]
        places = torch.arange(self.head, self.head + len(exists), device=valid.device) % self.frames
        self.head = (self.head + len(exists)) % self.frames
        self.filled = min(self.filled + len(exists), self.frames)
        behind = torch.arange(self.head, self.head + self.gap, device=valid.device) % self.frames
        self._write("exists", places, exists)
        self._write("counts", places, exists)
        self.kept["counts"][behind] = False  # what they saw before them is overwritten
        for name in self.halos:
            for side, x in self._sides(name, modules[name]):
                self._write(side, places, pad(x, (0, 0, 0, self.gap))[written].half())

    def _write(self, name: str, places: Tensor, x: Tensor) -> None:
        if name not in self.kept:
            self.kept[name] = x.new_zeros(self.frames, *x.shape[1:])
        self.kept[name][places[-self.frames :]] = x[-self.frames :]

    def _places(self, frames: int, halo: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of so many frames, in pieces: places (P, L), whether a frame is there, and whether it is learnt."""
        exists, counts = self.kept["exists"], self.kept["counts"]
        length = PIECE if halo else 1
        starts = torch.randint(self.filled, (-(-frames // length), 1)).to(exists.device)
        offsets = torch.arange(-halo, length + halo, device=exists.device)
        places = (starts + offsets) % self.frames
        return places, exists[places], counts[places] & (offsets >= 0) & (offsets < length)

    def _drawn(self, name: str, places: Tensor, exists: Tensor, counts: Tensor) -> Heard:
        x, y = (self.kept[side][places].float() for side in (f"{name} in", f"{name} out"))
        return Heard((x, exists) if self.halos[name] else (x,), y, counts)

    @staticmethod
    def _sides(name: str, heard: Heard) -> Iterable[tuple[str, Tensor]]:
        return (f"{name} in", heard.inputs[0]), (f"{name} out", heard.output)


def halos_of(model: Model, names: Iterable[str]) -> dict[str, int]:
    """By name, of those modules that need no whole utterance: the frames on either side that a frame sees."""
    whole = (".attention", ".subsampling")
    return {name: getattr(model.get_submodule(name), "halo", 0) for name in names if not name.endswith(whole)}

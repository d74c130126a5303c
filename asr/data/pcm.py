"""Raw samples or WAV from a pipe, as they arrive: 16 kHz, mono, 16 bits."""

import os
import struct
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from asr.errors import UserError

RATE = 16_000
READ = 1 << 16  # bytes at most at a time; a pipe gives what it has
HEADER = 1 << 16  # bytes in which a WAV file's samples must begin
_UNKNOWN = 0x7FFFF000  # sizes from here on, and 0, are what programs write that do not know yet
_OTHERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"FORM": "AIFF", b"caff": "CAF", b"RF64": "RF64"}
_ADVICE = "pipe it through ffmpeg -i - -ar 16000 -ac 1 -f s16le -"


def read_pcm(descriptor: int, name: str) -> Iterator[Tensor]:
    """Samples (n,) int16 from a file descriptor to its end; half a sample at the end is left out.

    What begins with RIFF is read as WAV, anything else as little-endian samples.

    Raises:
        UserError: a WAV header of another kind, or what is plainly another format; ``name`` is named.
    """
    held = _take(descriptor, b"", 4)
    for magic, kind in _OTHERS.items():
        if held.startswith(magic):
            raise UserError(f"{name}: {kind}, not raw samples or WAV; {_ADVICE}")
    left = None  # bytes of samples to come; None: all
    if held.startswith(b"RIFF"):
        held, left = _after_header(descriptor, held, name)
    while True:
        held = held if left is None else held[:left]
        whole = len(held) // 2 * 2
        if whole:
            yield torch.from_numpy(np.frombuffer(held[:whole], dtype="<i2").astype(np.int16))
            left = None if left is None else left - whole
            held = held[whole:]
        more = b"" if left is not None and left <= len(held) else os.read(descriptor, READ)
        if not more:
            return
        held += more


def _take(descriptor: int, held: bytes, size: int) -> bytes:
    """``held`` and what follows, at least ``size`` bytes if there are so many."""
    while len(held) < size and (more := os.read(descriptor, READ)):
        held += more
    return held


def _after_header(descriptor: int, held: bytes, name: str) -> tuple[bytes, int | None]:
    """What was read of a WAV file's samples, and their bytes if the header knows."""
    held, place, right = _take(descriptor, held, 12), 12, False
    if held[8:12] != b"WAVE":
        raise UserError(f"{name}: RIFF, but not WAV; {_ADVICE}")
    while place < HEADER:
        held = _take(descriptor, held, place + 8)
        if len(held) < place + 8:
            break
        kind, size = struct.unpack_from("<4sI", held, place)
        place += 8
        if kind == b"data":
            if not right:
                break
            return held[place:], None if size == 0 or size >= _UNKNOWN else size
        held = _take(descriptor, held, min(place + size, HEADER))
        if kind == b"fmt " and len(held) >= place + 16:
            coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", held, place)
            if coding == 0xFFFE and len(held) >= place + 26:  # the coding then stands further on
                [coding] = struct.unpack_from("<H", held, place + 24)
            right = (coding, channels, rate, bits) == (1, 1, RATE, 16)
            if not right:
                what = f"{rate} Hz, {channels} channels, {bits} bits, coding {coding}"
                raise UserError(f"{name}: WAV of {what}; only 16000 Hz, 1 channel, 16-bit PCM; {_ADVICE}")
        place += size + size % 2
    raise UserError(f"{name}: a WAV header without samples; {_ADVICE}")

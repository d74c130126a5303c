"""Recordings: the one place that reads audio files. Every kind that libsndfile knows will do.

``load`` gives the samples, ``stream`` the same in blocks, for recordings of any length; ``duration``
asks the header only, ``check`` decodes everything and trusts nothing. A recording that was cut short
is an error, never a shorter recording.

PyTorch is imported where samples become tensors: programs that only read manifests do not wait for it.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from asr.data import containers
from asr.errors import UserError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")

_BLOCK = 1 << 18  # frames decoded at a time, so that check() needs little memory for any length
MAX_PEAK = 4.0  # lossy codecs overshoot full scale a little; more means samples on another scale
# Hz. Half a telephone's, below which nothing is understood, to the fastest that studios record. Any other is
# the header's fault, and would have a few bytes resampled to gigabytes, or many to nothing.
_RATES = 4_000, 768_000
_MP3_LEAD = 10 * 1152  # frames; a small one of MP3's own borrows bits from several before it
_LONGEST = 1 << 62  # frames; libsndfile gives more where a FLAC from a pipe does not say


class AudioError(UserError):
    """A recording that cannot be used; ``cause`` is its kind of fault in a few words."""

    def __init__(self, message: str, cause: str = "unreadable"):
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Part:
    """What of a recording is meant; by default all of it.

    Args:
        start: seconds from its beginning.
        seconds: how long; None: to the end.
        channel: number of the channel, from 0; None: the mean of all.
    """

    start: float = 0.0
    seconds: float | None = None
    channel: int | None = None


WHOLE = Part()


def load(path: str | Path, sample_rate: int = 16000, part: Part = WHOLE) -> "torch.Tensor":
    """Decode a recording: (samples,) float32 mono in [-1, 1] at ``sample_rate`` Hz.

    Channels are averaged, unless ``part`` names one. Samples beyond full scale, which lossy codecs give, are
    clipped to it.

    Raises:
        AudioError: missing, unreadable, empty, truncated, of a rate that no recording has, or with samples
            that are no sound; or it does not have ``part``.
    """
    import torch

    return torch.cat(list(stream(path, sample_rate, part)))


def stream(path: str | Path, sample_rate: int = 16000, part: Part = WHOLE) -> Iterator["torch.Tensor"]:
    """``load``, in blocks of some seconds: (samples,) each. What is wrong may show at the last block only.

    Rates whose ratio to ``sample_rate`` has no small numbers (44101 Hz) are met to 5 in 10 000.
    """
    import torch

    with _opened(path) as file:
        blocks = map(torch.from_numpy, _mono_blocks(file, part))
        for block in resampled(blocks, file.samplerate, sample_rate):
            yield block.clamp(-1, 1)


def resampled(blocks: Iterable["torch.Tensor"], old: float, new: int) -> Iterator["torch.Tensor"]:
    """Blocks of samples (S,) fp32 from ``old`` Hz to ``new`` Hz, as exactly as ``stream`` says."""
    ratio = (new / Fraction(float(old))).limit_denominator(1000)
    yield from blocks if ratio == 1 else _resampled(blocks, ratio.denominator, ratio.numerator)


def check_rate(name: str | Path, rate: float) -> None:
    """Raise AudioError where no recording has such a sample rate (Hz)."""
    least, most = _RATES
    if not least <= rate <= most:
        message = f"{name}: a sample rate of {rate} Hz, not between {least} and {most}"
        raise AudioError(f"{message}; correct it, or resample the recording", "sample rate")


def duration(path: str | Path) -> float:
    """Seconds of audio by the file's header; decodes nothing.

    Raises:
        AudioError: missing or unreadable, or a file that was cut short, where its headers show that.
    """
    with _opened(path) as file:
        return file.frames / file.samplerate


def channels(path: str | Path) -> int:
    """How many channels a recording has, by its header; raises AudioError as ``duration`` does."""
    with _opened(path) as file:
        return file.channels


def check(path: str | Path) -> float:
    """Decode the whole file and return its true duration in seconds.

    Truncation shows in FLAC as a decoding error or as frames that the header announces and the
    data lacks, in MP3 as fewer frames than its Xing header announces (an MP3 file without that
    header does not say how long it should be), in other kinds by ``asr.data.containers``.

    Raises:
        AudioError: missing, unreadable, empty, truncated, or with samples that are no sound.
    """
    with _opened(path) as file:
        return sum(map(len, _mono_blocks(file))) / file.samplerate


@contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Open a recording; turn what goes wrong, then or while it is read, into an AudioError."""
    path = Path(path)
    if not _is_utf8(str(path)):
        raise AudioError(f"{str(path)!a}: a name that is not UTF-8; rename it")
    try:
        if not path.exists():
            raise AudioError(f"{path}: no such file", "missing")
        if not path.is_file():  # opening a named pipe would wait for ever
            raise AudioError(f"{path}: not a file")
        with path.open("rb") as raw:
            _reject_cut(path, raw)
        file = soundfile.SoundFile(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror}") from None
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: not audio that libsndfile reads ({_reason(error)}); convert it to FLAC"
        ) from None
    with file:
        if file.frames > _LONGEST:
            raise AudioError(f"{path}: its header does not say how long it is; encode it again")
        check_rate(path, file.samplerate)
        try:
            yield file
        except soundfile.LibsndfileError as error:
            message = f"{path}: truncated or damaged: {_reason(error)}"
            raise AudioError(message, "truncated") from None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mono_blocks(file: soundfile.SoundFile, part: Part = WHOLE) -> Iterator[np.ndarray]:
    """Decode to the part's end: (frames,) float32 blocks, every sample looked at."""
    if part.channel is not None and part.channel >= file.channels:
        raise AudioError(f"{file.name}: no channel {part.channel}: it has {file.channels}", "no such channel")
    first, wanted = _frames(file, part)
    decoded = 0
    while len(block := _read(file, first + decoded, min(_BLOCK, wanted - decoded))):
        decoded += len(block)
        peak = np.abs(block).max()
        if not peak <= MAX_PEAK:  # put this way round, the test catches NaN too
            message = f"{file.name}: samples must lie in [-1, 1], but one is {peak}"
            raise AudioError(message, "bad samples")
        if part.channel is not None:
            yield block[:, part.channel]
        else:
            yield block[:, 0] if file.channels == 1 else block.mean(axis=1)
    if decoded == 0:
        raise AudioError(f"{file.name}: holds no audio, its length is zero", "zero length")
    # An MP3 header may count its own frame of 1152 samples as sound: that is no truncation.
    slack = 1152 if file.format == "MP3" else 0
    if first + decoded < file.frames - slack and decoded < wanted:
        message = f"{file.name}: truncated: {first + decoded} of {file.frames} frames are there"
        raise AudioError(message, "truncated")


def _read(file: soundfile.SoundFile, first: int, most: int) -> np.ndarray:
    """At most so many frames from ``first`` on, (frames, channels) float32."""
    # Where its position is set, and soundfile sets it after every read too, an MP3 decoder lacks the bits
    # that the next frames borrow from those before them. So some are decoded again, and dropped.
    lead = min(first, _MP3_LEAD) if file.format == "MP3" else 0
    if file.tell() != first - lead:
        file.seek(first - lead)
    return file.read(lead + most, dtype="float32", always_2d=True)[lead:]


def _frames(file: soundfile.SoundFile, part: Part) -> tuple[int, int]:
    """The part's first frame, and how many it has; without an end, more than any recording has."""
    if part.start == 0 and part.seconds is None:
        return 0, _LONGEST
    first = round(part.start * file.samplerate)
    wanted = _LONGEST if part.seconds is None else round(part.seconds * file.samplerate)
    end = file.frames if part.seconds is None else first + wanted
    # Manifests round times: a hundredth of a second beyond the end is no other recording.
    if not 0 <= first < min(end, file.frames) or end > file.frames + 0.01 * file.samplerate:
        seconds = file.frames / file.samplerate
        until = "the end" if part.seconds is None else f"{part.start + part.seconds:g} s"
        message = f"{file.name}: {part.start:g} s to {until} is not in it: it has {seconds:.2f} s"
        raise AudioError(message, "no such part")
    return first, wanted


def _resampled(blocks: Iterable["torch.Tensor"], old: int, new: int) -> Iterator["torch.Tensor"]:
    """As ``resampled``, between rates without a common factor; without seams between blocks."""
    import torch
    from torchaudio.functional import resample

    # torchaudio's filter reaches over six zero crossings, and starts afresh every ``old`` samples.
    margin = old * math.ceil(7 / min(old, new) + 1)
    held, context = torch.empty(0), 0  # the first ``context`` samples are there for the filter only
    for block in blocks:
        held = torch.cat((held, block))
        end = (len(held) - margin) // old * old
        if end > context:
            yield resample(held[: end + margin], old, new)[context // old * new : end // old * new]
            start = max(0, end - margin)
            held, context = held[start:], end - start
    yield resample(held, old, new)[context // old * new :]


def _reject_cut(path: Path, raw: BufferedReader) -> None:
    if not raw.peek(1):
        raise AudioError(f"{path}: the file is empty (0 bytes)", "zero length")
    if fault := containers.fault(raw):
        raise AudioError(f"{path}: truncated: {fault}", "truncated")


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip(" .") or f"error {error.code}"

"""16 kHz mono 16-bit WAV copies of recordings, each of which says in its header what it was made of."""

import hashlib
import io
from pathlib import Path

import soundfile
import torch

from asr.data.audio import WHOLE, Part
from asr.files import atomic_write
from asr.model.frames import SAMPLE_RATE


def made_of(source: Path, part: Part = WHOLE, pieces: int = 1) -> str:
    """Changes with the file, what of it is meant, and into how many pieces it is cut; "" without a file."""
    try:
        status = source.stat()
    except OSError:
        return ""
    place = str(source.resolve()), status.st_size, status.st_mtime_ns
    return hashlib.sha256(repr((place, part, pieces)).encode()).hexdigest()


def up_to_date(copy: Path, origin: str) -> bool:
    """Whether ``copy`` is there and was made of that (``made_of``)."""
    try:
        with soundfile.SoundFile(copy) as file:
            return bool(origin) and file.comment == origin
    except (OSError, soundfile.LibsndfileError):
        return False


def write_copy(path: Path, samples: torch.Tensor, origin: str) -> None:
    """Write samples (S,) in [-1, 1] at 16 kHz, in one step."""
    # Scaled here: libsndfile would scale by 32767 and alter a recording that is 16-bit already.
    samples = (samples * 32768).round().clamp(-32768, 32767).to(torch.int16)
    memory = io.BytesIO()
    with soundfile.SoundFile(memory, "w", SAMPLE_RATE, 1, "PCM_16", format="WAV") as file:
        file.comment = origin
        file.write(samples.numpy())
    atomic_write(path, memory.getvalue())

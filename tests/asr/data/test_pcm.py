"""Samples from a pipe."""

import os
import struct
import threading

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.pcm import read_pcm
from asr.errors import UserError


def piped(content: bytes, size: int = 1 << 16) -> list[torch.Tensor]:
    """What ``read_pcm`` gives of bytes that arrive ``size`` at a time."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as file:
            for start in range(0, len(content), size):
                try:
                    file.write(content[start : start + size])
                except BrokenPipeError:
                    return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return list(read_pcm(reading, "--stream -"))
    finally:
        os.close(reading)
        thread.join()


def wav(samples: np.ndarray, rate: int = 16_000, **options) -> bytes:
    import io

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **options)
    return file.getvalue()


def joined(parts: list[torch.Tensor]) -> list[int]:
    return torch.cat([torch.empty(0, dtype=torch.int16), *parts]).tolist()


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.integers(-32768, 32767), max_size=200),
    size=st.integers(1, 50),
    odd=st.booleans(),
    header=st.sampled_from(["raw", "wav", "streamed", "extensible"]),
)
def test_samples_are_what_was_written(values, size, odd, header):
    """Raw or WAV, in pieces of any size, cut in the middle of a sample."""
    samples = np.array(values, dtype="<i2")
    content = samples.tobytes()
    if header != "raw":
        subtype = {"subtype": "PCM_16"}
        content = wav(samples, **subtype) if header != "extensible" else extensible(content)
        if header == "streamed":  # as ffmpeg writes to a pipe
            content = content[:40] + struct.pack("<I", 0xFFFFFFFF) + content[44:]
    if values and not content.startswith(b"RIFF"):
        assume_raw(content)
    assert joined(piped(content + b"\x01" * odd, size)) == values


def assume_raw(content: bytes) -> None:
    from hypothesis import assume

    assume(not content.startswith((b"fLaC", b"OggS", b"ID3", b"FORM", b"caff", b"RF64", b"RIFF")))


def extensible(content: bytes) -> bytes:
    """WAVE_FORMAT_EXTENSIBLE, whose coding stands in its GUID."""
    kind = struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 16_000, 32_000, 2, 16, 22, 16, 4, 1) + bytes(14)
    body = b"WAVEfmt " + struct.pack("<I", len(kind)) + kind + b"data" + struct.pack("<I", len(content))
    return b"RIFF" + struct.pack("<I", len(body) + len(content)) + body + content


def test_what_follows_the_samples_of_a_wav_file_is_no_sound():
    content = wav(np.array([1, 2, 3], dtype=np.int16), subtype="PCM_16")
    assert joined(piped(content + b"LIST" + struct.pack("<I", 4) + b"abcd")) == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (wav(np.zeros(9, np.int16), 44_100, subtype="PCM_16"), "WAV of 44100 Hz, 1 channels, 16 bits"),
        (wav(np.zeros((9, 2), np.int16), subtype="PCM_16"), "WAV of 16000 Hz, 2 channels"),
        (wav(np.zeros(9, np.float32), subtype="FLOAT"), "32 bits, coding 3"),
        (b"RIFF\0\0\0\0AVI LIST", "RIFF, but not WAV"),
        (b"RIFF\0\0\0\0WAVE", "a WAV header without samples"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "a WAV header without samples"),
        (b"RIFF\0\0\0\0WAVEjunk" + struct.pack("<I", 1 << 30) + bytes(99), "a WAV header without samples"),
        (b"fLaC" + bytes(99), "FLAC, not raw samples or WAV; pipe it through ffmpeg"),
        (b"OggS" + bytes(99), "Ogg, not raw samples"),
    ],
)
def test_other_formats_are_refused(content, message):
    with pytest.raises(UserError, match=f"^--stream -: .*{message}"):
        piped(content)

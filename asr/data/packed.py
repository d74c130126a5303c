"""Packed recordings: 16 kHz mono 16-bit little-endian samples of many utterances in one file.

``data_prep.pack`` makes them. A file has no header; manifests say where in it an utterance lies.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from asr.errors import UserError

SAMPLE_BYTES = 2


def read_packed(path: str, offset: int, samples: int) -> np.ndarray:
    """Samples ``offset`` to ``offset + samples`` of a file: (samples,) int16, read-only, nothing copied.

    Raises:
        UserError: the file is missing, cannot be read or is too short.
    """
    content = _open(path)
    if offset + samples > len(content):
        raise UserError(
            f"{path}: holds {len(content)} samples, but its manifest wants {offset + samples}; "
            "delete it and pack the data again"
        )
    return content[offset : offset + samples]


def quantise(samples: np.ndarray) -> np.ndarray:
    """Samples (S,) in [-1, 1] to int16; exact where the recording had 16 bits. int16 stays as it is."""
    if samples.dtype == np.int16:
        return samples
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")


@lru_cache(maxsize=64)  # 64 open files: a few hundred, beside a DataLoader's own, can be too many
def _open(path: str) -> np.ndarray:
    """The whole file as an array that reads from the disk what is looked at."""
    try:
        size = Path(path).stat().st_size // SAMPLE_BYTES
        if size == 0:  # which cannot be mapped
            return np.empty(0, "<i2")
        # A plain array: slicing a np.memmap takes ten times as long.
        return np.memmap(path, "<i2", mode="r", shape=(size,)).view(np.ndarray)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of packed recordings; pack the data again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None

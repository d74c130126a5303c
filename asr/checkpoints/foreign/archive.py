"""Reading a .nemo file: a tar archive, compressed or not, of which nothing is extracted, linked to or run.

It is read as a stream in small pieces. Members are found by their names, and must be plain files that are no
larger than the archive could honestly hold; anything else in it is an error, as no .nemo file needs it.
"""

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch
from torch import Tensor

from asr.checkpoints.records import check_extents, check_records
from asr.errors import UserError

CONFIG, WEIGHTS, TOKENIZER = "model_config.yaml", "model_weights.ckpt", "_tokenizer.model"

_AT_ONCE = 1 << 20  # bytes; the parts of a tar archive that its reader takes whole are far smaller
_MOST_MEMBERS = 1000
_SMALL = 32 << 20  # bytes; of a configuration or tokenizer
_RATIO = 4  # of a member to the archive: weights hardly compress


@dataclass(frozen=True)
class Archive:
    """What an import needs of a .nemo file."""

    config: bytes
    weights: bytes
    tokenizer: bytes | None  # a SentencePiece model; None where there is not exactly one


def read_archive(path: Path) -> Archive:
    """The parts of a .nemo file.

    Raises:
        UserError: it cannot be read, lacks a part, or holds what a .nemo file does not.
    """
    found: dict[str, bytes] = {}
    try:
        with _opened(path) as archive:
            for member in _members(archive, path):
                name = PurePosixPath(member.name).name
                key = TOKENIZER if name.endswith(TOKENIZER) or name == "tokenizer.model" else name
                if key not in (CONFIG, WEIGHTS, TOKENIZER):
                    continue
                if key == TOKENIZER and key in found:  # several languages': see configuration.py
                    found[key] = b""
                    continue
                if key in found:
                    raise UserError(f"{path}: damaged or crafted: holds {key} twice")
                if key != WEIGHTS and member.size > _SMALL:
                    raise UserError(f"{path}: damaged or crafted: {key} has {member.size} bytes")
                found[key] = _content(archive, member)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, OverflowError, ValueError):
        raise UserError(f"{path}: not a .nemo file (a tar archive), or a damaged one") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    for key in (CONFIG, WEIGHTS):
        if key not in found:
            raise UserError(f"{path}: not a .nemo file: it holds no {key}")
    return Archive(found[CONFIG], found[WEIGHTS], found.get(TOKENIZER) or None)


def read_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, on the CPU; ``name`` is named in errors.

    Raises:
        UserError: it asks to run code, holds what is not a tensor, or is damaged.
    """
    try:
        check_records(io.BytesIO(data), len(data), name)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{name}: holds more than tensors; not loaded") from None
    except UserError:
        raise
    except Exception:  # a damaged file makes PyTorch raise almost anything
        raise UserError(f"{name}: not a PyTorch file, or a damaged one") from None
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise UserError(f"{name}: not a model's weights")
    check_extents(content.values(), 2 * len(data), name)  # biases that layers share are stored once
    return content


class _Bounded:
    """A file that gives little at a time: what a crafted header asks for is never allocated."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _AT_ONCE:
            raise tarfile.ReadError("a header of more than a megabyte")
        return self._file.read(size)


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        plain = gzip.GzipFile(fileobj=raw) if compressed else raw
        with tarfile.open(fileobj=_Bounded(plain), mode="r:") as archive:
            yield archive


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The plain files in order; raises UserError for members that no .nemo file has."""
    largest = max(_SMALL, _RATIO * path.stat().st_size)
    total = 0
    for number, member in enumerate(archive):
        place = PurePosixPath(member.name)
        fault = None
        if place.is_absolute() or ".." in place.parts:
            fault = "a path out of it"
        elif member.issym() or member.islnk():
            fault = "a link"
        elif not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or member.sparse:
            fault = "neither a file nor a folder"
        elif member.size > largest or (total := total + member.size) > 2 * largest:
            fault = f"{member.size} bytes, more than it can honestly hold"
        elif number >= _MOST_MEMBERS:
            fault = f"one of more than {_MOST_MEMBERS} members"
        if fault:
            raise UserError(f"{path}: damaged or crafted: {member.name[:80]!r} in it is {fault}")
        if member.isfile():
            yield member


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file, parts, left = archive.extractfile(member), [], member.size
    while left:
        part = file.read(min(left, _AT_ONCE))
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)

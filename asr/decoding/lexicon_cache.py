"""Arrays that were made from a language model, kept beside it: read back in a moment, made in seconds.

``3gram.bin.TOKENIZER.lexicon`` holds a line of JSON, then the arrays. It is used only where the line says
that they were made from this very file, by its inode, its size and the time of its last change, which nobody
can set. So a file that came with a model from elsewhere is never used, and any change to the model makes it
void; both without reading gigabytes. Where the folder cannot be written, arrays are made each time.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from asr.files import atomic_path

Arrays = dict[str, np.ndarray]

_ALIGNMENT = 64  # bytes, of every array in the file
_HEAD = 1 << 20  # the line's greatest length
_KINDS = "iufb"  # NumPy's for integers, floats and bool


def kept(model: str | Path, tokenizer: str, sources: Iterable[bytes], make: Callable[[], Arrays]) -> Arrays:
    """What ``make`` returns, from the disk where it is there.

    Args:
        model: file of the language model.
        tokenizer: digest of the tokenizer; each has arrays of its own.
        sources: what else the arrays depend on, the source code that makes them above all.
        make: arrays of numbers by name.

    Returns:
        the arrays, writable; from the disk they are mapped: processes share what they do not write to.
    """
    model = Path(model)
    path = model.with_name(f"{model.name}.{tokenizer}.lexicon")
    key = _key(model, tokenizer, sources)
    arrays = _read(path, key)
    if arrays is None:
        arrays = make()
        with suppress(OSError):  # a folder that one may only read, a full disk
            _write(path, key, arrays)
    return arrays


def _key(model: Path, tokenizer: str, sources: Iterable[bytes]) -> dict[str, Any]:
    stat = model.stat()
    return {
        "inode": stat.st_ino,
        "bytes": stat.st_size,
        "changed": stat.st_ctime_ns,
        "tokenizer": tokenizer,
        "sources": [hashlib.sha256(source).hexdigest() for source in sources],
    }


def _write(path: Path, key: Mapping[str, Any], arrays: Arrays) -> None:
    content = bytearray()
    places = {}
    for name, array in arrays.items():
        places[name] = [array.dtype.str, array.shape, len(content)]
        content += np.ascontiguousarray(array).tobytes()
        content += bytes(-len(content) % _ALIGNMENT)
    about = {"key": key, "arrays": places, "sha256": hashlib.sha256(content).hexdigest()}
    head = json.dumps(about).encode()
    head += b" " * (-(len(head) + 1) % _ALIGNMENT) + b"\n"
    with atomic_path(path) as temporary:
        temporary.write_bytes(head + content)


def _read(path: Path, key: Mapping[str, Any]) -> Arrays | None:
    """The arrays; None where there are none, or of something else, or damaged ones."""
    try:
        with path.open("rb") as file:
            head = file.readline(_HEAD)
        about = json.loads(head)
        if about["key"] != key:
            return None
        content = np.asarray(np.memmap(path, np.uint8, mode="c", offset=len(head)))
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            return None
        return {name: _array(content, *place) for name, place in about["arrays"].items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _array(content: np.ndarray, kind: str, shape: list[int], start: int) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.kind not in _KINDS:
        raise ValueError
    end = start + dtype.itemsize * int(np.prod(shape))
    return content[start:end].view(dtype).reshape(shape)

"""The files of language modelling: text, compressed or not; KenLM binaries and ARPA files; their words.

KenLM trusts a binary: a damaged one ends the process that maps it, and one made for that may do worse. So
``3gram.bin`` goes with its SHA-256 in ``3gram.bin.sha256``, as ``sha256sum`` writes it, and is read only
where they agree. That finds damage, not malice: who sends a binary can send its sum too. From others take
ARPA files, which KenLM parses, and build the binary from them (``python -m asr.lm --arpa``).
"""

import gzip
import hashlib
import lzma
import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import kenlm

from asr.errors import UserError
from asr.files import atomic_write

MAX_ORDER = 6
# KenLM takes <UNK>, as SRILM's -map-unk "<UNK>" has it (OpenSLR 11), for <unk>.
SPECIAL_WORDS = ("<unk>", "<UNK>", "<s>", "</s>")

_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error)

# What a KenLM binary begins with (lm/binary_format.cc): a magic string and test values, 88 bytes in all;
# order, probing multiplier, data structure, whether the words follow, version; an n-gram count per order.
_MAGIC = b"mmap lm http://kheafield.com/code"
_SANITY_BYTES = 88
_PARAMETERS = struct.Struct("<B3xfI?3xI")
_UNIGRAMS = struct.Struct("<Q")

_compared: set[tuple[Path, str, str]] = set()  # by this process: path, SHA-256, state


def load(path: str | Path, mapped: bool = False) -> kenlm.Model:
    """Load a KenLM binary or an ARPA file, without KenLM's progress on stderr.

    Args:
        mapped: a binary is in memory once, however many processes load it. One that is overwritten meanwhile
            ends those processes, or changes their scores: ``verify`` afterwards says whether that happened.
            Otherwise it is copied, and its file may do what it likes.

    Raises:
        UserError: the file is missing, empty, not a language model, or a binary that ``verify`` refuses.
    """
    path = Path(path)
    verify(path)
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    config.load_method = kenlm.LoadMethod.POPULATE_OR_LAZY if mapped else kenlm.LoadMethod.READ
    try:
        return kenlm.Model(str(path), config)
    except UnicodeDecodeError:  # in KenLM's message, which quotes the file
        reason = "not text"
    except (OSError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).rpartition(" threw ")[2][:200]
    raise UserError(f"{path}: not a KenLM binary or an ARPA file ({reason})")


def vocabulary(path: str | Path) -> list[str]:
    """Return the words of a language model, without ``<s>``, ``</s>`` and ``<unk>``.

    Raises:
        UserError: no such model, a binary built without its words, or one that ``verify`` refuses.
    """
    path = Path(path)
    verify(path)
    words = _binary_words(path) if _is_binary(path) else _arpa_words(path)
    return [word for word in words if word not in SPECIAL_WORDS]


def verify(path: str | Path) -> None:
    """Refuse a file that is not the one of its checksum, and a KenLM binary that has none.

    The whole file is read only if it changed since its sum was last compared: a comment in the checksum's
    file holds its inode, size and time of change then. Where that cannot be written, each process remembers
    it for itself.

    Raises:
        UserError: no file, an empty one, no checksum, or another.
    """
    path = _existing(path)
    listed = checksum_path(path)
    if not listed.is_file():
        if not _is_binary(path):
            return
        raise UserError(
            f"{path}: a KenLM binary without its checksum {listed.name}. One that others made can take this "
            "program over: build it from their ARPA file (python -m asr.lm --arpa). Where it is your own: "
            f"sha256sum {path} > {listed}"
        )
    content = listed.read_text("utf-8", errors="replace")
    found = re.search(r"\b([0-9a-f]{64})\b", content)
    if not found:
        raise UserError(f"{listed}: holds no SHA-256; build the language model again")
    state = _state(path)
    if f"{state}\n" in content or (path, found[1], state) in _compared:
        return
    if _sha256(path) != found[1]:
        raise UserError(f"{path}: damaged, or not the file that {listed.name} is of; build it again")
    if _is_binary(path):
        _binary_words(path)  # are there: a sum of one's own may be of a file that was cut short
    _compared.add((path, found[1], state))
    with suppress(OSError):  # a folder that one may only read
        _write_checksum(path, found[1], state)


def write_checksum(path: Path) -> None:
    """Write the checksum of a KenLM binary beside it."""
    _write_checksum(path, _sha256(path), _state(path))


def checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_checksum(path: Path, digest: str, state: str) -> None:
    atomic_write(checksum_path(path), f"{state}\n{digest}  {path.name}\n")


def _state(path: Path) -> str:
    """A comment, to sha256sum, that is another one whenever the file was written to or replaced."""
    stat = path.stat()
    return f"# compared at inode {stat.st_ino}, {stat.st_size} bytes, changed {stat.st_ctime_ns}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such language model; python -m asr.lm estimates one")
    if not path.stat().st_size:
        raise UserError(f"{path}: the language model is empty")
    return path


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _binary_words(path: Path) -> list[str]:
    """Return the words at the end of a KenLM binary: one a unigram, ``<unk>`` first, a NUL after each.

    A file that was cut short cannot hold them all; KenLM itself does not notice that.
    """
    first = b"<unk>\0"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            has_words = _PARAMETERS.unpack_from(data, _SANITY_BYTES)[3]
            unigrams = _UNIGRAMS.unpack_from(data, _SANITY_BYTES + _PARAMETERS.size)[0]
            if not has_words:
                raise UserError(f"{path}: built without its words (build_binary -v); build it with them")
            start = data.rfind(first)
            while start >= 0:
                words = data[start:].split(b"\0")
                if len(words) == unigrams + 1 and not words.pop():
                    return [word.decode() for word in words]
                # A word may end in <unk> too: go on to the left, not further than the words can reach.
                start = data.rfind(first, 0, start) if len(words) <= unigrams else -1
    except (struct.error, UnicodeDecodeError):
        pass
    raise UserError(f"{path}: an unfinished KenLM binary, or its words are not UTF-8; build it again")


def _arpa_words(path: Path) -> Iterator[str]:
    """Yield the words of an ARPA file's unigrams, with the special ones, checked against its header."""
    expected, found, inside = -1, 0, False
    try:
        for line in text_lines(path):
            line = line.rstrip("\r\n")
            if not inside:
                if line.startswith("ngram 1="):
                    expected = int(line.removeprefix("ngram 1="))
                inside = line.strip() == "\\1-grams:"
            elif line.startswith("\\"):
                break
            elif line.strip():
                found += 1
                yield line.split("\t")[1]
    except (*UNREADABLE, ValueError, IndexError):
        expected = -1
    if found != expected:
        raise UserError(f"{path}: not a KenLM binary or a complete ARPA file")


def text_lines(path: Path) -> Iterator[str]:
    # newline="\n": only a line feed ends a sentence.
    with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8", newline="\n") as file:
        yield from file


def why_unreadable(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start} of a block: {error.reason})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"a damaged archive ({error})"

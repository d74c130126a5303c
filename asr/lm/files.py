"""The files of language modelling: text, compressed or not; KenLM binaries and ARPA files; their words."""

import gzip
import lzma
import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import kenlm

from asr.errors import UserError

MAX_ORDER = 6
SPECIAL_WORDS = ("<unk>", "<s>", "</s>")

_OPENERS = {".gz": gzip.open, ".xz": lzma.open}
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error)

# What a KenLM binary begins with (lm/binary_format.cc): a magic string and test values, 88 bytes in all;
# order, probing multiplier, data structure, whether the words follow, version; an n-gram count per order.
_MAGIC = b"mmap lm http://kheafield.com/code"
_SANITY_BYTES = 88
_PARAMETERS = struct.Struct("<B3xfI?3xI")
_DATA_STRUCTURES = 6


def load(path: str | Path) -> kenlm.Model:
    """Load a KenLM binary or an ARPA file, without KenLM's progress on stderr.

    Raises:
        UserError: the file is missing, empty, cut short, or not a language model.
    """
    path = _existing(path)
    if _is_binary(path):
        _check_binary(path)
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    # Copied to memory rather than mapped: a file cut short while in use cannot end the process (SIGBUS).
    config.load_method = kenlm.LoadMethod.READ
    try:
        return kenlm.Model(str(path), config)
    except UnicodeDecodeError:  # in KenLM's message, which quotes the file
        reason = "not text"
    except (OSError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error.__cause__ or error).split()).rpartition(" threw ")[2][:200]
    raise UserError(f"{path}: not a KenLM binary or an ARPA file ({reason})")


def vocabulary(path: str | Path) -> list[str]:
    """Return the words of a language model, without ``<s>``, ``</s>`` and ``<unk>``.

    They come from the ``.words`` file beside it, else from the ARPA file or the KenLM binary itself.

    Raises:
        UserError: no such model, a binary built without its words, or a ``.words`` file of another model.
    """
    path = _existing(path)
    if _is_binary(path):
        unigrams, words = _check_binary(path)
    else:
        words = list(arpa_words(path))
    listed = words_path(path)
    if listed.is_file():
        beside = _read_words(listed)
        same_number = words is None and len(beside) + len(SPECIAL_WORDS) == unigrams
        if not (same_number or set(beside) == set(words or ())):
            raise UserError(f"{listed}: not the words of {path.name}; delete it")
        return beside
    if words is None:
        raise UserError(
            f"{path}: built without its words (build_binary -v); write them, one a line, to {listed}"
        )
    return words


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


def _check_binary(path: Path) -> tuple[int, list[str] | None]:
    """Check a KenLM binary's header and length; return its unigrams' number and its words.

    None stands for the words if it was built without them.

    The words are the file's end: as many strings as there are unigrams, ``<unk>`` first, each with a NUL
    after it. A file cut short anywhere cannot hold them all. KenLM itself checks only what comes before
    them, and trusts the header's counts.
    """
    damaged = UserError(f"{path}: a damaged or unfinished KenLM binary; build it again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if len(data) < _SANITY_BYTES + _PARAMETERS.size + 8 * MAX_ORDER:
            raise damaged
        fields = _PARAMETERS.unpack_from(data, _SANITY_BYTES)
        order, multiplier, structure, has_words, _ = fields
        if not (2 <= order <= MAX_ORDER and structure < _DATA_STRUCTURES):
            raise damaged
        counts = struct.unpack_from(f"<{order}Q", data, _SANITY_BYTES + _PARAMETERS.size)
        # More n-grams than bits, or a hash table of absurd size, and KenLM's own arithmetic overflows.
        if not (counts[0] and sum(counts) <= 8 * len(data) and 1 <= multiplier <= 1000):
            raise damaged
        if not has_words:
            return counts[0], None
        first = f"{SPECIAL_WORDS[0]}\0".encode()
        start = data.rfind(first)
        while start >= 0:
            words = data[start:].split(b"\0")
            # The last byte is a NUL, so the last string is empty.
            if len(words) == counts[0] + 1 and not words[-1]:
                break
            # A word may end in <unk> too: go on to the left, not further than the words can reach.
            start = data.rfind(first, 0, start) if len(words) <= counts[0] else -1
        if start < 0:
            raise damaged
    try:
        decoded = [word.decode() for word in words[:-1]]
    except UnicodeDecodeError:
        raise UserError(f"{path}: the words of this language model are not UTF-8") from None
    return counts[0], [word for word in decoded if word not in SPECIAL_WORDS]


def arpa_words(path: Path) -> Iterator[str]:
    """Yield the words of an ARPA file's unigrams, checked against its header."""
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
                word = line.split("\t")[1]
                if word not in SPECIAL_WORDS:
                    yield word
    except (*UNREADABLE, ValueError, IndexError):
        expected = -1
    if found != expected:
        raise UserError(f"{path}: not a KenLM binary or a complete ARPA file")


def words_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.words")


def _read_words(path: Path) -> list[str]:
    try:
        words = [line.rstrip("\n") for line in text_lines(path)]
    except UNREADABLE as error:
        raise UserError(f"{path}: {why_unreadable(error)}") from None
    if not words:
        raise UserError(f"{path}: holds no words; delete it")
    return words


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

"""Manifests: JSON lines, one utterance a line. The only place that knows their format.

A line holds ``id``, ``audio`` (a path; relative ones start at the manifest's folder), ``duration`` in
seconds, ``text`` and ``speaker``. Where ``audio`` holds several utterances (``data_prep.pack``), the line
has ``offset`` and ``samples`` as well: the utterance's first sample in the file, and how many it has.

Texts are read and written in Unicode's normal form C: an accented letter of one code point and the same
letter of two would be two words, to the tokenizer as to the score.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from unicodedata import normalize

from asr.errors import UserError
from asr.files import atomic_write


@dataclass(frozen=True)
class Utterance:
    """One recording and what is said in it."""

    id: str
    audio: str
    duration: float
    text: str
    speaker: str
    offset: int | None = None  # both, or neither
    samples: int | None = None

    @property
    def transcribed(self) -> bool:
        """Whether the text has a word: an empty one says nothing of what is said."""
        return bool(self.text.strip())


_TYPES = {"id": str, "audio": str, "duration": (int, float), "text": str, "speaker": str}
_PACKED_TYPES = {**_TYPES, "offset": int, "samples": int}


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a manifest; ``audio`` comes back as an absolute path.

    Raises:
        UserError: the file is missing, empty, or a line of it is not an utterance.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; run the data preparation stage first")
    utterances, seen = [], set()
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    # Not splitlines(): a text may hold a line separator of Unicode's.
    lines = content.removesuffix("\n").split("\n") if content else []
    for number, line in enumerate(lines, 1):
        utterance = _parse(line, f"{path}:{number}", path.parent)
        if utterance.id in seen:
            raise UserError(f"{path}:{number}: utterance id {utterance.id} appears twice")
        seen.add(utterance.id)
        utterances.append(utterance)
    if not utterances:
        raise UserError(f"{path}: the manifest holds no utterance")
    return utterances


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest in one step. Audio inside its folder is named relative to it."""
    path = Path(path)
    folder = path.parent.resolve()
    lines = []
    for utterance in utterances:
        record = {name: value for name, value in asdict(utterance).items() if value is not None}
        audio = Path(utterance.audio).resolve()
        record["audio"] = str(audio.relative_to(folder) if audio.is_relative_to(folder) else audio)
        record["text"] = normalize("NFC", record["text"])
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    atomic_write(path, "".join(lines))


def _parse(line: str, where: str, folder: Path) -> Utterance:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a line of JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: not a JSON object")
    packed = "offset" in record or "samples" in record
    types = _PACKED_TYPES if packed else _TYPES
    for name, kind in types.items():
        if name not in record:
            raise UserError(f"{where}: field {name!r} is missing")
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise UserError(f"{where}: field {name!r} has the wrong type: {record[name]!r}")
    if not 0 < record["duration"] < math.inf:
        raise UserError(f"{where}: duration {record['duration']} is not positive and finite")
    if packed and (record["offset"] < 0 or record["samples"] < 1):
        raise UserError(f"{where}: no samples at offset {record['offset']}, samples {record['samples']}")
    if not record["id"] or len(record["id"].split()) != 1:
        raise UserError(f"{where}: id {record['id']!r} is empty or holds a blank")
    if "\n" in record["text"] or "\r" in record["text"]:
        raise UserError(f"{where}: the text goes over several lines")
    record["audio"] = os.path.normpath(folder.absolute() / record["audio"])
    record["text"] = normalize("NFC", record["text"])
    return Utterance(**{name: record[name] for name in types})

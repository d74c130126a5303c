"""Manifests: JSON lines, one utterance a line. The only place that knows our format.

A line holds ``id``, ``audio`` (a path; relative ones start at the manifest's folder), ``duration`` in
seconds, ``text`` and ``speaker``. Where ``audio`` holds several utterances (``data_prep.pack``), the line
has ``offset`` and ``samples`` as well: the utterance's first sample in the file, and how many it has. Of a
recording, ``start`` (seconds) makes it the part that begins there, ``channel`` (from 0) that channel alone.
Manifests of lhotse, NeMo and Kaldi are read as if they were ours (asr/data/foreign_manifests.py).

Texts are read and written in Unicode's normal form C: an accented letter of one code point and the same
letter of two would be two words, to the tokenizer as to the score.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any
from unicodedata import normalize

from asr.data.audio import Part
from asr.data.foreign_manifests import SCP, is_kaldi, read_kaldi, reader
from asr.data.json_lines import Row, read_json_lines
from asr.errors import UserError
from asr.files import atomic_write

SUFFIXES = (".jsonl", ".jsonl.gz")


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
    start: float | None = None  # seconds
    channel: int | None = None

    @property
    def part(self) -> Part:
        """What of the file it is, where the file is not packed."""
        if self.start is None:
            return Part(channel=self.channel)
        return Part(self.start, self.duration, self.channel)

    @property
    def transcribed(self) -> bool:
        """Whether the text has a word: an empty one says nothing of what is said."""
        return bool(self.text.strip())


_TYPES = {"id": str, "audio": str, "duration": (int, float), "text": str, "speaker": str}
_PART_TYPES = {"start": (int, float), "channel": int}
_PACKED_TYPES = {**_TYPES, "offset": int, "samples": int}


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a manifest, of ours or another toolkit's; ``audio`` comes back as an absolute path.

    Raises:
        UserError: the file is missing, empty, or a line of it is not an utterance.
    """
    path = Path(path)
    if not path.is_file() and not is_kaldi(path):
        raise UserError(f"{path}: no such manifest; run the data preparation stage first")
    utterances, seen = [], set()
    folder, real = path.parent.absolute(), path.parent.resolve()
    for where, record in _rows(path):
        utterance = _checked(record, where, folder, real)
        if utterance.id in seen:
            raise UserError(f"{where}: utterance id {utterance.id} appears twice")
        seen.add(utterance.id)
        utterances.append(utterance)
    if not utterances:
        raise UserError(f"{path}: the manifest holds no utterance")
    return utterances


def is_manifest(path: Path) -> bool:
    """Whether a path is a manifest's, or a folder of Kaldi's; a wav.scp alone is a list of recordings."""
    return path.name.endswith(SUFFIXES) or (path.name != SCP and is_kaldi(path))


def find_manifest(folder: Path, split: str) -> Path:
    """The manifest of a split: ``folder``/SPLIT.jsonl, SPLIT.jsonl.gz, or SPLIT, a folder of Kaldi's."""
    plain, *others = (folder / f"{split}{suffix}" for suffix in (*SUFFIXES, ""))
    return next((path for path in (plain, *others) if path.is_file() or is_kaldi(path)), plain)


def find_splits(folder: Path, start: str) -> list[str]:
    """The splits of a folder whose names begin so, sorted; a name with a dot in it is no split's."""
    found = (path.name for path in folder.glob(f"{start}*") if is_manifest(path))
    names = {name.removesuffix(".gz").removesuffix(".jsonl") for name in found}
    return sorted(name for name in names if "." not in name)


def _rows(path: Path) -> Iterator[Row]:
    if is_kaldi(path):
        yield from _in_one_form(read_kaldi(path))
        return
    rows = read_json_lines(path)
    for first in islice(rows, 1):
        rows = chain([first], rows)
        translate = reader(first[1])
        yield from _in_one_form(translate(rows, path)) if translate else rows


def _in_one_form(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of others, whose ids may hold blanks, and their texts line ends."""
    for where, record in rows:
        absolute = str(Path(record["audio"]).absolute())  # theirs start at the current folder
        id, text = ("_".join(record["id"].split()), " ".join(str(record["text"]).split()))
        yield where, {**record, "audio": absolute, "id": id, "text": text}


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


def _checked(record: dict[str, Any], where: str, folder: Path, real: Path) -> Utterance:
    packed = "offset" in record or "samples" in record
    types = _PACKED_TYPES if packed else _TYPES
    types = types | {name: kind for name, kind in _PART_TYPES.items() if name in record}
    for name, kind in types.items():
        if name not in record:
            raise UserError(f"{where}: field {name!r} is missing")
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise UserError(f"{where}: field {name!r} has the wrong type: {record[name]!r}")
    if not 0 < record["duration"] < math.inf:
        raise UserError(f"{where}: duration {record['duration']} is not positive and finite")
    if packed and (record["offset"] < 0 or record["samples"] < 1):
        raise UserError(f"{where}: no samples at offset {record['offset']}, samples {record['samples']}")
    if packed and types.keys() & _PART_TYPES.keys():
        raise UserError(f"{where}: offset and samples do not go with start and channel")
    if not (0 <= record.get("start", 0) < math.inf and record.get("channel", 0) >= 0):
        raise UserError(f"{where}: start and channel must be 0 or more")
    if not record["id"] or len(record["id"].split()) != 1:
        raise UserError(f"{where}: id {record['id']!r} is empty or holds a blank")
    if "\n" in record["text"] or "\r" in record["text"]:
        raise UserError(f"{where}: the text goes over several lines")
    # A folder above the manifest's: which, is clear only when links are followed.
    base = real if ".." in record["audio"].split("/") else folder
    record["audio"] = os.path.normpath(base / record["audio"])
    record["text"] = normalize("NFC", record["text"])
    return Utterance(**{name: record[name] for name in types})

"""Transcripts of one's own recordings: in a file beside each, or in a table of all."""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unicodedata import normalize

from asr.data.recordings import Recording, look_at
from asr.errors import UserError

TABLES = (".csv", ".tsv")
ENDINGS = (".txt", ".lab")
# What a table's columns may be called; with Common Voice's names and SpeechBrain's.
PATHS = ("path", "audio", "file", "file_name", "filename", "wav", "audio_filepath")
TEXTS = ("text", "transcript", "transcription", "sentence", "wrd")
SPEAKERS = ("speaker", "speaker_id", "client_id", "spk_id")


def beside(recording: Path) -> str:
    """The words of the transcript beside a recording, on one line; "" where there is none.

    Raises:
        UserError: it is not UTF-8.
    """
    for path in map(recording.with_suffix, ENDINGS):
        if path.is_file():
            return _words(_read(path))
    return ""


def read_table(path: Path) -> Iterator[Recording | UserError]:
    """The recordings of a .csv or .tsv file whose first line names its columns, with their texts.

    Paths start at the table's folder, or at clips in it, as Common Voice has them; where nothing is there, at
    the current folder. A recording is called after its path.

    Raises:
        UserError: it has no column of paths, or of texts, or a quote that is not closed.
    """
    kind = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix.lower() == ".tsv" else {}
    rows = csv.DictReader(io.StringIO(_read(path), newline=""), strict=True, **kind)
    try:
        yield from _recordings(path, rows)
    except csv.Error as error:
        raise UserError(f"{path}: no table after line {rows.line_num}: {error}") from None


def _recordings(path: Path, rows: csv.DictReader) -> Iterator[Recording | UserError]:
    names = {str(name).strip().lower(): name for name in rows.fieldnames or []}
    audio, text = (_column(names, known) for known in (PATHS, TEXTS))
    if audio is None or text is None:
        wanted = PATHS if audio is None else TEXTS
        raise UserError(f"{path}: its first line names no column {' or '.join(wanted)}")
    speaker = _column(names, SPEAKERS)
    for row in rows:
        value = (row[audio] or "").strip()
        if not value:
            yield UserError(f"{path}:{rows.line_num}: no path")
            continue
        places = (path.parent / value, path.parent / "clips" / value)
        place = next((item for item in places if item.is_file()), Path(value))
        for found in look_at(place):
            if isinstance(found, Recording):
                name = Path(value).with_suffix("")
                name = Path(name.name) if name.is_absolute() or ".." in name.parts else name
                said = _words(row[text] or "")
                found = replace(found, name=name, text=said, speaker=(row[speaker] or "") if speaker else "")
            yield found


def _column(names: dict[str, str], known: tuple[str, ...]) -> str | None:
    return next((names[name] for name in known if name in names), None)


def _words(text: str) -> str:
    return normalize("NFC", " ".join(text.split()))  # as manifests have it


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # line ends as they are, for csv
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None

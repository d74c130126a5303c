"""Transcripts of one's own recordings: in a file beside each, or in a table of all."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
            return " ".join(_read(path).split())
    return ""


def read_table(path: Path) -> Iterator[Recording | UserError]:
    """The recordings of a .csv or .tsv file whose first line names its columns, with their texts.

    Paths start at the table's folder, or at clips in it, as Common Voice has them; where nothing is there, at
    the current folder. A recording is called after its path.

    Raises:
        UserError: it has no column of paths, or of texts.
    """
    kind = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix.lower() == ".tsv" else {}
    rows = csv.DictReader(_read(path).splitlines(), **kind)
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
                said = " ".join((row[text] or "").split())
                found = replace(found, name=name, text=said, speaker=(row[speaker] or "") if speaker else "")
            yield found


def _column(names: dict[str, str], known: tuple[str, ...]) -> str | None:
    return next((names[name] for name in known if name in names), None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None

"""Manifests of lhotse, NeMo and Kaldi as lines of ours (asr/data/manifest.py says what those hold).

lhotse  cuts, or recordings with the supervisions beside them: ``recordings_X.jsonl.gz`` and
        ``supervisions_X.jsonl.gz`` (https://lhotse.readthedocs.io, "Representing a corpus")
NeMo    ``audio_filepath``, ``duration``, ``text``, ``offset`` (its page "Preparing Custom ASR Data")
Kaldi   a folder with ``wav.scp``, and ``segments``, ``text``, ``utt2spk`` where it has them
        (https://kaldi-asr.org/doc/data_prep.html)

They are data: a command that a manifest holds is refused, never run. Relative paths start at the manifest's
folder, or where nothing is there at the current one.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from asr.data import audio
from asr.data.json_lines import Row, read_json_lines
from asr.errors import UserError

SCP = "wav.scp"
UNKNOWN = "unknown"  # speaker
_SLACK = 0.01  # seconds by which a cut may miss its recording's end and still be all of it


def reader(first: dict[str, Any]) -> Callable[[Iterable[Row], Path], Iterator[Row]] | None:
    """What translates the rows of a file that begins with ``first``; None where they are ours."""
    if "audio_filepath" in first:
        return _nemo
    if str(first.get("type", "")).endswith("Cut") or {"recording", "supervisions"} & first.keys():
        return _cuts
    if "sources" in first:
        return _recordings
    if {"recording_id", "start", "duration"} <= first.keys():
        return _supervisions
    return None


def is_kaldi(path: Path) -> bool:
    """Whether a path is a folder of Kaldi's, or the wav.scp in it."""
    return path.is_file() if path.name == SCP else (path / SCP).is_file()


def read_kaldi(path: Path) -> Iterator[Row]:
    """The utterances of a folder of Kaldi's: its segments, or where it has none its recordings."""
    folder = path.parent if path.name == SCP else path
    scp = folder / SCP
    paths = {id: scp_path(value, where, folder) for id, (where, value) in _table(scp).items()}
    texts, speakers = _table(folder / "text"), _table(folder / "utt2spk")
    segments = folder / "segments"
    if segments.is_file():
        found = ((where, id, *_segment(value, where)) for id, (where, value) in _table(segments).items())
    else:
        found = ((where, id, id, None, None) for id, (where, _) in _table(scp).items())
    for where, id, recording, start, end in found:
        if recording not in paths:
            raise UserError(f"{where}: no recording {recording} in {scp}")
        length = end if end is not None else audio.duration(paths[recording])
        record = {"id": id, "audio": str(paths[recording]), "duration": length - (start or 0.0)}
        if start is not None:
            record["start"] = start
        text, speaker = (table.get(id, ("", ""))[1] for table in (texts, speakers))
        yield where, {**record, "text": text, "speaker": speaker or UNKNOWN}


def scp_path(value: str, where: str, folder: Path) -> Path:
    """The path that a line of wav.scp names.

    Raises:
        UserError: it names a command, or a place in an archive.
    """
    if value.endswith("|") or value.startswith("|"):
        raise UserError(
            f"{where}: names a command, and commands in a list are not run; write what it prints to a file "
            "(wav-copy, or the command itself with > FILE.wav) and name that"
        )
    if not value or value == "-" or re.search(r"\.ark:\d+$", value):
        advice = "; archives are not read: write recordings of their own (wav-copy)" if value else ""
        raise UserError(f"{where}: wants an id and the path of a recording{advice}")
    return _place(value, folder)


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """A file of Kaldi's: id -> its line's place, and what follows the id. Empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    table: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, 1):
        id, _, value = line.strip().replace("\t", " ").partition(" ")
        if id in table:
            raise UserError(f"{path}:{number}: {id} appears twice")
        if id:
            table[id] = (f"{path}:{number}", value.strip())
    return table


def _segment(value: str, where: str) -> tuple[str, float, float | None]:
    """Recording, start, end; a negative end is the recording's."""
    try:
        recording, start, end = value.split()
        return recording, float(start), float(end) if float(end) >= 0 else None
    except ValueError:
        raise UserError(f"{where}: wants an id, a recording, its start and its end in seconds") from None


def _nemo(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    rows = list(rows)
    names = [Path(str(record.get("audio_filepath"))).stem for _, record in rows]
    several, seen, taken = Counter(names), Counter(), set(names)
    for (where, record), name in zip(rows, names, strict=True):
        place = _place(_get(record, "audio_filepath", str, where), path.parent)
        start, seconds = record.get("offset"), record.get("duration")
        id = name
        while several[name] > 1 and id in taken:
            seen[name] += 1
            id = f"{name}-{seen[name]}"
        taken.add(id)
        found = {
            "id": id,
            "audio": str(place),
            "duration": audio.duration(place) - (start or 0.0) if seconds is None else seconds,
            "text": record.get("text") or "",
            "speaker": str(record.get("speaker") or UNKNOWN),
        }
        if start is not None:
            found["start"] = start
        yield where, found


def _cuts(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    for where, cut in rows:
        if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut"):
            raise UserError(
                f"{where}: a {cut['type']}, which is computed; save its sound first (cuts.save_audios)"
            )
        recording = _get(cut, "recording", dict, where)
        said = _get(cut, "supervisions", list, where, [])
        if not all(isinstance(item, dict) for item in said):
            raise UserError(f"{where}: supervisions are not JSON objects")
        said = sorted(said, key=lambda item: _get(item, "start", float, where, 0.0))
        span = {name: _get(cut, name, float, where) for name in ("start", "duration")}
        yield (
            where,
            {
                "id": _get(cut, "id", str, where),
                **_sound(recording, span, cut.get("channel"), where, path.parent),
                "text": " ".join(str(item.get("text") or "") for item in said).strip(),
                "speaker": next((str(item["speaker"]) for item in said if item.get("speaker")), UNKNOWN),
            },
        )


def _recordings(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """The supervisions beside, or where there are none the recordings."""
    beside = path.with_name(path.name.replace("recordings", "supervisions"))
    if beside != path and beside.is_file():
        yield from _joined(rows, path.parent, read_json_lines(beside))
        return
    for where, recording in rows:
        span = {"start": 0.0, "duration": _get(recording, "duration", float, where)}
        sound = _sound(recording, span, None, where, path.parent)
        yield where, {"id": _get(recording, "id", str, where), **sound, "text": "", "speaker": UNKNOWN}


def _supervisions(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    beside = path.with_name(path.name.replace("supervisions", "recordings"))
    if beside == path or not beside.is_file():
        raise UserError(
            f"{path}: supervisions of lhotse's without the recordings beside them ({beside.name})"
        )
    return _joined(read_json_lines(beside), path.parent, rows)


def _joined(recordings: Iterable[Row], folder: Path, supervisions: Iterable[Row]) -> Iterator[Row]:
    known = {_get(recording, "id", str, where): recording for where, recording in recordings}
    for where, said in supervisions:
        name = _get(said, "recording_id", str, where)
        if name not in known:
            raise UserError(f"{where}: no recording {name}")
        span = {key: _get(said, key, float, where) for key in ("start", "duration")}
        yield (
            where,
            {
                "id": _get(said, "id", str, where),
                **_sound(known[name], span, said.get("channel"), where, folder),
                "text": str(said.get("text") or ""),
                "speaker": str(said.get("speaker") or UNKNOWN),
            },
        )


def _sound(
    recording: dict[str, Any], span: dict[str, float], channel: Any, where: str, folder: Path
) -> dict[str, Any]:
    """Path, duration, and where needed start and channel, of a span of a recording of lhotse's."""
    if recording.get("transforms"):
        raise UserError(
            f"{where}: a recording with transforms; save its sound first (lhotse's cuts.save_audios)"
        )
    sources = _get(recording, "sources", list, where)
    if not sources or not all(isinstance(source, dict) for source in sources):
        raise UserError(f"{where}: the recording has no sources")
    wanted = channel if isinstance(channel, list) else [] if channel is None else [channel]
    if len(wanted) == 1:
        sources = [item for item in sources if wanted[0] in (item.get("channels") or [])] or sources
    kind = sources[0].get("type")
    if kind != "file":
        raise UserError(
            f"{where}: its sound comes from a {kind}, and is not fetched or run; save it to files first "
            "(lhotse's cuts.save_audios)"
        )
    if len(sources) > 1:
        raise UserError(f"{where}: channels in several files; give each channel a cut of its own")
    channels = sources[0].get("channels") or [0]
    found = {
        "audio": str(_place(_get(sources[0], "source", str, where), folder)),
        "duration": span["duration"],
    }
    whole = _get(recording, "duration", float, where)
    if span["start"] or span["duration"] < whole - _SLACK:
        found["start"] = span["start"]
    if len(channels) > 1 and len(wanted) == 1:
        if wanted[0] not in channels:
            raise UserError(f"{where}: the recording has no channel {wanted[0]}")
        found["channel"] = channels.index(wanted[0])
    return found


def _get(record: dict[str, Any], name: str, kind: type, where: str, default: Any = None) -> Any:
    value = record.get(name, default)
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
        fault = "is missing" if value is None else f"has the wrong type: {value!r}"
        raise UserError(f"{where}: field {name!r} {fault}")
    return value


def _place(value: str, folder: Path) -> Path:
    beside = folder / value
    try:
        return beside if beside.exists() else Path(value)
    except OSError:  # a name longer than any may be: reading it will say so
        return beside

"""What was said and what was recognised, utterance by utterance; the one place that knows the files' format.

Per split and LM, ``SPLIT.LM.jsonl`` holds a JSON object a line: ``id``, ``speaker``, ``duration`` in seconds,
``ref`` and ``hyp``. Speaker and duration may be absent or empty.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from asr.errors import UserError
from asr.files import atomic_write


@dataclass(frozen=True)
class Decoded:
    """One utterance after decoding."""

    id: str
    ref: str
    hyp: str
    speaker: str = ""
    duration: float | None = None


@dataclass(frozen=True)
class Table:
    """One line of a result folder's table, with its utterances."""

    split: str
    lm: str
    utterances: list[Decoded]


@dataclass(frozen=True)
class Results:
    """A result folder of decode.py."""

    folder: Path
    about: dict  # wer.json without its rows
    tables: list[Table]


def decoded_path(folder: Path, split: str, lm: str) -> Path:
    """Where the utterances of a split decoded with an LM ("none" without one) are."""
    return folder / f"{split}.{lm}.jsonl"


def write_decoded(path: Path, utterances: Iterable[Decoded]) -> None:
    """Write utterances in one step."""
    lines = (json.dumps(asdict(utterance), ensure_ascii=False) + "\n" for utterance in utterances)
    atomic_write(path, "".join(lines))


def read_results(folder: str | Path) -> Results:
    """Read a result folder.

    Raises:
        UserError: it is not one, or a file of it is damaged.
    """
    folder = Path(folder)
    path = folder / "wer.json"
    if not path.is_file():
        raise UserError(f"{folder}: no wer.json in it; give a folder that decode.py wrote (its --out)")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        rows = [(_name(row["split"]), _name(row["lm"])) for row in about.pop("rows")]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a table of decode.py; decode again") from None
    if not rows:
        raise UserError(f"{path}: holds no row; decode again")
    return Results(
        folder, about, [Table(split, lm, read_decoded(decoded_path(folder, split, lm))) for split, lm in rows]
    )


def _name(name: str) -> str:
    """A split's or an LM's, to be part of a file's name; ValueError where that would leave the folder."""
    if not (isinstance(name, str) and 0 < len(name) <= 200) or "/" in name or "\0" in name:
        raise ValueError
    return name


def read_decoded(path: Path) -> list[Decoded]:
    """Read the utterances of one split and LM.

    Raises:
        UserError: the file is missing or empty, or a line of it is not an utterance.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it comes from decode.py, so decode again")
    utterances: list[Decoded] = []
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    for number, line in enumerate(lines, 1):
        utterances.append(_parse(line, f"{path}:{number}"))
    if len({utterance.id for utterance in utterances}) < len(utterances):
        raise UserError(f"{path}: an utterance id appears twice; decode again")
    return utterances


def _parse(line: str, where: str) -> Decoded:
    try:
        record = json.loads(line)
        texts = [record[name] for name in ("id", "ref", "hyp")]
        speaker, duration = record.get("speaker") or "", record.get("duration")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{where}: not an utterance with id, ref and hyp; decode again") from None
    number = isinstance(duration, int | float) and not isinstance(duration, bool) and 0 <= duration < math.inf
    if not all(isinstance(text, str) for text in [*texts, speaker]) or not (duration is None or number):
        raise UserError(f"{where}: a field of the wrong type; decode again")
    return Decoded(*texts, speaker, duration)

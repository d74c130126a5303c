"""Files of JSON lines, plain or gzipped: one object a line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr.errors import UserError

Row = tuple[str, dict[str, Any]]  # FILE:LINE, for messages, and the object


def read_json_lines(path: Path) -> Iterator[Row]:
    """The objects of a file, each with its place.

    Raises:
        UserError: the file cannot be read, or a line of it is no JSON object.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise UserError(f"{path}: not a gzip file, or a damaged one") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    # Not splitlines(): a text may hold a line separator of Unicode's.
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, 1):
        yield f"{path}:{number}", _object(line, f"{path}:{number}")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a line of JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: not a JSON object")
    return record

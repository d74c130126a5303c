"""Fetching and unpacking archives so that whatever interrupts it, running it again goes on.

A file or a corpus under its final name is whole and verified; anything else is under a name that
says it is not.
"""

import gzip
import hashlib
import http.client
import lzma
import re
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from asr.errors import UserError
from asr.files import locked

OPENSLR = "https://www.openslr.org"  # files are at OPENSLR/resources/NUMBER/NAME

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 60  # seconds without a byte
# tarfile's own guard, which Python 3.11 before 3.11.4 lacks; _refuse_outside does not depend on it.
_DATA_FILTER = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


class _ConnectionBroke(Exception):
    """The transfer failed in a way that another attempt may mend."""


def fetch(
    url: str,
    path: str | Path,
    size: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    pauses: Sequence[float] = (1, 2, 4, 8, 16),
) -> None:
    """Download ``url`` to ``path``; ``path`` appears only when it is whole and verified.

    The bytes gather in ``path.part``, where a later call goes on. A ``path`` that is there already
    is verified and kept. Two programs that fetch one file take turns.

    Args:
        size: length in bytes, where known.
        sha256, md5: checksums in hexadecimal, where known.
        pauses: seconds to wait before each further attempt; an attempt that brings something
            starts them anew.

    Raises:
        UserError: the server refuses, stays unreachable, or sends something else; no room to write.
    """
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{url}: not an http or https address")
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    with locked(path):
        if path.exists():
            if fault := _fault(path, size, sha256, md5):
                raise UserError(f"{path}: {fault}; delete it to fetch it again")
            return
        _download(url, part, size, pauses)
        if fault := _fault(part, size, sha256, md5):
            part.unlink()
            raise UserError(f"{url}: what came is not what was expected and was removed: {fault}")
        part.replace(path)


def extract(archive: str | Path, folder: str | Path, marker: str) -> None:
    """Unpack a tar archive into ``folder``, all or nothing.

    The members gather in a hidden folder and move into place together, ``marker`` last; where
    ``folder/marker`` exists, nothing is done. Two programs that unpack one archive take turns.

    Args:
        marker: an empty file to make in one of the archive's folders, e.g. ``corpus/.complete``.

    Raises:
        UserError: a damaged archive, a member that leads out of ``folder``, no room to write.
    """
    archive, folder = Path(archive), Path(folder)
    staging = folder / f".{archive.name}.partial"
    with locked(archive):
        if (folder / marker).exists():
            return
        if staging.exists():  # left by a run that was killed
            shutil.rmtree(staging)
        staging.mkdir(parents=True)
        try:
            _unpack(archive, staging)
            if not (staging / marker).parent.is_dir():
                raise UserError(f"{archive}: holds no folder {Path(marker).parent}")
            (staging / marker).touch()
            _move_into(staging, folder)
        finally:
            shutil.rmtree(staging)


def fetched(path: Path) -> int:
    """Bytes of ``path`` that an earlier ``fetch`` has already brought."""
    return _length(path) or _length(path.with_name(f"{path.name}.part"))


def _fault(path: Path, size: int | None, sha256: str | None, md5: str | None) -> str | None:
    """What is wrong with a downloaded file, or None."""
    length = path.stat().st_size
    if size is not None and length != size:
        return f"it is {length} bytes long, not {size}"
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is None:
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, name).hexdigest()
        if found != expected:
            return f"its checksum ({name}) is {found}, not {expected}"
    return None


def _download(url: str, part: Path, size: int | None, pauses: Sequence[float]) -> None:
    """Fill ``part``, going on after broken connections until ``pauses`` are used up."""
    failures = 0
    with tqdm(total=size, unit="B", unit_scale=True, desc=part.stem) as bar:
        while True:
            before = _length(part)
            if before and before == size:
                return
            try:
                return _receive(url, part, size, bar)
            except _ConnectionBroke as error:
                failures = 0 if _length(part) > before else failures + 1
                if failures > len(pauses):
                    raise UserError(
                        f"{url}: {error}; gave up after {failures} attempts in a row; "
                        f"what came is kept in {part}, run again to go on"
                    ) from None
                bar.write(f"{url}: {error}; trying again", file=sys.stderr)
                time.sleep(pauses[max(0, failures - 1)])


def _receive(url: str, part: Path, size: int | None, bar: tqdm) -> None:
    """One request: append the missing bytes to ``part``, or all of them if the server insists."""
    have = _length(part)
    request = urllib.request.Request(url, headers={"User-Agent": "magnitude-asr"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            start, total = _range(response, have, part)
            if size is not None and total not in (None, size):
                raise UserError(f"{url}: the server's file is {total} bytes long, not {size}")
            with part.open("r+b" if start else "wb", buffering=0) as file:
                file.seek(start)
                bar.reset(total)
                bar.update(start)
                while chunk := response.read(_CHUNK):
                    _write(file, chunk, part)
                    bar.update(len(chunk))
                if total is not None and file.tell() < total:
                    raise _ConnectionBroke(f"the connection ended at {file.tell()} of {total} bytes")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond what we have: all of it, or not the same file
            total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if total and int(total[1]) == have:
                return
            part.unlink()
            raise _ConnectionBroke("the server's file is shorter than what came before") from None
        if error.code >= 500 or error.code in (408, 429):
            raise _ConnectionBroke(f"the server answers {error.code} {error.reason}") from None
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _ConnectionBroke(f"cannot connect: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionBroke(f"the connection broke: {error or type(error).__name__}") from None


def _range(response: http.client.HTTPResponse, have: int, part: Path) -> tuple[int, int | None]:
    """Where the response's first byte belongs, and the length of the whole file if it is told."""
    if response.status != 206:  # the server does not resume: it sends everything
        return 0, response.length
    answer = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if answer is None or int(answer[1]) != have:
        part.unlink()
        raise _ConnectionBroke("the server sent other bytes than asked for")
    return have, None if answer[2] == "*" else int(answer[2])


def _write(file: BinaryIO, chunk: bytes, part: Path) -> None:
    """Write all of ``chunk``; the file is unbuffered, so that what it holds is what counts."""
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise UserError(
            f"{part}: cannot be written: {error.strerror}; the {file.tell()} bytes that came are "
            "kept, run again to go on from there"
        ) from None


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unpack(archive: Path, folder: Path) -> None:
    size = archive.stat().st_size
    try:
        with (
            archive.open("rb") as raw,
            tarfile.open(fileobj=raw) as tar,
            tqdm(total=size, unit="B", unit_scale=True, desc=f"extracting {archive.name}") as bar,
        ):
            for member in tar:
                _refuse_outside(archive, member, folder)
                tar.extract(member, folder, **_DATA_FILTER)
                bar.update(raw.tell() - bar.n)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UserError(f"{archive}: damaged or unsafe, nothing extracted: {error}") from None
    except OSError as error:
        raise UserError(
            f"{archive}: cannot be extracted into {folder.parent}: {error.strerror}; "
            "what was extracted is removed again"
        ) from None


def _refuse_outside(archive: Path, member: tarfile.TarInfo, folder: Path) -> None:
    """Refuse a member whose path or link leads out of ``folder``, and what is no file, folder or link."""
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise UserError(f"{archive}: {member.name} is a device or a pipe; nothing extracted")
    places = [folder / member.name]
    if member.issym():
        places.append((folder / member.name).parent / member.linkname)
    elif member.islnk():
        places.append(folder / member.linkname)
    for place in places:
        if not place.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{archive}: {member.name} leads out of the folder; nothing extracted")


def _move_into(source: Path, target: Path) -> None:
    """Move what is in ``source`` into ``target``: a new folder in one step, files last."""
    for entry in sorted(source.iterdir(), key=lambda entry: (not entry.is_dir(), entry.name)):
        destination = target / entry.name
        if entry.is_dir() and destination.is_dir():
            _move_into(entry, destination)
        else:
            entry.replace(destination)

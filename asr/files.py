"""Writing files so that a reader finds the old content or the new one, never a half; room for them."""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from asr.errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds.

    If the block raises (a full disk, Ctrl-C), the temporary file is removed and ``path`` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two programs that write the same file out of each other's way.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it to ``path`` if the block succeeds.

    Raises:
        UserError: ``path`` exists and is not an empty folder.
    """
    named, path = path, Path(path).resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{named}: exists and is not an empty folder; name another")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        for item in temporary.iterdir():
            with item.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)  # over an empty folder, if there is one
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def work_folder(path: str | Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``path`` for what is large and not needed in the end.

    The folder is removed at the end. Where the program is killed, the next one that works on ``path`` removes
    it: a running program holds a lock on its folder. (On file systems without locks it stays.)
    """
    path = Path(path)
    for leftover in path.parent.glob(f".{escape(path.name)}.*.work"):
        if (lock := _lock_folder(leftover)) is not None:
            print(f"{leftover}: left by a program that was killed; removed", file=sys.stderr)
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".work") as name:
        lock = _lock_folder(Path(name))
        try:
            yield Path(name)
        finally:
            if lock is not None:
                os.close(lock)


def _lock_folder(folder: Path) -> int | None:
    """An open file that locks ``folder``; None where that cannot be had."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def locked(path: str | Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of ``path`` (a hidden file beside it) against other programs.

    Where another program holds it, wait for that, or with ``wait=False`` raise UserError.
    """
    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise UserError(f"{lock.parent}: cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(f"{path}: another program is at work on it") from None
            print(f"another program is at work on {path}; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            print(f"{path}: {error.strerror}; do not run this twice at once", file=sys.stderr)
        yield


def atomic_write(path: str | Path, content: str | bytes | memoryview) -> None:
    """Write ``content`` (text as UTF-8) to ``path`` in one step."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def require_room(folder: Path, needed: int) -> None:
    """Raise UserError unless the disk of ``folder``, which need not exist yet, has ``needed`` bytes."""
    free = shutil.disk_usage(_existing(folder)).free
    if needed > 1e8:
        print(f"this needs {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free")
    if free < needed:
        raise UserError(f"{folder}: too little room: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")


def require_writable(folder: Path) -> None:
    """Raise UserError unless files can be made in ``folder``, which need not exist yet."""
    existing = _existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"{folder}: cannot be written: {existing} is no folder we may write to")


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest folder above it that exists."""
    return next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())

"""What the command line names as recordings: files, folders, lists of paths."""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path

from asr.data import audio
from asr.errors import UserError

LISTS = (".txt", ".lst", ".scp")


@dataclass(frozen=True)
class Recording:
    """A recording to transcribe.

    Args:
        path: of the file.
        name: of its output: a path under --out, without ending.
        seconds: its length by its header.
    """

    path: Path
    name: Path
    seconds: float


def find_recordings(arguments: Sequence[Path]) -> Iterator[Recording | UserError]:
    """Arguments to recordings, each once, in order; in the place of what is not there, what is wrong with it.

    A folder stands for the recordings (by their endings) in it and in its folders, sorted by path. A file
    that ends in .txt or .lst is a list of recordings and folders, a path a line; in .scp, an id and a space
    come before the path. Paths in a list start at the list's folder; where nothing is there, at the current
    folder. A recording's output is called after it; below a folder, after its path from there.
    """
    seen: set[str] = set()
    for argument in arguments:
        for entry in _entries(argument):
            try:
                for path, name in _files(entry):
                    place = normpath(path.absolute())
                    if place not in seen:
                        seen.add(place)
                        yield _look_at(path, name)
            except UserError as error:
                yield error
            except OSError as error:  # a folder above it may not be entered
                yield UserError(f"{entry}: cannot be read: {error.strerror}")


def fault(path: Path, error: Exception) -> UserError:
    """What went wrong with one recording, named: for errors that nobody thought of."""
    if isinstance(error, UserError):
        return error
    return UserError(f"{path}: cannot be transcribed: {type(error).__name__}: {error}")


def _look_at(path: Path, name: Path) -> Recording | UserError:
    try:
        return Recording(path, name, audio.duration(path))
    except MemoryError:
        raise
    except Exception as error:  # whatever one file does, the others are transcribed
        return fault(path, error)


def _entries(argument: Path) -> Iterator[Path | UserError]:
    try:
        if argument.suffix.lower() not in LISTS or argument.is_dir():
            yield argument
            return
        lines = argument.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        yield UserError(f"{argument}: not a list of paths in UTF-8")
    except OSError as error:
        yield UserError(f"{argument}: cannot be read: {error.strerror}")
    else:
        yield from _listed(argument, [line.strip() for line in lines if line.strip()])


def _listed(path: Path, lines: list[str]) -> Iterator[Path | UserError]:
    if not lines:
        yield UserError(f"{path}: an empty list; write a path on each line")
    for line in lines:
        if path.suffix.lower() == ".scp":
            _, *rest = line.split(maxsplit=1)
            line = rest[0] if rest else ""
            if not line or line.endswith("|"):
                yield UserError(f"{path}: wants an id and a path on each line, and no commands")
                continue
        beside = path.parent / line
        try:
            yield beside if beside.exists() else Path(line)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # a text, not a list
                yield UserError(f"{path}: wants a path on each line, and has '{line[:40]} ...'")
            else:
                yield UserError(f"{beside}: cannot be read: {error.strerror}")


def _files(entry: Path | UserError) -> Iterator[tuple[Path, Path]]:
    """Recordings' paths, and names for their outputs."""
    if isinstance(entry, UserError):
        raise entry
    if not entry.is_dir():
        yield entry, Path(entry.stem)
        return
    inside = sorted(path for path in entry.rglob("*") if _is_recording(path))
    if not inside:
        raise UserError(f"{entry}: no recording in this folder ({' '.join(audio.SUFFIXES)})")
    for path in inside:
        yield path, path.relative_to(entry).with_suffix("")


def _is_recording(path: Path) -> bool:
    # Hidden files are other programs' business: macOS leaves a ._talk.wav beside a talk.wav.
    return path.suffix.lower() in audio.SUFFIXES and not path.name.startswith(".") and path.is_file()

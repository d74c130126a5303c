"""What the command line names as recordings: files, folders, lists of paths, manifests."""

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from os.path import normpath
from pathlib import Path, PurePosixPath

from torch import Tensor

from asr.data import EACH, MIX, audio
from asr.data.audio import WHOLE, Part
from asr.data.foreign_manifests import scp_path
from asr.data.manifest import Utterance, is_manifest, read_manifest
from asr.errors import UserError
from asr.model.frames import SAMPLE_RATE

LISTS = (".txt", ".lst", ".scp")


@dataclass(frozen=True)
class Recording:
    """A recording to transcribe, or a part of one.

    Args:
        path: of the file.
        name: of its output: a path under --out, without ending.
        seconds: its length, by the file's header or a manifest.
        part: what of the file it is.
        id: what a list or a manifest calls it; empty where none does.
        text: the transcript that a manifest has of it.
        speaker: the speaker that a manifest names.
    """

    path: Path
    name: Path
    seconds: float
    part: Part = WHOLE
    id: str = ""
    text: str = ""
    speaker: str = ""

    @property
    def label(self) -> str:
        """What it is called in transcripts and messages: its id, or its path and its channel."""
        channel = "" if self.part.channel is None else f" (channel {self.part.channel})"
        return self.id or f"{self.path}{channel}"

    def load(self) -> Tensor:
        """Its samples (S,), as ``asr.data.audio.load`` gives them."""
        return audio.load(self.path, SAMPLE_RATE, self.part)

    def stream(self) -> Iterator[Tensor]:
        """Its samples in blocks, as ``asr.data.audio.stream`` gives them."""
        return audio.stream(self.path, SAMPLE_RATE, self.part)


@dataclass(frozen=True, eq=False)
class Samples(Recording):
    """A recording in memory. Two of one name are two recordings still.

    Args:
        samples: (S,) fp32 in [-1, 1] at 16 kHz.
    """

    samples: Tensor = field(kw_only=True)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def load(self) -> Tensor:
        """Its samples (S,)."""
        return self.samples

    def stream(self) -> Iterator[Tensor]:
        """Its samples in one block."""
        yield self.samples


def find_recordings(arguments: Iterable[str | Path], channel: str = MIX) -> Iterator[Recording | UserError]:
    """Arguments to recordings, each once, in order; in the place of what is not there, what is wrong with it.

    A folder stands for the recordings (by their endings) in it and in its folders, sorted by path. A file
    that ends in .txt or .lst is a list of recordings and folders, a path a line; in .scp, an id and a space
    come before the path. Paths in a list start at the list's folder; where nothing is there, at the current
    folder. A recording's output is called after its id, or else after it; below a folder, after its path from
    there. A manifest (.jsonl, .jsonl.gz, or a folder of Kaldi's) stands for its utterances.

    Args:
        arguments: what the command line names.
        channel: for recordings of which no manifest names one: a channel's number, MIX for the mean of all
            channels, or EACH for a recording a channel, whose names end in .0, .1 and so on.
    """
    seen: set[tuple[str, Part]] = set()
    for argument in map(Path, arguments):
        for entry in _entries(argument):
            try:
                for item in _files(entry):
                    place = normpath(item.path.absolute()), item.part
                    if place not in seen:
                        seen.add(place)
                        yield from _look_at(item, channel)
            except UserError as error:
                yield error
            except OSError as error:  # a folder above it may not be entered
                yield UserError(f"{error.filename or entry.path}: cannot be read: {error.strerror}")


def look_at(path: Path, channel: str = MIX) -> Iterator[Recording | UserError]:
    """The recording of a path, or each of its channels; what is wrong with it, where something is."""
    return _look_at(Recording(path, Path(path.stem), 0.0), channel)


def fault(path: Path, error: Exception) -> UserError:
    """What went wrong with one recording, named: for errors that nobody thought of."""
    if isinstance(error, UserError):
        return error
    return UserError(f"{path}: cannot be transcribed: {type(error).__name__}: {error}")


def _look_at(item: Recording, channel: str) -> Iterator[Recording | UserError]:
    """The recording with its length by its header."""
    try:
        seconds = audio.duration(item.path)
        seconds = seconds if item.part == WHOLE else item.seconds  # of a part, as its manifest says
        if item.part.channel is not None:  # a manifest says which
            yield item
        elif channel == EACH and (number := audio.channels(item.path)) > 1:
            for channel in range(number):
                name = item.name.with_name(f"{item.name.name}.{channel}")
                id = f"{item.id}.{channel}" if item.id else ""
                part = replace(item.part, channel=channel)
                yield replace(item, seconds=seconds, name=name, id=id, part=part)
        else:
            part = item.part if channel in (MIX, EACH) else replace(item.part, channel=int(channel))
            yield replace(item, seconds=seconds, part=part)
    except MemoryError:
        raise
    except Exception as error:  # whatever one file does, the others are transcribed
        yield fault(item.path, error)


def _entries(argument: Path) -> Iterator[Recording | UserError]:
    """What an argument names, of length 0 where nothing says it: recordings, and folders that hold some."""
    try:
        if is_manifest(argument):
            yield from (_of_utterance(item, argument) for item in read_manifest(argument))
            return
        if argument.suffix.lower() not in LISTS or argument.is_dir():
            yield Recording(argument, Path(argument.stem), 0.0)
            return
        lines = argument.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        yield UserError(f"{argument}: not a list of paths in UTF-8")
    except UserError as error:
        yield error
    except OSError as error:
        yield UserError(f"{argument}: cannot be read: {error.strerror}")
    else:
        yield from _listed(argument, [line.strip() for line in lines if line.strip()])


def _of_utterance(utterance: Utterance, manifest: Path) -> Recording | UserError:
    if utterance.offset is not None:
        return UserError(f"{manifest}: packed recordings; --data takes them, and --audio the ones of before")
    path, seconds, part = Path(utterance.audio), utterance.duration, utterance.part
    return _named(Recording(path, Path(), seconds, part, "", utterance.text, utterance.speaker), utterance.id)


def _named(item: Recording, id: str) -> Recording | UserError:
    """The recording under an id, unless that could lead its output out of --out."""
    place = PurePosixPath(id)
    if place.is_absolute() or ".." in place.parts or not place.parts:
        return UserError(f"{item.path}: its id {id!r} cannot name a file in a folder; give it another")
    return replace(item, name=Path(place), id=id)


def _listed(path: Path, lines: list[str]) -> Iterator[Recording | UserError]:
    if not lines:
        yield UserError(f"{path}: an empty list; write a path on each line")
    for number, line in enumerate(lines, 1):
        try:
            if path.suffix.lower() == ".scp":
                id, *rest = line.split(maxsplit=1)
                place = scp_path(rest[0] if rest else "", f"{path}:{number}", path.parent)
                yield _named(Recording(place, Path(), 0.0), id)
                continue
            beside = path.parent / line
            place = beside if beside.exists() else Path(line)
            yield Recording(place, Path(place.stem), 0.0)
        except UserError as error:
            yield error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # a text, not a list
                yield UserError(f"{path}: wants a path on each line, and has '{line[:40]} ...'")
            else:
                yield UserError(f"{beside}: cannot be read: {error.strerror}")


def _files(entry: Recording | UserError) -> Iterator[Recording]:
    """The recording, or those in the folder."""
    if isinstance(entry, UserError):
        raise entry
    if not entry.path.is_dir():
        yield entry
        return
    inside = sorted(path for path in _files_below(entry.path) if _is_recording(path))
    if not inside:
        raise UserError(f"{entry.path}: no recording in this folder ({' '.join(audio.SUFFIXES)})")
    for path in inside:
        yield Recording(path, path.relative_to(entry.path).with_suffix(""), 0.0)


def _files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and in its folders, through links too; a folder that links lead to twice, once.

    Raises:
        OSError: one of its folders cannot be read.
    """
    seen = set()
    for place, folders, names in os.walk(folder, onerror=_fail, followlinks=True):
        folders.sort()
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in names)


def _fail(error: OSError) -> None:
    raise error


def _is_recording(path: Path) -> bool:
    # Hidden files are other programs' business: macOS leaves a ._talk.wav beside a talk.wav.
    return path.suffix.lower() in audio.SUFFIXES and not path.name.startswith(".") and path.is_file()

"""Recordings without transcripts to a manifest.

    python -m data_prep.folder --recordings talks/ more.flac list.txt --out data/mine/recordings.jsonl

For training that reads no transcripts (train.py --training.teacher): folders, recordings, and lists of them
(a path a line in .txt), at any sample rate, of any length. Each is decoded to its end and written beside the
manifest as 16 kHz mono 16-bit WAV (115 MB an hour), in equal pieces where it is longer than --seconds. Copies
that are there already are kept, so that an interrupted run goes on.
"""

import argparse
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from asr.data import audio
from asr.data.manifest import Utterance
from asr.data.recordings import Recording, find_recordings
from asr.errors import UserError, run_program
from asr.files import require_writable
from asr.model.frames import SAMPLE_RATE
from asr.processes import cpu_count
from data_prep.librispeech import Fault, decode_all, refusal, up_to_date, write_split, write_wav

SPEAKER = "unknown"


@dataclass(frozen=True)
class Source:
    """A recording and the copies that it becomes, one a piece."""

    id: str
    path: Path
    seconds: float  # by its header
    copies: list[Path]


def find(
    recordings: list[Path], folder: Path, seconds: float, split: str
) -> tuple[list[Source], list[Fault]]:
    """The recordings, each with its copies in ``folder``, and what cannot be one.

    Raises:
        UserError: two would have the same id.
    """
    sources: dict[str, Source] = {}
    faults = []
    for found in find_recordings(recordings):
        if not isinstance(found, Recording):
            file, _, detail = str(found).partition(": ")
            faults.append(Fault(split, Path(file).stem, file, getattr(found, "cause", "missing"), detail))
            continue
        id = "_".join(found.name.as_posix().split())
        if id in sources:
            raise UserError(f"{found.path}: {sources[id].path} has the same id, {id}; rename one of the two")
        pieces = max(1, math.ceil(found.seconds / seconds))
        ids = [id] if pieces == 1 else [f"{id}.{number}-of-{pieces}" for number in range(1, pieces + 1)]
        sources[id] = Source(id, found.path, found.seconds, [folder / f"{name}.wav" for name in ids])
    return list(sources.values()), faults


def copy(source: Source, folder: Path, split: str) -> list[Utterance] | Fault:
    """Decode a recording and write its copies; those in ``folder`` already are taken as they are."""
    try:
        if not all(up_to_date(path, source.path) for path in source.copies):
            for path, samples in zip(source.copies, _pieces(source), strict=True):
                write_wav(path, samples)
        lengths = [audio.duration(path) for path in source.copies]
    except audio.AudioError as error:
        detail = str(error).removeprefix(f"{source.path}: ")
        return Fault(split, source.id, str(source.path), error.cause, detail)
    return [
        Utterance(path.relative_to(folder).with_suffix("").as_posix(), str(path), length, "", SPEAKER)
        for path, length in zip(source.copies, lengths, strict=True)
    ]


def _pieces(source: Source) -> Iterator[torch.Tensor]:
    """The samples of each copy, (S,): of equal length, bar the last, which ends with the recording."""
    size = math.ceil(source.seconds * SAMPLE_RATE / len(source.copies))
    waiting, last = torch.empty(0), len(source.copies) - 1
    number = 0
    for block in audio.stream(source.path, SAMPLE_RATE):
        waiting = torch.cat((waiting, block))
        while number < last and len(waiting) >= size:
            yield waiting[:size]
            waiting, number = waiting[size:], number + 1
    if number < last or not len(waiting):
        raise audio.AudioError(f"{source.path}: shorter than its header says", "truncated")
    yield waiting


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the manifest."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.folder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--recordings", type=Path, nargs="+", required=True, help="folders, recordings, lists of them")
    add(
        "--out",
        type=Path,
        required=True,
        help="manifest to write, NAME.jsonl; copies go to audio/NAME beside it",
    )
    add("--seconds", type=float, default=20.0, help="longest piece (%(default)s)")
    add(
        "--skip-bad", action="store_true", help="leave out what cannot be used, listed in NAME.excluded.jsonl"
    )
    add("--jobs", type=int, default=cpu_count(), help="processes that decode (default: cores)")
    args = parser.parse_args(argv)
    if args.out.suffix != ".jsonl":
        raise UserError(f"--out {args.out}: must end in .jsonl")
    if not 1 <= args.seconds < math.inf or args.jobs < 1:
        raise UserError("--seconds and --jobs must be 1 or more")
    require_writable(args.out.parent)
    split = args.out.stem
    folder = args.out.parent / "audio" / split
    sources, faults = find(args.recordings, folder, args.seconds, split)
    work = functools.partial(copy, folder=folder, split=split)
    results = decode_all(work, sources, args.jobs) if sources else []
    utterances = [item for found in results if not isinstance(found, Fault) for item in found]
    total = len(sources) + len(faults)
    faults += [found for found in results if isinstance(found, Fault)]
    if faults and (not args.skip_bad or not utterances):
        raise refusal(faults, total)
    write_split(args.out.parent, split, utterances, faults)


if __name__ == "__main__":
    run_program(main)

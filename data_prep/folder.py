"""Recordings of one's own, with or without transcripts, to manifests.

    python -m data_prep.folder --recordings talks/ more.flac list.txt --out data/mine/recordings.jsonl
    python -m data_prep.folder --recordings corpus/ --transcripts --dev 0.05 --test 0.05 --pieces 256 \\
        --out data/mine/train.jsonl

Recordings are folders of them, files, lists (a path a line in .txt), manifests, or tables, at any sample
rate, of any length. Each is decoded to its end and written beside the manifest as 16 kHz mono 16-bit WAV
(115 MB an hour). Copies that are there already are kept, so that an interrupted run goes on.

With --transcripts, the transcript of talk.flac is talk.txt (or talk.lab) beside it; a table (.csv, .tsv) has
a header with the columns path, text, and speaker if it is known (data_prep/transcripts.py has other names
for them); a manifest has its own. Without, for training that reads none (train.py --training.teacher),
recordings longer than --seconds are cut into equal pieces.
"""

import argparse
import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from asr.data import audio
from asr.data.manifest import Utterance, read_manifest
from asr.data.recordings import Recording, find_recordings
from asr.data.tokenizer import train_tokenizer
from asr.errors import UserError, run_program
from asr.files import atomic_write, require_writable
from asr.model.frames import SAMPLE_RATE
from asr.processes import cpu_count
from data_prep.copies import made_of, up_to_date, write_copy
from data_prep.librispeech import Fault, decode_all, refusal, write_split
from data_prep.transcripts import TABLES, beside, read_table

SPEAKER = "unknown"
HELD_OUT = ("dev", "test")


@dataclass(frozen=True)
class Source:
    """A recording and the copies that it becomes, one a piece."""

    id: str
    recording: Recording
    copies: list[Path]

    @property
    def path(self) -> Path:
        """The recording's file."""
        return self.recording.path


def find(
    arguments: list[Path], folder: Path, seconds: float, split: str, transcripts: bool = False
) -> tuple[list[Source], list[Fault]]:
    """The recordings, each with its copies in ``folder``, and what cannot be one.

    Args:
        arguments: folders, recordings, lists, manifests and tables.
        folder: for the copies.
        seconds: longest piece.
        split: its name, for the faults.
        transcripts: whether each wants a transcript, and must not be cut.

    Raises:
        UserError: two would have the same id.
    """
    sources, taken = [], {}
    faults = []
    for found in _recordings(arguments):
        if not isinstance(found, Recording):
            file, _, detail = str(found).partition(": ")
            faults.append(Fault(split, Path(file).stem, file, getattr(found, "cause", "missing"), detail))
            continue
        id = "_".join(found.name.as_posix().split())
        if transcripts:
            found = found if found.text else replace(found, text=beside(found.path))
            if fault := _unfit(found, seconds):
                faults.append(Fault(split, id, str(found.path), *fault))
                continue
        else:
            found = replace(found, text="")
        pieces = max(1, math.ceil(found.seconds / seconds))
        ids = [id] if pieces == 1 else [f"{id}.{number}-of-{pieces}" for number in range(1, pieces + 1)]
        for name in dict.fromkeys([id, *ids]):
            if name in taken:
                raise UserError(f"{found.path}: {taken[name]} has the same id, {name}; rename one of the two")
            taken[name] = found.path
        sources.append(Source(id, found, [folder / f"{name}.wav" for name in ids]))
    return sources, faults


def _recordings(arguments: list[Path]) -> Iterator[Recording | UserError]:
    for argument in arguments:
        is_table = argument.suffix.lower() in TABLES and argument.is_file()
        yield from read_table(argument) if is_table else find_recordings([argument])


def _unfit(recording: Recording, seconds: float) -> tuple[str, str] | None:
    """Cause and detail, where a recording is none to train on with its transcript."""
    if not recording.text:
        return (
            "recording without transcript",
            f"no words in {recording.path.with_suffix('.txt').name} beside it",
        )
    if recording.seconds > seconds:
        length = f"{recording.seconds:.1f} s; with a transcript it is not cut"
        return "too long", f"{length}: give its parts as a manifest, or a larger --seconds"
    return None


def copy(source: Source, folder: Path, split: str) -> list[Utterance] | Fault:
    """Decode a recording and write its copies; those in ``folder`` already are taken as they are."""
    try:
        origin = made_of(source.path, source.recording.part, len(source.copies))
        if not all(up_to_date(path, origin) for path in source.copies):
            for path, samples in zip(source.copies, _pieces(source), strict=True):
                write_copy(path, samples, origin)
        lengths = [audio.duration(path) for path in source.copies]
    except audio.AudioError as error:
        detail = str(error).removeprefix(f"{source.path}: ")
        return Fault(split, source.id, str(source.path), error.cause, detail)
    text, speaker = source.recording.text, source.recording.speaker or SPEAKER
    return [
        Utterance(path.relative_to(folder).with_suffix("").as_posix(), str(path), length, text, speaker)
        for path, length in zip(source.copies, lengths, strict=True)
    ]


def _pieces(source: Source) -> Iterator[torch.Tensor]:
    """The samples of each copy, (S,): of equal length, bar the last, which ends with the recording."""
    size = math.ceil(source.recording.seconds * SAMPLE_RATE / len(source.copies))
    waiting, last = torch.empty(0), len(source.copies) - 1
    number = 0
    for block in source.recording.stream():
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
    add(
        "--recordings",
        type=Path,
        nargs="+",
        required=True,
        help="folders, recordings, lists, manifests (also lhotse's, NeMo's, Kaldi's), tables (.csv, .tsv)",
    )
    add(
        "--out",
        type=Path,
        required=True,
        help="manifest to write, NAME.jsonl; copies go to audio/NAME beside it",
    )
    add("--seconds", type=float, default=20.0, help="longest piece (%(default)s)")
    add("--transcripts", action="store_true", help="every recording wants a transcript, and is not cut")
    add("--dev", type=float, default=0.0, help="share of the audio for dev.jsonl beside --out (%(default)s)")
    add(
        "--test", type=float, default=0.0, help="share of the audio for test.jsonl beside --out (%(default)s)"
    )
    add(
        "--pieces",
        type=int,
        default=0,
        help="train tokenizer.model beside --out with so many (default: none)",
    )
    add(
        "--skip-bad", action="store_true", help="leave out what cannot be used, listed in NAME.excluded.jsonl"
    )
    add("--jobs", type=int, default=cpu_count(), help="processes that decode (default: cores)")
    args = parser.parse_args(argv)
    _check(args)
    require_writable(args.out.parent)
    split = args.out.stem
    folder = args.out.parent / "audio" / split
    sources, faults = find(args.recordings, folder, args.seconds, split, args.transcripts)
    work = functools.partial(copy, folder=folder, split=split)
    results = decode_all(work, sources, args.jobs) if sources else []
    utterances = [item for found in results if not isinstance(found, Fault) for item in found]
    total = len(sources) + len(faults)
    faults += [found for found in results if isinstance(found, Fault)]
    if faults and (not args.skip_bad or not utterances):
        raise refusal(faults, total)
    parts = hold_out(utterances, {name: getattr(args, name) for name in HELD_OUT})
    if not parts[""]:
        raise UserError(f"{args.out}: too few recordings or speakers to hold out --dev and --test")
    _check_left(args.out, parts)
    if args.pieces:  # before anything is written: a text may not support so many
        tokenizer = train_tokenizer([item.text for item in parts[""]], args.pieces)
        atomic_write(args.out.parent / "tokenizer.model", tokenizer)
    for name, part in parts.items():
        if part:
            write_split(args.out.parent, name or split, part, [] if name else faults)


def hold_out(utterances: list[Utterance], shares: dict[str, float]) -> dict[str, list[Utterance]]:
    """Utterances by split: of each in ``shares`` so much of the audio, the rest under "".

    Whole speakers where there are several, else single utterances, as where nobody knows the speaker. In
    which order, is a function of the names alone, so that a corpus that grows keeps most of its parts. Who
    says more than twice as much as is wanted is held out only where nobody says less.
    """
    units = _units(utterances, by_speaker=True)
    if len(units) <= len(shares):
        units = _units(utterances, by_speaker=False)
    seconds = {unit: sum(item.duration for item in items) for unit, items in units.items()}
    total = sum(seconds.values())
    parts: dict[str, list[Utterance]] = {name: [] for name in ("", *shares)}
    waiting = sorted(units, key=lambda unit: hashlib.sha256(unit[1].encode()).digest())
    for name, share in shares.items():
        wanted, held, passed = share * total, 0.0, []
        while waiting and held < wanted:
            unit = waiting.pop()
            if held + seconds[unit] > 2 * wanted:
                passed.append(unit)
                continue
            parts[name] += units[unit]
            held += seconds[unit]
        if passed and not held:
            parts[name] += units[passed.pop(passed.index(min(passed, key=seconds.get)))]
        waiting += reversed(passed)
    for unit in waiting:
        parts[""] += units[unit]
    order = {item.id: place for place, item in enumerate(utterances)}
    return {name: sorted(part, key=lambda item: order[item.id]) for name, part in parts.items()}


def _units(utterances: list[Utterance], by_speaker: bool) -> dict[tuple[bool, str], list[Utterance]]:
    """What is held out as a whole: the utterances of a speaker who is known, or else each by itself."""
    units = defaultdict(list)
    for item in utterances:
        known = by_speaker and item.speaker != SPEAKER
        units[known, item.speaker if known else item.id].append(item)
    return units


def _check_left(out: Path, parts: dict[str, list[Utterance]]) -> None:
    """Raise UserError where an earlier run held out what this one does not."""
    taken = {Path(item.audio).resolve() for part in parts.values() for item in part}
    for name in HELD_OUT:
        path = out.parent / f"{name}.jsonl"
        if parts[name] or path == out or not path.exists():
            continue
        if any(Path(item.audio).resolve() in taken for item in read_manifest(path)):
            raise UserError(f"{path}: its recordings would be in {out} too; give --{name}, or remove it")


def _check(args: argparse.Namespace) -> None:
    """Raise UserError where options do not go together."""
    if args.out.suffix != ".jsonl":
        raise UserError(f"--out {args.out}: must end in .jsonl")
    if not 1 <= args.seconds < math.inf or args.jobs < 1:
        raise UserError("--seconds and --jobs must be 1 or more")
    if not (0 <= args.dev < 1 and 0 <= args.test < 1 and args.dev + args.test < 1):
        raise UserError("--dev and --test are shares of the audio: 0 or more, and below 1 together")
    if args.out.stem in HELD_OUT and getattr(args, args.out.stem):
        raise UserError(f"--out {args.out}: would be overwritten by --{args.out.stem}; call it train.jsonl")
    if args.pieces and not args.transcripts:
        raise UserError("--pieces wants --transcripts")
    if args.pieces < 0:
        raise UserError(f"--pieces {args.pieces}: must be positive")


if __name__ == "__main__":
    run_program(main)

"""Recordings to a few large files of samples: ``python -m data_prep.pack``."""

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr.data.audio import WHOLE
from asr.data.batches import read_samples
from asr.data.manifest import Utterance, find_manifest, read_manifest, write_manifest
from asr.data.packed import SAMPLE_BYTES, quantise
from asr.errors import UserError, run_program
from asr.files import atomic_path, atomic_write, locked, require_room, require_writable
from asr.model.frames import SAMPLE_RATE
from asr.processes import cpu_count, start_worker

HELP = "Copy the recordings of manifests into a few large files that training reads many times as fast."

EXAMPLES = """
Writes OUT/SPLIT.00000.pcm and so on (raw 16-bit little-endian mono 16 kHz samples, 115 MB an hour),
OUT/SPLIT.shards.json (their checksums) and, last, the manifest OUT/SPLIT.jsonl, with which train.py
and decode.py work as with any other. Run it again to go on after an interruption.

examples:
  python -m data_prep.pack --data data/librispeech --splits train-clean-100 dev-clean
  python train.py --data.folder data/librispeech/packed ...
  whether the files are still what they were:
    python -m data_prep.pack --data data/librispeech --splits train-clean-100 dev-clean --verify
"""

_stop: Any = None  # in a worker: an event that says it should end


@dataclass(frozen=True)
class Shard:
    """A file, and the utterances that lie in it one after the other."""

    split: str
    path: Path
    utterances: list[Utterance]

    @property
    def hours(self) -> float:
        """By the manifest."""
        return sum(utterance.duration for utterance in self.utterances) / 3600

    @property
    def digest(self) -> str:
        """Fingerprint of what belongs in the file. The texts do not: they may be mended."""
        # Relative paths, so that a folder may be moved with all that is in it.
        folder = self.path.parent.absolute()
        lines = []
        for u in self.utterances:
            part = [u.start, u.channel] if u.part != WHOLE else []
            lines.append([u.id, os.path.relpath(u.audio, folder), u.duration, u.offset, u.samples, *part])
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Record:
    """What is in a shard that was written: checksum, its Shard's digest, samples of each utterance."""

    sha256: str
    digest: str
    samples: list[int]


def plan(split: str, utterances: list[Utterance], out: Path, shard_hours: float) -> list[Shard]:
    """Deal utterances out to shards of at most ``shard_hours``, in the given order."""
    groups: list[list[Utterance]] = []
    seconds = 0.0
    for utterance in utterances:
        seconds += utterance.duration
        if not groups or seconds > 3600 * shard_hours:
            groups.append([])
            seconds = utterance.duration
        groups[-1].append(utterance)
    return [Shard(split, out / f"{split}.{number:05}.pcm", group) for number, group in enumerate(groups)]


def write_shard(shard: Shard) -> Record:
    """Read a shard's recordings and write its file in one step."""
    checksum, samples = hashlib.sha256(), []
    with atomic_path(shard.path) as temporary, temporary.open("wb") as file:
        for utterance in shard.utterances:
            if _stop is not None and _stop.is_set():
                raise KeyboardInterrupt
            content = quantise(read_samples(utterance))
            file.write(content)
            checksum.update(content)
            samples.append(len(content))
    return Record(checksum.hexdigest(), shard.digest, samples)


def check_shard(shard: Shard, record: Record) -> None:
    """Raise UserError unless the shard's file has the checksum on record."""
    with shard.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != record.sha256:
        raise _damaged(shard.path, f"its checksum (sha256) is {found}, not {record.sha256}")


def is_there(shard: Shard, record: Record | None) -> bool:
    """Whether a shard need not be written; raises UserError where its file has another size than it had."""
    if record is None or record.digest != shard.digest or not shard.path.exists():
        return False
    size, expected = shard.path.stat().st_size, SAMPLE_BYTES * sum(record.samples)
    if size != expected:
        raise _damaged(shard.path, f"it is {size} bytes long, not {expected}")
    return True


def pack(data: Path, splits: list[str], out: Path, jobs: int, shard_hours: float, verify: bool) -> None:
    """Pack splits of ``data`` into ``out``; what is there already is kept, and read if ``verify``.

    Raises:
        UserError: too little room, a recording that cannot be read, a damaged shard.
    """
    manifests = {split: read_manifest(find_manifest(data, split)) for split in splits}
    require_writable(out)
    if out.resolve() == data.resolve():
        raise UserError(f"--out {out}: is --data itself, whose manifests would be overwritten")
    with locked(out / "shards", wait=False):
        shards = {split: plan(split, manifests[split], out, shard_hours) for split in splits}
        records = {split: _read_records(out, split) for split in splits}
        kept, missing = [], []
        for split in splits:
            there = [is_there(shard, records[split].get(shard.path.name)) for shard in shards[split]]
            for shard, done in zip(shards[split], there, strict=True):
                (kept if done else missing).append(shard)
            print(
                f"{split}: {len(manifests[split])} utterances, "
                f"{sum(shard.hours for shard in shards[split]):.2f} h, "
                f"{there.count(True)} of {len(there)} files packed before"
            )
        if verify and kept:
            tasks = [(shard, records[shard.split][shard.path.name]) for shard in kept]
            for _ in _in_pool(check_shard, tasks, jobs, "verifying"):
                pass
            print(f"{len(kept)} files verified: each has the checksum that it was written with")
        if missing:
            _write_missing(out, missing, records, jobs)
        for split in splits:
            _finish(out, split, shards[split], records[split])


def _write_missing(out: Path, missing: list[Shard], records: dict[str, dict[str, Record]], jobs: int) -> None:
    """Write shards, and the record of each as soon as it is whole."""
    splits = {shard.split for shard in missing}
    for split in splits:
        path = out / split
        for leftover in path.parent.glob(f".{escape(path.name)}.*.tmp"):  # of a run that was killed
            leftover.unlink()
    hours = sum(shard.hours for shard in missing)
    print(f"to pack: {hours:.2f} h in {len(missing)} files")
    require_room(out, int(3600 * hours * SAMPLE_RATE * SAMPLE_BYTES))
    for shard in missing:
        records[shard.split].pop(shard.path.name, None)
    for split in splits:
        # Before a file changes under them: manifest and records are there only while they are true.
        (out / f"{split}.jsonl").unlink(missing_ok=True)
        if (out / f"{split}.shards.json").exists():
            _write_records(out, split, records[split])
    for shard, record in _in_pool(write_shard, [(shard,) for shard in missing], jobs, "packing"):
        records[shard.split][shard.path.name] = record
        _write_records(out, shard.split, records[shard.split])


def _finish(out: Path, split: str, shards: list[Shard], records: dict[str, Record]) -> None:
    """Write the manifest, unless it is there; then remove files that an earlier manifest named."""
    path = out / f"{split}.jsonl"
    utterances = []
    for shard in shards:
        audio, offset = os.path.normpath(shard.path.absolute()), 0
        for utterance, samples in zip(shard.utterances, records[shard.path.name].samples, strict=True):
            packed = replace(utterance, start=None, channel=None, audio=audio, offset=offset, samples=samples)
            utterances.append(packed)
            offset += samples
    if _holds(path, utterances):
        print(f"{path}: packed already")
        return
    write_manifest(path, utterances)
    for name in records.keys() - {shard.path.name for shard in shards}:
        path.with_name(name).unlink(missing_ok=True)
        del records[name]
    _write_records(out, split, records)
    print(f"{path}: {len(utterances)} utterances in {len(shards)} files")


def _holds(path: Path, utterances: list[Utterance]) -> bool:
    try:
        return read_manifest(path) == utterances
    except UserError:  # not there, or damaged
        return False


def _in_pool(function: Callable, tasks: list[tuple], jobs: int, show: str) -> Iterator[tuple[Shard, Any]]:
    """``function`` of each task, whose first item is a Shard: (shard, result) as they come, and a bar."""
    stop = multiprocessing.Event()
    every = 0.1 if sys.stderr.isatty() else 30  # seconds: a log file wants few lines
    with (
        ProcessPoolExecutor(jobs, initializer=_start, initargs=(stop,)) as pool,
        tqdm(total=len(tasks), unit="file", desc=show, mininterval=every) as bar,
    ):
        try:
            # Processes begin at the first submit, and are deaf to Ctrl-C from the start, not from _start on.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                shards = {pool.submit(function, *task): task[0] for task in tasks}
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for done in as_completed(shards):
                yield shards[done], done.result()
                bar.update()
        except BrokenProcessPool:
            raise UserError("a process that packs died (out of memory?); run again to go on") from None
        except BaseException:  # Ctrl-C above all: do not finish the shards begun, which may take a minute
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _start(stop: Any) -> None:
    global _stop
    _stop = stop
    start_worker()


def _read_records(out: Path, split: str) -> dict[str, Record]:
    path = out / f"{split}.shards.json"
    if not path.exists():
        return {}
    try:
        return {name: Record(**fields) for name, fields in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged; delete it to pack {split} again") from None


def _write_records(out: Path, split: str, records: dict[str, Record]) -> None:
    plain = {name: asdict(record) for name, record in sorted(records.items())}
    atomic_write(out / f"{split}.shards.json", json.dumps(plain) + "\n")


def _damaged(path: Path, fault: str) -> UserError:
    return UserError(f"{path}: damaged: {fault}; delete it and run again to pack it again")


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.pack",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the manifests")
    parser.add_argument("--splits", nargs="+", required=True, help="splits to pack")
    parser.add_argument("--out", type=Path, help="folder for the packed splits (default: DATA/packed)")
    parser.add_argument(
        "--jobs", type=int, default=cpu_count(), help="processes, a file each (default: cores)"
    )
    parser.add_argument(
        "--shard-hours", type=float, default=4.0, help="hours in a file; another number packs all anew (4)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the files that are there and compare their checksums"
    )
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: must be 1 or more")
    if not options.shard_hours > 0:
        raise UserError(f"--shard-hours {options.shard_hours}: must be more than 0")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and pack."""
    options = _parse_arguments(arguments)
    out = options.out or options.data / "packed"
    splits = list(dict.fromkeys(options.splits))
    pack(options.data, splits, out, options.jobs, options.shard_hours, options.verify)


if __name__ == "__main__":
    run_program(main)

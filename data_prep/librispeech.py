"""LibriSpeech, or any corpus in its layout, to manifests: ``python -m data_prep.librispeech``."""

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from asr.data.audio import SUFFIXES, AudioError, check, load
from asr.data.manifest import Utterance, write_manifest
from asr.errors import UserError, run_program
from asr.files import atomic_write, require_room, require_writable
from asr.model.frames import SAMPLE_RATE
from asr.processes import cpu_count, start_worker
from data_prep.copies import made_of, up_to_date, write_copy
from data_prep.download import OPENSLR, extract, fetch, fetched

# --download NAME -> its number at OpenSLR, and the bytes of each split's archive.
CORPORA = {
    "mini": (31, {"train-clean-5": 332954390, "dev-clean-2": 126046265}),
    "full": (
        12,
        {
            "train-clean-100": 6387309499,
            "train-clean-360": 23049477885,
            "train-other-500": 30593501606,
            "dev-clean": 337926286,
            "dev-other": 314305928,
            "test-clean": 346663984,
            "test-other": 328757843,
        },
    ),
}
# SHA-256 of the full corpus, as torchaudio 2.11 has them; OpenSLR gives MD5 for the mini one.
SHA256 = {
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
}
MD5 = {
    "train-clean-5": "5df7d4e78065366204ca6845bb08f490",
    "dev-clean-2": "6d7ab67ac6a1d2c993d050e16d61080d",
}

T, R = TypeVar("T"), TypeVar("R")

HELP = "Check a corpus in LibriSpeech's layout and write one manifest, OUT/SPLIT.jsonl, per split."

EXAMPLES = """
--root is the folder that holds LibriSpeech/SPLIT or SPLIT, each with
SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac (or .wav .opus .ogg .mp3) and, beside the
recordings, SPEAKER-CHAPTER.trans.txt with a line "SPEAKER-CHAPTER-UTTERANCE THE WORDS" for each.
Every recording is decoded once, so that a damaged one is found now and not on the third day of
training.

examples:
  the five hours of mini LibriSpeech, fetched (0.5 GB) and prepared:
    python -m data_prep.librispeech --root corpora --download mini --out data/mini
  all of LibriSpeech (61 GB to fetch), or two splits of it:
    python -m data_prep.librispeech --root corpora --download full --out data/librispeech
    python -m data_prep.librispeech --root corpora --download full --out data/librispeech \\
        --splits dev-clean test-clean
  a copy that is already there:
    python -m data_prep.librispeech --root /path/to/corpora --out data/librispeech
  the same from another mirror (also https://openslr.elda.org, https://openslr.magicdatatech.com):
    python -m data_prep.librispeech --root corpora --download mini --out data/mini \\
        --mirror https://us.openslr.org
  Opus or MP3 recordings, decoded once and for all into 16 kHz WAV under data/mine/audio:
    python -m data_prep.librispeech --root mine --out data/mine --convert wav
"""


@dataclass(frozen=True)
class Candidate:
    """A transcript and its recording, not yet looked at. ``copy`` is where a WAV copy goes."""

    split: str
    id: str
    audio: Path
    text: str
    speaker: str
    copy: Path | None = None


@dataclass(frozen=True)
class Fault:
    """Something in a split that cannot be used, and why."""

    split: str
    id: str
    file: str
    cause: str
    detail: str


def download(root: Path, corpus: str, splits: list[str] | None, mirror: str) -> list[str]:
    """Fetch and unpack splits of ``corpus`` (all, if None) into ``root``; return their names.

    Archives go to ``root/archives`` and may be deleted afterwards. What is there is left as it is.

    Raises:
        UserError: no such split, too little room, or the download failed.
    """
    number, sizes = CORPORA[corpus]
    for split in splits or []:
        if split not in sizes:
            raise UserError(f"--splits {split}: not in --download {corpus}: {' '.join(sizes)}")
    missing = []
    for split in splits or sizes:
        folder = root / "LibriSpeech" / split
        if (folder / ".complete").exists():
            print(f"{folder}: already downloaded")
        elif folder.exists():
            print(f"{folder}: already there, used as it is; delete it to download it")
        else:
            missing.append(split)
    if missing:
        urls = {split: f"{mirror.rstrip('/')}/resources/{number}/{split}.tar.gz" for split in missing}
        archives = {split: root / "archives" / f"{split}.tar.gz" for split in missing}
        to_fetch = sum(sizes[split] - fetched(archives[split]) for split in missing)
        print(f"to fetch: {to_fetch / 1e9:.2f} GB: {' '.join(urls.values())}")
        # The archives hold FLAC, which gzip cannot make smaller: unpacked, it takes as much again.
        require_room(root, to_fetch + sum(int(1.02 * sizes[split]) for split in missing))
        for split in missing:
            fetch(urls[split], archives[split], sizes[split], SHA256.get(split), MD5.get(split))
            extract(archives[split], root, f"LibriSpeech/{split}/.complete")
    return list(splits or sizes)


def find_splits(root: Path) -> dict[str, Path]:
    """The splits below ``root/LibriSpeech``, or else ``root``: name -> folder.

    Raises:
        UserError: no such folder, or no split in it.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder; it should hold LibriSpeech/SPLIT or SPLIT")
    for base in (root / "LibriSpeech", root):
        folders = _folders(base) if base.is_dir() else []
        holds_speech = [any(map(_is_corpus_file, folder.glob("*/*/*"))) for folder in folders]
        if any(holds_speech):
            return {folder.name: folder for folder in compress(folders, holds_speech)}
    raise UserError(
        f"--root {root}: no split found; looked for SPLIT/SPEAKER/CHAPTER/*.trans.txt and "
        f"recordings ({' '.join(SUFFIXES)}) in it and in its folder LibriSpeech"
    )


def scan_split(split: str, folder: Path) -> tuple[list[Candidate], list[Fault]]:
    """Match the transcripts of a split with its recordings; opens no recording.

    Raises:
        UserError: a transcript line that cannot be read, or two recordings with one id.
    """
    candidates, faults = [], []
    for chapter in (chapter for speaker in _folders(folder) for chapter in _folders(speaker)):
        speaker = chapter.parent.name
        transcripts = chapter / f"{speaker}-{chapter.name}.trans.txt"
        texts = _read_transcripts(transcripts)
        recordings = _recordings(chapter)
        for id in sorted(texts.keys() | recordings.keys()):
            fault = functools.partial(Fault, split, id)
            if id not in texts:
                cause, detail = "recording without transcript", f"no line {id} in {transcripts}"
                faults.append(fault(str(recordings[id]), cause, detail))
            elif id not in recordings:
                cause, detail = "transcript without recording", f"no recording of {id} beside it"
                faults.append(fault(str(transcripts), cause, detail))
            elif not texts[id]:
                faults.append(fault(str(transcripts), "empty transcript", f"no words after {id}"))
            else:
                candidates.append(Candidate(split, id, recordings[id], texts[id], speaker))
    return candidates, faults


def examine(candidate: Candidate) -> Utterance | Fault:
    """Decode one recording to its end, and write its WAV copy where one is wanted."""
    audio = candidate.audio
    try:
        if candidate.copy is not None:
            _convert(audio, candidate.copy)
            audio = candidate.copy
        seconds = check(audio)
    except AudioError as error:
        detail = str(error).removeprefix(f"{audio}: ")
        return Fault(candidate.split, candidate.id, str(audio), error.cause, detail)
    return Utterance(candidate.id, str(audio), seconds, candidate.text, candidate.speaker)


def decode_all(decode: Callable[[T], R], items: Sequence[T], jobs: int) -> list[R]:
    """``decode`` each item in ``jobs`` processes, with a progress bar; the results in the given order."""
    with ProcessPoolExecutor(jobs, initializer=start_worker) as pool:
        try:
            # Small chunks: Ctrl-C waits for those begun. Yet not a million of them.
            results = pool.map(decode, items, chunksize=1 + len(items) // 20_000)
            every = 0.1 if sys.stderr.isatty() else 30  # seconds: a log file wants few lines
            bar = tqdm(results, total=len(items), unit="file", desc="decoding", mininterval=every)
            return list(bar)
        except BrokenProcessPool:
            raise UserError(
                "a process that decodes died (out of memory?); try again with fewer --jobs"
            ) from None
        except BaseException:  # Ctrl-C above all: do not go through the rest of the queue first
            pool.shutdown(cancel_futures=True)
            raise


def prepare(root: Path, out: Path, splits: list[str] | None, skip_bad: bool, jobs: int, wav: bool) -> None:
    """Check the splits (all, if None) and write their manifests; print what is in them.

    Raises:
        UserError: nothing to prepare, or faults without ``skip_bad``: then no manifest is written.
    """
    require_writable(out)  # now, not after an hour of decoding
    found = find_splits(root)
    splits = list(dict.fromkeys(splits)) if splits else splits
    candidates, faults = [], []
    for split in splits or found:
        if split not in found:
            raise UserError(f"--splits {split}: no utterance found; splits: {' '.join(found)}")
        good, bad = scan_split(split, found[split])
        candidates += [_with_copy(candidate, out) for candidate in good] if wav else good
        faults += bad

    by_split = {split: [] for split in splits or found}
    for candidate, result in zip(candidates, decode_all(examine, candidates, jobs), strict=True):
        if isinstance(result, Fault):
            faults.append(result)
        else:
            by_split[candidate.split].append(result)

    if faults and not skip_bad:
        raise refusal(faults, len(faults) + sum(map(len, by_split.values())))
    for split, utterances in by_split.items():
        if not utterances:
            raise UserError(f"{found[split]}: no utterance of this split can be used")
    for split, utterances in by_split.items():
        excluded = [fault for fault in faults if fault.split == split]
        write_split(out, split, sorted(utterances, key=lambda u: u.id), excluded)


def refusal(faults: list[Fault], total: int) -> UserError:
    """What to say where there are faults among so many utterances, and --skip-bad was not given."""
    return UserError(
        f"{len(faults)} of {total} utterances cannot be used ({_count(faults)}); first: "
        f"{faults[0].file}: {faults[0].detail}; no manifest was written, --skip-bad leaves them out"
    )


def write_split(out: Path, split: str, utterances: list[Utterance], excluded: list[Fault]) -> None:
    """Write a split's manifest and the list of what was left out of it; print what is in it."""
    listing = out / f"{split}.excluded.jsonl"
    if excluded:
        records = ({k: v for k, v in asdict(fault).items() if k != "split"} for fault in excluded)
        atomic_write(listing, "".join(json.dumps(record) + "\n" for record in records))
    else:
        listing.unlink(missing_ok=True)  # an earlier run's
    write_manifest(out / f"{split}.jsonl", utterances)

    seconds = [utterance.duration for utterance in utterances]
    print(
        f"{split}: {len(utterances)} utterances, {sum(seconds) / 3600:.2f} h, "
        f"{len({utterance.speaker for utterance in utterances})} speakers, "
        f"{min(seconds):.2f} to {max(seconds):.2f} s"
    )
    if excluded:
        print(f"{split}: left out {len(excluded)} ({_count(excluded)}), listed in {listing}")


def _count(faults: Iterable[Fault]) -> str:
    causes = Counter(fault.cause for fault in faults).most_common()
    return ", ".join(f"{cause}: {number}" for cause, number in causes)


def _is_corpus_file(path: Path) -> bool:
    # Names with a dot in front are not recordings: macOS puts ._NAME beside NAME in its archives.
    known = path.suffix.lower() in SUFFIXES or path.name.endswith(".trans.txt")
    return known and not path.name.startswith(".")


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except PermissionError as error:  # Path.glob would pass it over, and drop what is inside
        raise UserError(f"{parent}: cannot be read: {error.strerror}") from None


def _read_transcripts(path: Path) -> dict[str, str]:
    """Utterance id -> words; empty where there is no such file, its recordings then lack a text."""
    if not path.is_file():
        return {}
    prefix = path.name.removesuffix(".trans.txt") + "-"
    texts = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        number = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{number}: not UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        id, *words = line.split()
        if not id.startswith(prefix):
            raise UserError(f"{path}:{number}: expected {prefix}NUMBER WORDS, found {line[:40]!r}")
        if id in texts:
            raise UserError(f"{path}:{number}: a second transcript of {id}")
        texts[id] = " ".join(words)
    return texts


def _recordings(chapter: Path) -> dict[str, Path]:
    recordings = {}
    for path in sorted(chapter.iterdir()):
        if not _is_corpus_file(path) or path.name.endswith(".trans.txt"):
            continue
        if path.stem in recordings:
            other = recordings[path.stem].name
            raise UserError(f"{path}: {other} has the same id; keep one of the two")
        recordings[path.stem] = path
    return recordings


def _with_copy(candidate: Candidate, out: Path) -> Candidate:
    speaker, chapter = candidate.audio.parts[-3:-1]  # or one folder would hold 100 000 files
    folder = out / "audio" / candidate.split / speaker / chapter
    return replace(candidate, copy=folder / f"{candidate.id}.wav")


def _convert(source: Path, copy: Path) -> None:
    """Write ``source`` as 16 kHz mono 16-bit WAV, unless an up-to-date copy is there."""
    if not up_to_date(copy, origin := made_of(source)):
        write_copy(copy, load(source, SAMPLE_RATE), origin)


def _parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.librispeech",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, required=True, help="folder with the corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    parser.add_argument(
        "--splits",
        nargs="+",
        help="splits to prepare (default: those of --download, or else all there are)",
    )
    parser.add_argument(
        "--download",
        choices=list(CORPORA),
        help="fetch mini LibriSpeech or LibriSpeech into --root first; run again to go on after "
        "an interruption",
    )
    parser.add_argument("--mirror", default=OPENSLR, help="OpenSLR server (default: %(default)s)")
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out what cannot be used and list it in OUT/SPLIT.excluded.jsonl; without "
        "this, one fault ends the program and no manifest is written",
    )
    parser.add_argument(
        "--convert",
        choices=["none", "wav"],
        default="none",
        help="wav: write 16 kHz mono 16-bit copies to OUT/audio and list those (115 MB an hour); "
        "training reads them faster than Opus or MP3. Copies that are there are kept",
    )
    parser.add_argument(
        "--jobs", type=int, default=cpu_count(), help="processes that decode (default: cores)"
    )
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: must be 1 or more")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = _parse_arguments(arguments)
    splits = options.splits
    if options.download:
        splits = download(options.root, options.download, splits, options.mirror)
    wav = options.convert == "wav"
    prepare(options.root, options.out, splits, options.skip_bad, options.jobs, wav)


if __name__ == "__main__":
    run_program(main)

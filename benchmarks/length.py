"""WER against length: models on the same speech, utterance by utterance and joined to long recordings.

    python benchmarks/length.py --checkpoints TEACHER mala=exp/mala/checkpoints/last.ckpt --data DATA
    python benchmarks/length.py ... --speakers many --lengths 0 300 --ways whole features attention
    python benchmarks/length.py ... --split test --out results/length

Every row is on the same utterances: each by itself (length 0), or joined in their order by one speaker, or
shuffled among many speakers, with pauses of 0.3 s that have the background of their neighbours. Recordings
are as nearly of the length asked for as all of the speech divides into. They go through the model in one pass
each, in chunks (asr/model/long.py), as decode.py --audio has it: that encodes whole recordings too, and with
an LM cuts their posteriors only. WER is that of greedy decoding; the words of a recording are aligned with
all that was said in it.

With --ways recordings are encoded in other ways too, which change one thing each; join several by a plus:

{SETTINGS}

(What goes by utterance knows where utterances end, as nobody does in practice.) CPU seconds are the
process's, peak memory is the most that it held in the row, PyTorch and the model included. --out keeps rows,
and a row that is there is not computed again, so that models, lengths and ways can be added.
"""

import argparse
import contextlib
import hashlib
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from common import make_parser
from matplotlib.figure import Figure
from reach import (
    SETTINGS,
    Way,
    check_way,
    limited,
    normalise_running,
    normalise_spans,
    parse_way,
)

from asr.checkpoints.checkpoint import load_model
from asr.data.batches import read_samples
from asr.data.joining import PAUSE, Joined, join_samples
from asr.data.manifest import Utterance, read_manifest
from asr.data.tokenizer import Tokenizer
from asr.decoding.alignment import best_path, collapse
from asr.decoding.segments import segment_log_probs
from asr.errors import UserError, run_program
from asr.files import atomic_path, atomic_write
from asr.model.frames import HOP, SAMPLE_RATE
from asr.model.frontend import as_float
from asr.model.long import CHUNK, encode_long, long_features, long_log_mel, long_log_probs
from asr.model.recogniser import Model
from asr.processes import cpu_count, resident_gib
from asr.scoring.errors import sum_errors, word_errors

# What decides a row; the rest is measured.
KEY = ("model", "weights", "split", "utterances", "speakers", "length", "way")


@dataclass(frozen=True)
class Subject:
    """A model to measure."""

    name: str
    model: Model
    tokenizer: Tokenizer
    weights: str  # a digest


def load_subject(argument: str) -> Subject:
    """A checkpoint, or NAME=CHECKPOINT; its attention is its name else."""
    name, found, path = argument.partition("=")
    model, recipe = load_model(path if found else argument)
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return Subject(
        name if found else recipe.model.attention, model, recipe.tokenizer, digest.hexdigest()[:12]
    )


def make_recordings(utterances: list[Utterance], seconds: float, speakers: str) -> list[list[Utterance]]:
    """Utterances in groups of about so many seconds; of one each for 0; none where there is less than half.

    Args:
        speakers: ``one`` (each speaker's own, in order) or ``many`` (shuffled).
    """
    if not seconds:
        return [[utterance] for utterance in utterances]
    if speakers == "many":
        pools = [random.Random(0).sample(utterances, len(utterances))]
    else:
        by_speaker = defaultdict(list)
        for utterance in utterances:
            by_speaker[utterance.speaker].append(utterance)
        pools = list(by_speaker.values())
    recordings = []
    for pool in pools:
        ends = np.cumsum([utterance.duration for utterance in pool])
        count = round(ends[-1] / seconds)
        if not count:
            return []
        middles = ends - [utterance.duration / 2 for utterance in pool]
        groups = (middles / ends[-1] * count).astype(int)
        recordings += [[pool[i] for i in np.flatnonzero(groups == g)] for g in range(count) if g in groups]
    return recordings


def transcribe(subject: Subject, samples: list[np.ndarray], way: Way) -> str:
    """What a model hears in utterances joined to one recording."""
    waveform = as_float(torch.from_numpy(join_samples(samples)))
    if "cut" in way.settings:
        parts = segment_log_probs(subject.model, [waveform], way.settings["cut"], together=1)
    elif way.settings:
        # An utterance's frames go from the middle of one pause to that of the next.
        ends = np.cumsum([len(part) / SAMPLE_RATE + PAUSE for part in samples]) - PAUSE / 2
        parts = encode(subject.model, waveform, way, ends[:-1])
    else:
        parts = long_log_probs(subject.model, waveform)
    path = best_path(part.numpy() for part in parts)
    return subject.tokenizer.decode(collapse(path)[0].tolist())


def encode(model: Model, waveform: torch.Tensor, way: Way, ends: np.ndarray) -> Iterator[torch.Tensor]:
    """``long_log_probs`` with what ``way`` changes; ``ends`` in seconds, of utterances but the last."""
    factor, step = model.framing.factor, HOP / SAMPLE_RATE
    n = model.framing.encoded(len(waveform))
    # In whole encoded frames, so that features and attention change at the same places.
    inner = {round(end / (factor * step)) for end in ends}
    bounds = [0, *sorted(inner & set(range(1, n))), n]
    window = way.settings.get("features")
    if window is None:
        features = long_features(model.frontend, waveform, factor * CHUNK)
    else:
        features = long_log_mel(model.frontend, waveform, factor * CHUNK)
        if window:
            features = normalise_running(model.frontend, features, round(window / step))
        else:
            spans = [*(factor * bound for bound in bounds[:-1]), len(features)]
            features = normalise_spans(model.frontend, features, spans)
    with limited(model.encoder, way, bounds, model.framing.seconds):
        encoded = encode_long(model.encoder, features)
    with torch.inference_mode():
        for part in encoded.split(CHUNK):
            yield model.head(part[None])[0]


def measure(subject: Subject, recordings: list[list[Utterance]], way: Way) -> dict:
    """The figures of one row."""
    reset_peak()
    started, seconds, errors = time.process_time(), 0.0, []
    for recording in recordings:
        samples = [read_samples(utterance) for utterance in recording]
        seconds += sum(map(len, samples)) / SAMPLE_RATE + PAUSE * (len(samples) - 1)
        errors.append(word_errors(Joined(tuple(recording)).text, transcribe(subject, samples, way)))
    cpu, errors = time.process_time() - started, sum_errors(errors)
    return {
        "recordings": len(recordings),
        "mean_seconds": seconds / len(recordings),
        "wer": errors.rate,
        "sub": errors.substitutions,
        "ins": errors.insertions,
        "del": errors.deletions,
        "words": errors.words,
        "cpu_seconds": cpu,
        "x_real_time": seconds / cpu,
        "peak_gib": resident_gib(peak=True),
    }


def reset_peak() -> None:
    """Count peak memory from here on. Linux; elsewhere and where it is forbidden the process's peak stays."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def format_row(row: dict) -> str:
    length = "utterance" if not row["length"] else row["speakers"]
    return (
        f"{row['model']:10} {length:9} {row['mean_seconds'] / 60:7.2f} {row['recordings']:4} {row['way']:24} "
        f"{row['wer']:6.2f} {row['sub']:5} {row['ins']:4} {row['del']:4} {row['cpu_seconds']:6.1f} "
        f"{row['x_real_time']:6.0f} {row['peak_gib']:5.2f}"
    )


HEADER = (
    f"{'model':10} {'speakers':9} {'minutes':>7} {'recs':>4} {'way':24} {'WER':>6} {'sub':>5} {'ins':>4} "
    f"{'del':>4} {'CPU s':>6} {'x real':>6} {'GiB':>5}"
)


def draw(rows: list[dict]) -> Figure:
    """WER against length, a line a model and way, a panel for one speaker and one for many."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=120)
    for axes, speakers in zip(figure.subplots(1, 2, sharey=True), ("one", "many"), strict=True):
        lines = defaultdict(dict)
        for row in rows:
            if not row["length"] or row["speakers"] == speakers:
                lines[row["model"], row["way"]][row["mean_seconds"]] = row["wer"]
        for (model, way), points in lines.items():
            x = sorted(points)
            label = model if way == "whole" else f"{model}, {way}"
            axes.plot(x, [points[seconds] for seconds in x], "o-", markersize=3, label=label)
        axes.set(
            xscale="log",
            xlabel="length of a recording (s)",
            title=f"{speakers} speaker{'s' * (speakers == 'many')}",
        )
        if lines:
            axes.legend(fontsize=7)
    figure.axes[0].set_ylabel("WER (%)")
    return figure


def write(out: Path, rows: list[dict]) -> None:
    """Rows and picture in a folder."""
    atomic_write(out / "length.json", json.dumps(rows, indent=1) + "\n")
    # Letters as letters, and not as outlines: half the size.
    with matplotlib.rc_context({"svg.fonttype": "none"}), atomic_path(out / "length.svg") as path:
        draw(rows).savefig(path, format="svg")


def read(out: Path) -> list[dict]:
    """Rows of before; raises UserError where they are not rows."""
    path = out / "length.json"
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())
        for row in rows:
            format_row(row), [row[name] for name in KEY]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: not what this program writes; name another --out") from None
    return rows


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__.replace("{SETTINGS}", SETTINGS))
    add = parser.add_argument
    add(
        "--checkpoints",
        nargs="+",
        required=True,
        help="checkpoints, exported folders, FILE.nemo; NAME=PATH names one",
    )
    add("--data", type=Path, required=True, help="folder with manifests")
    add("--split", default="dev", help="whose utterances (%(default)s)")
    add("--every", type=int, default=1, help="take every N-th utterance only (%(default)s)")
    add(
        "--lengths",
        type=float,
        nargs="+",
        default=[0, 30, 60, 300, 600, 1800],
        help="seconds; 0: as they are (%(default)s)",
    )
    add(
        "--speakers",
        nargs="+",
        choices=("one", "many"),
        default=["one", "many"],
        help="in a recording (%(default)s)",
    )
    add("--ways", nargs="+", default=["whole"], help="of encoding (%(default)s)")
    add("--out", type=Path, help="folder for rows and picture")
    args = parser.parse_args()
    if args.every < 1 or min(args.lengths) < 0:
        raise UserError("--every must be positive, --lengths not negative")
    args.ways = [parse_way(text) for text in args.ways]
    return args


def _load_subjects(args: argparse.Namespace) -> list[Subject]:
    subjects = [load_subject(argument) for argument in args.checkpoints]
    for number, subject in enumerate(subjects):
        if subject.name in [other.name for other in subjects[:number]]:
            raise UserError(f"--checkpoints: two are called {subject.name}; give NAME=PATH")
        for way in args.ways:
            check_way(way, subject.model.encoder)
    return subjects


def _measurements(
    args: argparse.Namespace, subject: Subject, utterances: list[Utterance]
) -> Iterator[tuple[tuple, list[list[Utterance]], Way]]:
    """Of a model, each row's values of KEY, with its recordings and its way."""
    for length in args.lengths:
        for speakers in args.speakers if length else [""]:
            recordings = make_recordings(utterances, length, speakers)
            if not recordings:
                print(f"{subject.name}, {speakers}: too little speech for {length:g} s")
                continue
            for way in args.ways if length else [parse_way("whole")]:
                about = args.split, len(utterances), speakers, length, way.name
                yield (subject.name, subject.weights, *about), recordings, way


def main() -> None:
    """Parse the command line, measure, print."""
    args = _parse()
    utterances = read_manifest(args.data / f"{args.split}.jsonl")[:: args.every]
    rows = read(args.out) if args.out else []
    subjects = _load_subjects(args)
    hours = sum(utterance.duration for utterance in utterances) / 3600
    threads = f"{cpu_count()} CPU cores, {torch.get_num_threads()} threads of torch"
    print(f"{threads}; {args.split}, {len(utterances)} utterances, {hours:.2f} h")
    print(HEADER)
    for row in rows:
        print(format_row(row))
    done = {tuple(row[name] for name in KEY) for row in rows}
    for subject in subjects:
        for key, recordings, way in _measurements(args, subject, utterances):
            if key in done:
                continue
            rows.append(dict(zip(KEY, key, strict=True)) | measure(subject, recordings, way))
            print(format_row(rows[-1]), flush=True)
            if args.out:
                write(args.out, rows)


if __name__ == "__main__":
    run_program(main)

"""A teacher and its linear-time students side by side: WER, paired differences, time and memory.

    python benchmarks/linearise.py data/linearise/teacher-results exp/linearise/*/results
    python benchmarks/linearise.py ... --audio LIBRISPEECH/dev-clean --minutes 60

The first folder is the teacher's, the others its students', all of decode.py on the same splits
(recipes/linearise/run.sh leaves them). "heard" is the audio of all trainings from the teacher's weights on,
the same for students that are to be compared. Differences are student less teacher, in points of WER, with
the 95 % interval of a paired bootstrap (asr/scoring/bootstrap.py); of two students: python -m
asr.scoring.report. With --audio, each also encodes recordings joined to so many minutes, in a process of its
own, as benchmarks/long_audio.py does (softmax's time grows with their square). Run that on an idle machine.
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
from common import make_parser
from long_audio import join_recordings, run_apart
from step import hardware

from asr.checkpoints.checkpoint import read_checkpoint
from asr.device_options import add_device_options, given_options
from asr.errors import UserError, run_program
from asr.model.device import choose_device
from asr.model.frames import SAMPLE_RATE
from asr.scoring.report.analysis import UNITS
from asr.scoring.report.comparison import Comparison
from asr.scoring.report.report import Report, make_report
from asr.scoring.report.text import columns, interval_text, lm_text


def hours_heard(checkpoint: Path) -> float:
    """Hours of audio of a run, and of those whose weights it began from."""
    content = read_checkpoint(checkpoint)
    begun = Path(content.get("init") or "")
    earlier = hours_heard(begun) if begun.suffix == ".ckpt" and begun.is_file() else 0.0
    return content["audio_seconds"] / 3600 + earlier


def checkpoint_of(report: Report, system: int) -> Path:
    """The model that a system's results are of."""
    path = Path(report.systems[system].about.get("checkpoint", ""))
    if not path.exists():
        raise UserError(
            f"{report.systems[system].folder}: its checkpoint {path} is not there; run this from "
            "the folder in which it was decoded"
        )
    return path


def label(report: Report, system: int) -> list[str]:
    """Attention and parameters of a system."""
    about = report.systems[system].about
    return [str(about.get("attention", "?")), f"{about.get('parameters', math.nan) / 1e6:.2f}"]


def wer_table(reports: list[Report], heard: list[float], split: str, lm: tuple[str, str]) -> str:
    """Teacher and students on one split."""
    rows = [["attention", "M", "heard h", "WER", "95 % interval", "less teacher's", "95 % interval"]]
    for report, hours in zip(reports, heard, strict=True):
        found = next(item for item in report.comparisons if (item.split, item.lm) == (split, lm))
        for system in (0, 1) if report is reports[0] else (1,):
            rows.append([*label(report, system), f"{hours:.1f}" if system else ""])
            rows[-1] += _rate(report, system, found) + (_difference(found) if system else ["", ""])
    return f"{split}, {lm_text(lm)}\n{columns(rows)}"


def _rate(report: Report, system: int, found: Comparison) -> list[str]:
    table = next(
        item
        for item in report.systems[system].tables
        if (item.split, item.lm) == (found.split, found.lm[system])
    )
    return [f"{table.words.rate:.2f}", interval_text(table.words.ci95)]


def _difference(found: Comparison) -> list[str]:
    return [f"{found.difference:+.2f}", interval_text(found.ci95, signed=True)]


def long_table(reports: list[Report], audio: Path, minutes: float, args: argparse.Namespace) -> str:
    """Seconds and peak memory of each model on one long recording."""
    rows = [["attention", "M", "minutes", "seconds", "x faster", "peak GiB"]]
    with tempfile.TemporaryDirectory() as folder:
        waveform, encoded = Path(folder) / "waveform.npy", Path(folder) / "encoded.npy"
        np.save(waveform, join_recordings(audio, int(minutes * 60 * SAMPLE_RATE)).numpy())
        for report, system in [(reports[0], 0), *((report, 1) for report in reports)]:
            options = ["--checkpoint", str(checkpoint_of(report, system)), "--chunk", str(args.chunk)]
            took = run_apart(waveform, encoded, [*options, *given_options(args, "device")])
            speed = 60 * minutes / took["seconds"]
            rows.append([*label(report, system), f"{minutes:g}", f"{took['seconds']:.1f}", f"{speed:.0f}"])
            rows[-1].append(f"{took['gib']:.2f}")
    return f"{hardware(choose_device(args.device).type)}, chunks of {args.chunk} frames\n{columns(rows)}"


def main() -> None:
    """Parse the command line and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("teacher", type=Path, help="the teacher's results: a folder of decode.py --out")
    add("students", type=Path, nargs="+", help="its students' results")
    add("--by", choices=UNITS, default=UNITS[0], help="what the bootstrap draws (%(default)s)")
    add("--audio", type=Path, help="folder of recordings to join and encode, for time and memory")
    add("--minutes", type=float, default=60.0, help="to join (%(default)s)")
    add("--chunk", type=int, default=1024, help="encoder frames at a time (%(default)s)")
    add_device_options(parser, "device")
    args = parser.parse_args()
    reports = [make_report(args.teacher, student, args.by) for student in args.students]
    heard = [hours_heard(checkpoint_of(report, 1)) for report in reports]
    pairs = [(item.split, item.lm) for item in reports[0].comparisons]
    for report in reports[1:]:
        missing = set(pairs) - {(item.split, item.lm) for item in report.comparisons}
        if missing:
            split, lm = sorted(missing)[0]
            raise UserError(
                f"{report.systems[1].folder}: nothing of {split}, {lm_text(lm)}, as the others have"
            )
    print("\n\n".join(wer_table(reports, heard, split, lm) for split, lm in pairs))
    print(f"WER in percent; intervals by bootstrap over {args.by}s, of the differences paired.")
    if max(heard) > 1.02 * min(heard):
        print("note: the students have not heard equally much")
    if args.audio:
        print(f"\n{long_table(reports, args.audio, args.minutes, args)}")


if __name__ == "__main__":
    run_program(main)

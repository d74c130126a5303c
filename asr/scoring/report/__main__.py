"""Say what a system gets wrong, or whether one system is better than another.

    python -m asr.scoring.report exp/demo/mala/results
    python -m asr.scoring.report exp/demo/linear/results exp/demo/mala/results --out exp/mala-against-linear

From one result folder of decode.py: WER and CER with their parts and 95 % intervals, WER by length and
speaker, the most frequent confusions, the worst utterances. From two, on the same splits: the difference of
the second from the first, its 95 % interval, and the share of bootstrap draws in which the second is better.

It prints the report and writes report.txt, report.json and report.html (one file, needs no network).
"""

import argparse
from pathlib import Path

from asr.errors import UserError, run_program
from asr.scoring.normalise import NORMALISERS, Normaliser
from asr.scoring.report.analysis import UNITS
from asr.scoring.report.report import make_report
from asr.scoring.report.text import format_report
from asr.scoring.report.write import write_report


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compute, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m asr.scoring.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("results", type=Path, metavar="RESULTS", help="a folder that decode.py wrote (its --out)")
    add(
        "other",
        type=Path,
        nargs="?",
        metavar="OTHER_RESULTS",
        help="another system, compared with the first",
    )
    add("--out", type=Path, help="folder for the report (default: RESULTS; needed with two)")
    add(
        "--by",
        choices=UNITS,
        default=UNITS[0],
        help="what the bootstrap draws; speaker, as utterances of one are alike (%(default)s)",
    )
    add(
        "--normalise",
        choices=tuple(NORMALISERS),
        help="bring references and hypotheses to one form before they are compared; "
        + "; ".join(f"{name}: {meaning}" for name, meaning in NORMALISERS.items())
        + " (default: as decode.py wrote them)",
    )
    args = parser.parse_args(argv)
    if args.other is not None and args.out is None:
        raise UserError("--out: name a folder for the report on two systems")
    normaliser = Normaliser(args.normalise) if args.normalise else None
    report = make_report(args.results, args.other, args.by, normaliser)
    page = write_report(report, args.out or args.results)
    print(format_report(report), end="")
    print(f"\nwritten to {page}, report.txt and report.json beside it")


if __name__ == "__main__":
    run_program(main)

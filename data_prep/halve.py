"""Divide a manifest in two by speaker: one part to tune on, the other to report on.

    python -m data_prep.halve --manifest dev-clean-2.jsonl --out dev.jsonl test.jsonl

For corpora without a test set. Speakers are dealt out from the longest to the shortest, each to the part
that has less speech so far, so the result depends on the manifest alone.
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.errors import UserError, run_program


def halve(utterances: list[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Two lists that share no speaker, near in hours."""
    seconds: dict[str, float] = defaultdict(float)
    for utterance in utterances:
        seconds[utterance.speaker] += utterance.duration
    first, second = set(), set()
    for speaker in sorted(seconds, key=lambda name: (-seconds[name], name)):
        lighter = min((first, second), key=lambda part: sum(seconds[name] for name in part))
        lighter.add(speaker)
    return tuple([u for u in utterances if u.speaker in part] for part in (first, second))


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and write the two manifests."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.halve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="one, or several pooled")
    parser.add_argument("--out", type=Path, nargs=2, required=True, help="the two manifests to write")
    args = parser.parse_args(argv)
    if args.out[0].absolute() == args.out[1].absolute():
        raise UserError(f"--out {args.out[0]}: named twice; the halves go to two files")
    utterances = [utterance for path in args.manifest for utterance in read_manifest(path)]
    twice = [id for id, number in Counter(item.id for item in utterances).items() if number > 1]
    if twice:
        raise UserError(f"--manifest: {twice[0]} is in it twice; rename one, or halve each alone")
    parts = halve(utterances)
    if not all(parts):
        raise UserError(f"{args.manifest[0]}: one speaker only; it cannot be divided by speaker")
    for path, part in zip(args.out, parts, strict=True):
        write_manifest(path, part)
        hours = sum(utterance.duration for utterance in part) / 3600
        speakers = len({utterance.speaker for utterance in part})
        print(f"{path}: {len(part)} utterances, {hours:.2f} h, {speakers} speakers")


if __name__ == "__main__":
    run_program(main)

"""A model's own words as transcripts of recordings that have none (pseudo-labels).

    python -m data_prep.words --checkpoint TEACHER --manifest data/recordings.jsonl --out data/words.jsonl

Greedy, as decode.py --audio has it. Utterances to which the model says nothing are left out. Training reads
the new manifest as any other; the words are as good as the model, and in its letters.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from asr.data.manifest import read_manifest, write_manifest
from asr.data.recordings import find_recordings
from asr.errors import UserError, run_program
from asr.files import require_writable
from asr.transcriber import load


def main() -> None:
    """Parse the command line and write the manifest."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="model that writes them: as decode.py takes it")
    add("--manifest", type=Path, required=True, help="recordings, of which transcripts are passed over")
    add("--out", type=Path, required=True, help="manifest to write")
    args = parser.parse_args()
    if args.out.absolute() == args.manifest.absolute():
        raise UserError(f"--out {args.out}: is --manifest, whose transcripts it would replace")
    require_writable(args.out.parent)
    utterances, recordings = read_manifest(args.manifest), [*find_recordings([args.manifest])]
    for fault in (item for item in recordings if isinstance(item, UserError)):
        raise fault  # now, and not when all before it has been transcribed
    if len(recordings) != len(utterances):
        raise UserError(f"{args.manifest}: names a recording twice")
    with load(args.checkpoint) as model:
        found = model.transcribe_each(recordings, timestamps=False)
        shown = tqdm(found, desc="transcribing", total=len(utterances), unit="utt", mininterval=1)
        written = []
        for utterance, transcript in zip(utterances, shown, strict=True):
            if isinstance(transcript, UserError):
                raise transcript
            if transcript.text:
                written.append(replace(utterance, text=transcript.text))
    if not written:
        raise UserError(f"--checkpoint {args.checkpoint}: says nothing to any of {args.manifest}")
    write_manifest(args.out, written)
    hours, silent = sum(utterance.duration for utterance in written) / 3600, len(utterances) - len(written)
    print(f"{args.out.stem}: {len(written)} utterances, {hours:.2f} h; {silent} left out")


if __name__ == "__main__":
    run_program(main)

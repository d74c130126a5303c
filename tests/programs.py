"""What tests of programs and recipes share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from asr.data.manifest import read_manifest

ROOT = Path(__file__).parent.parent
TINY = (
    "--encoder.dim 16 --encoder.layers 1 --encoder.heads 2 --encoder.kernel 3 "
    "--training.steps 4 --training.validate_every 2 --training.warmup 1"
).split()
# As tiny, and sure of what it says after four steps at this rate: beam search and tuning then take no time.
SURE = [*TINY, "--training.peak_lr", "0.3"]


def bash(*command, **options):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, **options
    )


def librispeech_tree(corpus, root, splits) -> None:
    """The miniature corpus in LibriSpeech's own layout, under LibriSpeech's split names."""
    for place, (split, source) in enumerate(splits.items()):
        for number, item in enumerate(read_manifest(corpus / f"{source}.jsonl")):
            speaker = 10 * place + number % 4
            chapter = root / "LibriSpeech" / split / str(speaker) / "10"
            chapter.mkdir(parents=True, exist_ok=True)
            name = f"{speaker}-10-{number:04d}"
            shutil.copy(item.audio, chapter / f"{name}.wav")
            with (chapter / f"{speaker}-10.trans.txt").open("a") as file:
                file.write(f"{name} {item.text}\n")

"""LibriSpeech's own n-gram language models from OpenSLR 11: ``python -m data_prep.openslr_lm``."""

import argparse
from pathlib import Path

from asr.errors import run_program
from asr.files import require_room
from data_prep.download import OPENSLR, fetch, fetched

# --which NAME -> bytes and SHA-256 of NAME.arpa.gz.
MODELS = {
    "3-gram.pruned.1e-7": (
        34094057,
        "71dd880667cb6ea3942bb1982988c91fb1208839a21911eeec7e31c857c4bdfb",
    ),
    "3-gram": (
        759636181,
        "263649573475c2991d3e755eb4e690c9d2656f2b3283a1eb589e1e4e174bf874",
    ),
    "4-gram": (
        1355172078,
        "f2b2d1507637ddf459d3579159f7e8099ed7d77452ff1059aeeeaea33d274613",
    ),
}

EXAMPLES = """
The models are over words, in upper case, and were estimated on 14 500 books. The small one is for
a first run, the 4-gram for the figures that papers quote. A file that is there already is verified
and kept; a broken download goes on where it ended.

examples:
  python -m data_prep.openslr_lm --out data/lm --which 3-gram.pruned.1e-7
  python -m data_prep.openslr_lm --out data/lm --which 4-gram --mirror https://us.openslr.org
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.openslr_lm",
        description="Fetch a LibriSpeech language model to OUT/NAME.arpa.gz.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--which", choices=list(MODELS), required=True, help="the model")
    parser.add_argument("--mirror", default=OPENSLR, help="OpenSLR server (default: %(default)s)")
    options = parser.parse_args(arguments)

    size, sha256 = MODELS[options.which]
    path = options.out / f"{options.which}.arpa.gz"
    url = f"{options.mirror.rstrip('/')}/resources/11/{path.name}"
    print(f"to fetch: {url}")
    require_room(options.out, size - fetched(path))
    fetch(url, path, size, sha256)
    print(path)


if __name__ == "__main__":
    run_program(main)

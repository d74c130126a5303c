"""Parameters of the encoder with each attention mechanism, at its default and with the local extras.

python benchmarks/parameters.py [--size S]
"""

import argparse

from asr.attention import ATTENTIONS
from asr.errors import run_program
from asr.model.conformer import SIZES, Encoder, EncoderConfig
from asr.model.frontend import FrontendConfig


def count(size: str, attention: str, **extras) -> int:
    """Parameters of the encoder alone: the head's depend on the vocabulary."""
    options = ATTENTIONS[attention].Options(**extras)
    encoder = Encoder(EncoderConfig(size), FrontendConfig().mels, attention, "auto", {attention: options})
    return sum(p.numel() for p in encoder.parameters())


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/parameters.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SIZES, default="S", help="size of the encoder (%(default)s)")
    args = parser.parse_args()
    print(f"encoder {args.size}: parameters")
    head = f"{'attention':10} {'positions':10} {'bare':>11} {'lepe 5':>11} {'gate plain':>11} {'both':>11}"
    print(f"{head}\n{'-' * len(head)}")
    for name, mechanism in ATTENTIONS.items():
        extras = [{}, {"lepe": 5}, {"gate": "plain"}, {"lepe": 5, "gate": "plain"}]
        counts = "".join(f"{count(args.size, name, **extra):12,}" for extra in extras)
        print(f"{name:10} {mechanism.POSITIONS[0]:10}{counts}")


if __name__ == "__main__":
    run_program(main)

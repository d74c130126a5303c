"""Parameters of the encoder with each attention mechanism, at its default and with the local extras.

python benchmarks/parameters.py [--size S] [--transducer PIECES]

With --transducer, those of encoder and transducer (one LSTM layer of 320) over so many pieces.
"""

from common import make_parser

from asr.attention import ATTENTIONS
from asr.errors import run_program
from asr.model.conformer import SIZES, Encoder, EncoderConfig
from asr.model.frontend import FrontendConfig
from asr.model.transducer import Transducer, TransducerConfig


def count(size: str, attention: str, pieces: int = 0, **extras) -> int:
    """Parameters of the encoder, with those of a transducer over so many ``pieces`` if there are any."""
    options = ATTENTIONS[attention].Options(**extras)
    encoder = Encoder(EncoderConfig(size), FrontendConfig().mels, attention, "auto", {attention: options})
    modules = [encoder, *([Transducer(encoder.dim, pieces, TransducerConfig())] if pieces else [])]
    return sum(p.numel() for module in modules for p in module.parameters())


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="S", help="size of the encoder (%(default)s)")
    parser.add_argument("--transducer", type=int, default=0, metavar="PIECES", help="count one in, too")
    args = parser.parse_args()
    whole = f" with a transducer over {args.transducer} pieces" if args.transducer else ""
    print(f"encoder {args.size}{whole}: parameters")
    head = f"{'attention':10} {'positions':10} {'bare':>11} {'lepe 5':>11} {'gate plain':>11} {'both':>11}"
    print(f"{head}\n{'-' * len(head)}")
    for name, mechanism in ATTENTIONS.items():
        extras = [{}, {"lepe": 5}, {"gate": "plain"}, {"lepe": 5, "gate": "plain"}]
        counts = "".join(f"{count(args.size, name, args.transducer, **extra):12,}" for extra in extras)
        print(f"{name:10} {mechanism.POSITIONS[0]:10}{counts}")


if __name__ == "__main__":
    run_program(main)

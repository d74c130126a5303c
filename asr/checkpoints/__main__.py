"""What can be done with a checkpoint: python -m asr.checkpoints export."""

import argparse
from pathlib import Path

from asr.checkpoints.export import export
from asr.errors import run_program


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(
        prog="python -m asr.checkpoints", description="What can be done with a checkpoint of train.py."
    )
    commands = parser.add_subparsers(required=True, metavar="export")
    command = commands.add_parser(
        "export",
        help="make a folder of its model, to share",
        description="Make a folder of a checkpoint's model: weights (safetensors), configuration, tokenizer "
        "and a model card. decode.py --checkpoint and train.py --init take it in a checkpoint's place.",
    )
    command.add_argument("checkpoint", type=Path, help="a checkpoint of train.py, such as best.ckpt")
    command.add_argument(
        "--out", type=Path, required=True, help="folder to make; must not exist, or be empty"
    )
    command.add_argument(
        "--results", type=Path, help="folder of decode.py --out, whose table and command go into the card"
    )
    args = parser.parse_args(argv)
    export(args.checkpoint, args.out, args.results)


if __name__ == "__main__":
    run_program(main)

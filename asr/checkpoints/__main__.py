"""What can be done with a checkpoint or another toolkit's model: python -m asr.checkpoints export, import."""

import argparse
from pathlib import Path

from asr.checkpoints.export import export
from asr.checkpoints.foreign.importing import ImportOptions, import_model
from asr.errors import run_program


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(
        prog="python -m asr.checkpoints",
        description="Make a folder of a model, to share and to decode with: of a checkpoint of train.py, "
        "or of another toolkit's model.",
    )
    commands = parser.add_subparsers(required=True, metavar="export|import")
    _add_export(commands)
    _add_import(commands)
    args = parser.parse_args(argv)
    args.run(args)


def _add_export(commands) -> None:
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
    command.set_defaults(run=lambda args: export(args.checkpoint, args.out, args.results))


def _add_import(commands) -> None:
    command = commands.add_parser(
        "import",
        help="make the same of a Conformer of NVIDIA NeMo's or Hugging Face's",
        description="Make a folder of a public Conformer, FastConformer or Parakeet model (CTC; of NeMo's "
        "transducers, TDT models and hybrids too), with the same log-probabilities. What cannot be exact is "
        "refused by name. (decode.py --checkpoint FILE.nemo does this by itself and keeps the folder in a "
        "cache.) Nothing in the file is unpickled, or extracted to a path that it chooses.",
    )
    command.add_argument(
        "model", type=Path, help="FILE.nemo, or a folder: of Hugging Face's Parakeet-CTC, or a .nemo unpacked"
    )
    command.add_argument(
        "--out", type=Path, required=True, help="folder to make; must not exist, or be empty"
    )
    command.add_argument(
        "--edges",
        choices=("auto", "new", "old"),
        default="auto",
        help="how the features frame an utterance's ends: new as NeMo since 2.5, old as before, under which "
        "older models were trained and measured (auto: as the NeMo that saved the model)",
    )
    command.add_argument(
        "--case",
        choices=("upper", "keep"),
        default="upper",
        help="upper: a model without capitals writes upper case, as LibriSpeech's references and language "
        "models do; keep: as it is (%(default)s)",
    )
    command.add_argument(
        "--tokenizer",
        type=Path,
        help="SentencePiece model (*_tokenizer.model of the model's .nemo file) in place of the folder's "
        "tokenizer.json, which does not say how words are spelled: for training on",
    )
    command.add_argument("--licence", default="", help="of the weights, for the model card")
    command.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> None:
    options = ImportOptions(args.edges, args.case, args.tokenizer, args.licence)
    about = import_model(args.model, args.out, options)
    print(f"{args.out}: {about}")


if __name__ == "__main__":
    run_program(main)

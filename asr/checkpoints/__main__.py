"""What can be done with checkpoints and others' models: python -m asr.checkpoints export, average, import."""

import argparse
from pathlib import Path

from asr.checkpoints.average import average
from asr.checkpoints.export import ExportOptions, export, export_content
from asr.checkpoints.foreign.importing import ImportOptions, import_model
from asr.errors import UserError, run_program


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(
        prog="python -m asr.checkpoints",
        description="Make a folder of a model, to share and to decode with: of a checkpoint of train.py, "
        "of the average of several, or of another toolkit's model.",
    )
    commands = parser.add_subparsers(required=True, metavar="export|average|import")
    _add_export(commands)
    _add_average(commands)
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
    _add_out(command)
    command.add_argument(
        "--results", type=Path, help="folder of decode.py --out, whose table and command go into the card"
    )
    command.add_argument(
        "--about",
        type=Path,
        metavar="FILE",
        help="text for the card: what the model was trained on, its licence and the data's",
    )
    command.add_argument(
        "--bits",
        type=int,
        choices=(32, 8),
        default=32,
        help="of a weight in the file (%(default)s); 8, with a scale a row, take a quarter of the space: "
        "decode the folder, as its WER may differ",
    )
    command.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    export(args.checkpoint, args.out, ExportOptions(args.results, args.about, args.bits))


def _add_out(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out", type=Path, required=True, help="folder to make; must not exist, or be empty"
    )


def _add_average(commands) -> None:
    command = commands.add_parser(
        "average",
        help="make the same of the mean of several checkpoints of a run",
        description="Make a folder as export does, of the mean of the weights of several checkpoints of one "
        "run, which train.py --training.keep N leaves: average exp/NAME/checkpoints/step-*.ckpt --best 5 "
        "--out NAME. Checkpoints of different runs or models are refused.",
    )
    command.add_argument("checkpoints", type=Path, nargs="+", help="checkpoints of one run of train.py")
    _add_out(command)
    which = command.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="of the last N of them only")
    which.add_argument("--best", type=int, metavar="N", help="of the N with the lowest WER on dev only")
    command.set_defaults(run=_average)


def _average(args: argparse.Namespace) -> None:
    for option in ("last", "best"):
        if (count := getattr(args, option)) is not None and count < 2:
            raise UserError(f"--{option} {count}: an average is of two or more")
    content, taken = average(args.checkpoints, args.last or 0, args.best or 0)
    export_content(content, taken[-1], args.out)
    print(f"the mean of {', '.join(path.name for path in taken)}")


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
    _add_out(command)
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

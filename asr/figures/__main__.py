"""The one door to all pictures of models and trainings: python -m asr.figures attention|alignment|curves."""

import argparse
import io
from pathlib import Path

from torch import Tensor

from asr.data import audio
from asr.data.audio import Part
from asr.errors import UserError, run_program
from asr.files import atomic_path

LONGEST = 60.0  # seconds that a picture shows
PALETTE = 256  # colours

ABOUT = """\
Pictures of a model and of its training.

    python -m asr.figures curves exp/demo/mala exp/demo/linear --out curves.png
    python -m asr.figures alignment --checkpoint best.ckpt --audio talk.flac --out alignment.png
    python -m asr.figures attention --checkpoint mala.ckpt softmax.ckpt --audio talk.flac --out figures

A checkpoint may also be an exported folder, a .nemo file or hf:OWNER/NAME. Each command has its own --help.
"""

ATTENTION = """\
What attention does in trained models, over all layers and heads, on one recording. In the folder --out:

    maps.png           the weights, query by key: red draws from a frame, blue pushes away from it
    distributions.png  how weights are distributed, and how large the largest of each query are
    entropy.png        entropy of a query's weights against the norm of phi(q) (of q, if phi mixes channels)
    numbers.json       the same in numbers, by layer, with the share of negative weights

Entropy is of |w| / sum |w| in units of log N: 1 is even attention, 0 a single frame.
"""

ALIGNMENT = """\
When a model hears what in a recording, as one picture on a time axis. From above:

    posteriors   of the pieces on the path, a colour a word, and of the blank (thin line)
    spectrogram  log-mel
    words        from the first frame of their first piece to the last of their last one

The path is the best one (greedy decoding), or with --text the best one that spells the text: a forced
alignment. CTC says a piece somewhere in its sound, so that the bars lie in the words and are not their edges.
Models with a CTC head only (ctc, hybrid).
"""

CURVES = """\
Losses, WER on dev and learning rate against the steps, of one run or of several in one picture. (A run draws
its own as curves.png in its folder at each validation.) The points come from checkpoints/last.ckpt.
"""


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, draw, write."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m asr.figures", description=ABOUT, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="attention|alignment|curves")
    _add_attention(commands)
    _add_alignment(commands)
    _add_curves(commands)
    args = parser.parse_args(argv)
    args.run(args)


def _add_command(commands, name: str, about: str, help: str, run) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    command = commands.add_parser(name, help=help, description=about, formatter_class=raw)
    command.set_defaults(run=run)
    return command


def _add_attention(commands) -> None:
    command = _add_command(
        commands, "attention", ATTENTION, "weights, their distribution, entropy", _attention
    )
    command.add_argument(
        "--checkpoint", nargs="+", type=Path, required=True, help="trained models, one a mechanism"
    )
    _add_audio(command)
    command.add_argument("--head", type=int, default=1, help="head whose maps are drawn (%(default)s)")
    command.add_argument("--out", type=Path, required=True, help="folder for the pictures and numbers")


def _add_alignment(commands) -> None:
    command = _add_command(commands, "alignment", ALIGNMENT, "CTC posteriors, spectrogram, words", _alignment)
    command.add_argument("--checkpoint", type=Path, required=True, help="a trained model with a CTC head")
    _add_audio(command)
    command.add_argument("--text", help="align this text instead of what the model hears")
    command.add_argument("--out", type=Path, required=True, help="PNG file")


def _add_curves(commands) -> None:
    command = _add_command(commands, "curves", CURVES, "training curves of one run or several", _curves)
    command.add_argument("runs", nargs="+", type=Path, help="folders of train.py (--out), or checkpoints")
    command.add_argument("--out", type=Path, required=True, help="PNG file")


def _add_audio(command: argparse.ArgumentParser) -> None:
    command.add_argument("--audio", type=Path, required=True, help="a recording (flac wav opus mp3 ...)")
    command.add_argument("--start", type=float, default=0.0, help="second to begin at (%(default)s)")
    command.add_argument("--seconds", type=float, default=15.0, help="how much of it to take (%(default)s)")


def _load(args: argparse.Namespace) -> Tensor:
    """The part of the recording that is asked for, (S,) at 16 kHz."""
    if not 0 < args.seconds <= LONGEST:
        raise UserError(f"--seconds {args.seconds:g}: must be above 0 and at most {LONGEST:g}")
    whole = audio.duration(args.audio)
    if not 0 <= args.start < whole:
        raise UserError(f"--start {args.start:g}: {args.audio} has {whole:.1f} s")
    seconds = min(args.seconds, whole - args.start)
    return audio.load(args.audio, part=Part(args.start, seconds))


def _attention(args: argparse.Namespace) -> None:
    if args.head < 1:
        raise UserError(f"--head {args.head}: heads are counted from 1")
    waveform = _load(args)
    from asr.figures.attention import write_attention  # what a command does not need is not loaded

    print(write_attention(args.checkpoint, waveform, args.out, args.head - 1, str(args.audio)))
    print(f"means over layers; pictures and numbers.json are in {args.out}")


def _alignment(args: argparse.Namespace) -> None:
    waveform = _load(args)
    from asr.checkpoints.checkpoint import load_model
    from asr.figures.alignment import align, draw_alignment

    found = align(*load_model(args.checkpoint), waveform, args.text)
    _write(draw_alignment(found, args.audio.name), args.out)
    print(" ".join(word.text for word in found.words))
    print(f"{len(found.words)} words; the picture is {args.out}")


def _curves(args: argparse.Namespace) -> None:
    from asr.figures.curves import read_points, run_names
    from asr.training.curves import draw

    _write(draw(dict(zip(run_names(args.runs), map(read_points, args.runs), strict=True))), args.out)
    print(f"the picture is {args.out}")


def _write(figure, out: Path) -> None:
    from PIL import Image  # Matplotlib's own

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    # A spectrogram in a palette is a quarter of the file, and looks the same.
    picture = Image.open(buffer).convert("RGB").quantize(PALETTE)
    with atomic_path(out) as path:
        picture.save(path, format="PNG", optimize=True)


if __name__ == "__main__":
    run_program(main)

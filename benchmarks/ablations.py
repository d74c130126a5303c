"""The MALA paper's ablations on speech: every variant trained alike, one table of dev loss and WER.

    python benchmarks/ablations.py --out exp/ablations --from TEACHER -- \\
        --data.folder DATA --data.train '[train]' --data.tokenizer TEACHER/tokenizer.model \\
        --training.steps 660 --training.seconds 60
    python benchmarks/ablations.py --out exp/ablations/demo -- --config recipes/demo/conformer_xs.yaml

What stands behind -- goes to train.py. With --from, each variant begins with that softmax model's weights,
and its attention layers alone learn that model's attention from its inputs (no transcripts), by the options
below; with none, it is trained from scratch. All see the same batches in the same order.

    {MATCHING}

The variants: linear attention; MALA; with kernels relu and exp for elu (Table 10); without beta, without
gamma, with learnt ones (Table 11); softmax with queries of unit norm (Table 1), and from scratch as it is.

Every variant has a folder in --out. One that is done is not trained again, and one that was stopped goes on,
so that the command can be given in pieces (--variants) and again. The loss is the last that train.py shows
(with --from the attention's squared error over its power, the mean of the layers), dev loss is CTC's in nats
a piece, WER is greedy.
"""

import shlex
import sys
import textwrap
from pathlib import Path

from common import make_parser
from trials import Result, done_or_train

from asr.errors import run_program

VARIANTS = {
    "softmax": "--attention softmax",
    "softmax-unit": "--attention softmax --softmax.unit_query true",
    "linear": "--attention linear",
    "mala": "--attention mala",
    "mala-relu": "--attention mala --mala.kernel relu",
    "mala-exp": "--attention mala --mala.kernel exp",
    "mala-no-beta": "--attention mala --mala.terms no-beta",
    "mala-no-gamma": "--attention mala --mala.terms no-gamma",
    "mala-learnable": "--attention mala --mala.terms learnable",
}
MATCHING = (
    "--training.ctc 0 --training.distil_attention 1 --training.distil_start nearest --encoder.dropout 0 "
    "--training.schedule cosine --training.peak_lr 2e-3 --training.warmup 10 --training.weight_decay 0 "
    "--training.clip 1 --training.average 0"
)


def options_of(variant: str, teacher: str, more: list[str]) -> list[str]:
    """train.py's options for a variant, but for its folder."""
    matching = [*shlex.split(MATCHING), "--init", teacher, "--training.teacher", teacher] if teacher else []
    return [*matching, *more, *shlex.split(VARIANTS[variant])]


def format_table(results: dict[str, Result]) -> str:
    """A line a variant, as they were named."""
    lines = [f"{'variant':24}{'steps':>7}{'audio h':>9}{'loss':>8}{'dev loss':>10}{'dev WER':>9}{'CPU s':>8}"]
    for variant, found in results.items():
        loss = format(found.train_loss, ".2f" if found.train_loss < 1e4 else ".0e")
        lines.append(
            f"{variant:24}{found.steps:7}{found.audio_hours:9.1f}{loss:>8}{found.dev_loss:10.2f}"
            f"{found.dev_wer:9.1f}{found.cpu_seconds:8.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, train what is not done, print the table."""
    parser = make_parser(
        __doc__.replace(
            "{MATCHING}", textwrap.fill(MATCHING, 100, subsequent_indent="    ", break_on_hyphens=False)
        )
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of all variants")
    add("--from", dest="teacher", default="", help="softmax model to begin from and to learn from")
    add(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        help="(all; with --from all but softmax, which is the teacher)",
    )
    place = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, more = parser.parse_args(sys.argv[1:place]), sys.argv[place + 1 :]
    variants = args.variants or [name for name in VARIANTS if not (args.teacher and name == "softmax")]
    results = {}
    for variant in variants:
        folder = args.out / variant
        options = options_of(variant, args.teacher, more)
        command = shlex.join(["train.py", *options])
        results[variant] = done_or_train(folder, options, command)
    print(format_table(results))


if __name__ == "__main__":
    run_program(main)

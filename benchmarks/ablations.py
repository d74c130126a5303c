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

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from common import ROOT, make_parser

from asr.errors import UserError, run_program
from asr.files import atomic_write

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
RESULT = "result.json"


class Result(NamedTuple):
    """Of a variant."""

    command: str  # without what says where things lie
    steps: int
    train_loss: float
    dev_loss: float
    dev_wer: float
    audio_hours: float
    cpu_seconds: float  # of the last start of a run that was stopped


def options_of(variant: str, teacher: str, more: list[str]) -> list[str]:
    """train.py's options for a variant, but for its folder."""
    matching = [*shlex.split(MATCHING), "--init", teacher, "--training.teacher", teacher] if teacher else []
    return [*matching, *more, *shlex.split(VARIANTS[variant])]


def read_result(folder: Path, command: str) -> Result | None:
    """What a finished variant gave; None where it is not done.

    Raises:
        UserError: it was trained by another command, or the file is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        result = Result(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{path}: damaged; delete it, and the variant is looked at again") from None
    if result.command != command:
        raise UserError(f"{path}: trained by another command ({result.command}); name another --out")
    return result


def train(folder: Path, options: list[str], command: str) -> Result:
    """Train a variant, or go on with it; its output goes to train.log and the screen."""
    folder.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-u", str(ROOT / "train.py"), *options]
    program += ["--out", str(folder), "--resume", "auto"]
    with (folder / "train.log").open("a") as log:
        running = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = []
        try:
            for line in running.stdout:
                lines.append(line.strip())
                print(f"  {line}", end="", flush=True)
                log.write(line)
        except BaseException:
            running.terminate()  # it saves, and goes on from there
            running.wait()
            raise
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise UserError(f"{folder}: {lines[-1].removeprefix('error: ') if lines else 'nothing was said'}")
    # A run that was done already, and only not looked at, says nothing again.
    return Result(command, *_numbers(folder), usage.ru_utime + usage.ru_stime)


def _numbers(folder: Path) -> tuple[int, float, float, float, float]:
    """Steps, loss, dev loss, dev WER, hours from the last lines of train.py that say them."""
    log, number = (folder / "train.log").read_text(), r"([\d.]+|nan|inf)"
    validated = re.findall(rf"^step (\d+): dev loss {number}, dev WER {number} % .*, {number} h", log, re.M)
    trained = re.findall(rf"^step \d+/\d+: loss {number}", log, re.M)
    if not validated or not trained:
        raise UserError(f"{folder / 'train.log'}: says no dev loss; delete the folder and train again")
    steps, loss, wer, hours = validated[-1]
    return int(steps), float(trained[-1]), float(loss), float(wer), float(hours)


def format_table(results: dict[str, Result]) -> str:
    """A line a variant, as they were named."""
    lines = [f"{'variant':24}{'steps':>7}{'audio h':>9}{'loss':>8}{'dev loss':>10}{'dev WER':>9}{'CPU s':>8}"]
    for variant, found in results.items():
        lines.append(
            f"{variant:24}{found.steps:7}{found.audio_hours:9.1f}{found.train_loss:8.2f}{found.dev_loss:10.2f}"
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
        found = read_result(folder, command)
        if not found:
            print(f"{variant}: {command}", flush=True)
            found = train(folder, options, command)
            atomic_write(folder / RESULT, json.dumps(found._asdict(), indent=1) + "\n")
        results[variant] = found
    print(format_table(results))


if __name__ == "__main__":
    run_program(main)

"""How long decode.py takes for one short recording: nearly all of it is its start.

    python benchmarks/start.py --checkpoint exp/demo/mala/checkpoints/best.ckpt --audio a.wav --lm 3gram.bin

Prints CPU seconds (user and system, child processes included) and wall-clock seconds, the least of some runs:
greedy, and with the LM. A run before them is not counted: it compiles the search.
"""

import resource
import subprocess
import sys
import time

from common import ROOT, make_parser
from step import hardware

from asr.errors import UserError, run_program


def main() -> None:
    """Parse the command line, run decode.py over and over, print."""
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="of any model")
    parser.add_argument("--audio", required=True, help="a recording of some seconds")
    parser.add_argument("--lm", required=True, help="language model")
    parser.add_argument("--runs", type=int, default=3, help="of each kind (%(default)s)")
    args = parser.parse_args()
    command = [sys.executable, str(ROOT / "decode.py")]
    command += ["--checkpoint", args.checkpoint, "--audio", args.audio]
    with_lm = [*command, "--lm", args.lm]
    run(with_lm)
    print(hardware("cpu"))
    print(f"{'':8}CPU s  wall s")
    show("greedy", [run(command) for _ in range(args.runs)])
    show("LM", [run(with_lm) for _ in range(args.runs)])


def run(command: list[str]) -> tuple[float, float]:
    """CPU and wall-clock seconds of a command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def show(name: str, times: list[tuple[float, float]]) -> None:
    """A line of the table."""
    cpu, wall = (min(column) for column in zip(*times, strict=True))
    print(f"{name:8}{cpu:5.2f}  {wall:6.2f}")


if __name__ == "__main__":
    run_program(main)

"""How long decode.py takes for one short recording: nearly all of it is its start.

    python benchmarks/start.py --checkpoint exp/demo/mala/checkpoints/best.ckpt --audio a.wav --lm 3gram.bin

Prints CPU seconds (user and system, child processes included) and wall-clock seconds, the least of some runs:
greedy, with the LM when nothing is kept on disk beside it, and with it afterwards. A run before them is not
counted: it compiles the search.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from step import hardware

from asr.errors import UserError, run_program

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Parse the command line, run decode.py over and over, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="of any model")
    parser.add_argument("--audio", required=True, help="a recording of some seconds")
    parser.add_argument(
        "--lm", type=Path, required=True, help="language model in a folder that may be written"
    )
    parser.add_argument("--runs", type=int, default=3, help="of each kind (%(default)s)")
    args = parser.parse_args()
    command = [sys.executable, "decode.py", "--checkpoint", args.checkpoint, "--audio", args.audio]
    with_lm = [*command, "--lm", str(args.lm)]
    run(with_lm)
    print(hardware())
    print(f"{'':24}CPU s  wall s")
    show("greedy", [run(command) for _ in range(args.runs)])
    show("LM, nothing kept", [run(with_lm, forget=args.lm) for _ in range(args.runs)])
    show("LM", [run(with_lm) for _ in range(args.runs)])


def run(command: list[str], forget: Path | None = None) -> tuple[float, float]:
    """CPU and wall-clock seconds of a command; what is kept beside the LM ``forget`` is removed before."""
    for kept in forget.parent.glob(f"{forget.name}.*.lexicon") if forget else []:
        kept.unlink()
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UserError(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def show(name: str, times: list[tuple[float, float]]) -> None:
    """A line of the table."""
    cpu, wall = (min(column) for column in zip(*times, strict=True))
    print(f"{name:24}{cpu:5.2f}  {wall:6.2f}")


if __name__ == "__main__":
    run_program(main)

"""Memory of the processes of beam search, and what of it each has for itself.

    python benchmarks/memory.py --lm data/mini_librispeech/3gram.bin \
        --tokenizer data/mini_librispeech/tokenizer.model --jobs 8

Each process decodes posteriors drawn at random. Private memory is what would come free if one process ended;
the sum of proportional shares (Pss), in which every page that n processes share counts a n-th for each, is
what all of them take together. (/proc/PID/smaps_rollup; Linux only.)
"""

import multiprocessing
from pathlib import Path

import numpy as np
from common import make_parser

from asr.data.tokenizer import Tokenizer
from asr.decoding.beam import BeamPool
from asr.decoding.tuning import UNTUNED
from asr.errors import UserError, run_program

FRAMES = 50  # 2 s


def main() -> None:
    """Parse the command line, decode, print what the processes hold."""
    parser = make_parser(__doc__)
    parser.add_argument("--lm", type=Path, required=True, help="KenLM binary")
    parser.add_argument("--tokenizer", type=Path, required=True, help="of an acoustic model")
    parser.add_argument("--jobs", type=int, default=8, help="processes (%(default)s)")
    args = parser.parse_args()
    if args.jobs < 2:
        raise UserError(f"--jobs {args.jobs}: with fewer than 2 there is no other process")
    tokenizer = Tokenizer.load(args.tokenizer)
    logits = np.random.default_rng(0).normal(0, 6, (4 * args.jobs, FRAMES, tokenizer.pieces + 1))
    log_probs = (logits - np.logaddexp.reduce(logits, -1, keepdims=True)).astype(np.float32)
    with BeamPool(args.lm, tokenizer, jobs=args.jobs, alone=0) as pool:
        pool.decode(list(log_probs), UNTUNED)
        processes = [child.pid for child in multiprocessing.active_children()]
        found = [memory(process) for process in processes]
    print(f"{args.lm.name}, {args.lm.stat().st_size / 2**20:.1f} MiB; {len(found)} processes")
    print(f"private, MiB each: {' '.join(f'{private:.0f}' for private, _ in found)}")
    print(f"in all: private {sum(p for p, _ in found):.0f} MiB, Pss {sum(p for _, p in found):.0f} MiB")


def memory(process: int) -> tuple[float, float]:
    """Private memory and proportional share of a process, MiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return private / 1024, kilobytes["Pss"] / 1024


if __name__ == "__main__":
    run_program(main)

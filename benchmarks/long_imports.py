"""Long recordings through an imported model and through its original: time, peak memory, equal numbers.

    imports/bin/python benchmarks/long_imports.py --minutes 1 5 20 60 --limit 20
    imports/bin/python benchmarks/long_imports.py --nemo FILE.nemo --audio FOLDER --minutes 1 5

in the environment of benchmarks/imports.py (which says how to make it), with one of its random models
(--model), saved by NeMo, or a real one. Every length goes through three programs, each in a process of its
own that may have --limit GiB of data: ours in chunks (asr/model/long.py), ours in one pass, NeMo's forward.
Columns: CPU seconds of the features and the model, the process's peak resident memory, and the largest
difference from ours in chunks in nats. "-" is a program that ran out of the limit; it is not tried again on
longer recordings. Recordings below --audio are joined to the length wanted; without, it is noise.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from common import make_parser
from imports import CASES, Case, make_recordings, nemo_original, restored_original, train_benchmark_tokenizer
from long_audio import join_recordings
from torch import Tensor

from asr.checkpoints.checkpoint import load_model
from asr.checkpoints.foreign.importing import ImportOptions, import_model
from asr.data import audio
from asr.errors import UserError, run_program
from asr.model.frames import SAMPLE_RATE
from asr.model.long import long_log_probs
from asr.processes import resident_gib

PROGRAMS = {"chunks": "ours in chunks", "whole": "ours in one pass", "nemo": "NeMo"}


@torch.inference_mode()
def encode(program: str, model: Path, waveform: Path, found: Path, limit: float) -> None:
    """Log-probabilities, the blank last, of one recording by one program; prints what it took as JSON."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30),) * 2)
    if program == "nemo":
        original = restored_original(Case(file=model), b"", model.parent)
    else:
        recogniser, _ = load_model(model.with_name("ours"))
    samples = torch.from_numpy(np.load(waveform))
    started = time.process_time()
    if program == "nemo":
        log_probs = original.log_probs([samples])[0]
    else:
        ours = _chunks(recogniser, samples) if program == "chunks" else _whole(recogniser, samples)
        log_probs = torch.cat(list(ours))
    seconds = time.process_time() - started
    np.save(found, log_probs.numpy())
    print(json.dumps({"seconds": seconds, "gib": resident_gib(peak=True)}))


def _chunks(model, samples: Tensor) -> Iterator[Tensor]:
    return map(_blank_last, long_log_probs(model, samples))


def _whole(model, samples: Tensor) -> list[Tensor]:
    return [_blank_last(model(samples[None], torch.tensor([len(samples)]))[0][0])]


def _blank_last(x: Tensor) -> Tensor:
    return torch.cat((x[:, 1:], x[:, :1]), 1)


def run_apart(program: str, model: Path, waveform: Path, found: Path, limit: float) -> dict | None:
    """``encode`` in a process of its own; None where it ran out of memory."""
    command = [sys.executable, __file__, "--program", program, "--nemo", model, "--limit", str(limit)]
    result = subprocess.run(
        [*map(str, command), "--waveform", waveform, "--found", found], capture_output=True, text=True
    )
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        if "memory" not in result.stderr:
            raise UserError(f"{PROGRAMS[program]}: {last}")
        print(f"{PROGRAMS[program]}: {last[:160]}", file=sys.stderr)
        return None
    return json.loads(result.stdout.splitlines()[-1])


def measure(args: argparse.Namespace, folder: Path, model: Path) -> Iterator[str]:
    """A row a length."""
    failed: set[str] = set()
    waveform = folder / "waveform.npy"
    for minutes in args.minutes:
        np.save(waveform, _recording(args.audio, minutes, folder))
        cells, outputs = [], {}
        for program in args.programs:
            path = folder / f"{program}.npy"
            took = None
            if program not in failed:
                took = run_apart(program, model, waveform, path, args.limit)
            if took is None:
                failed.add(program)
                cells.append(f"{'-':>9}{'-':>8}{'' if program == 'chunks' else '-':>9}")
                continue
            outputs[program] = np.load(path)
            largest = "" if program == "chunks" else f"{_distance(outputs['chunks'], outputs[program]):.1e}"
            cells.append(f"{took['seconds']:9.1f}{took['gib']:8.2f}{largest:>9}")
        yield f"{minutes:7g}" + "".join(cells)


def _recording(folder: Path | None, minutes: float, scratch: Path) -> np.ndarray:
    if folder:
        return join_recordings(folder, int(60 * minutes * SAMPLE_RATE)).numpy()
    [path] = make_recordings(scratch, [60 * minutes])
    return audio.load(path).numpy()


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else np.inf


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--model", choices=CASES, default="FastConformer-S", help="of benchmarks/imports.py (%(default)s)")
    add("--nemo", type=Path, help="a .nemo file in its place")
    add("--minutes", type=float, nargs="+", default=[1, 5, 20, 60], help="lengths (%(default)s)")
    add("--audio", type=Path, help="folder of recordings to join (default: noise)")
    add("--limit", type=float, default=20.0, help="GiB of data a process (%(default)s)")
    others = [name for name in PROGRAMS if name != "chunks"]
    add(
        "--beside",
        nargs="*",
        choices=others,
        default=others,
        help="run beside ours in chunks (default: %(default)s)",
    )
    for name in ("--program", "--waveform", "--found"):  # of the processes that this one starts
        add(name, type=Path if name != "--program" else str, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.programs = ["chunks", *args.beside]
    if args.program:
        encode(args.program, args.nemo, args.waveform, args.found, args.limit)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = folder / "model.nemo"
        if args.nemo:
            model.symlink_to(args.nemo.resolve())
        else:
            torch.manual_seed(0)
            nemo_original(CASES[args.model], train_benchmark_tokenizer(), folder).save(model)
        about = import_model(model, folder / "ours", ImportOptions("new", case="keep"))
        threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
        print(f"{args.nemo or args.model}: {about}; {threads}")
        print(
            " " * 7 + "".join(f"{PROGRAMS[name]:>{17 if name == 'chunks' else 26}}" for name in args.programs)
        )
        print(
            "minutes" + "    CPU s     GiB" + (len(args.programs) - 1) * "    CPU s     GiB     nats",
            flush=True,
        )
        for row in measure(args, folder, model):
            print(row, flush=True)


if __name__ == "__main__":
    run_program(main)

"""One recording of any length through the encoder in chunks: time, peak memory, and equality with the whole.

    python benchmarks/long_audio.py --audio LIBRISPEECH/train-clean-5 --minutes 1 5 60 180
    python benchmarks/long_audio.py --audio LIBRISPEECH/train-clean-5 --minutes 60 --whole
    python benchmarks/long_audio.py --attention mala softmax --minutes 1 3 10 --whole --out length.json

Recordings under --audio are joined, again and again, to the length wanted; without --audio it is noise.
Every length runs in a process of its own, so that its peak memory is its own. With --whole the recording
also goes through the encoder at once, in another process, and the outputs are compared. CPU seconds are
those of all threads (OMP_NUM_THREADS=1: of one), and count roughly even where the machine is not idle. Peak
memory is the process's, PyTorch included; on a GPU the GPU's. Weights are random, or a checkpoint's with
--checkpoint. --out keeps the rows, from which docs/figures/draw.py draws; rows of other mechanisms and
lengths that are there stay.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from common import make_parser
from step import hardware

from asr.attention import ATTENTIONS
from asr.checkpoints.checkpoint import load_model
from asr.data import audio
from asr.device_options import add_device_options, given_options
from asr.errors import UserError, run_program
from asr.files import atomic_write
from asr.model.config import ModelConfig
from asr.model.conformer import SIZES, EncoderConfig
from asr.model.device import choose_device
from asr.model.frames import SAMPLE_RATE
from asr.model.long import encode_long, long_features
from asr.model.recogniser import Model
from asr.processes import resident_gib

NOISE = 20 * SAMPLE_RATE  # samples at a time


def endless_audio(folder: Path | None) -> Iterator[torch.Tensor]:
    """Samples (S,) of the recordings in and below a folder, over and over; of noise without a folder.

    Raises:
        UserError: there are no recordings.
    """
    if folder is None:
        while True:
            yield 0.1 * torch.randn(NOISE)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in audio.SUFFIXES)
    if not paths:
        raise UserError(f"--audio {folder}: no recordings")
    for path in cycle(paths):
        yield audio.load(path)


def join_recordings(folder: Path | None, samples: int) -> torch.Tensor:
    """So many samples of ``endless_audio``."""
    joined, done = torch.empty(samples), 0
    for recording in endless_audio(folder):
        part = recording[: samples - done]
        joined[done : done + len(part)] = part
        done += len(part)
        if done == samples:
            return joined


@torch.inference_mode()
def encode(args: argparse.Namespace) -> None:
    """Encode one waveform, write the output, print what it took as JSON."""
    torch.manual_seed(0)
    if args.checkpoint:
        model, _ = load_model(args.checkpoint)
    else:
        model = Model(ModelConfig(args.attention[0], args.positions, encoder=EncoderConfig(args.size)), 256)
    device = choose_device(args.device)
    model.eval().to(device)
    waveform = torch.from_numpy(np.load(args.waveform, mmap_mode="r"))
    started, cpu = time.perf_counter(), time.process_time()
    if args.at_once:
        lengths = torch.tensor([len(waveform)], device=device)
        features, lengths = model.frontend(waveform[None].to(device), lengths)
        encoded = model.encoder(features, lengths)[0][0]
    else:
        features = long_features(model.frontend, waveform, model.framing.factor * args.chunk)
        encoded = encode_long(model.encoder, features, args.chunk)
    encoded = encoded.cpu()  # and with it, all that the device had to do
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    gib = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else resident_gib(peak=True)
    np.save(args.encoded, encoded.numpy())
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "gib": gib}))


def run_apart(waveform: Path, encoded: Path, options: list[str]) -> dict:
    """``encode`` in a process of its own, with this program's options."""
    files = ["--waveform", str(waveform), "--encoded", str(encoded)]
    result = subprocess.run([sys.executable, __file__, *files, *options], capture_output=True, text=True)
    if result.returncode:
        print((result.stderr.strip().splitlines() or ["no message"])[-1], file=sys.stderr)
        return {"seconds": math.nan, "cpu_seconds": math.nan, "gib": math.nan, "failed": result.returncode}
    return json.loads(result.stdout)


def mechanisms(args: argparse.Namespace) -> list[str]:
    """Those to measure: a checkpoint's own, or those that were named."""
    return [load_model(args.checkpoint)[1].model.attention] if args.checkpoint else args.attention


def measure(args: argparse.Namespace, attention: str, joined: np.ndarray, folder: Path) -> Iterator[dict]:
    """One mechanism's rows, printed as they come, and the exponent of time over length."""
    options = ["--chunk", str(args.chunk), *given_options(args, "device")]
    if args.checkpoint:
        options += ["--checkpoint", str(args.checkpoint)]
    else:
        options += ["--attention", attention, "--size", args.size, "--positions", args.positions]
    points = []
    for minutes in args.minutes:
        waveform, encoded, at_once = (folder / f"{name}.npy" for name in ("waveform", "chunks", "whole"))
        np.save(waveform, joined[: int(minutes * 60 * SAMPLE_RATE)])
        took = run_apart(waveform, encoded, options)
        points.append((minutes, took["seconds"]))
        line = f"{attention:10} {minutes:7g} {took['seconds']:9.2f} {minutes * 60 / took['seconds']:9.0f}"
        line += f" {took['cpu_seconds']:9.2f} {took['gib']:9.2f}"
        about = {"attention": attention, "minutes": minutes}
        yield about | {"at_once": False} | took
        if args.whole:
            whole = run_apart(waveform, at_once, [*options, "--at-once"])
            line += f" {whole['cpu_seconds']:9.2f} {whole['gib']:9.2f}"
            if not whole.get("failed"):
                a, b = np.load(encoded), np.load(at_once)
                line += f"   {np.abs(a - b).max():.1e} of {np.abs(b).max():.1f}"
            yield about | {"at_once": True} | whole
        print(line, flush=True)
    points = [(minutes, seconds) for minutes, seconds in points if minutes <= 60]
    if len(points) > 1:
        slope = np.polyfit(*np.log(np.array(points).T), 1)[0]
        print(f"{attention:10} time grows with length to the power {slope:.3f} (up to 60 minutes)")


def keep(path: Path, about: dict, row: dict) -> None:
    """Put a row into the file, in the place of an older one of the same kind.

    Raises:
        UserError: the file is of other models or another machine, or not of this program.
    """
    try:
        held = json.loads(path.read_text()) if path.exists() else about | {"rows": []}
        if not isinstance(held["rows"], list):
            raise TypeError
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: not what this program writes; name another --out") from None
    different = [name for name, value in about.items() if held.get(name) != value]
    if different:
        raise UserError(f"{path}: rows of another {' and '.join(different)}; name another --out")
    kind = ("attention", "minutes", "at_once")
    held["rows"] = [old for old in held["rows"] if any(old[name] != row[name] for name in kind)] + [row]
    held["rows"].sort(key=lambda row: [row[name] for name in kind])
    atomic_write(path, json.dumps(held, indent=1) + "\n")


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--audio", type=Path, help="folder of recordings to join (default: noise)")
    add("--minutes", type=float, nargs="+", default=[1, 2, 5, 10, 20, 40, 60], help="lengths (%(default)s)")
    add("--attention", nargs="+", choices=ATTENTIONS, default=["mala"], help="mechanisms (%(default)s)")
    add("--positions", default="auto", help="auto, relative, rotary, sinusoid or none (%(default)s)")
    add("--size", choices=SIZES, default="S", help="size of the encoder (%(default)s)")
    add("--checkpoint", type=Path, help="a checkpoint of train.py instead of random weights")
    add("--chunk", type=int, default=1024, help="encoder frames at a time (%(default)s)")
    add_device_options(parser, "device")
    add("--whole", action="store_true", help="also encode at once, and compare")
    add("--out", type=Path, help="JSON file for the rows")
    for name in ("--waveform", "--encoded"):  # of the processes that this one starts
        add(name, type=Path, help=argparse.SUPPRESS)
    add("--at-once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.waveform:
        encode(args)
        return
    what = f"checkpoint {args.checkpoint}" if args.checkpoint else f"encoder {args.size}, random weights"
    where = hardware(choose_device(args.device).type)
    where += f", {torch.get_num_threads()} threads" * (where.endswith("cores"))
    where += f", torch {torch.__version__}"
    print(f"{what}; {where}, chunks of {args.chunk} frames")
    head = f"{'attention':10} {'minutes':>7} {'seconds':>9} {'x faster':>9} {'CPU s':>9} {'peak GiB':>9}"
    if args.whole:
        head += f" {'at once s':>9} {'GiB':>9}   greatest difference"
    print(f"{head}\n{'-' * len(head)}")
    joined = join_recordings(args.audio, int(max(args.minutes) * 60 * SAMPLE_RATE)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        for attention in mechanisms(args):
            for row in measure(args, attention, joined, Path(folder)):
                if args.out and not row.get("failed"):
                    keep(args.out, {"model": what, "where": where, "chunk": args.chunk}, row)


if __name__ == "__main__":
    run_program(main)

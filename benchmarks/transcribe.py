"""Transcribing one long recording with decode.py: time, peak memory, WER, and what cutting at pauses costs.

    python benchmarks/transcribe.py --checkpoint CKPT --data data/mini_librispeech --split train-clean-5 \\
        --minutes 10 60 --lm data/mini_librispeech/3gram.bin
    python benchmarks/transcribe.py ... --minutes 10 --cutting

Run it from the checkout's root. A split's utterances are joined, from the first again where they are too
few, into a FLAC file of each length, at --rate and with --channels; decode.py transcribes it in a process
of its own, without and with the LM. Peak memory is that of its largest process: with an LM that is
decode.py's own, or a process of beam search. With --cutting the same posteriors are searched whole and
in segments between pauses of several lengths, in this process; decode.py's are of 40 s at most.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import ROOT, make_parser

from asr.checkpoints.checkpoint import load_model
from asr.data import audio
from asr.data.manifest import Utterance, read_manifest
from asr.decoding.beam import BeamDecoder
from asr.decoding.pauses import LONGEST, cut_at_pauses
from asr.decoding.tuning import UNTUNED
from asr.device_options import add_device_options, given_options
from asr.errors import UserError, run_program
from asr.model.frames import SAMPLE_RATE
from asr.model.long import long_log_probs
from asr.processes import cpu_count
from asr.scoring.errors import score


def join(utterances: list[Utterance], minutes: float, path: Path, rate: int, channels: int) -> str:
    """Write whole utterances, one after another, for so many minutes; returns their text."""
    texts, seconds = [], 0.0
    with soundfile.SoundFile(path, "w", rate, channels) as file:
        while seconds < 60 * minutes:
            utterance = utterances[len(texts) % len(utterances)]
            samples = audio.load(utterance.audio, rate, utterance.part).numpy()
            file.write(np.repeat(samples[:, None], channels, axis=1))
            texts.append(utterance.text)
            seconds += len(samples) / rate
    return " ".join(texts)


def time_program(path: Path, reference: str, lm: Path | None, args: argparse.Namespace) -> None:
    """Print the row of one run of decode.py."""
    command = [sys.executable, str(ROOT / "decode.py"), "--checkpoint", str(args.checkpoint)]
    command += ["--audio", str(path), "--format", "json", "--jobs", str(args.jobs)]
    command += ["--lm", str(lm)] if lm else []
    command += given_options(args)
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        shown = program.stdout.read()
        _, status, usage = os.wait4(program.pid, 0)  # this process's own peak, and its children's
        took = time.perf_counter() - started
        program.returncode = os.waitstatus_to_exitcode(status)
        if program.returncode:
            errors.seek(0)
            lines = errors.read().decode().strip().splitlines()
            raise UserError(lines[-1].removeprefix("error: ") if lines else f"status {program.returncode}")
    found = json.loads(shown)
    wer = score([reference], [found["text"]]).wer
    print(
        f"{found['duration'] / 60:7.1f}  {lm.stem if lm else 'greedy':8} {took:9.1f} "
        f"{took / found['duration']:9.4f} {usage.ru_maxrss / 2**20:9.2f} {wer:7.2f}",
        flush=True,
    )


def compare_cutting(path: Path, reference: str, args: argparse.Namespace) -> None:
    """Print WER and time of searching whole and cut."""
    model, recipe = load_model(args.checkpoint)
    parts = long_log_probs(model, audio.stream(path))
    log_probs = np.concatenate([part.numpy() for part in parts])
    frame = model.framing.seconds
    seconds, cut = frame * len(log_probs), round(LONGEST / frame)
    decoder = BeamDecoder(args.lm, recipe.tokenizer)
    for longest in (len(log_probs), 2 * cut, cut, cut // 2, cut // 4):
        started = time.perf_counter()
        pieces = (decoder.decode(part, UNTUNED) for part in cut_at_pauses([log_probs], longest))
        found = [recipe.tokenizer.decode(classes) for classes in pieces]
        took = time.perf_counter() - started
        wer = score([reference], [" ".join(filter(None, found))]).wer
        name = "whole" if len(found) == 1 else f"{frame * longest:g} s"
        print(
            f"{seconds / 60:7.1f}  {name:8} {took:9.1f} {took / seconds:9.4f} {'':9} {wer:7.2f}", flush=True
        )


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a checkpoint of train.py")
    add("--data", type=Path, required=True, help="folder with manifests")
    add("--split", default="dev", help="whose utterances are joined (%(default)s)")
    add("--minutes", type=float, nargs="+", default=[10, 60], help="lengths (%(default)s)")
    add("--lm", type=Path, help="n-gram LM: a second row with it")
    add("--rate", type=int, default=SAMPLE_RATE, help="sample rate of the joined recording (%(default)s)")
    add("--channels", type=int, default=1, help="its channels (%(default)s)")
    add("--jobs", type=int, default=cpu_count(), help="processes of beam search (%(default)s)")
    add("--cutting", action="store_true", help="compare with searching the whole; wants --lm")
    add_device_options(parser)
    args = parser.parse_args()
    if args.cutting and not args.lm:
        raise UserError("--cutting wants --lm")
    utterances = read_manifest(args.data / f"{args.split}.jsonl")
    print(f"{platform.machine()}, {cpu_count()} cores, {torch.get_num_threads()} threads of torch")
    print(f"{'minutes':>7}  {'decoder':8} {'seconds':>9} {'RTF':>9} {'peak GiB':>9} {'WER':>7}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.flac"
        for minutes in args.minutes:
            reference = join(utterances, minutes, path, args.rate, args.channels)
            if args.cutting:
                compare_cutting(path, reference, args)
                continue
            for lm in (None, args.lm) if args.lm else (None,):
                time_program(path, reference, lm, args)


if __name__ == "__main__":
    run_program(main)

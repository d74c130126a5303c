"""Streams over hours: time and memory for a second of speech, and the size of what is kept, as time goes by.

    python benchmarks/streaming.py --audio LIBRISPEECH/train-clean-5 --hours 3

Each mechanism hears the same audio (recordings under --audio joined again and again, noise without) with
random weights, in chunks of --chunk-ms. At the beginning and after each hour, one minute is fed chunk by
chunk, as it would arrive: its CPU time (all threads) for a second of speech is shown, with the size of all
that the stream keeps and the resident memory of the process. What lies between is fed in blocks of 20 s,
which gives the same numbers (tests/asr/model/test_streaming.py).
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from common import make_parser
from long_audio import endless_audio
from step import hardware

from asr.attention import ATTENTIONS
from asr.errors import UserError, run_program
from asr.model.config import ModelConfig
from asr.model.conformer import SIZES, EncoderConfig
from asr.model.frames import SAMPLE_RATE
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.model.streaming import Stream
from asr.processes import resident_gib

BLOCK = 20 * SAMPLE_RATE
MINUTE = 60 * SAMPLE_RATE


class Source:
    """Takes as many samples as are asked for."""

    def __init__(self, parts: Iterator[torch.Tensor]) -> None:
        self.parts, self.held = parts, torch.empty(0)

    def take(self, samples: int) -> torch.Tensor:
        """The next ones."""
        while len(self.held) < samples:
            self.held = torch.cat((self.held, next(self.parts)))
        found, self.held = self.held[:samples], self.held[samples:].clone()
        return found


def build(args: argparse.Namespace) -> Model:
    """A model with random weights, and the features' mean and deviation of the first minute."""
    torch.manual_seed(0)
    frontend = FrontendConfig(normalise="running")
    options = {"softmax": ATTENTIONS["softmax"].Options(left=args.left)}
    config = ModelConfig(args.attention[0], "auto", options, EncoderConfig(args.size), frontend)
    model = Model(config, pieces=256).eval()
    features = model.frontend.log_mel(Source(endless_audio(args.audio)).take(MINUTE)[None])[0]
    model.frontend.running.mean.copy_(features.mean(0))
    model.frontend.running.deviation.copy_(features.std(0))
    return model


def measure(args: argparse.Namespace) -> None:
    """One mechanism, in this process."""
    model, source = build(args), Source(endless_audio(args.audio))
    stream = Stream(model, model.framing.frames_in(args.chunk_ms / 1000))
    step, done = round(args.chunk_ms * SAMPLE_RATE / 1000), 0
    for number in range(round(args.hours) + 1):
        while done < number * 60 * MINUTE:
            part = source.take(min(BLOCK, number * 60 * MINUTE - done))
            stream.feed(part)
            done += len(part)
        minute = source.take(MINUTE // step * step)
        begun = time.process_time()
        for part in minute.split(step):
            stream.feed(part)
        seconds = (time.process_time() - begun) / (len(minute) / SAMPLE_RATE)
        done += len(minute)
        row = f"{args.attention[0]:10} {number:5} {1000 * seconds:12.2f} {stream.state_bytes:12,}"
        print(f"{row} {1024 * resident_gib():9.0f}", flush=True)


def main() -> None:
    """Measure every mechanism in a process of its own, and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--audio", type=Path, help="folder of recordings; without it, noise")
    parser.add_argument("--attention", nargs="+", default=["mala", "linear", "softmax"], choices=ATTENTIONS)
    parser.add_argument("--hours", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--chunk-ms", type=float, default=640.0, help="(%(default)s)")
    parser.add_argument(
        "--left", type=int, default=128, help="encoded frames that softmax sees (%(default)s)"
    )
    parser.add_argument("--size", choices=SIZES, default="S", help="of the encoder (%(default)s)")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.apart:
        return measure(args)
    print(
        f"{hardware('cpu')}; encoder {args.size}, chunks of {args.chunk_ms:g} ms; "
        f"softmax sees {args.left} frames before its chunk"
    )
    print(f"{'attention':10} {'hours':>5} {'CPU ms a s':>12} {'state bytes':>12} {'MiB':>9}", flush=True)
    for name in args.attention:
        command = [sys.executable, __file__, *sys.argv[1:], "--apart", "--attention", name]
        if subprocess.run(command, check=False).returncode:
            raise UserError(f"{name}: did not finish")


if __name__ == "__main__":
    run_program(main)

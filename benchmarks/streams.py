"""How many streams a core carries: time for a second of speech in chunks, beside SpeechBrain's Conformer.

    python benchmarks/streams.py --audio LIBRISPEECH/train-clean-5
    python benchmarks/streams.py --chunks 320 640 --left 128 --size S

Each subject hears the same speech with random weights (a trained model's cost the same), one stream on one
core. Softmax, and SpeechBrain's, see --left encoded frames before their chunk, which have been filled before
anything is measured; the linear family keeps all. SpeechBrain's encoder (dynamic chunks, relative positions;
pip install speechbrain==1.1.2) is timed behind its convolutions: features, subsampling and CTC head are ours
alone. Rounds go in turns over the subjects; shown is their median.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from common import make_parser
from long_audio import join_recordings
from step import hardware
from torch import Tensor

from asr.attention import ATTENTIONS
from asr.errors import UserError, run_program
from asr.model.config import ModelConfig
from asr.model.conformer import SIZES, EncoderConfig, resolve_size
from asr.model.frames import SAMPLE_RATE
from asr.model.frontend import FrontendConfig
from asr.model.recogniser import Model
from asr.model.streaming import Stream

FRAME = 0.04  # seconds of an encoded frame
SECONDS = 10.0  # of speech in a round
PEER = "speechbrain"

Feed = Callable[[Tensor], object]  # hears the samples of a chunk


def ours(name: str, size: str, left: int, chunk: int) -> Feed:
    """A stream of this project: samples to log-probabilities.

    Args:
        name: attention.
        size: of the encoder.
        left, chunk: encoded frames that softmax sees before its chunk, and of a chunk.
    """
    torch.manual_seed(0)
    options = {"softmax": ATTENTIONS["softmax"].Options(left=left)}
    frontend = FrontendConfig(normalise="running")
    model = Model(ModelConfig(name, "auto", options, EncoderConfig(size), frontend), pieces=256).eval()
    return Stream(model, chunk).feed


def speechbrain(size: str, left: int, chunk: int) -> Feed:
    """A stream of SpeechBrain's encoder, of frames made once; see ``ours``."""
    from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

    torch.manual_seed(0)
    config = resolve_size(EncoderConfig(size))
    model = TransformerASR(
        tgt_vocab=257,
        input_size=640,  # as its recipes' convolutions give
        d_model=config.dim,
        nhead=config.heads,
        num_encoder_layers=config.layers,
        num_decoder_layers=0,
        d_ffn=config.dim * config.expansion,
        kernel_size=config.kernel,
        attention_type="RelPosMHAXL",
        positional_encoding=None,
        encoder_module="conformer",
        normalize_before=True,
        causal=False,
    ).eval()
    context = model.make_streaming_context(DynChunkTrainConfig(chunk, left // chunk))
    frames = torch.randn(1, chunk, 640)
    return lambda samples: model.encode_streaming(frames, context)


@torch.inference_mode()
def timed(feed: Feed, speech: Tensor, step: int) -> float:
    """CPU milliseconds for a second of speech (S,) in chunks of ``step`` samples."""
    begun = time.process_time()
    for part in speech.split(step):
        feed(part)
    return 1000 * (time.process_time() - begun) / (len(speech) / SAMPLE_RATE)


def compare(args: argparse.Namespace, milliseconds: int, speech: Tensor) -> None:
    """The rows of a chunk size."""
    chunk = round(milliseconds / 1000 / FRAME)
    step = round(chunk * FRAME * SAMPLE_RATE)
    feeds = {name: ours(name, args.size, args.left, chunk) for name in args.attention}
    if find_spec(PEER):
        feeds[PEER] = speechbrain(args.size, args.left, chunk)
    per_round = len(speech) // (args.rounds + 1) // step * step
    found: dict[str, list[float]] = {name: [] for name in feeds}
    for number, part in enumerate(speech[: (args.rounds + 1) * per_round].split(per_round)):
        for name, feed in feeds.items():
            took = timed(feed, part, step)
            if number:  # the first fills what is seen on the left
                found[name].append(took)
    for name, times in found.items():
        cost = statistics.median(times)
        against = cost / statistics.median(found[PEER]) if PEER in found else float("nan")
        row = (
            f"{name:12} {milliseconds:6} {cost:10.1f} {cost / 1000:10.4f} {1000 / cost:10.0f} {against:13.2f}"
        )
        print(row, flush=True)


def main() -> None:
    """Compare at every chunk size."""
    parser = make_parser(__doc__)
    parser.add_argument("--audio", type=Path, help="folder of recordings; without it, noise")
    parser.add_argument("--attention", nargs="+", default=["mala", "linear", "softmax"], choices=ATTENTIONS)
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[160, 320, 640, 1280], help="in ms (160 320 640 1280)"
    )
    parser.add_argument(
        "--left", type=int, default=128, help="encoded frames before a chunk that softmax sees (%(default)s)"
    )
    parser.add_argument("--size", choices=SIZES, default="S", help="of the encoder (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of 10 s each (%(default)s)")
    args = parser.parse_args()
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: must be positive")
    if wrong := [ms for ms in args.chunks if ms <= 0 or ms % round(1000 * FRAME)]:
        raise UserError(f"--chunks {wrong[0]}: must be a multiple of {1000 * FRAME:g} ms")
    torch.set_num_threads(1)
    speech = join_recordings(args.audio, round((args.rounds + 1) * SECONDS * SAMPLE_RATE))
    peer = "" if find_spec(PEER) else "; SpeechBrain is not installed"
    print(
        f"{hardware('cpu')}, one used; encoder {args.size}; softmax sees {args.left} frames on the left{peer}"
    )
    print(f"{'':12} {'chunk':>6} {'CPU ms a s':>10} {'real time':>10} {'a core':>10} {'x SpeechBrain':>13}")
    for milliseconds in args.chunks:
        compare(args, milliseconds, speech)


if __name__ == "__main__":
    run_program(main)

"""What a transducer's loss takes, and how fast greedy decoding and beam search are, beside torchaudio's.

    python benchmarks/transducer.py loss [--utterances 16 --frames 375 --tokens 60 --pieces 256]
    python benchmarks/transducer.py decoding [--checkpoint CKPT --data data/demo --splits test] [--beam 4]

loss: peak memory and processor seconds of one forward and backward pass from encoded frames, each way in a
process of its own: the joint network's whole output with torchaudio's rnnt_loss, with our loss, and ours in
chunks. On a GPU the peak is of what PyTorch allocated, and the seconds are the clock's.

decoding: processor seconds (on a GPU the clock's) from encoded frames to pieces, how many utterances come
out as from the plain loop over frames, and how likely what comes out is in the mean, exactly, of all ways to
it: that loop, label looping in batches, SpeechBrain's greedy searcher where it is installed (pip install
speechbrain==1.1.2), in a batch too where all utterances have as many frames (it knows no lengths),
torchaudio's RNNTBeamSearch with a beam of one, which adds up the ways to the same pieces and so may differ,
and it and our beam search with a wider beam. Without a checkpoint, of random weights and frames, with a bias
for blanks that leaves a piece to four frames, as speech has.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from common import make_parser
from torch import Tensor

from asr.checkpoints.checkpoint import load_model
from asr.data.manifest import read_manifest
from asr.decoding.label_looping import greedy_in_batches, transducer_greedy
from asr.decoding.posteriors import compute_encoded
from asr.decoding.transducer_beam import TransducerSearch
from asr.decoding.weights import GREEDY
from asr.device_options import add_device_options
from asr.errors import UserError, run_program
from asr.model.classes import BLANK
from asr.model.device import autocast, choose_device, choose_dtype
from asr.model.transducer import CHUNK, Transducer, TransducerConfig
from asr.processes import resident_gib

WAYS = {
    "torchaudio": "whole output, torchaudio's rnnt_loss",
    "whole": "whole output, our loss",
    "chunks": f"chunks of {CHUNK / 2**20:g} Mi numbers",
}


def main() -> None:
    """Parse the command line and measure one of the two."""
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(required=True, metavar="loss|decoding")
    loss = commands.add_parser("loss", help="memory and time of the loss")
    loss.set_defaults(run=compare_losses)
    for name, default in (("utterances", 16), ("frames", 375), ("tokens", 60), ("pieces", 256), ("dim", 144)):
        loss.add_argument(f"--{name}", type=int, default=default, help="(%(default)s)")
    loss.add_argument("--way", choices=WAYS, help="this one alone, in this process")
    decoding = commands.add_parser("decoding", help="speed of greedy decoding and of beam search")
    decoding.set_defaults(run=compare_decoders)
    decoding.add_argument("--checkpoint", type=Path, help="of a model with a transducer")
    decoding.add_argument("--data", type=Path, help="folder with manifests")
    decoding.add_argument("--splits", nargs="+", help="splits to decode")
    decoding.add_argument("--utterances", type=int, default=16, help="random ones of 15 s (%(default)s)")
    decoding.add_argument("--beam", type=int, default=4, help="(%(default)s)")
    for command in (loss, decoding):
        add_device_options(command, "device", "precision")
    args = parser.parse_args()
    args.run(args)


def compare_losses(args: argparse.Namespace) -> None:
    """Each way in a process of its own, or the one that is asked for here."""
    if args.way:
        measure_loss(args)
        return
    output = args.utterances * args.frames * (args.tokens + 1) * (args.pieces + 1) * 4
    print(
        f"{args.utterances} utterances, {args.frames} frames, {args.tokens} tokens, {args.pieces} pieces: "
        f"the joint network's output is {output / 2**20:,.0f} MiB in fp32"
    )
    print(f"{'':40}  peak MiB  seconds  loss")
    for way in WAYS:
        command = [sys.executable, *sys.argv, "--way", way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout.strip() or f"{WAYS[way]:40}  failed: {done.stderr.strip().splitlines()[-1]}")


def measure_loss(args: argparse.Namespace) -> None:
    """One forward and backward pass, after one of an utterance to load what it needs."""
    device = choose_device(args.device)
    torch.manual_seed(0)
    transducer = Transducer(args.dim, args.pieces, TransducerConfig(dropout=0.0)).to(device)

    def step(utterances: int, chunk: int = CHUNK) -> float:
        x = torch.randn(utterances, args.frames, args.dim, device=device, requires_grad=True)
        targets = torch.randint(1, args.pieces + 1, (utterances, args.tokens), device=device)
        lengths = torch.full((utterances,), args.frames), torch.full((utterances,), args.tokens)
        with autocast(device, choose_dtype(args.precision, device)):
            loss = _loss(transducer, x, targets, *lengths, args.way, chunk)
        loss.backward()
        return loss.item() / utterances / args.tokens

    step(1, CHUNK // 64)
    before, started = _memory(device), _clock(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loss = step(args.utterances)
    seconds, peak = _clock(device) - started, _memory(device, peak=True) - before
    print(f"{WAYS[args.way]:40}  {peak:8,.0f}  {seconds:7.2f}  {loss:.4f} nats a token")


def _loss(
    transducer: Transducer,
    x: Tensor,
    targets: Tensor,
    lengths: Tensor,
    target_lengths: Tensor,
    way: str,
    chunk: int,
) -> Tensor:
    if way != "torchaudio":
        chunk = chunk if way == "chunks" else sys.maxsize
        return transducer.loss(x, lengths, targets, target_lengths, chunk).sum()
    from torchaudio.functional import rnnt_loss

    predicted = transducer.joint.prediction(transducer.prediction(targets))
    logits = transducer.joint(transducer.joint.encoder(x)[:, :, None], predicted[:, None]).float()
    integers = (n.int().to(x.device) for n in (targets, lengths, target_lengths))
    return rnnt_loss(logits, *integers, blank=BLANK, reduction="sum")


def _memory(device: torch.device, peak: bool = False) -> float:
    """MiB of the device's allocated memory, or of this process's, now or at their highest."""
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated)() / 2**20
    return 2**10 * resident_gib(peak)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@torch.inference_mode()
def compare_decoders(args: argparse.Namespace) -> None:
    """Decode the same encoded frames in each way."""
    device = choose_device(args.device)
    with autocast(device, choose_dtype(args.precision, device)):
        found = read_model(args, device) if args.checkpoint else random_model(args.utterances, device)
        transducer, encoded, audio_seconds = found
        frames = [torch.from_numpy(item)[None].to(device) for item in encoded]
        search = TransducerSearch(transducer, beam=args.beam)
        torchaudio_1, torchaudio_beam = (torchaudio_search(transducer, beam) for beam in (1, args.beam))
        decoders = {
            "plain loop": lambda: [plain_loop(transducer, x) for x in frames],
            "label looping": lambda: [found.classes for found in greedy_in_batches(transducer, encoded)],
            **speechbrain_decoders(transducer, frames),
            "RNNTBeamSearch, beam 1": lambda: [torchaudio_1(x) for x in frames],
            f"beam search, beam {args.beam}": lambda: [
                best.said.classes
                for best, *_ in search.find(encoded, GREEDY)  # no LM
            ],
            f"RNNTBeamSearch, beam {args.beam}": lambda: [torchaudio_beam(x) for x in frames],
        }
        pieces = sum(len(item.classes) for item in greedy_in_batches(transducer, encoded))  # and warm
        print(f"{len(frames)} utterances, {audio_seconds:.0f} s, {pieces} pieces, {device.type}")
        print(f"{'':22}  seconds  x real time  as the plain loop  ln P of an utterance")
        wanted = None
        for name, decode in decoders.items():
            started = _clock(device)
            found = decode()
            seconds = _clock(device) - started
            if wanted is None:
                wanted = found
            same = sum(a == b for a, b in zip(found, wanted, strict=True))
            speed = audio_seconds / seconds
            likely = np.mean([log_likelihood(transducer, *pair) for pair in zip(frames, found, strict=True)])
            counts = f"{same} of {len(found)}"
            print(f"{name:22}  {seconds:7.2f}  {speed:11,.0f}  {counts:>17}  {likely:20.2f}")


def log_likelihood(transducer: Transducer, x: Tensor, classes: list[int]) -> float:
    """ln P of pieces given x (1, N, D), of all ways to them."""
    targets = torch.tensor([classes], dtype=torch.long, device=x.device)
    lengths = torch.tensor([x.shape[1]]), torch.tensor([len(classes)])
    return -transducer.loss(x, lengths[0], targets, lengths[1]).item()


def read_model(args: argparse.Namespace, device: torch.device) -> tuple[Transducer, list[np.ndarray], float]:
    """A checkpoint's transducer, encoded frames of splits, and the seconds of audio that they are of."""
    if not (args.data and args.splits):
        raise UserError("--checkpoint wants --data and --splits")
    model, recipe = load_model(args.checkpoint)
    if model.transducer is None:
        raise UserError(f"{args.checkpoint}: has no transducer")
    model.to(device)
    utterances = [item for split in args.splits for item in read_manifest(args.data / f"{split}.jsonl")]
    encoded = compute_encoded(model, utterances, recipe.tokenizer, 120.0, "encoder")
    return model.transducer, encoded.frames, encoded.audio_seconds


def random_model(utterances: int, device: torch.device) -> tuple[Transducer, list[np.ndarray], float]:
    """The same of random weights, S's sizes and 256 pieces, and random frames."""
    torch.manual_seed(0)
    transducer = Transducer(144, 256, TransducerConfig()).eval()
    frames = torch.randn(utterances, 375, 144)
    low, high, some = 0.0, 8.0, frames[:2]
    for _ in range(8):
        transducer.joint.project.bias[BLANK] = (low + high) / 2
        found = transducer_greedy(transducer, some, torch.full((len(some),), some.shape[1]))
        enough = sum(len(item.classes) for item in found) < some.shape[0] * some.shape[1] / 4
        low, high = (low, (low + high) / 2) if enough else ((low + high) / 2, high)
    return transducer.to(device), list(frames.numpy()), 15.0 * utterances


def plain_loop(transducer: Transducer, x: Tensor) -> list[int]:
    """The likeliest class of x (1, N, D), frame by frame and piece by piece."""
    joint, classes = transducer.joint, []
    predicted, state = transducer.prediction.step(torch.full((1, 1), BLANK, device=x.device))
    predicted = joint.prediction(predicted[0, 0])
    for frame in joint.encoder(x[0]):
        for _ in range(transducer.config.most):
            best = joint(frame, predicted).argmax()
            if best == BLANK:
                break
            classes.append(best.item())
            predicted, state = transducer.prediction.step(best.view(1, 1), state)
            predicted = joint.prediction(predicted[0, 0])
    return classes


def speechbrain_decoders(
    transducer: Transducer, frames: list[Tensor]
) -> dict[str, Callable[[], list[list[int]]]]:
    """SpeechBrain's greedy searcher by names; none where it is not installed."""
    if not find_spec("speechbrain"):
        return {}
    from speechbrain.decoders.transducer import TransducerBeamSearcher
    from speechbrain.nnet.transducer.transducer_joint import Transducer_joint

    prediction, joint, most = transducer.prediction, transducer.joint, transducer.config.most
    searcher = TransducerBeamSearcher(
        [prediction.embed, prediction.lstm, joint.prediction],
        Transducer_joint(joint="sum", nonlinearity=lambda: joint.activation),
        [joint.project],
        blank_id=BLANK,
        beam_size=1,
        nbest=1,
    )

    def decode(x: Tensor) -> list[list[int]]:
        # It says one piece more than that.
        return searcher.transducer_greedy_decode(joint.encoder(x), max_symbols_per_step=most - 1)[0]

    decoders = {"SpeechBrain, alone": lambda: [decode(x)[0] for x in frames]}
    if len({x.shape for x in frames}) == 1:
        decoders["SpeechBrain, batch"] = lambda: decode(torch.cat(frames))
    return decoders


def torchaudio_search(transducer: Transducer, beam: int):
    """RNNTBeamSearch as a function of x (1, N, D)."""
    from torchaudio.models import RNNTBeamSearch

    blank = transducer.joint.project.out_features - 1
    search = RNNTBeamSearch(_AsTorchaudio(transducer), blank, step_max_tokens=transducer.config.most)

    def decode(x: Tensor) -> list[int]:
        best = search(x, torch.tensor([x.shape[1]], device=x.device), beam)[0]
        return [token + 1 for token in best[0][1:]]

    return decode


class _AsTorchaudio(torch.nn.Module):
    """A transducer with torchaudio's methods: the blank is the last class, a state's first axis the batch."""

    def __init__(self, transducer: Transducer) -> None:
        super().__init__()
        self.transducer = transducer

    def transcribe(self, x: Tensor, lengths: Tensor):
        return self.transducer.joint.encoder(x), lengths

    def predict(self, tokens: Tensor, lengths: Tensor, state):
        if state is not None:
            state = tuple(part.transpose(0, 1).contiguous() for part in state[0])
        classes = (tokens + 1) % self.transducer.joint.project.out_features
        x, state = self.transducer.prediction.step(classes, state)
        return self.transducer.joint.prediction(x), lengths, [[part.transpose(0, 1) for part in state]]

    def join(self, encoded: Tensor, lengths: Tensor, predicted: Tensor, target_lengths: Tensor):
        logits = self.transducer.joint(encoded[:, :, None], predicted[:, None])
        return logits.roll(-1, -1), lengths, target_lengths


if __name__ == "__main__":
    run_program(main)

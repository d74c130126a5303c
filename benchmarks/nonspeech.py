"""What models say where nobody speaks: words a minute of silence, noise, hum, clicks and tones.

    python benchmarks/nonspeech.py --checkpoints before/checkpoints/best.ckpt after/checkpoints/best.ckpt
    python benchmarks/nonspeech.py --checkpoints MODEL.nemo --data data/mini_librispeech --speech 40

Run it from the checkout's root. Each kind of sound that --training.nonspeech trains on comes in --clips clips
of --seconds, at levels between -80 and -10 dB of full scale, of a seed that training does not use; and some
that it does not train on: a constant, two kinds at once, and, with --data, the pauses of a split's recordings
joined: what a room, a microphone and a codec leave where a reader is silent. The words are greedy's.

With --speech N comes the word error rate of N of the split's utterances, alone and each with --seconds of
digital silence, or of faint noise, behind it: one recording each, as decode.py --audio would take it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from common import make_parser

from asr.checkpoints.checkpoint import load_model
from asr.data.batches import read_samples
from asr.data.manifest import Utterance, read_manifest
from asr.data.nonspeech import KINDS, make
from asr.data.packed import quantise
from asr.data.tokenizer import Tokenizer
from asr.decoding.greedy import greedy
from asr.decoding.posteriors import log_probs_of
from asr.device_options import add_device_options
from asr.errors import UserError, run_program
from asr.model.device import autocast, choose_device, choose_dtype
from asr.model.frames import SAMPLE_RATE
from asr.model.frontend import as_float
from asr.model.recogniser import Model
from asr.scoring.errors import score

SEED = "benchmark"
FRAME = SAMPLE_RATE // 50  # samples whose level is looked at together, to find pauses
SHORTEST = 15  # frames of a pause


def clips(kind: str, count: int, seconds: float) -> list[np.ndarray]:
    """Clips (S,) int16 of a kind, of ``constant`` or of ``two at once``."""
    n = round(seconds * SAMPLE_RATE)
    found = []
    for number in range(count):
        draw = np.random.default_rng([*SEED.encode(), *kind.encode(), number])
        if kind == "constant":
            clip = np.full(n, draw.integers(-3000, 3000), dtype=np.int16)
        elif kind == "two at once":
            parts = [make(part, n, draw) for part in draw.choice(list(KINDS), 2, replace=False)]
            clip = quantise(sum(part / 32768 for part in parts))
        else:
            clip = make(kind, n, draw)
        found.append(clip)
    return found


def pauses(utterances: list[Utterance], count: int, seconds: float) -> list[np.ndarray]:
    """Clips of the stretches in which the readers are silent, joined.

    A pause is at least 0.3 s within 6 dB of the recording's tenth percentile of level; its ends are left out.
    """
    n, held, found = round(seconds * SAMPLE_RATE), [], []
    for utterance in utterances:
        held += _quiet(heard(utterance))
        if sum(map(len, held)) >= n:
            found.append(quantise(np.concatenate(held)[:n]))
            held = []
        if len(found) == count:
            return found
    raise UserError(f"--data: pauses for {len(found)} of {count} clips of {seconds:g} s; give fewer --clips")


def heard(utterance: Utterance) -> np.ndarray:
    """An utterance's samples (S,), fp32."""
    return as_float(torch.from_numpy(read_samples(utterance))).numpy()


def _quiet(samples: np.ndarray) -> Iterator[np.ndarray]:
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-10)
    quiet = level < np.percentile(level, 10) + 6
    edges = np.flatnonzero(np.diff(quiet.astype(np.int8), prepend=0, append=0))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start >= SHORTEST:
            yield frames[start + 2 : end - 2].ravel()


def said(model: Model, tokenizer: Tokenizer, clip: np.ndarray) -> str:
    """A clip's transcript (S,) by best path; no other clip is in its batch."""
    [log_probs] = log_probs_of(model, torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
    [classes] = greedy(torch.from_numpy(log_probs)[None], torch.tensor([len(log_probs)]))
    return tokenizer.decode(classes)


def endings(utterances: list[Utterance], seconds: float) -> dict[str, list[np.ndarray]]:
    """The utterances as clips: alone, and with so many seconds of something behind."""
    n = round(seconds * SAMPLE_RATE)
    faint = np.random.default_rng(1).standard_normal(n) * 10 ** (-60 / 20)
    behind = {"alone": np.zeros(0), "with silence behind": np.zeros(n), "with noise at -60 dB behind": faint}
    speech = [quantise(heard(utterance)) for utterance in utterances]
    return {
        name: [np.concatenate((clip, quantise(part))) for clip in speech] for name, part in behind.items()
    }


def main() -> None:
    """Parse the command line and print the tables."""
    args = _parse()
    kinds = [*KINDS, "constant", "two at once"]
    sounds = {kind: clips(kind, args.clips, args.seconds) for kind in kinds}
    speech, references = {}, []
    if args.data:
        utterances = read_manifest(args.data / f"{args.split}.jsonl")
        sounds[f"pauses of {args.split}"] = pauses(utterances, args.clips, args.seconds)
        some = utterances[:: max(1, len(utterances) // args.speech)][: args.speech] if args.speech else []
        references = [utterance.text for utterance in some]
        speech = endings(some, args.seconds) if some else {}
    minutes = args.clips * args.seconds / 60
    device = choose_device(args.device)
    rates: dict[str, list[float]] = {kind: [] for kind in sounds}
    errors: dict[str, list[float]] = {name: [] for name in speech}
    for checkpoint in args.checkpoints:
        model, recipe = load_model(checkpoint)
        model.to(device)
        with autocast(device, choose_dtype(args.precision, device)):
            for kind, several in sounds.items():
                texts = [said(model, recipe.tokenizer, clip) for clip in several]
                rates[kind].append(sum(len(text.split()) for text in texts) / minutes)
                if args.show:
                    print(f"{checkpoint} {kind}: {' / '.join(filter(None, texts))[:200]}")
            for name, several in speech.items():
                texts = [said(model, recipe.tokenizer, clip) for clip in several]
                errors[name].append(score(references, texts).wer)
    _print(f"words a minute; {args.clips} clips of {args.seconds:g} s of each kind", rates, args.checkpoints)
    if speech:
        title = f"WER; {len(references)} utterances of {args.split}, {args.seconds:g} s behind each"
        _print(title, errors, args.checkpoints)


def _print(title: str, rows: dict[str, list[float]], checkpoints: list[Path]) -> None:
    print(title)
    for number, checkpoint in enumerate(checkpoints, 1):
        print(f"({number}) {checkpoint}")
    print(f"{'':28}" + "".join(f"{f'({number})':>8}" for number in range(1, len(checkpoints) + 1)))
    for name, values in rows.items():
        print(f"{name:28}" + "".join(f"{value:8.1f}" for value in values))


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--checkpoints",
        nargs="+",
        type=Path,
        required=True,
        help="checkpoints, exported folders, .nemo files",
    )
    add("--clips", type=int, default=12, help="of each kind (%(default)s)")
    add("--seconds", type=float, default=10.0, help="length of each (%(default)s)")
    add("--data", type=Path, help="folder with manifests, for real pauses")
    add("--split", default="dev", help="whose pauses (%(default)s)")
    add("--speech", type=int, default=0, help="utterances of the split with silence behind (%(default)s)")
    add("--show", action="store_true", help="print what is said, too")
    add_device_options(parser)
    args = parser.parse_args()
    if args.clips < 1 or not 0.1 <= args.seconds <= 120:
        raise UserError("--clips must be at least 1, and --seconds lie between 0.1 and 120")
    if args.speech and not args.data:
        raise UserError("--speech wants --data")
    return args


if __name__ == "__main__":
    run_program(main)

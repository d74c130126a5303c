"""How long after a word was said a stream shows it: at all, for good, and as final; greedy decoding.

    python benchmarks/latency.py --checkpoints softmax=S2 mala=M2 --aligner TEACHER --data DATA --split dev

Utterances of --split (every --every'th) are fed in blocks of 40 ms, as a microphone gives them, and followed
by silence. A word's end is where the --aligner (a CTC model that hears the whole utterance, and the
reference) has its last piece. Counted are the words that are right in the end, aligned with the reference:

    shown   until the word is there, partial or final, and stays
    final   until the stream says that it will not change: the next word has begun, or a pause

Both are in milliseconds of audio fed beyond the word's end, and the time that the model took for the block is
added, on one core. Frames of the aligner lie within a word, not at its edge, so that times are some tens of
milliseconds too long for all alike. "real time" is CPU seconds for a second of audio.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import make_parser
from length import Subject, load_subject
from step import hardware
from torch import Tensor

from asr.checkpoints.checkpoint import Recipe, load_model
from asr.data.batches import read_samples
from asr.data.manifest import Utterance, read_manifest
from asr.decoding.live import Session
from asr.errors import UserError, run_program
from asr.figures.alignment import align as find_words
from asr.model.frames import SAMPLE_RATE
from asr.model.frontend import as_float
from asr.model.recogniser import Model
from asr.scoring.errors import Pair, align, as_scored, count_errors

BLOCK = SAMPLE_RATE // 25
SILENCE = 3.0  # seconds behind an utterance, in which its last words come out


class Shown(NamedTuple):
    """What a stream had shown after a block."""

    seconds: float  # fed, and what the block took
    words: list[str]  # final and partial
    final: int  # how many of them are final


class Delays(NamedTuple):
    """Of the words that are right in the end, in seconds."""

    shown: list[float]
    final: list[float]


def listen(subject: Subject, samples: Tensor, chunk: float) -> Iterator[Shown]:
    """What a stream shows while it hears samples (S,) and silence, after each block."""
    session = Session(subject.model, subject.tokenizer, chunk)
    padded = torch.cat((samples, torch.zeros(round(SILENCE * SAMPLE_RATE))))
    fed, said = 0, []
    for block in padded.split(BLOCK):
        fed += len(block)
        begun = time.process_time()
        heard = session.feed(block)
        took = time.process_time() - begun
        said += [word.text for word in heard.words]
        words = as_scored(" ".join([*said, heard.partial])).split()
        yield Shown(fed / SAMPLE_RATE + took, words, len(as_scored(" ".join(said)).split()))


def delays(shown: list[Shown], ends: list[float], pairs: list[Pair]) -> Delays:
    """How long after its end each word came that is right in what was shown last.

    Args:
        shown: by a stream, block by block.
        ends: of the reference's words, in seconds.
        pairs: its alignment with the words shown last.
    """
    found, spoken, place = Delays([], []), 0, 0
    for said, heard in pairs:
        if said and said == heard:
            found.shown.append(_since(shown, place, said) - ends[spoken])
            final = next((item for item in shown if item.final > place), shown[-1])
            found.final.append(final.seconds - ends[spoken])
        spoken += bool(said)
        place += bool(heard)
    return found


def _since(shown: list[Shown], place: int, word: str) -> float:
    """When a word came to its place in what is shown last."""
    since = shown[-1].seconds
    for item in reversed(shown):
        if item.words[place : place + 1] != [word]:
            break
        since = item.seconds
    return since


class Spoken(NamedTuple):
    """An utterance with its words."""

    samples: Tensor  # (S,) in [-1, 1]
    text: str
    ends: list[float]  # of the words, in seconds


def find_ends(aligner: tuple[Model, Recipe], utterance: Utterance) -> Spoken:
    """An utterance, and where the aligner hears its words end."""
    samples = as_float(torch.from_numpy(read_samples(utterance)))
    words = find_words(*aligner, samples, utterance.text).words
    return Spoken(samples, utterance.text, [word.end for word in words])


def measure(subject: Subject, utterances: list[Spoken], chunk: float) -> str:
    """A row of the table: a model at a chunk size in seconds."""
    every, pairs_of_all = Delays([], []), []
    begun, seconds = time.process_time(), 0.0
    for utterance in utterances:
        shown = list(listen(subject, utterance.samples, chunk))
        seconds += len(utterance.samples) / SAMPLE_RATE + SILENCE
        pairs = align(utterance.text, " ".join(shown[-1].words))
        found = delays(shown, utterance.ends, pairs)
        every.shown.extend(found.shown)
        every.final.extend(found.final)
        pairs_of_all += pairs
    took = (time.process_time() - begun) / seconds
    errors = count_errors(pairs_of_all)
    row = f"{subject.name:12} {1000 * chunk:6.0f} {errors.rate:6.2f} {len(every.shown):6}"
    for times in every:
        median, most = np.quantile(times or [np.nan], (0.5, 0.95))  # no word may be right
        row += f" {1000 * median:7.0f} {1000 * most:7.0f}"
    return f"{row} {took:10.3f}"


def main() -> None:
    """Measure every model at every chunk size."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--checkpoints", nargs="+", required=True, help="models that stream; NAME=CHECKPOINT names one"
    )
    parser.add_argument("--aligner", type=Path, required=True, help="CTC model that finds words' ends")
    parser.add_argument("--data", type=Path, required=True, help="folder with the split's manifest")
    parser.add_argument("--split", default="dev", help="(%(default)s)")
    parser.add_argument("--every", type=int, default=4, help="take every so manieth utterance (%(default)s)")
    parser.add_argument(
        "--chunks", type=float, nargs="+", default=[160, 320, 640, 1280], help="in ms (160 320 640 1280)"
    )
    args = parser.parse_args()
    if args.every < 1:
        raise UserError(f"--every {args.every}: must be positive")
    torch.set_num_threads(1)
    aligner = load_model(args.aligner)
    found = read_manifest(args.data / f"{args.split}.jsonl")[:: args.every]
    utterances = [find_ends(aligner, utterance) for utterance in found]
    print(f"{hardware('cpu')}, one used; {len(utterances)} utterances of {args.split}; times in ms")
    print(f"{'':33} {'shown':>15} {'final':>15}")
    print(f"{'model':12} {'chunk':>6} {'WER':>6} {'right':>6}" + 2 * "  median    95 %" + "  real time")
    for name in args.checkpoints:
        subject = load_subject(name)
        for chunk in args.chunks:
            print(measure(subject, utterances, chunk / 1000), flush=True)


if __name__ == "__main__":
    run_program(main)

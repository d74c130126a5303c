"""Beam search with an n-gram LM: ours beside others, on the posteriors of a trained model, one process each.

    python benchmarks/decoders.py --checkpoint best.ckpt --data data/mini_librispeech --lm 3gram.bin \\
        --decoders ours ours:closed torchaudio pyctcdecode oracle

Every decoder gets the same posteriors, LM and beam, has its weights tuned on the same utterances of --dev by
asr/decoding/tuning.py, and is then timed on --test, warmed up by the tuning. `ours` has an open vocabulary,
as pyctcdecode has; `ours:closed` has the LM's words only. Others:

- torchaudio: torchaudio.models.decoder.ctc_decoder (flashlight-text), the LM's words only, as the tokenizer
  spells them; "silence" a class of its own at -1e4, 10 pieces a frame; torchaudio:all tries all pieces, its
  default; torchaudio:runs has each run of frames with the same likeliest piece averaged into one before,
  which mends its treatment of word-final repeats;
- pyctcdecode, with its own pruning;
- oracle: asr/decoding/prefix_beam.py with the same beam, and --oracle-beams besides, on --oracle utterances
  of --test, at the weights that ours got: how often it has ours' pieces, and how far the scores are apart.
  Pieces below e^--oracle-floor in a frame are left out of it, for time.

--posteriors FOLDER takes posteriors that are there already in --checkpoint's place: SPLIT.npz with `ids`,
`references`, `durations` (s), `lengths` (frames) and `log_probs` (all utterances' one after the other), and
tokenizer.model.

They are no dependencies: `pip install flashlight-text==0.0.7 pyctcdecode "numpy<2"` in an environment of the
benchmark's own.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from common import make_parser
from step import hardware
from tqdm import tqdm

from asr.checkpoints.checkpoint import load_model
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.decoding.beam import BeamDecoder
from asr.decoding.greedy import greedy
from asr.decoding.posteriors import compute_posteriors
from asr.decoding.prefix_beam import prefix_beam_search
from asr.decoding.tuning import UNTUNED, tune
from asr.decoding.weights import Weights
from asr.errors import UserError, run_program
from asr.lm import files as lm_files
from asr.model.classes import BLANK
from asr.scoring.errors import word_error_rate

Decode = Callable[[np.ndarray], str]
CLOSED = 40.0  # the unknown penalty of a closed vocabulary


def ours(args, tokenizer: Tokenizer) -> Callable[[Weights], Decode]:
    """This project's."""
    decoder = BeamDecoder(args.lm, tokenizer, args.beam)
    return lambda weights: lambda log_probs: tokenizer.decode(decoder.decode(log_probs, weights))


def torchaudio_decoder(args, tokenizer: Tokenizer, runs=False, pieces=10) -> Callable[[Weights], Decode]:
    """flashlight-text's, as torchaudio offers it. Its LM weight is on decimal logarithms."""
    from torchaudio.models.decoder import ctc_decoder

    names = ["<blank>", *(f"p{number}" for number in range(1, tokenizer.pieces + 1)), "<silence>"]
    lexicon = args.scratch / f"lexicon.{os.getpid()}.txt"
    words = lm_files.vocabulary(args.lm)
    spelled = zip(words, tokenizer.encode_all(words), strict=True)
    lexicon.write_text(
        "".join(
            f"{word} {' '.join(f'p{piece}' for piece in spelling)}\n"
            for word, spelling in spelled
            if tokenizer.unknown not in spelling
        )
    )

    def at(weights: Weights) -> Decode:
        decoder = ctc_decoder(
            lexicon=str(lexicon),
            tokens=names,
            lm=str(args.lm),
            beam_size=args.beam,
            beam_size_token=pieces,
            lm_weight=weights.decimal,
            word_score=weights.word_score,
            blank_token=names[0],
            sil_token=names[-1],
        )

        def decode(log_probs: np.ndarray) -> str:
            frames = average_runs(log_probs) if runs else log_probs
            silence = np.full((len(frames), 1), -1e4, np.float32)
            found = decoder(torch.from_numpy(np.concatenate((frames, silence), 1))[None])[0]
            return " ".join(found[0].words) if found else ""

        return decode

    return at


def average_runs(log_probs: np.ndarray) -> np.ndarray:
    """Average each run of frames whose likeliest class is the same piece: (N, classes) to fewer frames."""
    best = log_probs.argmax(1)
    starts = np.flatnonzero(np.concatenate(([True], (best[1:] != best[:-1]) | (best[1:] == BLANK))))
    lengths = np.diff(np.append(starts, len(best)))
    return np.add.reduceat(log_probs, starts) / lengths[:, None].astype(log_probs.dtype)


def pyctcdecode_decoder(args, tokenizer: Tokenizer) -> Callable[[Weights], Decode]:
    """pyctcdecode's; it takes the words apart at the pieces' own word marks."""
    from pyctcdecode import build_ctcdecoder

    labels = ["", *(tokenizer.piece(number) for number in range(1, tokenizer.pieces + 1))]
    decoder = build_ctcdecoder(labels, str(args.lm), lm_files.vocabulary(args.lm))

    def at(weights: Weights) -> Decode:
        def decode(log_probs: np.ndarray) -> str:
            weight, word, penalty, _ = weights
            decoder.reset_params(alpha=weight, beta=word, unk_score_offset=-penalty)
            return decoder.decode(log_probs, beam_width=args.beam)

        return decode

    return at


DECODERS = {
    "ours": ours,
    "ours:closed": ours,
    "torchaudio": torchaudio_decoder,
    "torchaudio:all": lambda args, tokenizer: torchaudio_decoder(args, tokenizer, pieces=None),
    "torchaudio:runs": lambda args, tokenizer: torchaudio_decoder(args, tokenizer, runs=True),
    "pyctcdecode": pyctcdecode_decoder,
}
CLOSED_ONES = {"ours:closed", "torchaudio", "torchaudio:all", "torchaudio:runs"}


@dataclass
class Split:
    """Posteriors and what was said."""

    log_probs: list[np.ndarray]  # (N, classes) fp32 each
    references: list[str]
    seconds: float  # of audio

    def some(self, count: int) -> "Split":
        """So many utterances from all over it, not of one speaker."""
        chosen = np.linspace(0, len(self.references) - 1, min(count, len(self.references))).astype(int)
        return Split([self.log_probs[i] for i in chosen], [self.references[i] for i in chosen], self.seconds)

    def wer(self, decode: Decode) -> float:
        """Of a decoder."""
        return word_error_rate(self.references, [decode(item) for item in self.log_probs])


def read_posteriors(path: Path) -> Split:
    """A file of --posteriors."""
    with np.load(path) as file:
        rows = np.split(file["log_probs"], np.cumsum(file["lengths"])[:-1])
        references = [str(text) for text in file["references"]]
        return Split([row.astype(np.float32) for row in rows], references, float(file["durations"].sum()))


def read_splits(args) -> tuple[Tokenizer, Split, Split]:
    """The tokenizer, dev and test."""
    if args.posteriors:
        tokenizer = Tokenizer.load(args.posteriors / "tokenizer.model")
        return tokenizer, *(
            read_posteriors(args.posteriors / f"{split}.npz") for split in (args.dev, args.test)
        )
    model, recipe = load_model(args.checkpoint)
    splits = []
    for split in (args.dev, args.test):
        utterances = read_manifest(args.data / f"{split}.jsonl")
        found = compute_posteriors(model, utterances, recipe.tokenizer, 120.0, split)
        splits.append(Split(found.log_probs, found.references, found.audio_seconds))
    return recipe.tokenizer, *splits


def compare_with_oracle(args, tokenizer: Tokenizer, items: list[np.ndarray], weights: Weights) -> None:
    """Print how ours and the plain search agree."""
    decoder, model = BeamDecoder(args.lm, tokenizer, args.beam), lm_files.load(args.lm)
    words, spoken = lm_files.vocabulary(args.lm), tokenizer.spoken(decoder.style)
    found = [decoder.decode_scored(item, weights) for item in items]
    print(f"oracle at {weights}, pieces from e^{args.oracle_floor:g} on")
    print(
        f"{'oracle':16} {'same pieces':>15} {'its score less ours: median':>28} {'90 %':>7} {'most':>7} nats"
    )
    for beam in (args.beam, *args.oracle_beams):
        same, lost = 0, []
        bar = tqdm(items, desc=f"oracle, beam {beam}", unit="utt", leave=False, disable=None)
        for item, (pieces, scored) in zip(bar, found, strict=True):
            plain, best = prefix_beam_search(
                item, spoken, words, model, weights, beam, floor=args.oracle_floor
            )
            same += pieces == plain
            lost.append(best - scored)
        print(
            f"{f'beam {beam}':16} {f'{same} of {len(items)}':>15} {np.median(lost):28.4f} "
            f"{np.quantile(lost, 0.9):7.3f} {max(lost):7.3f}",
            flush=True,
        )


def main() -> None:
    """Parse the command line and print the table."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path)
    add("--data", type=Path, help="folder with SPLIT.jsonl")
    add("--posteriors", type=Path, help="folder with SPLIT.npz, in place of both")
    add("--lm", type=Path, required=True, help="KenLM binary")
    add("--decoders", nargs="+", default=["ours"], help=f"oracle, {', '.join(DECODERS)} (%(default)s)")
    add("--weights", type=float, nargs=3, help="LM weight, word score, unknown penalty: tune none")
    add("--dev", default="dev", help="split to tune on (%(default)s)")
    add("--test", default="test", help="split to measure on (%(default)s)")
    add("--tuning", type=int, default=60, help="utterances of dev to tune on (%(default)s)")
    add("--oracle", type=int, default=100, help="utterances for the oracle (%(default)s)")
    add("--oracle-beams", type=int, nargs="*", default=[], help="more beams for the oracle, such as 200")
    add("--oracle-floor", type=float, default=-math.inf, help="natural logarithm, such as -15 (none)")
    add("--beam", type=int, default=100, help="hypotheses kept (%(default)s)")
    add("--scratch", type=Path, default=Path("/tmp"), help="folder for a lexicon file (%(default)s)")
    args = parser.parse_args()
    unknown = set(args.decoders) - {*DECODERS, "oracle"}
    if unknown:
        raise UserError(f"--decoders {' '.join(unknown)}: choose from oracle, {', '.join(DECODERS)}")
    if bool(args.posteriors) == bool(args.checkpoint and args.data):
        raise UserError("give either --checkpoint and --data, or --posteriors")
    torch.set_num_threads(1)
    tokenizer, dev, test = read_splits(args)
    dev = dev.some(args.tuning)
    print(f"{hardware('cpu')}, one process; beam {args.beam}, {args.lm.name}")

    def best_path(log_probs: np.ndarray) -> str:
        return tokenizer.decode(greedy(torch.from_numpy(log_probs)[None], torch.tensor([len(log_probs)]))[0])

    print(f"{len(dev.references)} utterances of {args.dev} to tune on, {len(test.references)} of {args.test}")
    weights = f"{'LM weight':>9} {'word score':>10} {'unknown penalty':>15}"
    print(f"{'decoder':16} {weights} {'dev WER':>8} {'test WER':>8} {'CPU s':>7} {'x real time':>12}")
    print(f"{'greedy':16} {'':36} {dev.wer(best_path):8.2f} {test.wer(best_path):8.2f}", flush=True)
    tuned = {}
    for name in args.decoders:
        if name == "oracle":
            continue
        make = DECODERS[name](args, tokenizer)

        @cache
        def wer(weights: Weights, make=make) -> float:
            return dev.wer(make(weights))

        def wer_if_open(weights: Weights, closed=name in CLOSED_ONES, wer=wer) -> float:
            return wer(weights._replace(unknown_penalty=CLOSED) if closed else weights)

        best = Weights(*args.weights) if args.weights else tune(wer_if_open)[0]
        tuned[name] = best._replace(unknown_penalty=CLOSED) if name in CLOSED_ONES else best
        on_dev, decode = wer(tuned[name]), make(tuned[name])
        started = time.process_time()
        found = [decode(item) for item in test.log_probs]
        taken = time.process_time() - started
        on_test = word_error_rate(test.references, found)
        weight, word, penalty, _ = tuned[name]
        print(
            f"{name:16} {weight:9.2f} {word:10.2f} {penalty:15.2f} {on_dev:8.2f} {on_test:8.2f} {taken:7.1f} "
            f"{test.seconds / taken:12.0f}",
            flush=True,
        )
    if "oracle" in args.decoders and args.oracle:
        at = tuned.get("ours", Weights(*args.weights) if args.weights else UNTUNED)
        compare_with_oracle(args, tokenizer, test.some(args.oracle).log_probs, at)


if __name__ == "__main__":
    run_program(main)

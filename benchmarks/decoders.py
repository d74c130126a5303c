"""Beam search with an n-gram LM: ours beside others, on the posteriors of a trained model, one process each.

    python benchmarks/decoders.py --checkpoint best.ckpt --data data/mini_librispeech --lm 3gram.bin \\
        --decoders ours torchaudio pyctcdecode oracle

Every decoder gets the same posteriors, LM, words and beam, has its LM weight and word score tuned on the
same utterances of --dev by the same grid, and is then timed on --test, warmed up by the tuning. Others:

- torchaudio: torchaudio.models.decoder.ctc_decoder (flashlight-text), "silence" a class of its own at -1e4,
  10 pieces a frame; torchaudio:all tries all pieces, its default; torchaudio:runs has each run of frames
  with the same likeliest piece averaged into one before, which mends its treatment of word-final repeats;
- pyctcdecode, with its own pruning;
- oracle: asr/decoding/prefix_beam.py with the same beam and with twice that, on --oracle utterances of
  --test, at the weights that ours got: how often it has ours' words, and how far the scores are apart.

They are no dependencies: `pip install flashlight-text==0.0.7 pyctcdecode "numpy<2"` in an environment of the
benchmark's own.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from step import hardware
from tqdm import tqdm

from asr.checkpoints.checkpoint import load_model
from asr.data.manifest import read_manifest
from asr.data.tokenizer import Tokenizer
from asr.decoding.beam import BeamDecoder
from asr.decoding.evaluation import decode_greedy
from asr.decoding.lexicon import spell, unigrams
from asr.decoding.posteriors import compute_posteriors
from asr.decoding.prefix_beam import prefix_beam_search
from asr.errors import UserError, run_program
from asr.lm import files as lm_files
from asr.model.ctc import BLANK
from asr.scoring.errors import score

Decode = Callable[[np.ndarray], str]
WEIGHTS = [(weight, word) for weight in (0.3, 0.5, 0.8, 1.2) for word in (0.0, 1.0, 2.0)]


def spelled_words(args, tokenizer: Tokenizer) -> dict[tuple[int, ...], str]:
    """The LM's words by their pieces."""
    words = lm_files.vocabulary(args.lm)
    numbers = spell(words, unigrams(lm_files.load(args.lm), words), tokenizer)
    return {spelling: words[number] for spelling, number in numbers.items()}


def ours(args, tokenizer: Tokenizer) -> Callable[[float, float], Decode]:
    """This project's."""
    decoder = BeamDecoder(args.lm, tokenizer, args.beam)
    return lambda weight, word: lambda log_probs: decoder.decode(log_probs, weight, word)


def torchaudio_decoder(args, tokenizer: Tokenizer, runs=False, pieces=10) -> Callable[[float, float], Decode]:
    """flashlight-text's, as torchaudio offers it. Its LM weight is on decimal logarithms."""
    from torchaudio.models.decoder import ctc_decoder

    names = ["<blank>", *(f"p{number}" for number in range(1, tokenizer.pieces + 1)), "<silence>"]
    lexicon = args.scratch / f"lexicon.{os.getpid()}.txt"
    lexicon.write_text(
        "".join(
            f"{word} {' '.join(f'p{piece}' for piece in spelling)}\n"
            for spelling, word in spelled_words(args, tokenizer).items()
        )
    )

    def at(weight: float, word: float) -> Decode:
        decoder = ctc_decoder(
            lexicon=str(lexicon),
            tokens=names,
            lm=str(args.lm),
            beam_size=args.beam,
            beam_size_token=pieces,
            lm_weight=weight * float(np.log(10)),
            word_score=word,
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


def pyctcdecode_decoder(args, tokenizer: Tokenizer) -> Callable[[float, float], Decode]:
    """pyctcdecode's; it takes the words apart at the pieces' own word marks."""
    from pyctcdecode import build_ctcdecoder

    labels = ["", *(tokenizer.piece(number) for number in range(1, tokenizer.pieces + 1))]
    decoder = build_ctcdecoder(labels, str(args.lm), lm_files.vocabulary(args.lm))

    def at(weight: float, word: float) -> Decode:
        def decode(log_probs: np.ndarray) -> str:
            decoder.reset_params(alpha=weight, beta=word)
            return decoder.decode(log_probs, beam_width=args.beam)

        return decode

    return at


DECODERS = {
    "ours": ours,
    "torchaudio": torchaudio_decoder,
    "torchaudio:all": lambda args, tokenizer: torchaudio_decoder(args, tokenizer, pieces=None),
    "torchaudio:runs": lambda args, tokenizer: torchaudio_decoder(args, tokenizer, runs=True),
    "pyctcdecode": pyctcdecode_decoder,
}


def compare_with_oracle(args, tokenizer: Tokenizer, items: list[np.ndarray], weights) -> None:
    """Print how ours and the plain search agree."""
    decoder, model = BeamDecoder(args.lm, tokenizer, args.beam), lm_files.load(args.lm)
    spellings = spelled_words(args, tokenizer)
    found = [decoder.decode_scored(item, *weights) for item in items]
    print(
        f"{'oracle':16} {'same words':>15} {'its score less ours: median':>28} {'90 %':>7} {'most':>7} nats"
    )
    for beam in (args.beam, 2 * args.beam):
        same, lost = 0, []
        bar = tqdm(items, desc=f"oracle, beam {beam}", unit="utt", leave=False, disable=None)
        for item, (words, scored) in zip(bar, found, strict=True):
            plain, best = prefix_beam_search(item, spellings, model, *weights, beam)
            same += words == " ".join(plain)
            lost.append(best - scored)
        print(
            f"{f'beam {beam}':16} {f'{same} of {len(items)}':>15} {np.median(lost):28.4f} "
            f"{np.quantile(lost, 0.9):7.3f} {max(lost):7.3f}",
            flush=True,
        )


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/decoders.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True)
    add("--data", type=Path, required=True, help="folder with SPLIT.jsonl")
    add("--lm", type=Path, required=True, help="KenLM binary")
    add("--decoders", nargs="+", default=["ours"], help=f"oracle, {', '.join(DECODERS)} (%(default)s)")
    add("--dev", default="dev", help="split to tune on (%(default)s)")
    add("--test", default="test", help="split to measure on (%(default)s)")
    add("--tuning", type=int, default=60, help="utterances of dev to tune on (%(default)s)")
    add("--oracle", type=int, default=100, help="utterances for the oracle (%(default)s)")
    add("--beam", type=int, default=100, help="hypotheses kept (%(default)s)")
    add("--scratch", type=Path, default=Path("/tmp"), help="folder for a lexicon file (%(default)s)")
    args = parser.parse_args()
    unknown = set(args.decoders) - {*DECODERS, "oracle"}
    if unknown:
        raise UserError(f"--decoders {' '.join(unknown)}: choose from oracle, {', '.join(DECODERS)}")
    torch.set_num_threads(1)
    model, recipe = load_model(args.checkpoint)
    tokenizer = recipe.tokenizer
    dev, test = (
        compute_posteriors(model, read_manifest(args.data / f"{split}.jsonl"), tokenizer, 120.0, split)
        for split in (args.dev, args.test)
    )
    # Utterances from all over dev, not of one speaker.
    chosen = np.linspace(0, len(dev.utterances) - 1, min(args.tuning, len(dev.utterances))).astype(int)
    items, references = [dev.log_probs[i] for i in chosen], [dev.references[i] for i in chosen]
    print(f"{hardware()}, one process; beam {args.beam}, {args.lm.name}")
    greedy = decode_greedy(args.test, test, tokenizer).score
    print(f"{args.checkpoint}: greedy WER {greedy.wer:.2f} on {args.test}")
    titles = f"{'WER':>6} {'CER':>6} {'seconds':>8} {'x real time':>12}"
    print(f"{'decoder':16} {'LM weight':>9} {'word score':>10} {titles}")
    tuned = {}
    for name in args.decoders:
        if name == "oracle":
            continue
        make = DECODERS[name](args, tokenizer)

        def wer(weights: tuple[float, float], make=make) -> float:
            decode = make(*weights)
            return score(references, [decode(item) for item in items]).wer

        grid = tqdm(WEIGHTS, desc=f"{name}, tuning", leave=False, disable=None)
        tuned[name] = min(grid, key=wer)
        decode = make(*tuned[name])
        started = time.process_time()
        hypotheses = [decode(item) for item in tqdm(test.log_probs, desc=name, leave=False, disable=None)]
        taken = time.process_time() - started
        found = score(test.references, hypotheses)
        weight, word = tuned[name]
        print(
            f"{name:16} {weight:9.2f} {word:10.2f} {found.wer:6.2f} {found.cer:6.2f} {taken:8.1f} "
            f"{test.audio_seconds / taken:12.0f}",
            flush=True,
        )
    if "oracle" in args.decoders and args.oracle:
        step = max(1, len(test.log_probs) // args.oracle)
        compare_with_oracle(
            args, tokenizer, test.log_probs[::step][: args.oracle], tuned.get("ours", WEIGHTS[4])
        )


if __name__ == "__main__":
    run_program(main)

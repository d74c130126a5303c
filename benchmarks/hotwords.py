"""What hotwords (decode.py --words) do for words that the LM hardly knows: recall, false alarms, WER.

    python benchmarks/hotwords.py --checkpoint MODEL --data DATA --lm 3gram.bin --distractors DATA/train.jsonl

A split's list has the words of its references that the LM lacks or that are rare in it (--rare), and as many
distractors as --distract says: words of the same kind from other manifests, none of which the split's
references have, evenly spread over the alphabet. Nobody has such a list in earnest: who knows the names that
may come knows some of them. --keep 0.5 leaves half of the reference's words out.

The LM's weights are tuned on --dev without hotwords, or given; then the boost, on --dev too, with dev's own
list. With the best of them (the lowest WER, and of equal ones the lowest boost) the search hears --test, with
test's list, with and without the LM. Printed are

- recall: occurrences in the references that are recognised, in percent; first of all listed words, then of
  those that the LM lacks alone;
- false: listed words in hypotheses where the reference has another word or none; `distractors` of them;
- WER overall, and the seconds of processor time that the search took.
"""

import time
from pathlib import Path
from typing import NamedTuple

import torch
from common import make_parser
from decoders import Split, read_splits
from step import hardware

from asr.data.manifest import read_manifest
from asr.data.style import style_of
from asr.data.tokenizer import Tokenizer
from asr.decoding.beam import BeamDecoder
from asr.decoding.hotwords import Hotword
from asr.decoding.posteriors import spread
from asr.decoding.tuning import tune
from asr.decoding.weights import GREEDY, Weights
from asr.errors import UserError, run_program
from asr.lm import files as lm_files
from asr.scoring.errors import align, count_errors, word_error_rate


class List(NamedTuple):
    """Words that a search is told to expect."""

    expected: list[str]  # that the references have
    distractors: list[str]
    lacking: set[str]  # of the expected ones, those that the LM lacks


class Figures(NamedTuple):
    """What a search made of a split."""

    wer: float
    recall: float
    recall_lacking: float
    false: int
    distractors: int
    seconds: float


class Known:
    """What an LM knows of words."""

    def __init__(self, path: Path, rare: float) -> None:
        self.words, self._model, self._rare = set(lm_files.vocabulary(path)), lm_files.load(path), rare

    def hardly(self, word: str) -> bool:
        """Whether it lacks a word, or has it as a rare one."""
        return word not in self.words or self._model.score(word, bos=False, eos=False) < self._rare


def make_list(references: list[str], others: list[str], known: Known, keep: float, distract: int) -> List:
    """The list of a split; ``others``: texts to take distractors from."""
    spoken = {word for text in references for word in text.split()}
    expected = sorted(filter(known.hardly, spoken))
    expected = spread(expected, round(keep * len(expected)))
    apart = sorted({word for text in others for word in text.split()} - spoken)
    return List(
        expected,
        spread(list(filter(known.hardly, apart)), distract) if distract else [],
        set(expected) - known.words,
    )


def measure(
    found: Split,
    tokenizer: Tokenizer,
    lm: Path | None,
    weights: Weights,
    listed: List,
    boost: float,
    beam: int,
) -> Figures:
    """Search a split, with its list where the boost is not 0."""
    words = [*listed.expected, *listed.distractors] if boost else []
    decoder = BeamDecoder(lm, tokenizer, beam, hotwords=[Hotword(word, boost) for word in words])
    style = style_of(word for text in found.references for word in text.split())
    decoder.decode(found.log_probs[0], weights)  # compiled and warm
    began = time.process_time()
    pieces = [decoder.decode(item, weights) for item in found.log_probs]
    seconds = time.process_time() - began
    texts = [style.apply(tokenizer.decode(item)) for item in pieces]
    pairs = [pair for both in zip(found.references, texts, strict=True) for pair in align(*both)]

    def recall(words: set[str]) -> float:
        said = [said == heard for said, heard in pairs if said in words]
        return 100 * sum(said) / max(len(said), 1)

    wrong = [heard for said, heard in pairs if heard != said]
    return Figures(
        count_errors(pairs).rate,
        recall(set(listed.expected)),
        recall(listed.lacking),
        sum(map(wrong.count, {*listed.expected, *listed.distractors})),
        sum(map(wrong.count, listed.distractors)),
        seconds,
    )


HEAD = f"{'':26} {'WER':>6} {'recall':>8} {'of lacking':>11} {'false':>6} {'distractors':>12} {'CPU s':>7}"


def show(name: str, figures: Figures) -> None:
    """A line of the table."""
    wer, recall, lacking, false, distractors, seconds = figures
    print(
        f"{name:26} {wer:6.2f} {recall:8.1f} {lacking:11.1f} {false:6} {distractors:12} {seconds:7.1f}",
        flush=True,
    )


def main() -> None:
    """Parse the command line and print the tables."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, help="of a model with a CTC head")
    add("--data", type=Path, help="folder with SPLIT.jsonl")
    add("--posteriors", type=Path, help="folder with SPLIT.npz, in place of both (benchmarks/decoders.py)")
    add("--lm", type=Path, required=True, help="KenLM binary")
    add("--distractors", type=Path, nargs="+", required=True, help="manifests to take other words from")
    add("--distract", type=int, nargs="+", default=[500, 0, 100, 1000], help="how many; boosts: the first's")
    add("--rare", type=float, default=-5.5, help="log10 probability below which a word is rare (%(default)g)")
    add(
        "--keep", type=float, default=1.0, help="share of the reference's words that are listed (%(default)g)"
    )
    add("--dev", default="dev", help="split to choose on (%(default)s)")
    add("--test", default="test", help="split to measure on (%(default)s)")
    add("--boosts", type=float, nargs="+", default=[1, 2, 3, 4, 5, 6, 8], help="tried on dev (%(default)s)")
    add("--weights", type=float, nargs=3, help="LM weight, word score, unknown penalty: tune none")
    add("--beam", type=int, default=100, help="hypotheses kept (%(default)s)")
    args = parser.parse_args()
    if bool(args.posteriors) == bool(args.checkpoint and args.data):
        raise UserError("give either --checkpoint and --data, or --posteriors")
    torch.set_num_threads(1)
    (tokenizer, dev, test), known = read_splits(args), Known(args.lm, args.rare)
    others = [item.text for path in args.distractors for item in read_manifest(path)]
    style = style_of(known.words)
    others = [style.apply(text) for text in others]

    def listed(found: Split, distract: int) -> List:
        return make_list(found.references, others, known, args.keep, distract)

    def wer(weights: Weights) -> float:
        texts = (style.apply(tokenizer.decode(plain.decode(item, weights))) for item in dev.log_probs)
        return word_error_rate(dev.references, list(texts))

    if args.weights:
        weights = Weights(*args.weights)
    else:
        plain = BeamDecoder(args.lm, tokenizer, args.beam)
        weights = tune(wer)[0]
    print(f"{hardware('cpu')}, one process; beam {args.beam}, {args.lm.name}: {weights}")
    for name, found in ((args.dev, dev), (args.test, test)):
        words = listed(found, args.distract[0])
        print(
            f"{name}: {len(found.references)} utterances; listed {len(words.expected)} of their words, "
            f"{len(words.lacking)} of them not in the LM, and {len(words.distractors)} distractors"
        )
    best = {}
    print(f"\n{args.dev}\n{HEAD}")
    for lm, at in ((args.lm, weights), (None, GREEDY)):
        tried = {}
        for boost in (0.0, *args.boosts):
            tried[boost] = measure(dev, tokenizer, lm, at, listed(dev, args.distract[0]), boost, args.beam)
            show(f"{'LM' if lm else 'no LM'}, boost {boost:g}", tried[boost])
        best[lm] = min((figures.wer, boost) for boost, figures in tried.items() if boost)[1]
    print(f"\n{args.test}\n{HEAD}")
    for lm, at in ((args.lm, weights), (None, GREEDY)):
        name = "LM" if lm else "no LM"
        show(name, measure(test, tokenizer, lm, at, listed(test, args.distract[0]), 0.0, args.beam))
        for distract in args.distract:
            figures = measure(test, tokenizer, lm, at, listed(test, distract), best[lm], args.beam)
            show(f"{name}, {best[lm]:g}, +{distract}", figures)


if __name__ == "__main__":
    run_program(main)

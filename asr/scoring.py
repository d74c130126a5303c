"""Word error rate with its parts and its confidence interval; ref/hyp files that sclite reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np

from asr.files import atomic_write


@dataclass(frozen=True)
class Errors:
    """Edit counts of one utterance, or of many added up."""

    words: int
    substitutions: int
    insertions: int
    deletions: int

    @property
    def total(self) -> int:
        """All errors."""
        return self.substitutions + self.insertions + self.deletions


@dataclass(frozen=True)
class Score:
    """Error rates of a split, in percent."""

    wer: float
    cer: float
    words: int
    sub: int
    ins: int
    # `del` is a keyword; the report writes it so.
    deletions: int
    ci95: tuple[float, float]
    utterances: int


def score(references: Sequence[str], hypotheses: Sequence[str], seed: int = 0) -> Score:
    """Score hypotheses against references, utterance by utterance."""
    counts = [word_errors(r, h) for r, h in zip(references, hypotheses, strict=True)]
    words = sum(count.words for count in counts)
    characters = [word_errors(_spaced(r), _spaced(h)) for r, h in zip(references, hypotheses, strict=True)]
    return Score(
        wer=_rate(sum(count.total for count in counts), words),
        cer=_rate(sum(c.total for c in characters), sum(c.words for c in characters)),
        words=words,
        sub=sum(count.substitutions for count in counts),
        ins=sum(count.insertions for count in counts),
        deletions=sum(count.deletions for count in counts),
        ci95=bootstrap(counts, seed),
        utterances=len(counts),
    )


def word_errors(reference: str, hypothesis: str) -> Errors:
    """Edits that turn the reference into the hypothesis. Either may be empty."""
    if not reference.split():
        return Errors(0, 0, len(hypothesis.split()), 0)
    if not hypothesis.split():
        count = len(reference.split())
        return Errors(count, 0, 0, count)
    out = jiwer.process_words(reference, hypothesis)
    return Errors(len(reference.split()), out.substitutions, out.insertions, out.deletions)


def bootstrap(counts: Sequence[Errors], seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """95 % interval of the WER in percent, resampling utterances (Bisani & Ney, ICASSP 2004)."""
    rng = np.random.default_rng(seed)
    errors = np.array([count.total for count in counts])
    words = np.array([count.words for count in counts])
    chosen = rng.integers(len(counts), size=(draws, len(counts)))
    rates = 100 * errors[chosen].sum(1) / np.maximum(words[chosen].sum(1), 1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def write_trn(path: str | Path, ids: Sequence[str], texts: Sequence[str]) -> None:
    """Write sclite's trn format: the words, then the id in brackets."""
    lines = (f"{text} ({id})\n" for id, text in zip(ids, texts, strict=True))
    atomic_write(path, "".join(lines))


def _rate(errors: int, length: int) -> float:
    return 100 * errors / max(length, 1)


def _spaced(text: str) -> str:
    """Characters as words, so that the same counting serves; spaces count as characters."""
    return " ".join("_" if character == " " else character for character in " ".join(text.split()))

"""Word error rate with its parts and its confidence interval; alignments; ref/hyp files that sclite reads."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np

from asr.files import atomic_write
from asr.scoring.bootstrap import interval

# A word of the reference beside one of the hypothesis; "" where one of them has none.
Pair = tuple[str, str]


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

    @property
    def rate(self) -> float:
        """Errors in percent of the words."""
        return 100 * self.total / max(self.words, 1)


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
    pairs = list(zip(references, hypotheses, strict=True))
    counts = [word_errors(*pair) for pair in pairs]
    words = sum_errors(counts)
    return Score(
        wer=words.rate,
        cer=sum_errors([character_errors(*pair) for pair in pairs]).rate,
        words=words.words,
        sub=words.substitutions,
        ins=words.insertions,
        deletions=words.deletions,
        ci95=interval(np.array([(count.total, count.words) for count in counts]), seed),
        utterances=len(counts),
    )


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """``score``'s WER, alone: no intervals, no characters."""
    return sum_errors([word_errors(*pair) for pair in zip(references, hypotheses, strict=True)]).rate


def oracle_word_error_rate(references: Sequence[str], lists: Sequence[Sequence[str]]) -> float:
    """WER were the hypothesis with the fewest errors chosen from each list, none of which is empty."""
    several = zip(references, lists, strict=True)
    best = [
        min((word_errors(reference, text) for text in texts), key=lambda errors: errors.total)
        for reference, texts in several
    ]
    return sum_errors(best).rate


def word_errors(reference: str, hypothesis: str) -> Errors:
    """Edits that turn the reference into the hypothesis. Either may be empty."""
    reference, hypothesis = as_scored(reference), as_scored(hypothesis)
    out = jiwer.process_words(reference, hypothesis)
    return Errors(len(reference.split()), out.substitutions, out.insertions, out.deletions)


def character_errors(reference: str, hypothesis: str) -> Errors:
    """The same by characters, spaces among them; ``words`` counts the characters."""
    reference, hypothesis = as_scored(reference), as_scored(hypothesis)
    out = jiwer.process_characters(reference, hypothesis)
    return Errors(len(reference), out.substitutions, out.insertions, out.deletions)


def align(reference: str, hypothesis: str) -> list[Pair]:
    """Put the words of reference and hypothesis side by side, with the fewest edits.

    A pair is a word and what was recognised in its place; ``("", word)`` is an insertion, ``(word, "")`` a
    deletion.
    """
    reference, hypothesis = as_scored(reference), as_scored(hypothesis)
    out = jiwer.process_words(reference, hypothesis)
    said, heard = reference.split(), hypothesis.split()
    pairs: list[Pair] = []
    for chunk in out.alignments[0]:
        left = said[chunk.ref_start_idx : chunk.ref_end_idx]
        right = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        length = max(len(left), len(right))
        pairs += zip(left or [""] * length, right or [""] * length, strict=True)
    return pairs


def count_errors(pairs: Sequence[Pair]) -> Errors:
    """Count the edits of an alignment."""
    return Errors(
        words=sum(1 for said, _ in pairs if said),
        substitutions=sum(1 for said, heard in pairs if said and heard and said != heard),
        insertions=sum(1 for said, _ in pairs if not said),
        deletions=sum(1 for _, heard in pairs if not heard),
    )


def sum_errors(counts: Sequence[Errors]) -> Errors:
    """Add up the counts of several utterances."""
    return Errors(
        words=sum(count.words for count in counts),
        substitutions=sum(count.substitutions for count in counts),
        insertions=sum(count.insertions for count in counts),
        deletions=sum(count.deletions for count in counts),
    )


def write_trn(path: str | Path, ids: Sequence[str], texts: Sequence[str]) -> None:
    """Write sclite's trn format: the words as they are scored, then the id in brackets."""
    lines = (f"{as_scored(text)} ({id})\n" for id, text in zip(ids, texts, strict=True))
    atomic_write(path, "".join(lines))


def as_scored(text: str) -> str:
    """The text with a space between words and letters in one form.

    A letter with its accent may be one character or two (Unicode's NFC and NFD) and is the same letter.
    """
    return unicodedata.normalize("NFC", " ".join(text.split()))

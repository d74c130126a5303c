"""The numbers of one decoded split: rates, where the errors are, which they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from asr.errors import UserError
from asr.scoring.bootstrap import add_up, interval
from asr.scoring.errors import Errors, Pair, align, character_errors, count_errors, sum_errors
from asr.scoring.report.errs import by_count, confusions
from asr.scoring.report.results import Decoded, Table

UNITS = ("utterance", "speaker")  # what the bootstrap draws
# Upper ends in seconds, the same in every report so that reports compare. LibriSpeech goes up to 35 s.
LENGTHS = (2, 4, 7, 11, 16, 25)
LISTED = 20  # confusions, deletions, insertions and worst utterances kept


@dataclass(frozen=True)
class Rate:
    """An error rate in percent, with its parts."""

    rate: float
    ci95: tuple[float, float]
    length: int  # of the references, in words or characters
    substitutions: int
    insertions: int
    deletions: int


@dataclass(frozen=True)
class Group:
    """The utterances of a speaker, or of a range of lengths."""

    name: str
    utterances: int
    seconds: float | None  # where all durations are known
    words: Rate


@dataclass(frozen=True)
class Marked:
    """An utterance with its errors in place."""

    id: str
    speaker: str
    seconds: float | None
    errors: int
    wer: float
    pairs: list[Pair]


@dataclass(frozen=True)
class Frequent:
    """The most frequent errors, with their counts."""

    substitutions: list[tuple[Pair, int]]
    deletions: list[tuple[str, int]]
    insertions: list[tuple[str, int]]


@dataclass(frozen=True)
class Analysis:
    """What a report says of one split and LM."""

    split: str
    lm: str
    utterances: int
    seconds: float | None
    words: Rate
    characters: Rate
    with_errors: float  # utterances with at least one error, percent
    by_length: list[Group]  # empty where a duration is not known
    by_speaker: list[Group]  # the highest WER first; empty where a speaker is not known
    frequent: Frequent
    worst: list[Marked]


class Counted:
    """A decoded split with every utterance aligned once.

    Attributes:
        alignments: word by word, per utterance.
        errors: word errors per utterance.
        counts: (utterances, 2), errors and reference words.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.alignments = [align(item.ref, item.hyp) for item in table.utterances]
        self.errors = [count_errors(pairs) for pairs in self.alignments]
        self.counts = as_counts(self.errors)

    @property
    def utterances(self) -> list[Decoded]:
        """The split."""
        return self.table.utterances


def as_counts(errors: Sequence[Errors]) -> np.ndarray:
    """Errors and words of every utterance: (utterances, 2)."""
    return np.array([(count.total, count.words) for count in errors])


def drawn(counts: np.ndarray, utterances: Sequence[Decoded], by: str, where: str) -> np.ndarray:
    """Counts of what the bootstrap draws: utterances as they are, or added up by speaker.

    Raises:
        UserError: speakers wanted, and fewer than two are known.
    """
    if by == "utterance":
        return counts
    speakers = [utterance.speaker for utterance in utterances]
    if not all(speakers):
        raise UserError(f"--by speaker: {where} has utterances without a speaker; use --by utterance")
    if len(set(speakers)) < 2:
        raise UserError(f"--by speaker: {where} has one speaker only; use --by utterance")
    return add_up(counts, speakers)


def analyse(counted: Counted, by: str) -> Analysis:
    """Compute everything; intervals draw utterances or speakers."""
    table, utterances = counted.table, counted.utterances
    characters = [character_errors(item.ref, item.hyp) for item in utterances]
    found = confusions(counted.alignments)
    return Analysis(
        split=table.split,
        lm=table.lm,
        utterances=len(utterances),
        seconds=_seconds(utterances),
        words=_rate(counted.errors, drawn(counted.counts, utterances, by, table.split)),
        characters=_rate(characters, drawn(as_counts(characters), utterances, by, table.split)),
        with_errors=100 * float((counted.counts[:, 0] > 0).mean()),
        by_length=_by_length(counted),
        by_speaker=_by_speaker(counted),
        frequent=Frequent(
            by_count(found.substitutions)[:LISTED],
            by_count(found.deletions)[:LISTED],
            by_count(found.insertions)[:LISTED],
        ),
        worst=_worst(counted),
    )


def marked(counted: Counted, index: int) -> Marked:
    """One utterance of a split."""
    item, errors = counted.utterances[index], counted.errors[index]
    return Marked(item.id, item.speaker, item.duration, errors.total, errors.rate, counted.alignments[index])


def _rate(errors: Sequence[Errors], counts: np.ndarray) -> Rate:
    total = sum_errors(errors)
    return Rate(
        total.rate, interval(counts), total.words, total.substitutions, total.insertions, total.deletions
    )


def _seconds(utterances: Sequence[Decoded]) -> float | None:
    known = [utterance.duration for utterance in utterances if utterance.duration is not None]
    return float(sum(known)) if len(known) == len(utterances) else None


def _by_length(counted: Counted) -> list[Group]:
    if _seconds(counted.utterances) is None:
        return []
    durations = [item.duration for item in counted.utterances]
    places = np.digitize(np.array(durations, dtype=float), LENGTHS)
    names = [f"under {LENGTHS[0]} s", *(f"{a} to {b} s" for a, b in pairwise(LENGTHS))]
    names.append(f"{LENGTHS[-1]} s and over")
    return [
        _group(counted, name, np.flatnonzero(places == place))
        for place, name in enumerate(names)
        if (places == place).any()
    ]


def _by_speaker(counted: Counted) -> list[Group]:
    speakers = np.array([item.speaker for item in counted.utterances])
    if not all(speakers):
        return []
    groups = [_group(counted, str(name), np.flatnonzero(speakers == name)) for name in np.unique(speakers)]
    return sorted(groups, key=lambda group: -group.words.rate)


def _group(counted: Counted, name: str, indices: np.ndarray) -> Group:
    utterances = [counted.utterances[index] for index in indices]
    words = _rate([counted.errors[index] for index in indices], counted.counts[indices])
    return Group(name, len(indices), _seconds(utterances), words)


def _worst(counted: Counted) -> list[Marked]:
    """Those that cost most errors; of as many errors, the shorter first."""
    errors, words = counted.counts.T
    order = np.lexsort((words, -errors))[:LISTED]
    return [marked(counted, int(index)) for index in order if errors[index]]

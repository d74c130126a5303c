"""Two systems on the same utterances: is the second better than the first, and how sure is that?"""

from dataclasses import dataclass, field

import numpy as np

from asr.errors import UserError
from asr.scoring.bootstrap import PAIRED_DRAWS, compare
from asr.scoring.errors import as_scored
from asr.scoring.report.analysis import Counted, Marked, drawn, marked
from asr.scoring.report.results import Results, Table

CHANGES = 10  # utterances listed that changed most, each way
BINS = 60  # of the histogram of differences


@dataclass(frozen=True)
class Change:
    """An utterance on which the systems differ."""

    first: Marked
    second: Marked


@dataclass(frozen=True)
class Comparison:
    """One split and LM; differences are second minus first in percent points, so negative is better."""

    split: str
    lm: tuple[str, str]
    wer: tuple[float, float]
    difference: float
    ci95: tuple[float, float]
    by: str
    drawn: int  # utterances or speakers there are to draw from
    draws: int
    better: float  # share of draws in which the second has the lower WER, 0 to 1
    equal: float
    probability_of_improvement: float
    utterances: dict[str, int]  # how many became better, equal, worse
    verdict: str
    improved: list[Change]
    worsened: list[Change]
    histogram: dict[str, list] = field(repr=False)  # of the differences over the draws: edges, counts


def pair_tables(first: Results, second: Results) -> tuple[list[tuple[Table, Table]], list[str]]:
    """Tables to compare, by split and LM, and remarks on what was left out or has two names.

    The same LM goes first. Where each system then has one LM left for a split, those two are compared.

    Raises:
        UserError: nothing can be compared.
    """
    pairs, remarks = [], []
    theirs = {(table.split, table.lm): table for table in second.tables}
    single: list[Table] = []
    for table in first.tables:
        other = theirs.pop((table.split, table.lm), None)
        if other is None:
            single.append(table)
        else:
            pairs.append((table, other))
    for table in single:
        rivals = [other for other in theirs.values() if other.split == table.split and other.lm != "none"]
        alone = sum(other.split == table.split and other.lm != "none" for other in single) == 1
        if table.lm != "none" and alone and len(rivals) == 1:
            del theirs[table.split, rivals[0].lm]
            pairs.append((table, rivals[0]))
            remarks.append(
                f"{table.split}: the LMs have different names, {table.lm} and {rivals[0].lm}; the difference "
                "may be the LM's"
            )
        else:
            remarks.append(f"{table.split}, LM {table.lm}: only in {first.folder}; not compared")
    remarks += [f"{split}, LM {lm}: only in {second.folder}; not compared" for split, lm in theirs]
    if not pairs:
        raise UserError(
            f"{first.folder} and {second.folder} share no split and LM; decode the same splits with both"
        )
    return pairs, remarks


def match_utterances(first: Table, second: Table, folders: tuple[str, str]) -> Table:
    """Put the second system's utterances in the first one's order.

    Raises:
        UserError: they are not the same utterances, or not the same references.
    """
    theirs = {utterance.id: utterance for utterance in second.utterances}
    ours = {utterance.id for utterance in first.utterances}
    where = f"{first.split} of {folders[0]} and of {folders[1]}"
    lonely = sorted(ours ^ theirs.keys())
    if lonely:
        holder = folders[0] if lonely[0] in ours else folders[1]
        raise UserError(
            f"{where}: not the same utterances; {lonely[0]} is only in {holder} ({len(lonely)} such); decode "
            "the same split with both"
        )
    for utterance in first.utterances:
        if as_scored(utterance.ref) != as_scored(theirs[utterance.id].ref):
            raise UserError(
                f"{where}: {utterance.id} has two references; decode the same version of the split with "
                "both, or --normalise where they differ in case, punctuation or numbers"
            )
    return Table(second.split, second.lm, [theirs[utterance.id] for utterance in first.utterances])


def compare_systems(first: Counted, second: Counted, names: tuple[str, str], by: str) -> Comparison:
    """Compare two systems on the same utterances in the same order."""
    counts = np.column_stack([first.counts[:, 0], second.counts])
    groups = drawn(counts, first.utterances, by, first.table.split)
    paired = compare(groups)
    change = counts[:, 1] - counts[:, 0]
    total = counts.sum(0)
    wer = (100 * total[0] / max(total[2], 1), 100 * total[1] / max(total[2], 1))
    edges = np.linspace(*_limits(paired.draws), BINS + 1)
    return Comparison(
        split=first.table.split,
        lm=(first.table.lm, second.table.lm),
        wer=(float(wer[0]), float(wer[1])),
        difference=paired.difference,
        ci95=paired.ci95,
        by=by,
        drawn=len(groups),
        draws=PAIRED_DRAWS,
        better=paired.better,
        equal=paired.equal,
        probability_of_improvement=paired.probability_of_improvement,
        utterances={
            "better": int((change < 0).sum()),
            "equal": int((change == 0).sum()),
            "worse": int((change > 0).sum()),
        },
        verdict=_verdict(paired.ci95, (change != 0).any(), names),
        improved=_changes(first, second, change),
        worsened=_changes(first, second, -change),
        histogram={
            "edges": edges.tolist(),
            "counts": np.histogram(paired.draws, edges)[0].tolist(),
        },
    )


def _verdict(ci95: tuple[float, float], differ: bool, names: tuple[str, str]) -> str:
    first, second = names
    if not differ:
        return f"no difference between {second} and {first}: as many errors in every utterance"
    if ci95[1] < 0:
        return f"{second} is better than {first}: the 95 % interval of the difference lies below 0"
    if ci95[0] > 0:
        return f"{second} is worse than {first}: the 95 % interval of the difference lies above 0"
    return f"no clear difference between {second} and {first}: the 95 % interval holds 0"


def _limits(draws: np.ndarray) -> tuple[float, float]:
    low, high = float(draws.min()), float(draws.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _changes(first: Counted, second: Counted, change: np.ndarray) -> list[Change]:
    """Utterances with the lowest change, below 0 only."""
    order = np.argsort(change, kind="stable")[:CHANGES]
    return [
        Change(marked(first, int(index)), marked(second, int(index))) for index in order if change[index] < 0
    ]

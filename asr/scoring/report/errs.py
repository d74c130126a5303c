"""Every utterance with its errors marked, then the errors by count, in the format of icefall's errs- files.

THE ASSOCIATION OF (EDISON->ADDISON) ILLUMINATING COMPANIES     a substitution
FOR THE FIRST DAY (SIR->*) I (*->DO) THINK                      a deletion and an insertion
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from asr.scoring.errors import Pair, align, count_errors, sum_errors
from asr.scoring.report.results import Decoded


@dataclass
class Confusions:
    """Errors by what they are about."""

    substitutions: Counter[Pair] = field(default_factory=Counter)
    deletions: Counter[str] = field(default_factory=Counter)
    insertions: Counter[str] = field(default_factory=Counter)


def confusions(alignments: Sequence[Sequence[Pair]]) -> Confusions:
    """Count which words were taken for which, left out and put in."""
    found = Confusions()
    for said, heard in (pair for pairs in alignments for pair in pairs):
        if not said:
            found.insertions[heard] += 1
        elif not heard:
            found.deletions[said] += 1
        elif said != heard:
            found.substitutions[said, heard] += 1
    return found


def by_count(counter: Counter) -> list[tuple]:
    """Items and counts, the most frequent first, then in order of the alphabet."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def join_errors(pairs: Sequence[Pair]) -> list[Pair]:
    """Make one pair of every run of errors; correct words stay single."""
    joined: list[tuple[list[str], list[str]]] = []
    in_error = False
    for said, heard in pairs:
        if said == heard or not in_error:
            joined.append(([], []))
        in_error = said != heard
        joined[-1][0].append(said)
        joined[-1][1].append(heard)
    return [(" ".join(filter(None, said)), " ".join(filter(None, heard))) for said, heard in joined]


def mark(pairs: Sequence[Pair]) -> str:
    """An alignment as text, its errors as (ref->hyp)."""
    return " ".join(
        said if said == heard else f"({said or '*'}->{heard or '*'})" for said, heard in join_errors(pairs)
    )


def format_errs(utterances: Sequence[Decoded]) -> str:
    """The whole file."""
    alignments = [align(utterance.ref, utterance.hyp) for utterance in utterances]
    total = sum_errors([count_errors(pairs) for pairs in alignments])
    found = confusions(alignments)
    correct = total.words - total.substitutions - total.deletions
    lines = [
        f"%WER = {total.rate:.2f}",
        f"Errors: {total.insertions} insertions, {total.deletions} deletions, {total.substitutions} "
        f"substitutions, over {total.words} reference words ({correct} correct)",
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, INSERTIONS:, "
        "PER-WORD STATS:",
        "",
        "PER-UTT DETAILS: corr or (ref->hyp)  ",
    ]
    lines += [
        f"{utterance.id}:\t{mark(pairs)}" for utterance, pairs in zip(utterances, alignments, strict=True)
    ]
    lines += ["", "SUBSTITUTIONS: count ref -> hyp"]
    lines += [f"{count}   {said} -> {heard}" for (said, heard), count in by_count(found.substitutions)]
    lines += ["", "DELETIONS: count ref"]
    lines += [f"{count}   {word}" for word, count in by_count(found.deletions)]
    lines += ["", "INSERTIONS: count hyp"]
    lines += [f"{count}   {word}" for word, count in by_count(found.insertions)]
    lines += ["", "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp"]
    lines += _words(alignments)
    return "\n".join(lines) + "\n"


def _words(alignments: Sequence[Sequence[Pair]]) -> list[str]:
    """A line a word, the one with the most errors first; a substitution counts for both of its words."""
    stats: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for said, heard in (pair for pairs in alignments for pair in pairs):
        if said == heard:
            stats[said][0] += 1
        for place, word in enumerate((said, heard)):
            if word:
                stats[word][1] += said != heard
                stats[word][2 + place] += 1
    ordered = sorted(stats.items(), key=lambda item: (-item[1][1], item[0]))
    return [f"{word}   {correct} {errors} {ref} {hyp}" for word, (correct, errors, ref, hyp) in ordered]

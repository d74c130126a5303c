"""CTC prefix beam search over a lexicon with a word n-gram LM, as plainly as it can be written.

The oracle of the fast search in search.py: the tests and benchmarks/decoders.py hold the two together.
Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
DNNs", arXiv 1408.2873, Algorithm 1, with the words' spellings as the only ways to go on.
"""

import math
from collections import defaultdict
from collections.abc import Mapping

import kenlm
import numpy as np

from asr.model.ctc import BLANK

# Words that are complete, and pieces of the one that is not.
Prefix = tuple[tuple[str, ...], tuple[int, ...]]


def log_add(a: float, b: float) -> float:
    """ln(e^a + e^b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def prefix_beam_search(
    log_probs: np.ndarray,
    spellings: Mapping[tuple[int, ...], str],
    model: kenlm.Model,
    lm_weight: float,
    word_score: float,
    beam: int,
    merge: bool = True,
) -> tuple[list[str], float]:
    """The best words and their score in nats.

    score(words) = log P_ctc(words | audio) + lm_weight ln P_lm(words </s>) + word_score * number of words,
    where P_ctc sums over all alignments (those that the beam kept).

    Args:
        log_probs: (N, classes), natural logarithms.
        spellings: words by their pieces.
        model: LM.
        lm_weight, word_score: see above.
        beam: prefixes kept after each frame.
        merge: of prefixes that end in the same pieces and whose words the LM can no longer tell apart, keep
            the likeliest only, else the beam fills with what differs long ago.
    """
    pieces_after = defaultdict(set)  # beginning of a spelling -> pieces that go on from it
    for spelling in spellings:
        for place, piece in enumerate(spelling):
            pieces_after[spelling[:place]].add(piece)
    # What a word in the making is ranked by, else the beam would fill with words that nobody has judged yet:
    # the likeliest word that begins so. It is no part of its score.
    ahead: dict[tuple[int, ...], float] = {(): 0.0}
    for spelling, word in spellings.items():
        likelihood = lm_weight * math.log(10) * model.score(word, bos=False, eos=False) + word_score
        for place in range(1, len(spelling) + 1):
            ahead[spelling[:place]] = max(likelihood, ahead.get(spelling[:place], -math.inf))
    pieces_of = {word: spelling for spelling, word in spellings.items()}

    start = kenlm.State()
    model.BeginSentenceWrite(start)
    lm_scores = {(): (0.0, start)}  # words -> score, state

    def lm_score(words: tuple[str, ...]) -> tuple[float, kenlm.State]:
        if words not in lm_scores:
            score, state = lm_score(words[:-1])
            longer = kenlm.State()
            log10 = model.BaseScore(state, words[-1], longer)
            lm_scores[words] = score + lm_weight * math.log(10) * log10 + word_score, longer
        return lm_scores[words]

    def end_score(words: tuple[str, ...]) -> float:
        score, state = lm_score(words)
        return score + lm_weight * math.log(10) * model.BaseScore(state, "</s>", kenlm.State())

    def rank(prefix: Prefix) -> float:
        words, begun = prefix
        return log_add(*after[prefix]) + lm_score(words)[0] + ahead[begun]

    def last_piece(prefix: Prefix) -> int:
        words, begun = prefix
        return begun[-1] if begun else (pieces_of[words[-1]][-1] if words else BLANK)

    def without_copies(prefixes: list[Prefix]) -> list[Prefix]:
        """Of those with the same future, the first."""
        kept = {}
        for words, begun in prefixes:
            kept.setdefault((lm_score(words)[1], begun, last_piece((words, begun))), (words, begun))
        return list(kept.values())

    # Log-probability of all alignments of a prefix that end in a blank, and of those that end in a piece.
    found: dict[Prefix, list[float]] = {((), ()): [0.0, -math.inf]}
    for frame in log_probs.tolist():
        after: dict[Prefix, list[float]] = defaultdict(lambda: [-math.inf, -math.inf])
        for prefix, (in_blank, in_piece) in found.items():
            words, begun = prefix
            either, last = log_add(in_blank, in_piece), last_piece(prefix)
            stay = after[prefix]
            stay[0] = log_add(stay[0], either + frame[BLANK])
            if last != BLANK:
                stay[1] = log_add(stay[1], in_piece + frame[last])
            for piece in pieces_after[begun]:
                longer = (*begun, piece)
                # The same piece twice is a repetition in sound only with a blank in between.
                mass = (in_blank if piece == last else either) + frame[piece]
                if longer in pieces_after:
                    other = after[words, longer]
                    other[1] = log_add(other[1], mass)
                if longer in spellings:
                    other = after[(*words, spellings[longer]), ()]
                    other[1] = log_add(other[1], mass)
        best_first = sorted(after, key=rank, reverse=True)
        if merge:
            best_first = without_copies(best_first)
        found = {prefix: after[prefix] for prefix in best_first[:beam]}
    complete = {words: log_add(*score) for (words, begun), score in found.items() if not begun}
    if not complete:  # the end lies inside a word
        best = max(found, key=rank)
        return list(best[0]), rank(best)
    best = max(complete, key=lambda words: complete[words] + end_score(words))
    return list(best), float(complete[best] + end_score(best))

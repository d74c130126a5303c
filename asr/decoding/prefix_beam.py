"""CTC prefix beam search with a word n-gram LM and an open vocabulary, as plainly as it can be written.

The oracle of the fast search in search.py: the tests and benchmarks/decoders.py hold the two together.
Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
DNNs", arXiv 1408.2873, Algorithm 1. A prefix is a sequence of pieces; it spells its words, and the LM judges
a word when the next one begins.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import kenlm
import numpy as np

from asr.data.tokenizer import SPACE
from asr.decoding.hotwords import Phrases
from asr.decoding.lexicon import letters_of
from asr.decoding.weights import Weights
from asr.decoding.words import log_add
from asr.model.classes import BLANK

Prefix = tuple[int, ...]
# Score of a prefix's words before the last, the state of LM and hotwords after them, and the letters of the
# last, which may go on.
Reading = tuple[float, tuple[kenlm.State, int], str]


def prefix_beam_search(
    log_probs: np.ndarray,
    spoken: Sequence[str | None],
    words: Iterable[str],
    model: kenlm.Model,
    weights: Weights,
    beam: int,
    merge: bool = True,
    floor: float = -math.inf,
    hotwords: Mapping[str, float] = MappingProxyType({}),
) -> tuple[list[int], float]:
    """The best pieces and their score in nats, ``Weights``'s.

    P_ctc sums over all alignments of the pieces (those that the beam kept); of a word's spellings the
    likeliest counts.

    Args:
        log_probs: (N, classes), natural logarithms.
        spoken: (classes,) what each class stands for, ``Tokenizer.spoken``'s.
        words: the LM's; all others are unknown to it.
        model: LM.
        weights: see there.
        beam: prefixes kept after each frame.
        merge: of prefixes that end in the same piece and whose words, and what may become of the last, the LM
            can no longer tell apart, keep the likeliest only, else the beam fills with what differs long ago.
        floor: pieces less likely in a frame are not tried there, to save time.
        hotwords: words and phrases, with what each of their words earns.
    """
    letters = letters_of(spoken)
    listed = {word for text in hotwords for word in text.split()}
    words = {word for word in words if letters.issuperset(word)} | listed
    phrases = Phrases((text.split(), boost) for text, boost in hotwords.items())

    def alone(word: str) -> float:
        log10 = model.score(word, bos=False, eos=False)
        return weights.of_word(log10, word not in words) + phrases.first.get(word, 0.0)

    # What a word in the making is ranked by besides the word that it is already, else the beam would fill
    # with words that nobody has judged yet: the likeliest longer word that begins so. It is no part of its
    # score.
    unknown = alone("<unk>")
    below: dict[str, float] = {}
    for word in words:
        likelihood = max(alone(word), unknown)
        for place in range(1, len(word)):
            below[word[:place]] = max(likelihood, below.get(word[:place], unknown))

    def judge(reading: Reading) -> tuple[float, tuple[kenlm.State, int]]:
        """Score and state with the last word."""
        score, (state, phrase), word = reading
        if not word:
            return score, (state, phrase)
        longer = kenlm.State()
        log10 = model.BaseScore(state, word if word in words else "<unk>", longer)
        phrase, earned = phrases.step(phrase, word)
        return score + weights.of_word(log10, word not in words) + earned, (longer, phrase)

    def go_on(reading: Reading, piece: str) -> Reading:
        if piece.startswith(SPACE):
            return *judge(reading), piece.removeprefix(SPACE)
        return *reading[:2], reading[2] + piece

    def prospect(reading: Reading) -> float:
        """Score with the last word as it is, or as it may become."""
        score, _, word = reading
        now = judge(reading)[0]
        return max(now, score + below.get(word, unknown)) if word else now

    def future(prefix: Prefix) -> tuple:
        """What all that may follow depends on."""
        _, state, word = readings[prefix]
        known = not word or word in words or word in below
        return state, word if known else None, prefix[-1:]

    # Log-probability of all alignments of a prefix that end in a blank, and of those that end in its piece.
    found: dict[Prefix, list[float]] = {(): [0.0, -math.inf]}
    start = kenlm.State()
    model.BeginSentenceWrite(start)
    readings: dict[Prefix, Reading] = {(): (0.0, (start, 0), "")}
    for frame in log_probs.tolist():
        after: dict[Prefix, list[float]] = defaultdict(lambda: [-math.inf, -math.inf])
        pieces = [piece for piece, text in enumerate(spoken) if text is not None and frame[piece] >= floor]
        for prefix, (in_blank, in_piece) in found.items():
            either, last = log_add(in_blank, in_piece), prefix[-1] if prefix else BLANK
            stay = after[prefix]
            stay[0] = log_add(stay[0], either + frame[BLANK])
            if prefix:
                stay[1] = log_add(stay[1], in_piece + frame[last])
            for piece in pieces:
                longer = (*prefix, piece)
                if longer not in readings:
                    readings[longer] = go_on(readings[prefix], spoken[piece])
                # The same piece twice is a repetition in sound only with a blank in between.
                mass = (in_blank if piece == last else either) + frame[piece]
                after[longer][1] = log_add(after[longer][1], mass)
        ranks = {prefix: log_add(*masses) + prospect(readings[prefix]) for prefix, masses in after.items()}
        best_first = sorted(after, key=ranks.get, reverse=True)
        if merge:
            alike: dict[tuple, Prefix] = {}
            for prefix in best_first:
                alike.setdefault(future(prefix), prefix)
            best_first = list(alike.values())
        found = {prefix: after[prefix] for prefix in best_first[:beam]}
        readings = {prefix: readings[prefix] for prefix in found}

    def whole(prefix: Prefix) -> float:
        """Score with the last word and the end."""
        score, (state, phrase) = judge(readings[prefix])
        end = weights.decimal * model.BaseScore(state, "</s>", kenlm.State())
        return log_add(*found[prefix]) + score + end + phrases.step(phrase, None)[1]

    best = max(found, key=whole)
    return list(best), whole(best)

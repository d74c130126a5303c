"""The words of hypotheses and their LM scores while their pieces come one by one, with an open vocabulary.

The transducer's beam search reads with it. (CTC's, in search.py, does the same in machine code.)
"""

import math
from pathlib import Path
from typing import NamedTuple

import kenlm
import numpy as np

from asr.data.style import style_of
from asr.data.tokenizer import Tokenizer
from asr.decoding.lexicon import ROOT, letters_of, make_lexicon, walk
from asr.decoding.weights import Weights
from asr.errors import UserError
from asr.lm import files as lm_files

MEMORY = 2**19  # LM scores remembered, a few hundred bytes each


class WordModel:
    """An n-gram LM of words, and the pieces of a tokenizer that spell them.

    Args:
        lm_path: KenLM binary or ARPA file.
        tokenizer: the acoustic model's; its pieces spell the words, those of the LM and others.
        mapped: share the LM's memory with other processes; see ``asr.lm.files.load``.
        fold: look words up as the LM's are written, whatever case and punctuation the model writes. What
            comes out is written as the model does.

    Attributes:
        model: KenLM's.
        style: the LM's, where the model also writes otherwise; else None.
        words: by number; the last two are <unk> and </s>.
        alone: (words,) log10 probability of each by itself, but for </s>.
        lexicon: the tree of their letters.

    Raises:
        UserError: the LM cannot be used, with this tokenizer or at all.
    """

    def __init__(
        self, lm_path: str | Path, tokenizer: Tokenizer, mapped: bool = False, fold: bool = True
    ) -> None:
        self.model = lm_files.load(lm_path, mapped)
        words = lm_files.vocabulary(lm_path)
        style = style_of(words)
        self.style = style if tokenizer.beyond(style) else None
        spoken = tokenizer.spoken(self.style if fold else None)
        check_vocabulary(lm_path, words, spoken)
        self.words = [*words, "<unk>", "</s>"]
        self.alone = np.array([self.model.score(word, bos=False, eos=False) for word in self.words[:-1]])
        self.lexicon = make_lexicon(words, self.alone, spoken)

    def start(self) -> kenlm.State:
        """Where a sentence begins."""
        state = kenlm.State()
        self.model.BeginSentenceWrite(state)
        return state


def check_vocabulary(lm_path: str | Path, words: list[str], spoken: list[str | None]) -> None:
    """See that an LM's words and the tokenizer are of the same language and case; UserError otherwise."""
    sample, alphabet = words[:: max(1, len(words) // 1000)], letters_of(spoken)
    lost = [word for word in sample if not alphabet.issuperset(word)]
    if 2 * len(lost) > len(sample):
        raise UserError(
            f"--lm {lm_path}: the tokenizer cannot spell {100 * len(lost) / len(sample):.0f} % of its words "
            f"(such as {lost[0]!r}); build the LM from text in the transcripts' case and alphabet"
        )


class Reading(NamedTuple):
    """What a hypothesis's pieces spell; scores in nats, ``Weights.of_word``'s."""

    before: float  # of the words before the last one
    state: kenlm.State  # the LM's, after them
    node: int  # place of the last word in the lexicon
    now: float  # of all words, were the last one to end here
    ended: kenlm.State  # the LM's, after it
    prospect: float  # to rank by: of all words, with the last as it is or as it may become


class Reader:
    """Pieces to words and their scores.

    Args:
        words: the LM.
        weights: how it counts.
    """

    def __init__(self, words: WordModel, weights: Weights) -> None:
        self._words, self._weights = words, weights
        self._unknown = len(words.words) - 2
        # Of the likeliest longer word that begins as each node does, by unigrams.
        below, unknown = words.lexicon.below, weights.of_word(words.alone[self._unknown], True)
        longer = np.isfinite(below)
        self._longer = np.where(longer, weights.of_word(np.where(longer, below, 0.0), False), unknown)
        self._longer = np.maximum(self._longer, unknown)
        self._scores: dict[tuple[kenlm.State, int], tuple[float, kenlm.State]] = {}
        self._nodes: dict[tuple[int, int], int] = {}

    def start(self) -> Reading:
        """Before the first piece."""
        state = self._words.start()
        return Reading(0.0, state, ROOT, 0.0, state, 0.0)

    def go_on(self, reading: Reading, piece: int) -> Reading:
        """With a piece more, a class that stands for text."""
        lexicon, before, state, node = self._words.lexicon, *reading[:3]
        if lexicon.begins[piece]:  # the word before it ends
            before, state, node = reading.now, reading.ended, ROOT
        node = self._walk(node, piece)
        if node == ROOT:
            return Reading(before, state, node, before, state, before)
        score, ended = self._judge(state, int(lexicon.word[node]))
        return Reading(
            before, state, node, before + score, ended, before + max(score, float(self._longer[node]))
        )

    def whole(self, reading: Reading) -> float:
        """Score of all words and the sentence's end."""
        end = self._words.model.BaseScore(reading.ended, "</s>", kenlm.State())
        return reading.now + self._weights.decimal * end

    def _walk(self, node: int, piece: int) -> int:
        found = self._nodes.get((node, piece))
        if found is None:
            found = self._nodes[node, piece] = int(walk(self._words.lexicon, node, piece))
        return found

    def _judge(self, state: kenlm.State, word: int) -> tuple[float, kenlm.State]:
        found = self._scores.get((state, word))
        if found is None:
            if len(self._scores) > MEMORY:
                self._scores.clear()
            ended = kenlm.State()
            log10 = self._words.model.BaseScore(state, self._words.words[word], ended)
            found = self._scores[state, word] = self._weights.of_word(log10, word == self._unknown), ended
        return found


def log_add(a: float, b: float) -> float:
    """ln(e^a + e^b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))

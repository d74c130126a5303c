"""The words of hypotheses and their LM scores while their pieces come one by one, with an open vocabulary.

The transducer's beam search reads with it. (CTC's, in search.py, does the same in machine code.)
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import kenlm
import numpy as np

from asr.data.style import Style, style_of
from asr.data.tokenizer import Tokenizer
from asr.decoding.hotwords import Hotword, Phrases, check
from asr.decoding.lexicon import ROOT, letters_of, make_lexicon, nodes_of, walk
from asr.decoding.weights import Weights
from asr.errors import UserError
from asr.lm import files as lm_files

MEMORY = 2**19  # LM scores remembered, a few hundred bytes each


class State(NamedTuple):
    """What the words so far mean to those that follow."""

    lm: kenlm.State | None  # None without an LM
    phrase: int  # of the hotwords (``Phrases``)


class WordModel:
    """An n-gram LM of words, hotwords, and the pieces of a tokenizer that spell them.

    Args:
        lm_path: KenLM binary or ARPA file; None: no LM, to which all words are alike.
        tokenizer: the acoustic model's; its pieces spell the words, those of the LM and others.
        mapped: share the LM's memory with other processes; see ``asr.lm.files.load``.
        fold: look words up as the LM's are written (without an LM: whatever their case), whatever case and
            punctuation the model writes; hotwords too. What comes out is written as the model does.
        hotwords: words or phrases that earn a bonus. Those that the LM lacks are no unknown words: they have
            the LM's score of <unk>, but pay no penalty.

    Attributes:
        model: KenLM's, or None.
        style: the LM's, where the model also writes otherwise; else None.
        words: by number; the last two are <unk> and </s>.
        alone: (words,) log10 probability of each by itself, but for </s>.
        lexicon: the tree of their letters.
        phrases: the hotwords.

    Raises:
        UserError: the LM cannot be used, with this tokenizer or at all, or a hotword cannot be spelled.
    """

    def __init__(
        self,
        lm_path: str | Path | None,
        tokenizer: Tokenizer,
        mapped: bool = False,
        fold: bool = True,
        hotwords: Sequence[Hotword] = (),
    ) -> None:
        if lm_path is None:
            self.model, self.style, words = None, None, []
            style = Style("lower", style_of(word for text, _ in hotwords for word in text.split()).marks)
            spoken = tokenizer.spoken(style if fold else None)
        else:
            self.model = lm_files.load(lm_path, mapped)
            words = lm_files.vocabulary(lm_path)
            style = style_of(words)
            self.style = style if tokenizer.beyond(style) else None
            spoken = tokenizer.spoken(self.style if fold else None)
            check_vocabulary(lm_path, words, spoken)
        listed = spelled(hotwords, style if fold else Style(), spoken)
        if listed:
            words += sorted({word for text, _ in listed for word in text} - set(words))
        self.words = [*words, "<unk>", "</s>"]
        self.alone = np.array([self._alone(word) for word in self.words[:-1]])
        self.lexicon = make_lexicon(words, self.alone[:-1], spoken)
        numbers = {word: number for number, word in enumerate(words)} if listed else {}
        self.phrases = Phrases(([numbers[word] for word in text], boost) for text, boost in listed)

    def _alone(self, word: str) -> float:
        return self.model.score(word, bos=False, eos=False) if self.model else 0.0

    @property
    def unknown(self) -> int:
        """Number of <unk>."""
        return len(self.words) - 2

    def start(self) -> State:
        """Where a sentence begins."""
        if self.model is None:
            return State(None, 0)
        state = kenlm.State()
        self.model.BeginSentenceWrite(state)
        return State(state, 0)

    def judge(self, state: State, word: int) -> tuple[float, float, State]:
        """A word's log10 probability, by the LM alone, what it earns in nats, and the state after it."""
        phrase, earned = self.phrases.step(state.phrase, word)
        if self.model is None:
            return 0.0, earned, State(None, phrase)
        after = kenlm.State()
        log10 = self.model.BaseScore(state.lm, self.words[word], after)
        return log10, earned, State(after, phrase)

    def likelihoods(self, weights: Weights) -> np.ndarray:
        """(words,) scores of all words but </s> by themselves, in nats, hotwords' bonus included."""
        scores = weights.decimal * self.alone + weights.word_score
        scores[self.unknown] -= weights.unknown_penalty
        for word, earned in self.phrases.first.items():
            scores[word] += earned
        return scores

    def below(self, weights: Weights) -> np.ndarray:
        """(nodes,) score in nats of the likeliest longer word that begins as each node does, by itself.

        That of an unknown word where no known one is likelier. (A negative LM weight makes the likeliest word
        the one that counts least: a bad guess, no more.)
        """
        scores = self.likelihoods(weights)
        longer = np.isfinite(self.lexicon.below)
        known = weights.of_word(np.where(longer, self.lexicon.below, 0.0), False)
        below = np.maximum(np.where(longer, known, -np.inf), scores[self.unknown])
        for word in self.phrases.first:
            nodes = nodes_of(self.lexicon, self.words[word])[:-1]
            below[nodes] = np.maximum(below[nodes], scores[word])
        return below

    def explain(self, pieces: Sequence[int], weights: Weights) -> tuple[float, float, float]:
        """What the LM, the words' scores and penalties, and the hotwords make of pieces; with the end."""
        lexicon, state, node = self.lexicon, self.start(), ROOT
        log10, words, hotwords = 0.0, 0.0, 0.0
        said = []
        for piece in pieces:
            if lexicon.begins[piece] and node != ROOT:
                said.append(int(lexicon.word[node]))
            node = int(walk(lexicon, ROOT if lexicon.begins[piece] else node, piece))
        said += [int(lexicon.word[node])] if node != ROOT else []
        for word in said:
            more, earned, state = self.judge(state, word)
            log10, hotwords = log10 + more, hotwords + earned
            words += weights.of_word(0.0, word == self.unknown)
        more, earned, _ = self.judge(state, len(self.words) - 1)
        return weights.decimal * (log10 + more), words, hotwords + earned


def spelled(
    hotwords: Sequence[Hotword], style: Style, spoken: Sequence[str | None]
) -> list[tuple[list[str], float]]:
    """Words in a style, and boost, of each; UserError where one has a letter that no piece stands for."""
    alphabet, found = letters_of(spoken), []
    for hotword in hotwords:
        check(hotword)
        text = style.apply(hotword.text)
        if lost := [letter for letter in text if letter not in alphabet and letter != " "]:
            raise UserError(
                f"hotword {hotword.text!r}: the model cannot write {lost[0]!r}; spell it as the model would"
            )
        if not text.split():
            raise UserError(f"hotword {hotword.text!r}: nothing is left of it without punctuation")
        found.append((text.split(), hotword.boost))
    return found


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
    """What a hypothesis's pieces spell; scores in nats, ``Weights.of_word``'s and the hotwords'."""

    before: float  # of the words before the last one
    state: State  # after them
    node: int  # place of the last word in the lexicon
    now: float  # of all words, were the last one to end here
    ended: State  # after it
    prospect: float  # to rank by: of all words, with the last as it is or as it may become


class Reader:
    """Pieces to words and their scores.

    Args:
        words: the LM and the hotwords.
        weights: how the LM counts.
    """

    def __init__(self, words: WordModel, weights: Weights) -> None:
        self._words, self._weights = words, weights
        self._longer = words.below(weights)
        self._scores: dict[tuple[State, int], tuple[float, State]] = {}
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

    def _walk(self, node: int, piece: int) -> int:
        found = self._nodes.get((node, piece))
        if found is None:
            found = self._nodes[node, piece] = int(walk(self._words.lexicon, node, piece))
        return found

    def _judge(self, state: State, word: int) -> tuple[float, State]:
        found = self._scores.get((state, word))
        if found is None:
            if len(self._scores) > MEMORY:
                self._scores.clear()
            log10, earned, ended = self._words.judge(state, word)
            score = self._weights.of_word(log10, word == self._words.unknown) + earned
            found = self._scores[state, word] = score, ended
        return found


def log_add(a: float, b: float) -> float:
    """ln(e^a + e^b)."""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))

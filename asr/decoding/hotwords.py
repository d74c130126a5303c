"""Hotwords: words and phrases that a beam search is told to expect, which earn it a bonus.

A file has one a line, optionally with a boost of its own (nats a word) behind a tab:

    McConnell
    the Jacobite rising<TAB>2.5

Each word of a phrase earns the boost as it comes; a phrase that breaks off pays back what its words earned.
The automaton is Aho's and Corasick's (1975) over whole words, as icefall's ``ContextGraph`` is over pieces.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from asr.errors import UserError

BOOST = 4.0  # nats a word, chosen on dev (benchmarks/hotwords.py)
MOST_BOOST = 50.0
MOST_HOTWORDS = 100_000


class Hotword(NamedTuple):
    """A word or a phrase, and what each of its words earns in nats."""

    text: str
    boost: float = BOOST


def read_hotwords(path: str | Path, boost: float = BOOST) -> tuple[Hotword, ...]:
    """Read a file of hotwords; empty lines are passed over.

    Args:
        boost: of those that state none.

    Raises:
        UserError: the file cannot be read, has no word, too many, or a boost that is none.
    """
    path, found = Path(path), []
    try:
        lines = normalize("NFC", path.read_text(encoding="utf-8-sig")).split("\n")  # as tokenizers are
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    for number, line in enumerate(lines, 1):
        text, _, own = line.partition("\t")
        text = " ".join(text.split())
        if not text and not own.strip():
            continue
        try:
            found.append(Hotword(text, float(own) if own.strip() else boost))
            check(found[-1])
        except ValueError:
            raise UserError(f"{path}:{number}: {own.strip()!r} is no boost (in nats)") from None
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    if not 0 < len(found) <= MOST_HOTWORDS:
        raise UserError(f"{path}: {len(found)} words; wants 1 to {MOST_HOTWORDS:,}, one a line")
    return tuple(found)


def check(hotword: Hotword) -> None:
    """Raise UserError where there is no word, or the boost is out of bounds."""
    if not hotword.text.split():
        raise UserError("a boost without a word")
    if not 0 < hotword.boost <= MOST_BOOST:
        raise UserError(
            f"boost {hotword.boost:g} of {hotword.text!r}: must lie above 0, up to {MOST_BOOST:g}"
        )


class Phrases:
    """What words earn as they come, by the phrases that they are part of.

    Of phrases that overlap each counts; what one begins with that is a phrase itself counts once.

    Args:
        phrases: of words (any hashable), with the boost of each word. Of a phrase that is there twice the
            higher boost counts.

    Attributes:
        first: words that phrases begin with, and what they earn then.
        within: the greatest boost of a phrase of several words; 0 where there is none.
    """

    def __init__(self, phrases: Iterable[tuple[Sequence[Hashable], float]]) -> None:
        # Nodes stand for beginnings of phrases; 0 is the empty one.
        self._next: list[dict[Hashable, int]] = [{}]
        self._earned = [0.0]  # when a node is reached from the one before
        self._on_loan = [0.0]  # of that and before, what is paid back where no phrase comes of it
        whole: dict[int, float] = {}  # nodes where a phrase ends, and what it is worth
        boosts, parents = [0.0], [0]
        self.within = 0.0
        for words, boost in phrases:
            node = 0
            for word in words:
                if word not in self._next[node]:
                    self._next[node][word] = len(self._next)
                    self._next.append({})
                    boosts.append(boost)
                    parents.append(node)
                node = self._next[node][word]
                boosts[node] = max(boosts[node], boost)
            whole[node] = max(whole.get(node, 0.0), boost * len(words))
            self.within = max(self.within, boost if len(words) > 1 else 0.0)
        paid = [0.0]  # by the phrases that end on the way to a node
        for node in range(1, len(boosts)):  # a parent has a lower number
            before = parents[node]
            ends = node in whole
            total = whole[node] - paid[before] if ends else self._on_loan[before] + boosts[node]
            self._earned.append(total)
            self._on_loan.append(0.0 if ends else total)
            paid.append(whole[node] if ends else paid[before])
        self.first = {word: self._earned[node] for word, node in self._next[0].items()}
        self._link(whole)

    def _link(self, whole: dict[int, float]) -> None:
        """For each node the longest other beginning that ends as it does, and the phrases that end there."""
        self._suffix, self._ends_within = [0] * len(self._next), [0.0] * len(self._next)
        waiting = deque(self._next[0].values())
        while waiting:
            node = waiting.popleft()
            for word, child in self._next[node].items():
                suffix = self._suffix[child] = self._go(self._suffix[node], word)
                own = self._earned[suffix] if suffix in whole else 0.0
                self._ends_within[child] = self._ends_within[suffix] + own
                waiting.append(child)

    def _go(self, node: int, word: Hashable) -> int:
        while node and word not in self._next[node]:
            node = self._suffix[node]
        return self._next[node].get(word, 0)

    def step(self, node: int, word: Hashable) -> tuple[int, float]:
        """The node after a word, and what it earns (or pays back), in nats. An end is a word of no phrase."""
        after = self._go(node, word)
        return after, self._earned[after] + self._ends_within[after] - self._on_loan[node]

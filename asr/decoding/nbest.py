"""n-best lists: what is in a beam at the end, each text once, with the parts of its score."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from asr.data.tokenizer import Tokenizer

MOST = 1000


class Parts(NamedTuple):
    """What a score adds up from, in nats, weighted as it counts."""

    acoustic: float  # ln P(pieces | audio), by the head that decodes
    lm: float = 0.0  # the LM's, with the sentence's end
    words: float = 0.0  # word scores less unknown penalties
    hotwords: float = 0.0
    ilm: float = 0.0  # of a transducer's internal LM
    ctc: float = 0.0  # of a hybrid's CTC head, beside its transducer

    @property
    def score(self) -> float:
        """By which hypotheses are ordered."""
        return sum(self)


class Scored(NamedTuple):
    """A hypothesis at the end of a search."""

    pieces: list[int]
    parts: Parts


@dataclass(frozen=True)
class Alternative:
    """One line of an n-best list."""

    text: str
    parts: Parts

    @property
    def score(self) -> float:
        """In nats."""
        return self.parts.score

    def as_record(self) -> dict[str, str | float]:
        """For JSON: text, score, acoustic, lm, words, and of the other parts those that count."""
        always = Parts._fields[:3]
        parts = {
            name: round(value, 4) for name, value in self.parts._asdict().items() if name in always or value
        }
        return {"text": self.text, "score": round(self.score, 4), **parts}


@dataclass(frozen=True)
class NBest:
    """The n-best list of what was searched at once, from ``start`` to ``end`` in seconds; the best first."""

    start: float
    end: float
    alternatives: tuple[Alternative, ...]


def alternatives(found: Iterable[Scored], tokenizer: Tokenizer, count: int) -> tuple[Alternative, ...]:
    """The ``count`` best texts, of hypotheses in order; of those that read alike the best."""
    texts: dict[str, Alternative] = {}
    for pieces, parts in found:
        if len(texts) == count:
            break
        text = tokenizer.decode(pieces)
        texts.setdefault(text, Alternative(text, parts))
    return tuple(texts.values())

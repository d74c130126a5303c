"""How a text is written: its case, and whether it has punctuation; and other text brought to the same.

A model writes as its training transcripts were written: NVIDIA's with capitals and punctuation, or in lower
case, where LibriSpeech's references and language models are in capitals without punctuation. Words that
differ in nothing else are the same words.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

NEARLY_ALL = 0.99  # of the words: a text may have a few strays
_APOSTROPHES = {"\u2019": "'", "\u02bc": "'"}
_WITHIN_WORDS = {"'", "-"}
_UNKNOWN = "\u2047"  # what SentencePiece makes of <unk>: a word, though nobody knows which


@dataclass(frozen=True)
class Style:
    """How a text is written.

    Args:
        case: upper or lower where all letters are, else as they come.
        marks: the punctuation that it has; None where it has more than apostrophes and hyphens: any then.
    """

    case: Literal["upper", "lower", "as they come"] = "as they come"
    marks: frozenset[str] | None = None

    def apply(self, text: str) -> str:
        """Another text so written.

        Letters get the case. Of punctuation that this style has not, hyphens and dashes become spaces, and
        the rest goes. Each character by itself: ``apply(a + b) == apply(a) + apply(b)``.
        """
        return "".join(map(self._character, text))

    def _character(self, letter: str) -> str:
        if self.marks is not None:
            letter = _APOSTROPHES.get(letter, letter)
            if letter not in self.marks and _is_mark(letter):
                return " " if unicodedata.category(letter) == "Pd" else ""
        return {"upper": letter.upper, "lower": letter.lower}.get(self.case, lambda: letter)()

    def __str__(self) -> str:
        case = {"upper": "upper case", "lower": "lower case"}.get(self.case, "upper and lower case")
        return f"in {case}, {'with' if self.marks is None else 'without'} punctuation"


def style_of(words: Iterable[str]) -> Style:
    """The style of nearly all of these words."""
    words = list(words)
    most = NEARLY_ALL * len(words)
    upper, lower = (sum(word == change(word) for word in words) for change in (str.upper, str.lower))
    case = "as they come"
    if max(upper, lower) >= most and upper != lower:
        case = "upper" if upper > lower else "lower"
    marks = {letter for letter in set().union(*words) if _is_mark(letter)}
    others = marks - _WITHIN_WORDS
    plain = sum(others.isdisjoint(word) for word in words)
    return Style(case, frozenset(marks - others) if plain >= most else None)


def _is_mark(letter: str) -> bool:
    """Punctuation or another symbol, no letter, digit or space."""
    return unicodedata.category(letter)[0] in "PS" and letter != _UNKNOWN

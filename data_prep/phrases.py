"""Sentences of a text as phrases to be spoken one after the other, with pauses between."""

import random
import re
from collections.abc import Iterable

SHORTEST, LONGEST = 2, 20  # words of a sentence

# A hyphen between letters joins two words; the others part phrases.
_MARKS = re.compile(r"""[,.;:!?()\[\]"“”–—]+|--+""")
_LETTERS = re.compile(r"[A-Z' ]+")
# Words that readers take a breath before.
_JOINTS = frozenset(
    "AND BUT OR NOR FOR YET WHO WHICH WHOSE WHEN WHERE WHILE WHEREAS AS IF THAT THAN BECAUSE SINCE UNTIL "
    "TILL THOUGH ALTHOUGH UNLESS BEFORE AFTER WITH WITHOUT FROM IN INTO LIKE SO THEN TO UPON".split()
)
_AT_JOINT, _ELSEWHERE = 0.35, 0.03  # how likely a pause is there


def split_phrases(sentence: str) -> tuple[str, ...] | None:
    """Phrases of a sentence, upper case, parted at its punctuation; letters, apostrophes, single blanks.

    None where it has other characters (digits, say), or fewer or more words than we take.
    """
    sentence = sentence.replace("’", "'").upper()
    sentence = re.sub(r"(?<=[A-Z])-(?=[A-Z])", " ", sentence)
    phrases = tuple(phrase for part in _MARKS.split(sentence) if (phrase := _tidy(part)))
    words = sum(len(phrase.split()) for phrase in phrases)
    if not SHORTEST <= words <= LONGEST or not all(map(_LETTERS.fullmatch, phrases)):
        return None
    return phrases


def draw_phrases(words: list[str], rng: random.Random) -> tuple[str, ...]:
    """Part a sentence without punctuation into phrases of two words or more, mostly before joining words."""
    phrases, start = [], 0
    for place in range(2, len(words) - 1):
        chance = _AT_JOINT if words[place] in _JOINTS else _ELSEWHERE
        if rng.random() < chance and place - start >= 2:
            phrases.append(" ".join(words[start:place]))
            start = place
    return (*phrases, " ".join(words[start:]))


def draw_sentences(sentences: Iterable[str], number: int, rng: random.Random) -> list[tuple[str, ...]]:
    """Up to ``number`` of the usable sentences, in random order, as ``split_phrases`` gives them.

    Reads all of them once and holds no more than ``number`` (reservoir sampling).
    """
    drawn: list[tuple[str, ...]] = []
    seen = 0
    for sentence in sentences:
        phrases = split_phrases(sentence)
        if phrases is None:
            continue
        seen += 1
        if len(drawn) < number:
            drawn.append(phrases)
        elif (place := rng.randrange(seen)) < number:
            drawn[place] = phrases
    rng.shuffle(drawn)
    return drawn


def _tidy(part: str) -> str:
    """Single blanks, and no apostrophes around a word: those are quotation marks. 'TIS keeps its own."""
    words = (word.strip("'") if word[0] == word[-1] == "'" else word for word in part.split())
    return " ".join(filter(None, words))

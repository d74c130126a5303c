"""The words of an LM as a tree of letters, in flat arrays, and the pieces that lead from node to node.

A piece takes the search along all its letters at once. So a word has every spelling in pieces that there is,
and a tree of letters is small and made at once, whatever the pieces are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asr.data.tokenizer import SPACE
from asr.decoding.compiled import EMPTY, compiled, slot_of

ROOT = 0  # no letter yet: an utterance's beginning, and what follows a bare space mark
_LETTERS = 0x110000  # code points


class Lexicon(NamedTuple):
    """A tree of letters. Node 0 is the root; the last one stands for whatever no word begins with."""

    key: np.ndarray  # hash table: node * _LETTERS + letter, or EMPTY
    child: np.ndarray  # the same table's values: the node that a letter leads to
    word: np.ndarray  # (nodes,) number of the word that is spelled there; where there is none, of <unk>
    below: np.ndarray  # (nodes,) log10 likelihood of the likeliest longer word that begins so
    piece_letters: np.ndarray  # code points of all pieces, one after the other
    piece_first: np.ndarray  # (classes + 1,) where each piece's begin
    begins: np.ndarray  # (classes,) whether a piece begins a word, with the space mark
    is_text: np.ndarray  # (classes,) whether it stands for any text: not the blank, <unk> and the like


def make_lexicon(words: Sequence[str], likelihoods: np.ndarray, spoken: Sequence[str | None]) -> Lexicon:
    """The tree of an LM's words.

    A word with a letter that no piece has cannot be recognised: it is left out.

    Args:
        words: numbered from 0; <unk> has the number after the last.
        likelihoods: (words,) log10 probability of each by itself.
        spoken: (classes,) what each class stands for, ``Tokenizer.spoken``'s.
    """
    begins = np.array([text is not None and text.startswith(SPACE) for text in spoken])
    pieces = [(text or "").removeprefix(SPACE) for text in spoken]
    alphabet = letters_of(spoken)
    numbers = [number for number, word in enumerate(words) if word and alphabet.issuperset(word)]
    numbers.sort(key=words.__getitem__)
    letters, first = _code_points([words[number] for number in numbers])
    key, child, word, below = _make_tree(
        letters, first, np.array(numbers, np.int64), np.asarray(likelihoods, np.float64), len(words)
    )
    return Lexicon(
        key,
        child,
        word,
        below,
        *_code_points(pieces),
        begins,
        np.array([text is not None for text in spoken]),
    )


def letters_of(spoken: Sequence[str | None]) -> set[str]:
    """All letters that classes stand for."""
    return set("".join(text.removeprefix(SPACE) for text in spoken if text))


def _code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The letters of all texts, one after the other, and where each text begins, with the end of the last."""
    letters = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.int64)
    return letters, np.cumsum([0, *map(len, texts)])


@compiled
def _make_tree(letters, first, numbers, likelihoods, unknown):
    """Key, child, word and below of the tree of sorted words."""
    longest, nodes = 0, 2  # the root, and the one for what is in no word
    shared = np.zeros(len(numbers), np.int64)  # letters that a word shares with the one before
    for i in range(len(numbers)):
        length, same = first[i + 1] - first[i], 0
        if i:
            most = min(length, first[i] - first[i - 1])
            while same < most and letters[first[i] + same] == letters[first[i - 1] + same]:
                same += 1
        shared[i] = same
        nodes += length - same
        longest = max(longest, length)
    capacity = 2
    while capacity < 2 * nodes:
        capacity *= 2
    key, child = np.full(capacity, EMPTY, np.int64), np.zeros(capacity, np.int64)
    word, below = np.full(nodes, unknown, np.int64), np.full(nodes, -np.inf)
    path = np.zeros(longest + 1, np.int64)  # nodes along the word at hand
    n = 1
    for i in range(len(numbers)):
        length = first[i + 1] - first[i]
        for place in range(length):
            if place >= shared[i]:
                edge = path[place] * _LETTERS + letters[first[i] + place]
                slot = slot_of(key, edge)
                while key[slot] != EMPTY:
                    slot = (slot + 1) & (capacity - 1)
                key[slot], child[slot] = edge, n
                path[place + 1] = n
                n += 1
            below[path[place]] = max(below[path[place]], likelihoods[numbers[i]])
        word[path[length]] = numbers[i]
    return key, child, word, below


@compiled
def _child(lexicon: Lexicon, node: int, letter: int) -> int:
    """The node that a letter leads to."""
    edge = node * _LETTERS + letter
    slot = slot_of(lexicon.key, edge)
    while lexicon.key[slot] != edge:
        if lexicon.key[slot] == EMPTY:
            return len(lexicon.word) - 1
        slot = (slot + 1) & (len(lexicon.key) - 1)
    return lexicon.child[slot]


@compiled
def walk(lexicon: Lexicon, node: int, piece: int) -> int:
    """The node that a piece leads to."""
    outside = len(lexicon.word) - 1
    for place in range(lexicon.piece_first[piece], lexicon.piece_first[piece + 1]):
        if node == outside:
            break
        node = _child(lexicon, node, lexicon.piece_letters[place])
    return node


def nodes_of(lexicon: Lexicon, word: str) -> list[int]:
    """The nodes along a word of the tree, the last one the word's own."""
    nodes, node = [], ROOT
    for letter in word:
        node = int(_child(lexicon, node, ord(letter)))
        nodes.append(node)
    return nodes

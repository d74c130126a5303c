"""The words of an LM as a tree of the acoustic model's pieces, in flat arrays that the search walks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import kenlm
import numpy as np

from asr.data.tokenizer import Tokenizer

ROOT = 0


class Lexicon(NamedTuple):
    """A prefix tree. Node 0 is the root; the edges of node i are ``first[i]`` to ``first[i + 1] - 1``."""

    first: np.ndarray  # (nodes + 1,)
    piece: np.ndarray  # (edges,) ascending within a node
    child: np.ndarray  # (edges,)
    word: np.ndarray  # (nodes,) the word that ends there, or -1
    alone: np.ndarray  # (words,) likelihood of each word by itself
    best: np.ndarray  # (nodes,) the greatest of the words there and below


def spell(words: list[str], likelihoods: Sequence[float], tokenizer: Tokenizer) -> dict[tuple[int, ...], int]:
    """The words' numbers by their pieces. Of words with one spelling, the likeliest stands.

    A word with letters that the acoustic model never saw cannot be recognised: it is left out.
    """
    numbers: dict[tuple[int, ...], int] = {}
    for number, spelling in enumerate(map(tuple, tokenizer.encode_all(words))):
        if not spelling or tokenizer.unknown in spelling:
            continue
        if spelling not in numbers or likelihoods[number] > likelihoods[numbers[spelling]]:
            numbers[spelling] = number
    return numbers


def unigrams(model: kenlm.Model, words: list[str]) -> list[float]:
    """The words' log10 probabilities by themselves."""
    return [model.score(word, bos=False, eos=False) for word in words]


def make_lexicon(spellings: Mapping[tuple[int, ...], int], likelihoods: Sequence[float]) -> Lexicon:
    """The tree of ``spell``'s words, with the likelihood of each."""
    edges: dict[tuple[int, int], int] = {}
    word, best = [-1], [max((likelihoods[number] for number in spellings.values()), default=-np.inf)]
    for spelling, number in spellings.items():
        node = ROOT
        for piece in spelling:
            node = edges.setdefault((node, piece), len(word))
            if node == len(word):
                word.append(-1)
                best.append(-np.inf)
            best[node] = max(best[node], likelihoods[number])
        word[node] = number
    order = sorted(edges)
    parents = np.array([parent for parent, _ in order], dtype=np.int64)
    return Lexicon(
        first=np.searchsorted(parents, np.arange(len(word) + 1)),
        piece=np.array([piece for _, piece in order], dtype=np.int64),
        child=np.array([edges[edge] for edge in order], dtype=np.int64),
        word=np.array(word, dtype=np.int64),
        alone=np.array(likelihoods, dtype=np.float64),
        best=np.array(best),
    )

"""The words of an LM as a tree of the acoustic model's pieces, in flat arrays that the search walks."""

from collections.abc import Sequence
from typing import NamedTuple

import kenlm
import numpy as np

from asr.tokenizer import Tokenizer

ROOT = 0


class Lexicon(NamedTuple):
    """A prefix tree. Node 0 is the root; the edges of node i are ``first[i]`` to ``first[i + 1] - 1``."""

    first: np.ndarray  # (nodes + 1,)
    piece: np.ndarray  # (edges,) ascending within a node
    child: np.ndarray  # (edges,)
    word: np.ndarray  # (nodes,) the word that ends there, or -1
    alone: np.ndarray  # (words,) likelihood of each word by itself
    best: np.ndarray  # (nodes,) the greatest of the words there and below


def make_lexicon(model: kenlm.Model, words: list[str], tokenizer: Tokenizer) -> Lexicon:
    """The tree of an LM's words, with their unigrams' log10 probabilities."""
    # A word with letters that the acoustic model never saw cannot be recognised.
    spellings = [() if tokenizer.unknown in found else found for found in tokenizer.encode_all(words)]
    return build_lexicon(spellings, [model.score(word, bos=False, eos=False) for word in words])


def build_lexicon(spellings: Sequence[Sequence[int]], likelihoods: Sequence[float]) -> Lexicon:
    """Make the tree.

    Args:
        spellings: each word's pieces, in the order of the words' numbers; a word without pieces is left out.
        likelihoods: of each word. Of two words with one spelling, the likelier is kept.
    """
    edges: dict[tuple[int, int], int] = {}
    word, best = [-1], [-np.inf]
    for number, (spelling, likelihood) in enumerate(zip(spellings, likelihoods, strict=True)):
        if not spelling:
            continue
        node = ROOT
        best[ROOT] = max(best[ROOT], likelihood)
        for piece in spelling:
            node = edges.setdefault((node, piece), len(word))
            if node == len(word):
                word.append(-1)
                best.append(-np.inf)
            best[node] = max(best[node], likelihood)
        if word[node] < 0 or likelihood > likelihoods[word[node]]:
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

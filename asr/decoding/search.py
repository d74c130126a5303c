"""CTC prefix beam search over a lexicon, compiled by Numba. What it computes is prefix_beam.py's.

What it leaves out, as the plain one does not (the tests and benchmarks/decoders.py hold the two together):

- pieces and prefixes that are too unlikely (``PIECE_FLOOR``, ``THRESHOLD``);
- words that would have to be too much likelier after their history than by themselves (``SURPRISE``) to come
  into the beam: the LM is not asked about them.

Everything is a product of probabilities, scaled after each frame so that the best rank is 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from asr.decoding.lexicon import ROOT, Lexicon
from asr.model.ctc import BLANK

PIECE_FLOOR = np.exp(-12.0)  # pieces less likely than this in a frame are not tried
THRESHOLD = np.exp(-14.0)  # prefixes of so much lower a rank than the best are dropped
SURPRISE = 500.0  # a word after its history may be so many times likelier than by itself
EMPTY = -1
_SPREAD = np.int64(0x9E3779B97F4A7C1)  # spreads keys over a hash table


def compiled(function: Callable) -> Callable:
    """Machine code, kept on disk where there is a folder that may be written to."""
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:
        return numba.njit(function)


class Prefixes(NamedTuple):
    """Words so far and a place in the lexicon, with the probability of their alignments and words."""

    node: np.ndarray  # (n,) int64
    history: np.ndarray  # (n,) the words, by number in Histories
    new_word: np.ndarray  # (n,) of a candidate: one more word, whose history has no number yet, or -1
    state: np.ndarray  # (n,) the LM's, after the words
    last: np.ndarray  # (n,) last piece
    blank: np.ndarray  # (n,) float64, alignments that end in a blank
    piece: np.ndarray  # (n,) float64, those that end in the last piece


class Endings(NamedTuple):
    """Words that prefixes would finish in this frame."""

    prefix: np.ndarray  # (n,) place in the beam
    word: np.ndarray  # (n,)
    piece: np.ndarray  # (n,) the word's last
    history: np.ndarray  # (n,) the words with this one, or -1 where they have no number yet
    member: np.ndarray  # (n,) place in the beam where these words are already, or -1
    mass: np.ndarray  # (n,) float64, probability without the word's


class Histories(NamedTuple):
    """Word sequences as a tree, and a hash table (parent, word) -> number."""

    parent: np.ndarray
    word: np.ndarray
    table: np.ndarray


class Memory(NamedTuple):
    """LM scores asked for so far: a hash table (state, word) -> log10 probability, next state."""

    key: np.ndarray
    score: np.ndarray
    state: np.ndarray


class Weights(NamedTuple):
    """How the LM counts."""

    lm: float  # on its natural logarithm, times ln 10: on its decimal one
    word: float  # nats a word
    words: int  # in the vocabulary, with </s>, the last
    surprise: float  # SURPRISE, so weighted
    alone: np.ndarray  # (words - 1,) factor of a word by its unigram
    ahead: np.ndarray  # (nodes,) that of the likeliest word there or below, to rank by


class Workspace(NamedTuple):
    """Room for one frame's work."""

    candidates: Prefixes
    endings: Endings
    rank: np.ndarray
    members: np.ndarray  # hash table (history, node) -> place in the beam
    states: np.ndarray  # hash table (LM state, node, last) -> candidate
    missing: np.ndarray  # (n,) keys of the LM scores that are wanted
    begun: np.ndarray  # (2,) candidates and endings of a frame that waits for LM scores
    log_scale: np.ndarray  # (1,) logarithm of what the prefixes were divided by so far


def make_workspace(beam: int, classes: int) -> Workspace:
    """Room for a beam of so many prefixes and so many classes."""
    most = beam * (1 + 2 * classes)  # each may stay, go on and finish a word with any piece
    return Workspace(
        candidates=make_prefixes(most),
        endings=Endings(*(np.zeros(beam * classes, np.int64) for _ in range(5)), np.zeros(beam * classes)),
        rank=np.zeros(most),
        members=np.zeros(power_of_two(4 * beam), np.int64),
        states=np.zeros(power_of_two(2 * most), np.int64),
        missing=np.zeros(beam * classes, np.int64),
        begun=np.zeros(2, np.int64),
        log_scale=np.zeros(1),
    )


def make_histories(n: int) -> Histories:
    """Room for n histories; number 0 is the empty one."""
    return Histories(*(np.full(size, EMPTY, np.int64) for size in (n, n, power_of_two(2 * n))))


def power_of_two(n: int) -> int:
    """The least one that is not below n."""
    return 1 << (n - 1).bit_length()


def make_prefixes(n: int) -> Prefixes:
    """Room for n prefixes."""
    return Prefixes(*(np.full(n, EMPTY, np.int64) for _ in range(5)), np.zeros(n), np.zeros(n))


def make_memory(capacity: int) -> Memory:
    """An empty memory; the capacity must be a power of two."""
    return Memory(np.full(capacity, EMPTY, np.int64), np.zeros(capacity), np.zeros(capacity, np.int64))


@compiled
def _slot(table: np.ndarray, key: int) -> int:
    return ((key * _SPREAD) >> 20) & (len(table) - 1)


@compiled
def find(memory: Memory, key: int) -> int:
    """Place of an LM score in the memory; EMPTY where it is not there."""
    slot = _slot(memory.key, key)
    while memory.key[slot] != key:
        if memory.key[slot] == EMPTY:
            return EMPTY
        slot = (slot + 1) & (len(memory.key) - 1)
    return slot


@compiled
def remember(memory: Memory, keys: np.ndarray, scores: np.ndarray, states: np.ndarray) -> None:
    """Put LM scores that are not there yet into the memory."""
    for i in range(len(keys)):
        slot = _slot(memory.key, keys[i])
        while memory.key[slot] != EMPTY:
            slot = (slot + 1) & (len(memory.key) - 1)
        memory.key[slot], memory.score[slot], memory.state[slot] = keys[i], scores[i], states[i]


@compiled
def _find_history(histories: Histories, words: int, parent: int, word: int) -> int:
    slot = _slot(histories.table, parent * words + word)
    while True:
        number = histories.table[slot]
        if number == EMPTY or (histories.parent[number] == parent and histories.word[number] == word):
            return number
        slot = (slot + 1) & (len(histories.table) - 1)


@compiled
def _add_history(histories: Histories, words: int, number: int, parent: int, word: int) -> None:
    slot = _slot(histories.table, parent * words + word)
    while histories.table[slot] != EMPTY:
        slot = (slot + 1) & (len(histories.table) - 1)
    histories.table[slot] = number
    histories.parent[number], histories.word[number] = parent, word


@compiled
def _find_member(members: np.ndarray, beam: Prefixes, nodes: int, history: int, node: int) -> int:
    slot = _slot(members, history * nodes + node)
    while True:
        place = members[slot]
        if place == EMPTY or (beam.history[place] == history and beam.node[place] == node):
            return place
        slot = (slot + 1) & (len(members) - 1)


@compiled
def _extend(probs, beam, size, histories, lexicon, weights, work) -> tuple[int, int]:
    """All prefixes one frame on: number of candidates, and of words that they might finish."""
    out, endings, nodes = work.candidates, work.endings, len(lexicon.word)
    work.members[:] = EMPTY
    best = 0.0
    for i in range(size):
        slot = _slot(work.members, beam.history[i] * nodes + beam.node[i])
        while work.members[slot] != EMPTY:
            slot = (slot + 1) & (len(work.members) - 1)
        work.members[slot] = i
        # The prefix stays what it is: a blank, or its last piece going on.
        _copy(beam, i, out, i)
        out.new_word[i] = EMPTY
        out.blank[i] = (beam.blank[i] + beam.piece[i]) * probs[BLANK]
        out.piece[i] = beam.piece[i] * probs[beam.last[i]]
        best = max(best, (out.blank[i] + out.piece[i]) * weights.ahead[out.node[i]])
    n, finished = size, 0
    for i in range(size):
        history, either = beam.history[i], beam.blank[i] + beam.piece[i]
        for edge in range(lexicon.first[beam.node[i]], lexicon.first[beam.node[i] + 1]):
            piece, child = lexicon.piece[edge], lexicon.child[edge]
            if probs[piece] < PIECE_FLOOR:
                continue
            # The same piece twice is a repetition in sound only with a blank in between.
            mass = probs[piece] * (beam.blank[i] if piece == beam.last[i] else either)
            word = lexicon.word[child]
            if word != EMPTY:
                longer, j = _find_history(histories, weights.words, history, word), EMPTY
                if longer != EMPTY:
                    j = _find_member(work.members, beam, nodes, longer, ROOT)
                if j != EMPTY or mass * weights.alone[word] >= THRESHOLD * best:
                    endings.prefix[finished], endings.word[finished] = i, word
                    endings.piece[finished], endings.mass[finished] = piece, mass
                    endings.history[finished], endings.member[finished] = longer, j
                    finished += 1
            if lexicon.first[child] == lexicon.first[child + 1]:
                continue
            j = _find_member(work.members, beam, nodes, history, child)
            if j != EMPTY:
                out.piece[j] += mass
            elif mass * weights.ahead[child] >= THRESHOLD * best:
                _copy(beam, i, out, n)
                out.node[n], out.last[n], out.new_word[n] = child, piece, EMPTY
                out.blank[n], out.piece[n] = 0.0, mass
                best = max(best, mass * weights.ahead[child])
                n += 1
    return n, _likely(n, finished, len(beam.node), best, weights, work)


@compiled
def _copy(beam, i, out, j) -> None:
    """Words and place of a prefix."""
    out.node[j], out.last[j] = beam.node[i], beam.last[i]
    out.history[j], out.state[j] = beam.history[i], beam.state[i]


@compiled
def _likely(n, finished, room, best, weights, work) -> int:
    """Keep the endings in the beam already, or near enough at their words' unigrams; how many there are."""
    out, endings, rank = work.candidates, work.endings, work.rank
    for i in range(n):
        rank[i] = (out.blank[i] + out.piece[i]) * weights.ahead[out.node[i]]
    for i in range(finished):
        rank[n + i] = endings.mass[i] * weights.alone[endings.word[i]]
    least = THRESHOLD * best
    if n + finished > room:
        least = max(least, _at_place(rank[: n + finished], room) / weights.surprise)
    kept = 0
    for i in range(finished):
        if endings.member[i] != EMPTY or rank[n + i] >= least:
            endings.prefix[kept], endings.word[kept] = endings.prefix[i], endings.word[i]
            endings.piece[kept], endings.mass[kept] = endings.piece[i], endings.mass[i]
            endings.history[kept], endings.member[kept] = endings.history[i], endings.member[i]
            kept += 1
    return kept


@compiled
def _at_place(rank, place) -> float:
    """The value that is ``place``-th from the greatest."""
    return np.partition(rank, len(rank) - place)[len(rank) - place]


@compiled
def _find_missing(finished, beam, memory, weights, work) -> int:
    """How many LM scores of the endings are not in memory; their keys go to ``work.missing``."""
    endings, missing = work.endings, 0
    for i in range(finished):
        key = beam.state[endings.prefix[i]] * weights.words + endings.word[i]
        if find(memory, key) == EMPTY:
            work.missing[missing] = key
            missing += 1
    return missing


@compiled
def _finish(n, finished, beam, memory, weights, work) -> int:
    """The endings become candidates; how many there are with them."""
    out, endings = work.candidates, work.endings
    for i in range(finished):
        prefix, word = endings.prefix[i], endings.word[i]
        at = find(memory, beam.state[prefix] * weights.words + word)
        mass = endings.mass[i] * np.exp(weights.lm * memory.score[at] + weights.word)
        if endings.member[i] != EMPTY:
            out.piece[endings.member[i]] += mass
            continue
        out.node[n], out.last[n], out.state[n] = ROOT, endings.piece[i], memory.state[at]
        out.blank[n], out.piece[n] = 0.0, mass
        out.history[n], out.new_word[n] = endings.history[i], EMPTY
        if endings.history[i] == EMPTY:
            out.history[n], out.new_word[n] = beam.history[prefix], word
        n += 1
    return n


@compiled
def _prune(beam, n, count, histories, nodes, weights, work) -> tuple[int, int]:
    """The best of n candidates become the beam: its size, and the number of histories."""
    out, rank = work.candidates, work.rank
    best = 0.0
    for i in range(n):
        rank[i] = (out.blank[i] + out.piece[i]) * weights.ahead[out.node[i]]
        best = max(best, rank[i])
    if not best > 0.0:  # no frame of a working model
        return 0, count
    capacity = 16
    while capacity < 2 * n:
        capacity *= 2
    states = work.states[:capacity]
    states[:] = EMPTY
    alive = 0
    for i in range(n):
        if rank[i] < THRESHOLD * best:
            rank[i] = 0.0
            continue
        slot = _slot(states, (out.state[i] * nodes + out.node[i]) * 1024 + out.last[i])
        while True:
            j = states[slot]
            if j == EMPTY:
                states[slot] = i
                alive += 1
                break
            same = out.node[j] == out.node[i] and out.last[j] == out.last[i]
            if same and out.state[j] == out.state[i]:
                # The LM cannot tell them apart, now or later.
                if rank[j] >= rank[i]:
                    rank[i] = 0.0
                else:
                    rank[j] = 0.0
                    states[slot] = i
                break
            slot = (slot + 1) & (capacity - 1)
    room = len(beam.node)
    least = _at_place(rank[:n], room) if alive > room else 0.0
    size = 0
    for i in range(n):
        if rank[i] <= 0.0 or rank[i] < least or size == room:
            continue
        _copy(out, i, beam, size)
        if out.new_word[i] != EMPTY:
            _add_history(histories, weights.words, count, out.history[i], out.new_word[i])
            beam.history[size] = count
            count += 1
        beam.blank[size], beam.piece[size] = out.blank[i] / best, out.piece[i] / best
        size += 1
    work.log_scale[0] += np.log(best)
    return size, count


@compiled
def advance(
    probs: np.ndarray,
    frame: int,
    beam: Prefixes,
    size: int,
    count: int,
    histories: Histories,
    lexicon: Lexicon,
    memory: Memory,
    weights: Weights,
    work: Workspace,
) -> tuple[int, int, int, int]:
    """Search on from a frame, to the end or to a frame that wants LM scores that are not in memory.

    Args:
        probs: (N, classes) float64.
        frame: the first one to take.
        beam, size: prefixes, the first ``size`` of which there are.
        count: number of histories.

    Returns:
        frame reached (N at the end), size, count, and how many LM scores are missing (``work.missing``).
    """
    nodes = len(lexicon.word)
    while frame < len(probs):
        n, finished = work.begun
        if not n:
            n, finished = _extend(probs[frame], beam, size, histories, lexicon, weights, work)
        missing = _find_missing(finished, beam, memory, weights, work)
        if missing:
            work.begun[:] = n, finished
            return frame, size, count, missing
        n = _finish(n, finished, beam, memory, weights, work)
        size, count = _prune(beam, n, count, histories, nodes, weights, work)
        work.begun[:] = 0
        frame += 1
    return frame, size, count, 0

"""CTC prefix beam search over a lexicon, compiled by Numba. What it computes is prefix_beam.py's.

Differences from that plain one, which the benchmark measures and the tests bound:

- pieces and prefixes that are too unlikely are left out (``PIECE_FLOOR``, ``THRESHOLD``);
- of prefixes that end in the same piece and whose words the LM can no longer tell apart, the likelier stays;
- a word in the making is ranked, not scored, as if it became the likeliest word that begins so.

Everything is a product of probabilities, scaled after each frame so that the best prefix has 1.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from asr.decoding.lexicon import ROOT, Lexicon
from asr.heads.ctc import BLANK

PIECE_FLOOR = np.exp(-8.0)  # pieces less likely than this in a frame are not tried
THRESHOLD = np.exp(-14.0)  # prefixes so much less likely than the best are dropped
SURPRISE = np.exp(-4.0)  # a word after its history may be so much likelier than by itself
EMPTY = -1
_PRIME = np.int64(0x9E3779B97F4A7C1)  # spreads keys over a hash table


class Prefixes(NamedTuple):
    """Words so far and a place in the lexicon, with the probability of their alignments."""

    node: np.ndarray  # (n,) int64
    history: np.ndarray  # (n,) the words, by number in Histories
    last: np.ndarray  # (n,) last piece
    blank: np.ndarray  # (n,) float64, alignments that end in a blank
    piece: np.ndarray  # (n,) float64, those that end in the last piece
    new_word: np.ndarray  # (n,) word just finished whose history has no number yet, or -1


class Histories(NamedTuple):
    """Word sequences as a tree, and a hash table (parent, word) -> number."""

    parent: np.ndarray
    word: np.ndarray
    state: np.ndarray  # of the LM
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
    words: int  # in the vocabulary


class Workspace(NamedTuple):
    """Room for one frame's work."""

    candidates: Prefixes
    rank: np.ndarray
    members: np.ndarray  # hash table (history, node) -> place in the beam
    states: np.ndarray  # hash table (LM state, node, last) -> candidate
    missing: np.ndarray  # (n,) keys of the LM scores that are wanted
    log_scale: np.ndarray  # (1,) logarithm of what the prefixes were divided by so far


def make_workspace(beam: int, classes: int) -> Workspace:
    """Room for a beam of so many prefixes and so many classes."""
    most = beam * (1 + 2 * classes)  # each may stay, go on and finish a word with any piece
    return Workspace(
        candidates=make_prefixes(most),
        rank=np.zeros(most),
        members=np.zeros(power_of_two(4 * beam), np.int64),
        states=np.zeros(power_of_two(2 * most), np.int64),
        missing=np.zeros(beam * classes, np.int64),
        log_scale=np.zeros(1),
    )


def make_histories(n: int) -> Histories:
    """Room for n histories; number 0 is the empty one, in LM state 0."""
    whole = (np.zeros(n, np.int64) for _ in range(3))
    histories = Histories(*whole, np.full(power_of_two(2 * n), EMPTY, np.int64))
    histories.parent[0] = histories.word[0] = EMPTY
    return histories


def power_of_two(n: int) -> int:
    """The least one that is not below n."""
    return 1 << (n - 1).bit_length()


def make_prefixes(n: int) -> Prefixes:
    """Room for n prefixes."""
    whole = (np.full(n, EMPTY, np.int64) for _ in range(4))
    node, history, last, new_word = whole
    return Prefixes(node, history, last, np.zeros(n), np.zeros(n), new_word)


def make_memory(capacity: int) -> Memory:
    """An empty memory; the capacity must be a power of two."""
    return Memory(np.full(capacity, EMPTY, np.int64), np.zeros(capacity), np.zeros(capacity, np.int64))


@njit(cache=True, inline="always")
def _slot(table: np.ndarray, key: int) -> int:
    return ((key * _PRIME) >> 20) & (len(table) - 1)


@njit(cache=True)
def find(memory: Memory, key: int) -> int:
    """Place of an LM score in the memory; EMPTY where it is not there."""
    slot = _slot(memory.key, key)
    while memory.key[slot] != key:
        if memory.key[slot] == EMPTY:
            return EMPTY
        slot = (slot + 1) & (len(memory.key) - 1)
    return slot


@njit(cache=True)
def remember(memory: Memory, keys: np.ndarray, scores: np.ndarray, states: np.ndarray) -> None:
    """Put LM scores that are not there yet into the memory."""
    for i in range(len(keys)):
        slot = _slot(memory.key, keys[i])
        while memory.key[slot] != EMPTY:
            slot = (slot + 1) & (len(memory.key) - 1)
        memory.key[slot], memory.score[slot], memory.state[slot] = keys[i], scores[i], states[i]


@njit(cache=True)
def _find_history(histories: Histories, words: int, parent: int, word: int) -> int:
    slot = _slot(histories.table, parent * words + word)
    while True:
        number = histories.table[slot]
        if number == EMPTY or (histories.parent[number] == parent and histories.word[number] == word):
            return number
        slot = (slot + 1) & (len(histories.table) - 1)


@njit(cache=True)
def _add_history(histories: Histories, words: int, number: int, parent: int, word: int) -> None:
    slot = _slot(histories.table, parent * words + word)
    while histories.table[slot] != EMPTY:
        slot = (slot + 1) & (len(histories.table) - 1)
    histories.table[slot] = number
    histories.parent[number], histories.word[number] = parent, word


@njit(cache=True)
def _find_member(members: np.ndarray, beam: Prefixes, nodes: int, history: int, node: int) -> int:
    slot = _slot(members, history * nodes + node)
    while True:
        place = members[slot]
        if place == EMPTY or (beam.history[place] == history and beam.node[place] == node):
            return place
        slot = (slot + 1) & (len(members) - 1)


@njit(cache=True)
def _extend(probs, beam, size, histories, lexicon, memory, weights, ahead, work) -> tuple[int, int]:
    """All prefixes one frame on: number of candidates, and of LM scores that are missing for it."""
    out, nodes = work.candidates, len(lexicon.word)
    work.members[:] = EMPTY
    for i in range(size):
        slot = _slot(work.members, beam.history[i] * nodes + beam.node[i])
        while work.members[slot] != EMPTY:
            slot = (slot + 1) & (len(work.members) - 1)
        work.members[slot] = i
        # The prefix stays what it is: a blank, or its last piece going on.
        out.node[i], out.history[i], out.last[i] = beam.node[i], beam.history[i], beam.last[i]
        out.new_word[i] = EMPTY
        out.blank[i] = (beam.blank[i] + beam.piece[i]) * probs[BLANK]
        out.piece[i] = beam.piece[i] * probs[beam.last[i]]
    best = 0.0
    for i in range(size):
        best = max(best, (out.blank[i] + out.piece[i]) * ahead[out.node[i]])
    # First the words in the making, then the finished ones, of which the LM is asked only about those
    # that have a chance beside the others.
    n, missing = size, 0
    for i in range(size):
        history, either = beam.history[i], beam.blank[i] + beam.piece[i]
        for edge in range(lexicon.first[beam.node[i]], lexicon.first[beam.node[i] + 1]):
            piece, child = lexicon.piece[edge], lexicon.child[edge]
            if probs[piece] < PIECE_FLOOR or lexicon.first[child] == lexicon.first[child + 1]:
                continue
            # The same piece twice is a repetition in sound only with a blank in between.
            mass = probs[piece] * (beam.blank[i] if piece == beam.last[i] else either)
            j = _find_member(work.members, beam, nodes, history, child)
            if j != EMPTY:
                out.piece[j] += mass
            elif mass * ahead[child] >= THRESHOLD * best:
                out.node[n], out.history[n], out.last[n], out.new_word[n] = child, history, piece, EMPTY
                out.blank[n], out.piece[n] = 0.0, mass
                best = max(best, mass * ahead[child])
                n += 1
    hopeless = THRESHOLD * best
    room = len(beam.node)
    if n > room:
        for i in range(n):
            work.rank[i] = (out.blank[i] + out.piece[i]) * ahead[out.node[i]]
        hopeless = max(hopeless, SURPRISE * np.partition(work.rank[:n], n - room)[n - room])
    for i in range(size):
        history, either = beam.history[i], beam.blank[i] + beam.piece[i]
        for edge in range(lexicon.first[beam.node[i]], lexicon.first[beam.node[i] + 1]):
            piece, child = lexicon.piece[edge], lexicon.child[edge]
            word = lexicon.word[child]
            if probs[piece] < PIECE_FLOOR or word == EMPTY:
                continue
            mass = probs[piece] * (beam.blank[i] if piece == beam.last[i] else either)
            if mass * ahead[child] < hopeless:
                continue
            key = histories.state[history] * weights.words + word
            at = find(memory, key)
            if at == EMPTY:
                work.missing[missing] = key
                missing += 1
                continue
            mass *= np.exp(weights.lm * memory.score[at] + weights.word)
            longer = _find_history(histories, weights.words, history, word)
            j = EMPTY
            if longer != EMPTY:
                j = _find_member(work.members, beam, nodes, longer, ROOT)
            if j != EMPTY:
                out.piece[j] += mass
                continue
            out.node[n], out.last[n], out.blank[n], out.piece[n] = ROOT, piece, 0.0, mass
            out.history[n], out.new_word[n] = (history, word) if longer == EMPTY else (longer, EMPTY)
            n += 1
    return n, missing


@njit(cache=True)
def _prune(beam, n, count, histories, lexicon, memory, weights, ahead, work) -> tuple[int, int]:
    """The best of n candidates become the beam: its size, and the number of histories."""
    out, rank, nodes = work.candidates, work.rank, len(lexicon.word)
    best = 0.0
    for i in range(n):
        rank[i] = (out.blank[i] + out.piece[i]) * ahead[out.node[i]]
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
        state = _state(out, i, histories, memory, weights)
        slot = _slot(states, (state * nodes + out.node[i]) * 1024 + out.last[i])
        while True:
            j = states[slot]
            if j == EMPTY:
                states[slot] = i
                alive += 1
                break
            same = out.node[j] == out.node[i] and out.last[j] == out.last[i]
            if same and _state(out, j, histories, memory, weights) == state:
                # The LM cannot tell them apart, now or later.
                if rank[j] >= rank[i]:
                    rank[i] = 0.0
                else:
                    rank[j] = 0.0
                    states[slot] = i
                break
            slot = (slot + 1) & (capacity - 1)
    room = len(beam.node)
    least = np.partition(rank[:n], n - room)[n - room] if alive > room else 0.0
    size = 0
    for i in range(n):
        if rank[i] <= 0.0 or rank[i] < least or size == room:
            continue
        history = out.history[i]
        if out.new_word[i] != EMPTY:
            at = find(memory, histories.state[history] * weights.words + out.new_word[i])
            _add_history(histories, weights.words, count, history, out.new_word[i])
            histories.state[count] = memory.state[at]
            history = count
            count += 1
        beam.node[size], beam.history[size], beam.last[size] = out.node[i], history, out.last[i]
        beam.blank[size], beam.piece[size] = out.blank[i] / best, out.piece[i] / best
        size += 1
    work.log_scale[0] += np.log(best)
    return size, count


@njit(cache=True)
def _state(out, i, histories, memory, weights) -> int:
    """The LM's state after a candidate's words."""
    state = histories.state[out.history[i]]
    if out.new_word[i] == EMPTY:
        return state
    return memory.state[find(memory, state * weights.words + out.new_word[i])]


@njit(cache=True)
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
    ahead: np.ndarray,
    work: Workspace,
) -> tuple[int, int, int, int]:
    """Search on from a frame, to the end or to a frame that wants LM scores that are not in memory.

    Args:
        probs: (N, classes) float64.
        frame: the first one to take.
        beam, size: prefixes, the first ``size`` of which there are.
        count: number of histories.
        ahead: (nodes,) factor by which prefixes are ranked as if their word were finished.

    Returns:
        frame reached (N at the end), size, count, and how many LM scores are missing (``work.missing``).
    """
    while frame < len(probs):
        n, missing = _extend(probs[frame], beam, size, histories, lexicon, memory, weights, ahead, work)
        if missing:
            return frame, size, count, missing
        size, count = _prune(beam, n, count, histories, lexicon, memory, weights, ahead, work)
        frame += 1
    return frame, size, count, 0

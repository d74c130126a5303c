"""CTC prefix beam search with an open vocabulary, compiled by Numba. What it computes is prefix_beam.py's.

What it leaves out, as the plain one does not (the tests and benchmarks/decoders.py hold the two together):

- pieces and prefixes that are too unlikely (``PIECE_FLOOR``, ``THRESHOLD``);
- words that would have to be too much likelier after their history than by themselves (``SURPRISE``) to stay
  in the beam: the LM is not asked about them.

Everything is a product of probabilities, scaled after each frame so that the best rank is 1.

A frame goes through four steps, in the order of this file: ``_extend`` makes candidates of the prefixes and
the frame's pieces, ``_select`` drops the hopeless ones, ``_find_missing`` and ``_judge`` put the LM's scores
to the others, ``_prune`` makes the best of them the beam.
"""

from typing import NamedTuple

import numpy as np

from asr.decoding.compiled import EMPTY, compiled, power_of_two, slot_of
from asr.decoding.lexicon import ROOT, Lexicon, walk
from asr.model.classes import BLANK

PIECE_FLOOR = np.exp(-12.0)  # pieces less likely than this in a frame are not tried
THRESHOLD = np.exp(-14.0)  # prefixes of so much lower a rank than the best are dropped
SURPRISE = 500.0  # a word after its history may be so many times likelier than by itself


class Prefixes(NamedTuple):
    """Sequences of pieces, with the probability of their alignments and of the words before the last one."""

    spelling: (
        np.ndarray
    )  # (n,) int64, the pieces, by number in Spellings; of a new candidate: all but the last
    last: np.ndarray  # (n,) the last piece
    node: np.ndarray  # (n,) place of the last word in the lexicon
    state: np.ndarray  # (n,) the LM's, after the words before the last one
    ended: np.ndarray  # (n,) the LM's, after the last one
    word: np.ndarray  # (n,) float64, factor of the last word, were it to end
    blank: np.ndarray  # (n,) float64, alignments that end in a blank
    piece: np.ndarray  # (n,) float64, those that end in the last piece


class Spellings(NamedTuple):
    """Sequences of pieces as a tree, and a hash table (parent, piece) -> number. 0 is the empty one."""

    parent: np.ndarray
    piece: np.ndarray
    table: np.ndarray
    place: np.ndarray  # in the beam, or EMPTY


class Memory(NamedTuple):
    """Words judged so far: a hash table (state, word) -> log10 probability, bonus, next state."""

    key: np.ndarray
    score: np.ndarray
    earned: np.ndarray  # nats, of hotwords
    state: np.ndarray


class Factors(NamedTuple):
    """How the LM counts."""

    lm: float  # on its natural logarithm, times ln 10: on its decimal one
    word: np.ndarray  # (words + 1,) nats a word; the last is <unk>
    words: int  # numbers of words, with <unk> and </s>
    surprise: float  # SURPRISE, so weighted, and what a word may earn within a phrase
    ahead: np.ndarray  # (nodes,) that of the likeliest word there or below, by unigrams
    below: np.ndarray  # (nodes,) the same without the word there
    start: float  # the greatest that a word may begin with
    merge: bool  # keep one of those that the LM cannot tell apart


class Workspace(NamedTuple):
    """Room for one frame's work."""

    candidates: Prefixes
    rank: np.ndarray
    pieces: np.ndarray  # (classes,) those worth trying in a frame
    alike: np.ndarray  # hash table (LM state, node, last) -> candidate
    missing: np.ndarray  # (n,) keys of the LM scores that are wanted
    begun: np.ndarray  # (1,) candidates of a frame that waits for LM scores
    log_scale: np.ndarray  # (1,) logarithm of what the prefixes were divided by so far


def make_workspace(beam: int, classes: int) -> Workspace:
    """Room for a beam of so many prefixes and so many classes."""
    most = beam * (1 + classes)  # each may stay, and go on with any piece
    return Workspace(
        candidates=make_prefixes(most),
        rank=np.zeros(most),
        pieces=np.zeros(classes, np.int64),
        alike=np.zeros(power_of_two(2 * most), np.int64),
        missing=np.zeros(most, np.int64),
        begun=np.zeros(1, np.int64),
        log_scale=np.zeros(1),
    )


def make_prefixes(n: int) -> Prefixes:
    """Room for n prefixes."""
    return Prefixes(*(np.zeros(n, np.int64) for _ in range(5)), *(np.zeros(n) for _ in range(3)))


def make_spellings(n: int) -> Spellings:
    """Room for n spellings."""
    return Spellings(*(np.full(size, EMPTY, np.int64) for size in (n, n, power_of_two(2 * n), n)))


def make_memory(capacity: int) -> Memory:
    """An empty memory; the capacity must be a power of two."""
    numbers = np.full(capacity, EMPTY, np.int64), np.zeros(capacity, np.int64)
    return Memory(numbers[0], np.zeros(capacity), np.zeros(capacity), numbers[1])


def begin(beam: Prefixes, spellings: Spellings, work: Workspace) -> None:
    """The beam of no frame: no piece yet."""
    beam.spelling[0], beam.last[0], beam.node[0], beam.state[0], beam.ended[0] = 0, BLANK, ROOT, 0, 0
    beam.word[0], beam.blank[0], beam.piece[0] = 1.0, 1.0, 0.0
    spellings.place[0] = 0
    work.log_scale[0], work.begun[0] = 0.0, 0


@compiled
def find(memory: Memory, key: int) -> int:
    """Place of an LM score in the memory; EMPTY where it is not there."""
    slot = slot_of(memory.key, key)
    while memory.key[slot] != key:
        if memory.key[slot] == EMPTY:
            return EMPTY
        slot = (slot + 1) & (len(memory.key) - 1)
    return slot


@compiled
def remember(
    memory: Memory, keys: np.ndarray, scores: np.ndarray, earned: np.ndarray, states: np.ndarray
) -> None:
    """Put words that are not there yet into the memory."""
    for i in range(len(keys)):
        slot = slot_of(memory.key, keys[i])
        while memory.key[slot] != EMPTY:
            slot = (slot + 1) & (len(memory.key) - 1)
        memory.key[slot], memory.score[slot] = keys[i], scores[i]
        memory.earned[slot], memory.state[slot] = earned[i], states[i]


@compiled
def _find_spelling(spellings: Spellings, classes: int, parent: int, piece: int) -> int:
    slot = slot_of(spellings.table, parent * classes + piece)
    while True:
        number = spellings.table[slot]
        if number == EMPTY or (spellings.parent[number] == parent and spellings.piece[number] == piece):
            return number
        slot = (slot + 1) & (len(spellings.table) - 1)


@compiled
def _number(spellings: Spellings, classes: int, parent: int, piece: int, count: int) -> int:
    """Number of a spelling, a new one (``count``) where it has none."""
    slot = slot_of(spellings.table, parent * classes + piece)
    while True:
        number = spellings.table[slot]
        if number == EMPTY:
            spellings.table[slot] = count
            spellings.parent[count], spellings.piece[count] = parent, piece
            return count
        if spellings.parent[number] == parent and spellings.piece[number] == piece:
            return number
        slot = (slot + 1) & (len(spellings.table) - 1)


@compiled
def move(
    beam: Prefixes, size: int, old: Spellings, count: int, root: int, new: Spellings, classes: int
) -> tuple[np.ndarray, int]:
    """Put the beam's spellings into another tree, less the pieces up to ``root``, which all begin with.

    Returns:
        the new number of each old one (0 where it is gone), and how many there are.
    """
    used = np.zeros(count, np.bool_)
    for i in range(size):
        number = beam.spelling[i]
        while number != root and not used[number]:
            used[number] = True
            number = old.parent[number]
    renamed, moved = np.zeros(count, np.int64), 1
    for number in range(root + 1, count):  # a parent has a lower number
        if used[number]:
            renamed[number] = _number(new, classes, renamed[old.parent[number]], old.piece[number], moved)
            moved += 1
    for i in range(size):
        beam.spelling[i] = renamed[beam.spelling[i]]
        new.place[beam.spelling[i]] = i
    return renamed, moved


@compiled
def _extend(probs, beam, size, spellings, lexicon, factors, work) -> int:
    """All prefixes one frame on; number of candidates. The first ``size`` are the prefixes themselves."""
    out, ahead = work.candidates, factors.ahead
    best = 0.0
    for i in range(size):  # a prefix stays what it is: a blank, or its last piece going on
        _copy(beam, i, out, i)
        out.blank[i] = (beam.blank[i] + beam.piece[i]) * probs[BLANK]
        out.piece[i] = beam.piece[i] * probs[beam.last[i]]
        best = max(best, (out.blank[i] + out.piece[i]) * _prospect(out, i, factors))
    n, pieces = size, _likely_pieces(probs, lexicon, work)
    for i in range(size):
        either = beam.blank[i] + beam.piece[i]
        highest = either * max(ahead[beam.node[i]], beam.word[i] * factors.start)
        for piece in pieces:
            if highest * probs[piece] < THRESHOLD * best:
                break
            # The same piece twice is a repetition in sound only with a blank in between.
            mass = probs[piece] * (beam.blank[i] if piece == beam.last[i] else either)
            node, state = beam.node[i], beam.state[i]
            if lexicon.begins[piece]:  # the word before it ends
                mass *= beam.word[i]
                node, state = ROOT, beam.ended[i]
            spelling = _find_spelling(spellings, len(probs), beam.spelling[i], piece)
            if spelling != EMPTY and spellings.place[spelling] != EMPTY:
                out.piece[spellings.place[spelling]] += mass
                continue
            node = walk(lexicon, node, piece)
            if mass * ahead[node] >= THRESHOLD * best:
                out.spelling[n], out.last[n], out.node[n], out.state[n] = beam.spelling[i], piece, node, state
                out.blank[n], out.piece[n] = 0.0, mass
                best = max(best, mass * ahead[node])
                n += 1
    return n


@compiled
def _copy(beam, i, out, j) -> None:
    """All of a prefix but its alignments."""
    out.spelling[j], out.last[j], out.node[j] = beam.spelling[i], beam.last[i], beam.node[i]
    out.state[j], out.ended[j], out.word[j] = beam.state[i], beam.ended[i], beam.word[i]


@compiled
def _prospect(prefixes, i, factors) -> float:
    """Factor of the last word as it is, or as it may become."""
    return max(prefixes.word[i], factors.below[prefixes.node[i]])


@compiled
def _likely_pieces(probs, lexicon, work) -> np.ndarray:
    """The pieces that are worth trying, the likeliest first."""
    n = 0
    for piece in range(len(probs)):
        if probs[piece] >= PIECE_FLOOR and lexicon.is_text[piece]:
            work.pieces[n] = piece
            n += 1
    return work.pieces[:n][np.argsort(-probs[work.pieces[:n]])]


@compiled
def _select(n, size, beam, nodes, factors, work) -> int:
    """Keep, by their words' unigrams, the candidates that may come into the beam; how many there are then.

    A prefix that stays what it is keeps its place; if it is dropped, its probability is 0.
    """
    out, rank = work.candidates, work.rank
    for i in range(n):
        factor = _prospect(out, i, factors) if i < size else factors.ahead[out.node[i]]
        rank[i] = (out.blank[i] + out.piece[i]) * factor
    alive = _drop_alike(n, nodes, factors.merge, work)
    room = len(beam.node)
    least = _at_place(rank[:n], room) / factors.surprise if alive > room else 0.0
    kept = size
    for i in range(n):
        if i < size:
            if rank[i] == 0.0:
                out.blank[i], out.piece[i] = 0.0, 0.0
        elif rank[i] > 0.0 and rank[i] >= least:
            out.spelling[kept], out.last[kept], out.node[kept] = out.spelling[i], out.last[i], out.node[i]
            out.state[kept], out.blank[kept], out.piece[kept] = out.state[i], out.blank[i], out.piece[i]
            kept += 1
    return kept


@compiled
def _drop_alike(n, nodes, merge, work) -> int:
    """Rank 0 to the hopeless; merging, to all but the likeliest of those that the LM can never tell apart.

    How many are left.
    """
    out, rank = work.candidates, work.rank
    capacity = 16
    while capacity < 2 * n:
        capacity *= 2
    alike = work.alike[:capacity]
    alike[:] = EMPTY
    alive, least = 0, THRESHOLD * rank[:n].max()
    for i in range(n):
        if not rank[i] >= least:
            rank[i] = 0.0
            continue
        if not merge:
            alive += 1
            continue
        slot = slot_of(alike, (out.state[i] * nodes + out.node[i]) * 1024 + out.last[i])
        while True:
            j = alike[slot]
            if j == EMPTY:
                alike[slot] = i
                alive += 1
                break
            same = out.node[j] == out.node[i] and out.last[j] == out.last[i]
            if same and out.state[j] == out.state[i]:
                if out.blank[j] + out.piece[j] >= out.blank[i] + out.piece[i]:
                    rank[i] = 0.0
                else:
                    rank[j] = 0.0
                    alike[slot] = i
                break
            slot = (slot + 1) & (capacity - 1)
    return alive


@compiled
def _at_place(rank, place) -> float:
    """The value that is ``place``-th from the greatest."""
    return np.partition(rank, len(rank) - place)[len(rank) - place]


@compiled
def _find_missing(size, n, memory, lexicon, factors, work) -> int:
    """How many LM scores of new candidates' words are not in memory; their keys go to ``work.missing``."""
    out, missing = work.candidates, 0
    for i in range(size, n):
        key = out.state[i] * factors.words + lexicon.word[out.node[i]]
        if out.node[i] != ROOT and find(memory, key) == EMPTY:
            work.missing[missing] = key
            missing += 1
    return missing


@compiled
def _judge(size, n, memory, lexicon, factors, work) -> None:
    """What the LM says to the last words of new candidates."""
    out = work.candidates
    for i in range(size, n):
        if out.node[i] == ROOT:
            out.word[i], out.ended[i] = 1.0, out.state[i]
            continue
        word = lexicon.word[out.node[i]]
        at = find(memory, out.state[i] * factors.words + word)
        out.word[i] = np.exp(factors.lm * memory.score[at] + factors.word[word] + memory.earned[at])
        out.ended[i] = memory.state[at]


@compiled
def _prune(beam, size, n, count, spellings, classes, factors, work) -> tuple[int, int]:
    """The best of n candidates become the beam: its size, and the number of spellings."""
    out, rank = work.candidates, work.rank
    for i in range(size):
        spellings.place[beam.spelling[i]] = EMPTY
    for i in range(n):
        rank[i] = (out.blank[i] + out.piece[i]) * _prospect(out, i, factors)
    best = rank[:n].max()
    if not best > 0.0:  # no frame of a working model
        return 0, count
    room, old, size = len(beam.node), size, 0
    least = max(THRESHOLD * best, _at_place(rank[:n], room) if n > room else 0.0)
    for i in range(n):
        if rank[i] < least or size == room:
            continue
        _copy(out, i, beam, size)
        if i >= old:
            number = _number(spellings, classes, out.spelling[i], out.last[i], count)
            beam.spelling[size] = number
            count = max(count, number + 1)
        spellings.place[beam.spelling[size]] = size
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
    spellings: Spellings,
    lexicon: Lexicon,
    memory: Memory,
    factors: Factors,
    work: Workspace,
) -> tuple[int, int, int, int]:
    """Search on from a frame, to the end or to a frame that wants LM scores that are not in memory.

    Args:
        probs: (N, classes) float64.
        frame: the first one to take.
        beam, size: prefixes, the first ``size`` of which there are.
        count: number of spellings.

    Returns:
        frame reached (N at the end, unless no prefix is left), size, count, and how many LM scores are
        missing (``work.missing``).
    """
    classes, nodes = probs.shape[1], len(lexicon.word)
    while frame < len(probs) and size:
        n = work.begun[0]
        if not n:
            n = _extend(probs[frame], beam, size, spellings, lexicon, factors, work)
            n = _select(n, size, beam, nodes, factors, work)
        missing = _find_missing(size, n, memory, lexicon, factors, work)
        if missing:
            work.begun[0] = n
            return frame, size, count, missing
        _judge(size, n, memory, lexicon, factors, work)
        size, count = _prune(beam, size, n, count, spellings, classes, factors, work)
        work.begun[0] = 0
        frame += 1
    return frame, size, count, 0

"""Beam search with an n-gram LM, in this process or in several. The search itself is in search.py."""

import heapq
import math
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from itertools import starmap
from pathlib import Path

import kenlm
import numpy as np
from tqdm import tqdm

from asr.data.tokenizer import Tokenizer
from asr.decoding import BEAM, search
from asr.decoding.alignment import best_path, collapse
from asr.decoding.compiled import EMPTY, power_of_two
from asr.decoding.lexicon import ROOT
from asr.decoding.weights import GREEDY, Weights
from asr.decoding.words import WordModel
from asr.errors import UserError
from asr.lm import files as lm_files
from asr.processes import start_worker

ALONE = 7500  # frames, 5 minutes: searched in about the time that a process takes to start
MEMORY = 2**19  # LM scores remembered from utterance to utterance, a few hundred bytes each
ROOM = 2**16  # for so many at first, a power of two


class BeamDecoder:
    """Log-probabilities of one utterance to words.

    Args:
        lm_path: KenLM binary or ARPA file.
        tokenizer: the acoustic model's; its pieces spell the words, those of the LM and others.
        beam: hypotheses kept.
        mapped: share the LM's memory with other processes; see ``asr.lm.files.load``.
        fold: look words up as the LM's are written, whatever case and punctuation the model writes. What
            comes out is written as the model does.

    Attributes:
        style: the LM's, where the model also writes otherwise; else None.

    Raises:
        UserError: the LM cannot be used, with this tokenizer or at all.
    """

    def __init__(
        self,
        lm_path: str | Path,
        tokenizer: Tokenizer,
        beam: int = BEAM,
        mapped: bool = False,
        fold: bool = True,
    ) -> None:
        lm = WordModel(lm_path, tokenizer, mapped, fold)
        self.style, self._start = lm.style, lm.start
        self._model, self._words, self._alone, self._lexicon = lm.model, lm.words, lm.alone, lm.lexicon
        self._classes = tokenizer.pieces + 1
        self._beam = search.make_prefixes(beam)
        self._work = search.make_workspace(beam, self._classes)
        self._factors = lru_cache(1)(self._make_factors)
        self._forget()

    def decode(self, log_probs: np.ndarray, weights: Weights) -> list[int]:
        """The classes of the best pieces, without blanks. With ``GREEDY``, those of the best path."""
        if weights == GREEDY:
            return collapse(best_path([log_probs]))[0].tolist() if len(log_probs) else []
        return self.decode_scored(log_probs, weights)[0]

    def decode_scored(self, log_probs: np.ndarray, weights: Weights) -> tuple[list[int], float]:
        """The best pieces and their score in nats (asr/decoding/prefix_beam.py says which).

        Args:
            log_probs: (N, classes) fp32, natural logarithms.
            weights: how the LM counts.

        Raises:
            ValueError: another number of classes than the tokenizer has.
        """
        self.begin(weights)
        self.push(log_probs)
        return self.best()

    def begin(self, weights: Weights) -> None:
        """Begin a search that frames are pushed to; it ends where another one begins."""
        self._now = self._factors(weights)
        self._spellings = search.make_spellings(1)
        self._born = np.zeros(1, np.int64)  # of each spelling, see ``settle``
        search.begin(self._beam, self._spellings, self._work)
        self._size, self._count = 1, 1

    def push(self, log_probs: np.ndarray, born: int = 0) -> None:
        """Search on through more frames: what is found does not depend on how they are cut.

        Args:
            log_probs: (n, classes) fp32, natural logarithms.
            born: of pieces that are found in these frames, for ``settle``.

        Raises:
            ValueError: another number of classes than the tokenizer has.
        """
        if log_probs.shape[1] != self._classes:
            raise ValueError(f"log_probs of {log_probs.shape[1]} classes; the tokenizer has {self._classes}")
        if self._remembered > MEMORY:
            self._forget(self._size)
        probs = np.exp(log_probs.astype(np.float64))
        known = self._move(0, len(self._beam.node) * len(probs))
        frame = 0
        while True:
            frame, self._size, self._count, missing = search.advance(
                probs,
                frame,
                self._beam,
                self._size,
                self._count,
                self._spellings,
                self._lexicon,
                self._memory,
                self._now,
                self._work,
            )
            if not missing:
                break
            self._ask(np.unique(self._work.missing[:missing]))
        self._born[known : self._count] = born

    def settle(self, until: int = -1) -> list[int]:
        """Take out the pieces that all hypotheses begin with, which no later frame can change.

        Args:
            until: hypotheses that are not as the best one in what was born until then are dropped first.
        """
        if not self._size:
            return []
        parent, spelling = self._spellings.parent, self._beam.spelling
        old = int(spelling[self._ranks().argmax()])
        while old and self._born[old] > until:
            old = int(parent[old])
        if old:
            self._keep(old)
        ends = [-number for number in set(spelling[: self._size].tolist())]
        heapq.heapify(ends)
        while len(ends) > 1:  # the common ancestor: a parent has a lower number
            number = -heapq.heappop(ends)
            if -ends[0] != number:
                heapq.heappush(ends, -int(parent[number]))
        common = -ends[0]
        pieces = self._pieces(common)
        if common:
            self._move(common, 0)
        return pieces

    def _keep(self, ancestor: int) -> None:
        """Drop the prefixes that do not begin with a spelling."""
        kept, beam = [], self._beam
        for place, number in enumerate(beam.spelling[: self._size].tolist()):
            while number > ancestor:
                number = int(self._spellings.parent[number])
            if number == ancestor:
                kept.append(place)
            else:
                self._spellings.place[beam.spelling[place]] = EMPTY
        for column in beam:
            column[: len(kept)] = column[kept]
        self._size = len(kept)

    def _move(self, root: int, room: int) -> int:
        """Spellings from ``root`` on to a new tree with room for more; how many there are."""
        before, born, count = self._spellings, self._born, self._count
        # Those of the beam and what leads to them: no more than all.
        self._spellings = search.make_spellings(count + room)
        renamed, self._count = search.move(
            self._beam, self._size, before, count, root, self._spellings, self._classes
        )
        self._born = np.zeros(count + room, np.int64)
        self._born[renamed] = born[:count]
        return self._count

    def _ranks(self) -> np.ndarray:
        """Probabilities (size,) of the prefixes, their last words counted as they are."""
        beam, size = self._beam, self._size
        return (beam.blank[:size] + beam.piece[:size]) * beam.word[:size]

    def _pieces(self, number: int) -> list[int]:
        """Of a spelling."""
        pieces = []
        while number:
            pieces.append(int(self._spellings.piece[number]))
            number = int(self._spellings.parent[number])
        return pieces[::-1]

    def _make_factors(self, weights: Weights) -> search.Factors:
        unknown = len(self._words) - 2
        in_words = np.full(unknown + 1, weights.of_word(0.0, False))
        in_words[unknown] = weights.of_word(0.0, True)
        alone = np.exp(weights.decimal * self._alone + in_words)
        longer = np.isfinite(self._lexicon.below)
        # (A negative weight makes the likeliest word below the one that counts least: a bad guess, no more.)
        below = np.exp(weights.decimal * np.where(longer, self._lexicon.below, 0.0) + weights.word_score)
        below = np.maximum(np.where(longer, below, 0.0), alone[unknown])
        below[ROOT] = 0.0  # no word is in the making there
        ahead = np.maximum(alone[self._lexicon.word], below)
        ahead[ROOT] = 1.0
        surprise = search.SURPRISE ** abs(weights.lm_weight)
        return search.Factors(
            weights.decimal, in_words, len(self._words), surprise, ahead, below, float(ahead.max())
        )

    def best(self) -> tuple[list[int], float]:
        """The pieces of the best prefix, less those that settled; its last word and the end counted."""
        if not self._size:
            return [], -math.inf
        beam, factors, size = self._beam, self._now, self._size
        ends = [int(state) * factors.words + factors.words - 1 for state in beam.ended[:size]]
        self._ask(np.array([key for key in set(ends) if search.find(self._memory, key) < 0], np.int64))
        end_scores = np.array([self._memory.score[search.find(self._memory, end)] for end in ends])
        with np.errstate(divide="ignore"):
            scores = np.log(self._ranks()) + factors.lm * end_scores
        best = int(scores.argmax())
        return self._pieces(int(beam.spelling[best])), float(scores[best] + self._work.log_scale[0])

    def _ask(self, keys: np.ndarray) -> None:
        """Ask the LM for scores that are not in memory. A key is state * words + word."""
        scores, numbers = [], []
        states, words = np.divmod(keys, len(self._words))
        for state, word in zip(states.tolist(), words.tolist(), strict=True):
            after = kenlm.State()
            scores.append(self._model.BaseScore(self._states[state], self._words[word], after))
            numbers.append(self._number(after))
        self._remembered += len(keys)
        if 2 * self._remembered > len(self._memory.key):
            room = power_of_two(4 * self._remembered)
            full, self._memory = self._memory, search.make_memory(room)
            taken = full.key != EMPTY
            search.remember(self._memory, full.key[taken], full.score[taken], full.state[taken])
        search.remember(self._memory, keys, np.array(scores, np.float64), np.array(numbers, np.int64))

    def _forget(self, size: int = 0) -> None:
        """Begin the LM's memory anew; the states of the first ``size`` prefixes get new numbers in it."""
        columns = self._beam.state[:size], self._beam.ended[:size]
        kept = [[self._states[number] for number in column.tolist()] for column in columns]
        start = self._start()
        self._states, self._numbers = [start], {start: 0}
        for column, states in zip(columns, kept, strict=True):
            column[:] = [self._number(state) for state in states]
        self._memory = search.make_memory(ROOM)
        self._remembered = 0

    def _number(self, state: kenlm.State) -> int:
        """Of an LM state, a new one where it has none."""
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number


class BeamPool:
    """Beam search in this process, and where there is much to do in others. Use it in a with statement.

    Args:
        lm_path, tokenizer, beam: see ``BeamDecoder``; each process builds its own once.
        jobs: processes to start; with 1, there is no other than this one.
        alone: frames that are decoded before they start.
        fold: see ``BeamDecoder``.

    Attributes:
        style: ``BeamDecoder``'s.

    Raises:
        UserError: the LM cannot be used, with this tokenizer or at all.
    """

    def __init__(
        self,
        lm_path: str | Path,
        tokenizer: Tokenizer,
        beam: int = BEAM,
        jobs: int = 1,
        alone: int = ALONE,
        fold: bool = True,
    ) -> None:
        # Says what is wrong with the LM, and compiles the search once and not in each process.
        self._decoder = BeamDecoder(lm_path, tokenizer, beam, fold=fold)
        self.style = self._decoder.style
        self._decoder.decode_scored(np.zeros((1, tokenizer.pieces + 1), np.float32), GREEDY)
        # Few bytes: a process that starts takes what does not fit into a pipe only when it has imported
        # everything, and this one would wait for each in turn.
        self._arguments = (str(lm_path), tokenizer.model, beam, fold)
        self._jobs, self._alone = jobs, alone
        self._frames = 0  # asked for so far
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "BeamPool":
        return self

    def __exit__(self, *_) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _start(self) -> None:
        # "spawn": a fork would copy torch's threads in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._jobs, context, _start_worker, self._arguments)
        # Ctrl-C is this process's business. Its children are started here, one for each task, and inherit
        # that the signal is held back; this process gets it afterwards.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(self._jobs):
                self._pool.submit(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def decode(self, posteriors: Sequence[np.ndarray], weights: Weights, show: str = "") -> list[list[int]]:
        """``BeamDecoder.decode`` of every utterance; ``show`` names a progress bar."""
        quiet = None if show else True  # None: no bar where the output is not a terminal
        tasks = ((item, weights) for item in posteriors)
        self._frames += sum(map(len, posteriors))
        if self._jobs > 1 and self._frames > self._alone and not self._pool:
            self._start()
            self._decoder = None  # theirs do
        try:
            if self._pool:
                results = self._pool.map(_decode_task, tasks, chunksize=4)
            else:
                results = starmap(self._decoder.decode, tasks)
            bar = tqdm(results, total=len(posteriors), desc=show, unit="utt", leave=False, disable=quiet)
            return list(bar)
        except BrokenProcessPool:
            raise UserError("a beam-search process died (out of memory?); try fewer --jobs") from None
        finally:
            if self._pool:  # its processes map the LM: one that changed meanwhile is the cause
                lm_files.verify(self._arguments[0])


_decoder: BeamDecoder | None = None


def _start_worker(lm_path: str, tokenizer_model: bytes, beam: int, fold: bool) -> None:
    global _decoder
    start_worker()
    _decoder = BeamDecoder(lm_path, Tokenizer(tokenizer_model), beam, mapped=True, fold=fold)


def _decode_task(task: tuple[np.ndarray, Weights]) -> list[int]:
    return _decoder.decode(*task)

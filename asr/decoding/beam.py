"""Beam search with an n-gram LM, in this process or in several. The search itself is in search.py."""

import heapq
import math
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from asr.data.tokenizer import Tokenizer
from asr.decoding import BEAM, search
from asr.decoding.alignment import best_path, collapse
from asr.decoding.compiled import EMPTY, power_of_two
from asr.decoding.hotwords import Hotword
from asr.decoding.lexicon import ROOT
from asr.decoding.nbest import Parts, Scored
from asr.decoding.weights import GREEDY, Weights
from asr.decoding.words import State, WordModel
from asr.errors import UserError
from asr.lm import files as lm_files
from asr.processes import start_worker

ALONE = 7500  # frames, 5 minutes: searched in about the time that a process takes to start
MEMORY = 2**19  # LM scores remembered from utterance to utterance, a few hundred bytes each
ROOM = 2**16  # for so many at first, a power of two

Task = tuple  # a method of the decoder, and what it is called with


class BeamDecoder:
    """Log-probabilities of one utterance to words.

    Args:
        lm_path: KenLM binary or ARPA file; None: no LM.
        tokenizer: the acoustic model's; its pieces spell the words, those of the LM and others.
        beam: hypotheses kept.
        mapped: share the LM's memory with other processes; see ``asr.lm.files.load``.
        fold: look words up as the LM's are written, whatever case and punctuation the model writes. What
            comes out is written as the model does.
        hotwords: words and phrases that earn a bonus (``WordModel``).

    Attributes:
        style: the LM's, where the model also writes otherwise; else None.

    Raises:
        UserError: the LM cannot be used, with this tokenizer or at all, or a hotword cannot be spelled.
    """

    def __init__(
        self,
        lm_path: str | Path | None,
        tokenizer: Tokenizer,
        beam: int = BEAM,
        mapped: bool = False,
        fold: bool = True,
        hotwords: Sequence[Hotword] = (),
    ) -> None:
        self._words = WordModel(lm_path, tokenizer, mapped, fold, hotwords)
        self.style, self._lexicon = self._words.style, self._words.lexicon
        self._tokenizer, self._searches = tokenizer, bool(hotwords)
        self._classes = tokenizer.pieces + 1
        self._beam = search.make_prefixes(beam)
        self._work = search.make_workspace(beam, self._classes)
        self._factors = lru_cache(1)(self._make_factors)
        self._forget()

    def decode(self, log_probs: np.ndarray, weights: Weights) -> list[int]:
        """The classes of the best pieces, without blanks.

        With ``GREEDY``, and without hotwords, those of the best path.
        """
        if weights == GREEDY and not self._searches:
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

    def n_best(self, log_probs: np.ndarray, weights: Weights, count: int) -> list[Scored]:
        """The best hypotheses of so many different texts, the best first; see ``decode_scored``.

        Hypotheses that the LM cannot tell apart are not merged, as their differences would be lost. So the
        best one may be another than ``decode_scored``'s, where the beam is full.
        """
        self.begin(weights, merge=False)
        self.push(log_probs)
        scores, found, texts = self._scores(), [], set()
        for place in np.argsort(-scores, kind="stable").tolist():
            pieces = self._pieces(int(self._beam.spelling[place]))
            text = self._tokenizer.decode(pieces)
            if text not in texts:
                texts.add(text)
                lm, words, hotwords = self._words.explain(pieces, weights)
                acoustic = float(scores[place]) - lm - words - hotwords
                found.append(Scored(pieces, Parts(acoustic, lm, words, hotwords)))
            if len(found) == count:
                break
        return found

    def begin(self, weights: Weights, merge: bool = True) -> None:
        """Begin a search that frames are pushed to; it ends where another one begins.

        Args:
            merge: of hypotheses that the LM can no longer tell apart keep the likeliest only.
        """
        self._now = self._factors(weights, merge)
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

    def _make_factors(self, weights: Weights, merge: bool) -> search.Factors:
        model = self._words
        in_words = np.full(model.unknown + 1, weights.of_word(0.0, False))
        in_words[model.unknown] = weights.of_word(0.0, True)
        alone = np.exp(model.likelihoods(weights))
        below = np.exp(model.below(weights))
        below[ROOT] = 0.0  # no word is in the making there
        ahead = np.maximum(alone[self._lexicon.word], below)
        ahead[ROOT] = 1.0
        surprise = search.SURPRISE ** abs(weights.lm_weight) * math.exp(model.phrases.within)
        highest = float(ahead.max())
        return search.Factors(
            weights.decimal, in_words, len(model.words), surprise, ahead, below, highest, merge
        )

    def best(self) -> tuple[list[int], float]:
        """The pieces of the best prefix, less those that settled; its last word and the end counted."""
        if not self._size:
            return [], -math.inf
        scores = self._scores()
        best = int(scores.argmax())
        return self._pieces(int(self._beam.spelling[best])), float(scores[best])

    def _scores(self) -> np.ndarray:
        """Scores (size,) of the prefixes in nats, their last words and the end counted."""
        if not self._size:
            return np.zeros(0)
        factors = self._now
        ends = [int(state) * factors.words + factors.words - 1 for state in self._beam.ended[: self._size]]
        self._ask(np.array([key for key in set(ends) if search.find(self._memory, key) < 0], np.int64))
        places = [search.find(self._memory, end) for end in ends]
        end_scores = factors.lm * self._memory.score[places] + self._memory.earned[places]
        with np.errstate(divide="ignore"):
            return np.log(self._ranks()) + end_scores + self._work.log_scale[0]

    def _ask(self, keys: np.ndarray) -> None:
        """Have words judged that are not in memory. A key is state * words + word."""
        scores, earned, numbers = [], [], []
        states, words = np.divmod(keys, len(self._words.words))
        for state, word in zip(states.tolist(), words.tolist(), strict=True):
            log10, bonus, after = self._words.judge(self._states[state], word)
            scores.append(log10)
            earned.append(bonus)
            numbers.append(self._number(after))
        self._remembered += len(keys)
        if 2 * self._remembered > len(self._memory.key):
            room = power_of_two(4 * self._remembered)
            full, self._memory = self._memory, search.make_memory(room)
            taken = full.key != EMPTY
            kept = (column[taken] for column in full)
            search.remember(self._memory, *kept)
        judged = np.array(scores, np.float64), np.array(earned, np.float64), np.array(numbers, np.int64)
        search.remember(self._memory, keys, *judged)

    def _forget(self, size: int = 0) -> None:
        """Begin the LM's memory anew; the states of the first ``size`` prefixes get new numbers in it."""
        columns = self._beam.state[:size], self._beam.ended[:size]
        kept = [[self._states[number] for number in column.tolist()] for column in columns]
        start = self._words.start()
        self._states, self._numbers = [start], {start: 0}
        for column, states in zip(columns, kept, strict=True):
            column[:] = [self._number(state) for state in states]
        self._memory = search.make_memory(ROOM)
        self._remembered = 0

    def _number(self, state: State) -> int:
        """Of a state, a new one where it has none."""
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
        fold, hotwords: see ``BeamDecoder``.

    Attributes:
        style: ``BeamDecoder``'s.

    Raises:
        UserError: see ``BeamDecoder``.
    """

    def __init__(
        self,
        lm_path: str | Path | None,
        tokenizer: Tokenizer,
        beam: int = BEAM,
        jobs: int = 1,
        alone: int = ALONE,
        fold: bool = True,
        hotwords: Sequence[Hotword] = (),
    ) -> None:
        # Says what is wrong with the LM, and compiles the search once and not in each process.
        self._decoder = BeamDecoder(lm_path, tokenizer, beam, fold=fold, hotwords=hotwords)
        self.style = self._decoder.style
        self._decoder.decode_scored(np.zeros((1, tokenizer.pieces + 1), np.float32), GREEDY)
        # Few bytes: a process that starts takes what does not fit into a pipe only when it has imported
        # everything, and this one would wait for each in turn.
        self._lm_path = None if lm_path is None else str(lm_path)
        self._arguments = (self._lm_path, tokenizer.model, beam, fold, tuple(hotwords))
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
        return self._map("decode", posteriors, (weights,), show)

    def n_best(
        self, posteriors: Sequence[np.ndarray], weights: Weights, count: int, show: str = ""
    ) -> list[list[Scored]]:
        """``BeamDecoder.n_best`` of every utterance."""
        return self._map("n_best", posteriors, (weights, count), show)

    def _map(self, method: str, posteriors: Sequence[np.ndarray], options: tuple, show: str) -> list:
        """A method of ``BeamDecoder`` of every utterance."""
        quiet = None if show else True  # None: no bar where the output is not a terminal
        tasks = ((method, item, *options) for item in posteriors)
        self._frames += sum(map(len, posteriors))
        if self._jobs > 1 and self._frames > self._alone and not self._pool:
            self._start()
            self._decoder = None  # theirs do
        try:
            if self._pool:
                results = self._pool.map(_run_task, tasks, chunksize=4)
            else:
                results = map(partial(_run, self._decoder), tasks)
            bar = tqdm(results, total=len(posteriors), desc=show, unit="utt", leave=False, disable=quiet)
            return list(bar)
        except BrokenProcessPool:
            raise UserError("a beam-search process died (out of memory?); try fewer --jobs") from None
        finally:
            if self._pool and self._lm_path:  # its processes map it: one that changed meanwhile is the cause
                lm_files.verify(self._lm_path)


_decoder: BeamDecoder | None = None


def _start_worker(
    lm_path: str | None, tokenizer_model: bytes, beam: int, fold: bool, hotwords: tuple[Hotword, ...]
) -> None:
    global _decoder
    start_worker()
    _decoder = BeamDecoder(lm_path, Tokenizer(tokenizer_model), beam, True, fold, hotwords)


def _run_task(task: Task) -> list[int] | list[Scored]:
    return _run(_decoder, task)


def _run(decoder: BeamDecoder, task: Task) -> list[int] | list[Scored]:
    method, *arguments = task
    return getattr(decoder, method)(*arguments)
